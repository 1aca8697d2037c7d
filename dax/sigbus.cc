#include "dax/sigbus.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "dax/pool.h"

namespace daxkv::dax {

namespace internal {
__thread unsigned media_guard_depth __attribute__((tls_model("initial-exec"))) = 0;
}  // namespace internal

namespace {

struct Region {
  // 0: free. Stored last at registration, with release, and first at the end.
  std::atomic<uintptr_t> end{0};
  std::atomic<uintptr_t> base{0};
  std::atomic<LostPages*> lost{nullptr};
  std::atomic<bool> always{false};
};

// Static and constant-initialized: the handler may run at any time.
Region regions[SigbusRegion::kMaxRegions];
struct sigaction previous;  // Written before the handler is installed, and never while it is.

std::mutex& InstallMutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}
int registered = 0;      // Guarded by the mutex.
bool installed = false;  // Guarded by the mutex.

Region* FindRegion(uintptr_t address) {
  for (Region& region : regions) {
    if (address < region.end.load(std::memory_order_acquire) &&
        address >= region.base.load(std::memory_order_relaxed)) {
      return &region;
    }
  }
  return nullptr;
}

// True: the access may be tried again, or there was none.
bool TakeCareOf(const siginfo_t& info) {
  const bool later = info.si_code == BUS_MCEERR_AO;
  if (!later && info.si_code != BUS_MCEERR_AR && info.si_code != BUS_ADRERR) return false;
  const auto address = reinterpret_cast<uintptr_t>(info.si_addr);
  Region* region = FindRegion(address);
  if (region == nullptr) return false;
  LostPages* lost = region->lost.load(std::memory_order_relaxed);
  const uintptr_t base = region->base.load(std::memory_order_relaxed);
  // The kernel may say that more went (si_addr_lsb: all of a huge page). The other pages are looked
  // at when they are touched: most often they can still be read one by one.
  const uint64_t page = (address - base) >> kPageShift;
  if (later) return lost->Report(page);
  if (region->always.load(std::memory_order_relaxed) || internal::media_guard_depth != 0) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): it was one.
    return lost->Replace(page, reinterpret_cast<char*>(base));
  }
  // Known from now on, should the program survive by means of its own.
  lost->Report(page);
  return false;
}

// What would have happened without us, and so with the signal's own words: another signal would
// hide the address in a core file. It waits until the handler has returned. (Going back to the
// instruction is not enough: the kernel sends some signals once, and the access then succeeds.)
void SendAgainToDefaultAction(int signal, siginfo_t* info) {
  std::signal(signal, SIG_DFL);
  syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), signal, info);
}

void OnSigbus(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const bool done = TakeCareOf(*info);
  errno = saved_errno;
  if (done) return;
  // The kernel lets nobody ignore a fault: it kills.
  const bool fault = info->si_code > 0 && info->si_code != BUS_MCEERR_AO;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler == SIG_DFL || (previous.sa_handler == SIG_IGN && fault)) {
    SendAgainToDefaultAction(signal, info);
  } else if (previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  }
}

bool IsOurs(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == OnSigbus;
}

absl::Status Install() {
  struct sigaction current;
  if (sigaction(SIGBUS, nullptr, &current) != 0) {
    return absl::ErrnoToStatus(errno, "cannot read the handler of SIGBUS");
  }
  // Ours may be below somebody else's, who did not give it up when we did: then it is in use.
  if (IsOurs(current) || installed) return absl::OkStatus();
  previous = current;
  struct sigaction ours = {};
  ours.sa_sigaction = OnSigbus;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  if (sigaction(SIGBUS, &ours, nullptr) != 0) {
    return absl::ErrnoToStatus(errno, "cannot install a handler of SIGBUS");
  }
  installed = true;
  return absl::OkStatus();
}

void Uninstall() {
  struct sigaction current;
  if (sigaction(SIGBUS, nullptr, &current) != 0 || !IsOurs(current)) return;
  if (sigaction(SIGBUS, &previous, nullptr) == 0) installed = false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SigbusRegion>> SigbusRegion::Register(const char* base,
                                                                     uint64_t size_bytes,
                                                                     SigbusPolicy policy,
                                                                     LostPages* lost) {
  if (policy == SigbusPolicy::kOff) {
    return std::unique_ptr<SigbusRegion>(new SigbusRegion(-1));
  }
  const std::lock_guard<std::mutex> lock(InstallMutex());
  for (int number = 0; number < kMaxRegions; ++number) {
    Region& region = regions[number];
    if (region.end.load(std::memory_order_relaxed) != 0) continue;
    if (absl::Status status = Install(); !status.ok()) return status;
    ++registered;
    const auto first = reinterpret_cast<uintptr_t>(base);
    region.base.store(first, std::memory_order_relaxed);
    region.lost.store(lost, std::memory_order_relaxed);
    region.always.store(policy == SigbusPolicy::kAlways, std::memory_order_relaxed);
    region.end.store(first + size_bytes, std::memory_order_release);
    return std::unique_ptr<SigbusRegion>(new SigbusRegion(number));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("more than ", kMaxRegions, " open pools handle SIGBUS; open with kOff"));
}

SigbusRegion::~SigbusRegion() {
  if (number_ < 0) return;
  const std::lock_guard<std::mutex> lock(InstallMutex());
  regions[number_].end.store(0, std::memory_order_release);
  if (--registered == 0) Uninstall();
}

}  // namespace daxkv::dax
