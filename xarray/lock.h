// WriterLock: the one-word lock that an XArray's writers take.
#ifndef DAXKV_XARRAY_LOCK_H_
#define DAXKV_XARRAY_LOCK_H_

#include <atomic>
#include <cstdint>

namespace daxkv::xarray {

// Spins a little, then sleeps in the kernel (futex). Not recursive, not fair. Meets the standard's
// Lockable, so std::lock_guard and std::unique_lock fit.
class WriterLock {
 public:
  void lock() {
    uint32_t expected = kFree;
    // Acquire pairs with the release in unlock().
    if (!state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
      LockSlow();
    }
  }
  bool try_lock() {
    uint32_t expected = kFree;
    return state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire,
                                          std::memory_order_relaxed);
  }
  void unlock() {
    if (state_.exchange(kFree, std::memory_order_release) == kContended) WakeOne();
  }

 private:
  static constexpr uint32_t kFree = 0;
  static constexpr uint32_t kHeld = 1;
  static constexpr uint32_t kContended = 2;  // held, and someone may sleep

  void LockSlow();
  void WakeOne();

  std::atomic<uint32_t> state_{kFree};
};

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_LOCK_H_
