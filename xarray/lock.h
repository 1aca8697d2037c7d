// WriterLock: the one-word lock that an XArray's writers take.
#ifndef DAXKV_XARRAY_LOCK_H_
#define DAXKV_XARRAY_LOCK_H_

#include <atomic>
#include <cstdint>

namespace daxkv::xarray {

// Spins a little, then sleeps in the kernel (futex). Not recursive, not fair. Meets the standard's
// Lockable, so std::lock_guard and std::unique_lock fit.
//
// Taking it costs one atomic read-modify-write, releasing it none: a thread that is about to sleep
// says so in waiters_ and then makes every other thread pass a memory barrier (membarrier). So an
// unlock() either comes before that barrier, and its store to state_ is seen by the sleeper-to-be,
// or loads waiters_ behind it, and wakes.
class WriterLock {
 public:
  void lock() {
    if (!try_lock()) LockSlow();
  }
  bool try_lock() {
    uint32_t expected = kFree;
    // Acquire pairs with the release in unlock().
    return state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire,
                                          std::memory_order_relaxed);
  }
  void unlock() {
    state_.store(kFree, std::memory_order_release);
    // The compiler keeps the order; for the processor the sleeper's membarrier does.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (__builtin_expect(waiters_.load(std::memory_order_relaxed) != 0, false)) WakeOne();
  }

 private:
  static constexpr uint32_t kFree = 0;
  static constexpr uint32_t kHeld = 1;

  void LockSlow();
  void WakeOne();

  std::atomic<uint32_t> state_{kFree};
  std::atomic<uint32_t> waiters_{0};  // threads that sleep, or are about to
};

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_LOCK_H_
