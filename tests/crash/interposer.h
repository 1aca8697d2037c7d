// libpmem's exported functions, defined by the test binary itself: libpmemobj and daxkv both call
// these, so that every flush and every fence of theirs is seen. Nothing is really flushed: what
// would be durable is the observer's to say. munmap and fallocate are seen too, for the places of
// the pool's files and for the holes punched into them, and RCU's grace periods, which are
// barriers.
//
// Thread safety: the interposed functions from any thread; everything else here while no store is
// open.
#ifndef DAXKV_TESTS_CRASH_INTERPOSER_H_
#define DAXKV_TESTS_CRASH_INTERPOSER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

namespace daxkv::crash {

enum class Platform {
  kCacheLines,  // Persistent memory: cache lines are flushed, a fence makes them durable.
  kPages,       // An ordinary file: msync makes pages durable.
};

// Called on the thread that flushes.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnFlush(const char* address, size_t size_bytes) = 0;
  virtual void OnFence() = 0;
  // A grace period of RCU: every processor passes a full barrier in it, which completes what was
  // flushed there before. What the first returns is handed to the second.
  virtual uint64_t OnBarrierBegin() = 0;
  virtual void OnBarrierEnd(uint64_t flushes) = 0;
  virtual void OnMsync(const char* address, size_t size_bytes) = 0;
  // A hole was punched.
  virtual void OnPunch(int file, uint64_t offset, uint64_t size_bytes) = 0;
  virtual void OnUnmap() = 0;
  // The mutation has come to bear, on a flush, an msync, or a fence.
  virtual void OnWithheldFlush(const char* address, size_t size_bytes) = 0;
  virtual void OnWithheldMsync(const char* address, size_t size_bytes) = 0;
  virtual void OnWithheldFence() = 0;
  virtual void OnWriteBack() = 0;
  virtual void OnDeath() = 0;
  virtual void OnBirth() = 0;
};

// Makes every store opened from here on take its medium for `platform`.
void SetPlatform(Platform platform);
Platform CurrentPlatform();

// Null: nobody looks.
void SetObserver(Observer* observer);

// While set, holes are neither punched nor filled: for stores that are opened copy-on-write.
void KeepFilesUntouched(bool on);

// ---- Mutations: a flush or fence of daxkv that is not done, or late ----

enum class CallKind { kFlush, kFence };

// A place in daxkv's code that flushes or fences, below the layers that only hand the call down.
struct CallSite {
  CallKind kind = CallKind::kFlush;
  const void* return_address = nullptr;
  uint64_t calls = 0;
  std::string name;  // Function and offset.
};

// Counts calls by site from here on; forgets what was counted before.
void CountCallSites();
std::vector<CallSite> CallSites();
enum class Mutation {
  kDropped,  // The site's calls are left out.
  kLate,     // Its flushes come after the thread's next fence: what was to be ordered is not.
};
// Mutates the calls of this site from here on. Null return address: none.
void Mutate(const CallSite& site, Mutation mutation);

// ---- What may happen to one thread ----

// The process dies in this thread: at its fence or msync number `fences`, from 0, one of daxkv's,
// before it takes effect. There `run` ends: no destructor of its frames runs, locks in leaves that
// it held stay locked and memory that it had is lost, as when a process dies. That ends the process
// (EndProcess), and only then are mutexes unlocked, for what is left of the store to be destroyed:
// what another thread does with one must not count.
void RunUntilDeath(unsigned fences, absl::FunctionRef<void()> run);
// The process is dead, if it was not before: no flush, fence or barrier of any thread counts until
// BeginProcess, as what is left of its objects is destroyed. It died before the flushes that no
// fence has completed: what it stored is in the caches, and nobody has begun to write it back. What
// is stored from here on, while its objects go, BeginProcess takes back.
void EndProcess();
// The thread is a new process's from here on: another one than before to whoever asks.
void BeginProcess();
// The caches write back all that is in them, as they may at any time.
void WriteBackCaches();
// Whose flushes a fence of this thread completes. No later fence completes those of a process that
// died.
uint32_t CurrentThread();
// Each fence of this thread waits so long before it takes effect.
void DelayFences(unsigned wait_ms);
// Each grace period, whichever thread wants it, waits so long before it begins.
void DelayGracePeriods(unsigned wait_ms);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_INTERPOSER_H_
