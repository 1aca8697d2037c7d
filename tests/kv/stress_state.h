// What a store must hold, kept in a file that outlives the processes which stress the store.
//
// Each key has a *state*: the number of the write that made it, and whether that left a value. A
// writer holds the key's lock (in its process's memory), marks the state that it is about to make
// as pending, calls the store, and then makes it the committed one. After a SIGKILL the key must be
// in one of the two, and those of an atomic batch all in the same of the two.
//
// Keys and counters are dealt out to three keyspaces, the default one among them: neighbours lie in
// different ones, and batches go across.
#ifndef DAXKV_TESTS_KV_STRESS_STATE_H_
#define DAXKV_TESTS_KV_STRESS_STATE_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace daxkv::kv {

inline constexpr uint32_t kStressKeys = 1024;
inline constexpr uint32_t kStressCounters = 4;
inline constexpr uint32_t kMaxStressThreads = 8;
inline constexpr uint32_t kMaxStressBatch = 64;
inline constexpr uint32_t kStressKeyspaces = 3;
// Of a key or a counter; 0 is the default one.
inline uint32_t KeyspaceOf(uint32_t i) { return i % kStressKeyspaces; }

// Bit 0: has a value. Above: the number of the write, 0 for none yet.
using KeyState = uint32_t;
inline bool IsPresent(KeyState state) { return (state & 1) != 0; }
inline uint32_t NumberOf(KeyState state) { return state >> 1; }

// The calls that the stress makes, counted.
enum StressCall {
  kPut,
  kDelete,
  kInsert,
  kUpdate,
  kCompareAndSwap,
  kBatch,
  kPutGroup,
  kDeleteGroup,
  kDeleteRange,
  kValueWriter,
  kCounter,
  kGet,
  kMultiGet,
  kTakeSnapshot,
  kVerifySnapshot,
  kPin,
  kIterate,
  kEstimate,
  kSync,
  kCompact,
  kBackup,
  kPassingKeyspace,
  kStressCalls,
};
extern const char* const kStressCallNames[kStressCalls];

class KeyExpectation {
 public:
  KeyState committed() const { return static_cast<KeyState>(word_.load()); }
  KeyState pending() const { return static_cast<KeyState>(word_.load() >> 32); }
  // Both at one moment.
  uint64_t word() const { return word_.load(); }
  static KeyState CommittedOf(uint64_t word) { return static_cast<KeyState>(word); }
  static KeyState PendingOf(uint64_t word) { return static_cast<KeyState>(word >> 32); }

  // By the holder of the key's lock. Returns the state that is pending from here on.
  KeyState Begin(bool present) {
    const KeyState next = (last_.fetch_add(1) + 1) << 1 | (present ? 1 : 0);
    word_.store(uint64_t{next} << 32 | committed());
    return next;
  }
  void Settle(KeyState state) { word_.store(uint64_t{state} << 32 | state); }

 private:
  std::atomic<uint64_t> word_;  // Pending above, committed below.
  std::atomic<uint32_t> last_;
};

// A number that many threads raise without a lock.
struct CounterExpectation {
  std::atomic<uint64_t> begun, acknowledged;
};

// Keys whose pending states come all or not at all.
struct AtomicGroup {
  std::atomic<uint32_t> count;
  uint32_t keys[kMaxStressBatch];
};

// All zero at first.
struct StressState {
  uint64_t seed;
  uint32_t threads;
  bool writes_only;  // A kill then mostly meets calls that write.
  std::atomic<bool> opened, stop;
  std::atomic<uint64_t> calls[kStressCalls];
  KeyExpectation keys[kStressKeys];
  CounterExpectation counters[kStressCounters];
  AtomicGroup groups[kMaxStressThreads];
  std::atomic<bool> failed;
  char failure[2000];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// Of keyspaces 1 and above.
std::string StressKeyspaceName(uint32_t keyspace);
// What comes and goes; one of each thread. It has stress keys, but none of their values.
std::string PassingName(uint32_t thread);
inline constexpr char kPassingValue[] = "passing";

// Maps the file, making it if need be; null when that fails.
StressState* MapStressState(const std::string& path);

// In the order of `i`. Some are long.
std::string StressKey(uint32_t i);
std::string CounterKey(uint32_t i);
// The value that a state with a value has. Some are large.
std::string StressValue(uint32_t i, KeyState state);
// The number that a value says it has; 0 if it says none.
uint32_t NumberIn(std::string_view value);

// Whether `value` (nullopt: none) is what `state` says.
bool Matches(uint32_t i, KeyState state, std::optional<std::string_view> value);
// Whether a read may have returned `value` that began when the key's word was `before` and ended
// when it was `after`.
bool MayBeRead(uint32_t i, uint64_t before, uint64_t after, std::optional<std::string_view> value);
std::string Describe(uint32_t i, uint64_t word, std::optional<std::string_view> value);

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_STRESS_STATE_H_
