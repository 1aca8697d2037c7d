// A thread of the stress: calls of the whole interface in random order, each checked against the
// expected state.
#ifndef DAXKV_TESTS_KV_STRESS_WORKER_H_
#define DAXKV_TESTS_KV_STRESS_WORKER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kv/db.h"
#include "tests/kv/stress_state.h"

namespace daxkv::kv {

// One lock for each 16 neighbouring keys, in the process's memory.
class StressLocks {
 public:
  static constexpr uint32_t kKeysPerLock = 16;

  // Holds the locks of a set of keys; taken in their order.
  class Holder {
   public:
    Holder(StressLocks* locks, std::vector<uint32_t> keys);
    ~Holder() { Release(); }
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;
    void Release();

   private:
    StressLocks* const locks_;
    std::vector<uint32_t> held_;
  };

 private:
  std::array<std::mutex, kStressKeys / kKeysPerLock> mutexes_;
};

// Those that hold the stress's keys: made if need be.
absl::StatusOr<std::vector<Keyspace>> OpenStressKeyspaces(Db& db);

class StressWorker {
 public:
  // `scratch`: a path for restored backups, this thread's own.
  StressWorker(Db* db, std::vector<Keyspace> keyspaces, StressState* state, StressLocks* locks,
               uint32_t thread, std::string scratch);

  // Until StressState::stop. Everything it holds is released then.
  void Run();

 private:
  // Of neighbouring keys whose states were known for sure at the moment of the snapshot.
  struct HeldSnapshot {
    std::optional<Snapshot> snapshot;
    uint32_t first = 0;
    std::vector<KeyState> states;
  };
  struct HeldPin {
    PinnedValue pinned;
    std::string value;
  };
  // Keys of one call, locked and marked.
  class Intent;

  void Call(StressCall call);
  // stress_worker.cc: what writes.
  void Put(StressCall call);
  void Delete();
  void Insert();
  void Update();
  void CompareAndSwap();
  void Batch();
  void Group(bool deletes);
  void DeleteRange();
  void FillValue();
  void RaiseCounter();
  // stress_reads.cc: what reads.
  void Get();
  void MultiGet();
  void TakeSnapshot();
  void VerifySnapshot();
  void VerifyByKey(const HeldSnapshot& held);
  void VerifyByWalk(const HeldSnapshot& held);
  // Walks [held.first, + size) of `keyspace`, of that number, forwards or backwards, wholly.
  void VerifyRange(const Keyspace& keyspace, uint32_t number, const Snapshot* snapshot,
                   uint32_t first, const std::vector<KeyState>& states, bool backwards);
  void Pin();
  void VerifyPins();
  void Iterate();
  void Estimate();
  void Backup();
  // Makes this thread's passing keyspace, or reads and writes there, or drops it.
  void UsePassing();

  uint32_t Below(uint32_t limit) { return static_cast<uint32_t>(random_() % limit); }
  uint32_t SomeKey() { return Below(kStressKeys); }
  // Up to `most` different keys, ascending.
  std::vector<uint32_t> SomeKeys(uint32_t most);
  // Those of them that lie in the keyspace.
  static std::vector<uint32_t> In(uint32_t keyspace, std::vector<uint32_t> keys);
  Keyspace& Of(uint32_t i) { return keyspaces_[KeyspaceOf(i)]; }
  // Ends the process unless the condition holds.
  void Require(bool holds, const std::string& what);
  void Require(const absl::Status& status, const std::string& what);

  Db& db_;
  std::vector<Keyspace> keyspaces_;
  std::optional<Keyspace> passing_;  // Not looked for: a child that was killed may have left it.
  StressState& state_;
  StressLocks& locks_;
  const uint32_t thread_;
  const std::string scratch_;
  std::mt19937_64 random_;
  std::deque<HeldSnapshot> snapshots_;
  std::deque<HeldPin> pins_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_STRESS_WORKER_H_
