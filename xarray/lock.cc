#include "xarray/lock.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace daxkv::xarray {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "futex words are 32 bits");

constexpr int kSpins = 100;
constexpr timespec kOneMillisecond = {0, 1000000};

// Sleeps while the word has this value. A spurious return is fine: the caller looks again.
void FutexWait(std::atomic<uint32_t>* word, uint32_t while_value, const timespec* at_most) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_value, at_most, nullptr, 0);
}

// Every thread of the process passes a full memory barrier during this call. False: the kernel
// cannot do that.
bool BarrierInAllThreads() {
  const auto membarrier = [](int command) { return syscall(SYS_membarrier, command, 0, 0) == 0; };
  if (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)) return true;
  return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) &&
         membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}

}  // namespace

void WriterLock::LockSlow() {
  for (int i = 0; i < kSpins; ++i) {
    if (state_.load(std::memory_order_relaxed) == kFree && try_lock()) return;
    __builtin_ia32_pause();
  }
  waiters_.fetch_add(1, std::memory_order_seq_cst);
  // Without that barrier an unlock() may miss the waiter; then it must not sleep for long.
  const timespec* at_most = BarrierInAllThreads() ? nullptr : &kOneMillisecond;
  while (!try_lock()) FutexWait(&state_, kHeld, at_most);
  waiters_.fetch_sub(1, std::memory_order_relaxed);
}

void WriterLock::WakeOne() {
  syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

}  // namespace daxkv::xarray
