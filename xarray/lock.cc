#include "xarray/lock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace daxkv::xarray {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "futex words are 32 bits");

constexpr int kSpins = 100;

void FutexWait(std::atomic<uint32_t>* word, uint32_t while_value) {
  // A spurious return is fine: the caller looks at the word again.
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, nullptr, nullptr, 0);
}

}  // namespace

void WriterLock::LockSlow() {
  for (int i = 0; i < kSpins; ++i) {
    if (state_.load(std::memory_order_relaxed) == kFree && try_lock()) return;
    __builtin_ia32_pause();
  }
  // Taking the lock as "contended" costs at most one needless wake and never loses a sleeper.
  while (state_.exchange(kContended, std::memory_order_acquire) != kFree) {
    FutexWait(&state_, kContended);
  }
}

void WriterLock::WakeOne() {
  syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace daxkv::xarray
