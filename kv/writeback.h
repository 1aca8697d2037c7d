// Writeback in the background, for process durability: everything stored is written to the medium
// again and again, and whoever frees something learns how far that has come.
//
//   unlink(slot);                            |  the thread, once an interval:
//   uint64_t since = writeback.begun();      |    number n begins; msync of all; n is done
//   ...
//   if (writeback.done() > since) ...        // The unlink is on the medium.
//
// Thread safety: every method from any thread.
//
// Invariants
//   W1  Numbers begin one after the other. What was stored before begun() was read as n is on the
//       medium once done() is above n.
//   W2  The horizon that was asked for before a writeback began is in the superblock, durably,
//       before that writeback is done.
//   W3  After a failure of the medium nothing is ever done again; every Drain fails as well.
#ifndef DAXKV_KV_WRITEBACK_H_
#define DAXKV_KV_WRITEBACK_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "dax/pool.h"

namespace daxkv::kv {

struct WritebackStats {
  uint64_t completed = 0;
  absl::Duration last_took;
};

class Writeback {
 public:
  struct Hooks {
    // Asked when each begins: the horizon (format.h), if all that was stored before is durable.
    std::function<uint64_t()> horizon;
    // Around those of the thread and of Run, without any lock.
    std::function<void()> before, after;
  };
  // `pool`, which the hooks may use as well, must outlive this. Begins at once.
  Writeback(dax::Pool* pool, absl::Duration interval, Hooks hooks);
  ~Writeback();
  Writeback(const Writeback&) = delete;
  Writeback& operator=(const Writeback&) = delete;

  uint64_t begun() const { return begun_.load(std::memory_order_seq_cst); }
  uint64_t done() const { return done_.load(std::memory_order_acquire); }
  // What is durable in the superblock. Never goes back (W2): batches below it may have lost what
  // says that they are whole.
  uint64_t horizon() const { return horizon_.load(std::memory_order_acquire); }
  // One that begins after the call; returns when it is done. kInternal: the medium failed.
  // kFailedPrecondition: it was stopped.
  absl::Status Now();
  // The same with the hooks before and after, as the thread does it.
  absl::Status Run();
  // Nothing is written any more, and no hook called. The owner of what they use calls it in time.
  void Stop();
  // Has the next one begin without waiting for the interval.
  void Hurry();
  WritebackStats stats() const;

 private:
  absl::Status RunOne();
  absl::Status StoreHorizon(uint64_t horizon);
  void Loop() noexcept;

  dax::Pool* const pool_;
  const absl::Duration interval_;
  const Hooks hooks_;
  std::atomic<uint64_t> begun_{0}, done_{0}, horizon_{0};
  std::atomic<int64_t> last_took_ns_{0};
  std::mutex run_mutex_;  // One at a time.
  std::mutex mutex_;
  std::condition_variable wakeup_;
  bool stopped_ = false;   // run_mutex_
  bool stopping_ = false;  // mutex_
  bool hurry_ = false;     // mutex_
  std::thread thread_;     // Last: it uses all of the above.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_WRITEBACK_H_
