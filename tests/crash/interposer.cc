#include "tests/crash/interposer.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <libpmem.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/crash/pool_cache.h"
#include "tests/crash/symbols.h"

extern "C" {
// Given by the linker: the program's code lies between them.
extern const char __executable_start, etext;
}

namespace daxkv::crash {
namespace {

constexpr int kMaxFrames = 24;
constexpr uint32_t kExt4 = 0xef53;

std::atomic<Observer*> observer{nullptr};
std::atomic<Platform> platform{Platform::kCacheLines};
std::atomic<bool> keep_files{false};
std::atomic<bool> count_sites{false};
std::atomic<bool> mutate_one{false};

std::mutex sites_mutex;
std::map<std::pair<CallKind, const void*>, CallSite> sites;  // Guarded by sites_mutex.
CallSite mutated;                                            // Guarded by sites_mutex.
Mutation mutated_how = Mutation::kDropped;                   // Guarded by sites_mutex.

struct Frame {
  std::string function;  // When it is daxkv's, else empty.
  bool of_libpmemobj = false;
  bool is_persist_call = false;  // Of libpmemobj-cpp's function that hands a flush down.
};
std::map<const void*, Frame> known_frames;  // Guarded by sites_mutex.

const Frame& FrameAt(const void* address) {
  const auto [it, fresh] = known_frames.try_emplace(address);
  Frame& frame = it->second;
  if (!fresh) return frame;
  Dl_info info;
  const bool known = dladdr(address, &info) != 0 && info.dli_fname != nullptr;
  frame.of_libpmemobj = known && absl::StrContains(info.dli_fname, "libpmemobj");
  // A call may be its function's last instruction.
  const Symbol symbol = FindSymbol(static_cast<const char*>(address) - 1);
  int status = 0;
  char* name = abi::__cxa_demangle(symbol.name.c_str(), nullptr, nullptr, &status);
  if (name != nullptr && absl::StartsWith(name, "daxkv::")) {
    const std::string whole = absl::StrReplaceAll(name, {{"(anonymous namespace)::", ""}});
    frame.function =
        absl::StrCat(whole.substr(0, whole.find('(')), "+0x", absl::Hex(symbol.offset));
  }
  frame.is_persist_call |=
      name != nullptr && absl::StartsWith(name, "pmem::obj::pool_base::persist");
  free(name);
  return frame;
}

// Whether a function only hands flushes and fences down.
bool HandsDown(const std::string& name) {
  for (const char* prefix :
       {"daxkv::crash::", "daxkv::kv::Memory::", "daxkv::dax::Persister::",
        "daxkv::dax::Pool::Flush", "daxkv::dax::Pool::Drain", "daxkv::dax::Pool::Sync",
        "daxkv::kv::Space::Sync", "daxkv::dax::Pool::Persist", "daxkv::dax::Pool::CopyAndFlush",
        "daxkv::dax::ObjectHeap::StoreDurably", "daxkv::kv::Space::Flush",
        "daxkv::kv::Space::Drain", "daxkv::kv::Space::CopyAndFlush",
        "daxkv::kv::Index::Impl::Drain"}) {
    if (absl::StartsWith(name, prefix)) return true;
  }
  return false;
}

struct Range {
  const void* address;
  size_t size_bytes;
};
thread_local std::vector<Range> late_flushes;

uint32_t NextThreadNumber() {
  static std::atomic<uint32_t> next{0};
  return next.fetch_add(1, std::memory_order_relaxed);
}
thread_local uint32_t thread_number = NextThreadNumber();

// Whether code at `address` is this program's and no library's.
bool IsOfProgram(const void* address) {
  const auto* at = static_cast<const char*>(address);
  return at >= &__executable_start && at < &etext;
}

constexpr unsigned kNever = ~0u;
thread_local unsigned fences_to_live = kNever;
std::atomic<bool> process_dead{false};

// Whether what any thread does is of no effect any more.
bool IsDead() { return process_dead.load(std::memory_order_relaxed); }
thread_local unsigned fence_delay_ms = 0;
std::atomic<unsigned> grace_delay_ms{0};
thread_local jmp_buf place_of_death;
// What the thread that is to die has locked. The next process does not meet these locks, but the
// objects that they are in are destroyed by this one.
thread_local std::vector<pthread_mutex_t*> held_mutexes;

using MutexFunction = int (*)(pthread_mutex_t*);
MutexFunction RealMutexFunction(const char* name) {
  return reinterpret_cast<MutexFunction>(dlsym(RTLD_NEXT, name));
}

int Unlock(pthread_mutex_t* mutex) {
  static const MutexFunction real = RealMutexFunction("pthread_mutex_unlock");
  return real(mutex);
}

// What is done to this thread at a fence that `caller` makes, before it takes effect.
void MeetFate(const void* caller) {
  if (fence_delay_ms != 0) usleep(fence_delay_ms * 1000);
  if (IsDead() || fences_to_live == kNever || !IsOfProgram(caller)) return;
  if (fences_to_live-- > 0) return;
  longjmp(place_of_death, 1);
}

enum class Passage { kPasses, kDropped, kLate };

// What becomes of the call that is under way.
Passage PassageOf(CallKind kind) {
  if (!count_sites.load(std::memory_order_relaxed) && !mutate_one.load(std::memory_order_relaxed)) {
    return Passage::kPasses;
  }
  void* frames[kMaxFrames];
  const int count = backtrace(frames, kMaxFrames);
  const std::lock_guard<std::mutex> lock(sites_mutex);
  bool of_libpmemobj = false, is_persist_call = false;
  for (int i = 1; i < count; ++i) {
    const Frame& frame = FrameAt(frames[i]);
    of_libpmemobj |= frame.of_libpmemobj;
    is_persist_call |= frame.is_persist_call;
    if (frame.function.empty() || HandsDown(frame.function)) continue;
    // What libpmemobj does by itself is not daxkv's.
    if (of_libpmemobj && !is_persist_call) return Passage::kPasses;
    CallSite& site = sites[{kind, frames[i]}];
    site.kind = kind;
    site.return_address = frames[i];
    site.name = frame.function;
    ++site.calls;
    if (mutated.return_address != frames[i] || mutated.kind != kind) return Passage::kPasses;
    return mutated_how == Mutation::kLate ? Passage::kLate : Passage::kDropped;
  }
  return Passage::kPasses;
}

void Flush(const void* address, size_t size_bytes) {
  if (IsDead()) return;
  NoteFlushOfImage(static_cast<const char*>(address), size_bytes);
  const Passage passage = PassageOf(CallKind::kFlush);
  if (passage == Passage::kLate) late_flushes.push_back({address, size_bytes});
  Observer* seen_by = observer.load(std::memory_order_acquire);
  if (seen_by == nullptr) return;
  if (passage == Passage::kPasses) {
    seen_by->OnFlush(static_cast<const char*>(address), size_bytes);
  } else {
    seen_by->OnWithheldFlush(static_cast<const char*>(address), size_bytes);
  }
}

void Fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (IsDead()) return;
  const Passage passage = PassageOf(CallKind::kFence);
  Observer* seen_by = observer.load(std::memory_order_acquire);
  if (seen_by == nullptr) return;
  if (passage != Passage::kPasses) return seen_by->OnWithheldFence();
  seen_by->OnFence();
  for (const Range& late : late_flushes) {
    seen_by->OnFlush(static_cast<const char*>(late.address), late.size_bytes);
  }
  late_flushes.clear();
}

void* FinishCopy(void* to, size_t size_bytes, unsigned flags) {
  if ((flags & PMEM_F_MEM_NOFLUSH) == 0) Flush(to, size_bytes);
  if ((flags & (PMEM_F_MEM_NODRAIN | PMEM_F_MEM_NOFLUSH)) == 0) Fence();
  return to;
}

}  // namespace

void SetPlatform(Platform wanted) {
  platform.store(wanted, std::memory_order_relaxed);
  if (wanted == Platform::kCacheLines) {
    setenv("PMEM_IS_PMEM_FORCE", "1", 1);
  } else {
    unsetenv("PMEM_IS_PMEM_FORCE");
  }
}
Platform CurrentPlatform() { return platform.load(std::memory_order_relaxed); }

// Release: pairs with the loads where flushes are seen.
void SetObserver(Observer* wanted) { observer.store(wanted, std::memory_order_release); }
void KeepFilesUntouched(bool on) { keep_files.store(on, std::memory_order_relaxed); }

void CountCallSites() {
  const std::lock_guard<std::mutex> lock(sites_mutex);
  sites.clear();
  count_sites.store(true, std::memory_order_relaxed);
}

std::vector<CallSite> CallSites() {
  const std::lock_guard<std::mutex> lock(sites_mutex);
  std::vector<CallSite> all;
  for (const auto& [key, site] : sites) all.push_back(site);
  return all;
}

void RunUntilDeath(unsigned fences, absl::FunctionRef<void()> run) {
  fences_to_live = fences;
  if (setjmp(place_of_death) == 0) {
    run();
  } else {
    // Before the mutexes: whoever waits for one never gets it from a dead process.
    EndProcess();
  }
  fences_to_live = kNever;
  for (; !held_mutexes.empty(); held_mutexes.pop_back()) Unlock(held_mutexes.back());
}
void EndProcess() {
  if (IsDead()) return;
  if (Observer* seen_by = observer.load(std::memory_order_acquire)) seen_by->OnDeath();
  process_dead.store(true, std::memory_order_relaxed);
}
void BeginProcess() {
  Observer* seen_by = observer.load(std::memory_order_acquire);
  if (seen_by != nullptr && IsDead()) seen_by->OnBirth();
  fences_to_live = kNever;
  process_dead.store(false, std::memory_order_relaxed);
  late_flushes.clear();
  thread_number = NextThreadNumber();
}
void WriteBackCaches() {
  if (Observer* seen_by = observer.load(std::memory_order_acquire)) seen_by->OnWriteBack();
}
uint32_t CurrentThread() { return thread_number; }
void DelayFences(unsigned wait_ms) { fence_delay_ms = wait_ms; }
void DelayGracePeriods(unsigned wait_ms) {
  grace_delay_ms.store(wait_ms, std::memory_order_relaxed);
}

void Mutate(const CallSite& site, Mutation mutation) {
  const std::lock_guard<std::mutex> lock(sites_mutex);
  mutated = site;
  mutated_how = mutation;
  mutate_one.store(site.return_address != nullptr, std::memory_order_relaxed);
}

}  // namespace daxkv::crash

// ---- What takes the place of libpmem's and libc's own ----

using daxkv::crash::Fence;
using daxkv::crash::FinishCopy;
using daxkv::crash::Flush;

extern "C" {

int pmem_is_pmem(const void* /*address*/, size_t /*size_bytes*/) {
  return daxkv::crash::CurrentPlatform() == daxkv::crash::Platform::kCacheLines ? 1 : 0;
}
int pmem_has_auto_flush() { return 0; }
int pmem_has_hw_drain() { return 0; }

void pmem_flush(const void* address, size_t size_bytes) { Flush(address, size_bytes); }
void pmem_drain() {
  daxkv::crash::MeetFate(__builtin_return_address(0));
  Fence();
}
void pmem_persist(const void* address, size_t size_bytes) {
  Flush(address, size_bytes);
  Fence();
}
void pmem_deep_flush(const void* address, size_t size_bytes) { Flush(address, size_bytes); }
int pmem_deep_drain(const void* /*address*/, size_t /*size_bytes*/) {
  Fence();
  return 0;
}
int pmem_deep_persist(const void* address, size_t size_bytes) {
  pmem_persist(address, size_bytes);
  return 0;
}
int pmem_msync(const void* address, size_t size_bytes) {
  daxkv::crash::MeetFate(__builtin_return_address(0));
  if (daxkv::crash::IsDead()) return 0;
  // daxkv's own are of its pages, and of what lies between them.
  if (!daxkv::crash::IsOfProgram(__builtin_return_address(0))) {
    daxkv::crash::NoteFlushOfImage(static_cast<const char*>(address), size_bytes);
  }
  const auto passage = daxkv::crash::PassageOf(daxkv::crash::CallKind::kFence);
  auto* seen_by = daxkv::crash::observer.load(std::memory_order_acquire);
  if (seen_by == nullptr) return 0;
  if (passage == daxkv::crash::Passage::kPasses) {
    seen_by->OnMsync(static_cast<const char*>(address), size_bytes);
  } else {
    seen_by->OnWithheldMsync(static_cast<const char*>(address), size_bytes);
  }
  return 0;
}

void* pmem_memmove(void* to, const void* from, size_t size_bytes, unsigned flags) {
  memmove(to, from, size_bytes);
  return FinishCopy(to, size_bytes, flags);
}
void* pmem_memcpy(void* to, const void* from, size_t size_bytes, unsigned flags) {
  return pmem_memmove(to, from, size_bytes, flags);
}
void* pmem_memset(void* to, int byte, size_t size_bytes, unsigned flags) {
  memset(to, byte, size_bytes);
  return FinishCopy(to, size_bytes, flags);
}
void* pmem_memmove_persist(void* to, const void* from, size_t size_bytes) {
  return pmem_memmove(to, from, size_bytes, 0);
}
void* pmem_memcpy_persist(void* to, const void* from, size_t size_bytes) {
  return pmem_memmove(to, from, size_bytes, 0);
}
void* pmem_memset_persist(void* to, int byte, size_t size_bytes) {
  return pmem_memset(to, byte, size_bytes, 0);
}
void* pmem_memmove_nodrain(void* to, const void* from, size_t size_bytes) {
  return pmem_memmove(to, from, size_bytes, PMEM_F_MEM_NODRAIN);
}
void* pmem_memcpy_nodrain(void* to, const void* from, size_t size_bytes) {
  return pmem_memmove(to, from, size_bytes, PMEM_F_MEM_NODRAIN);
}
void* pmem_memset_nodrain(void* to, int byte, size_t size_bytes) {
  return pmem_memset(to, byte, size_bytes, PMEM_F_MEM_NODRAIN);
}

void urcu_bp_synchronize_rcu() {
  using Function = void (*)();
  static const auto next = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "urcu_bp_synchronize_rcu"));
  if (const unsigned wait_ms = daxkv::crash::grace_delay_ms.load(std::memory_order_relaxed)) {
    usleep(wait_ms * 1000);
  }
  auto* seen_by = daxkv::crash::observer.load(std::memory_order_acquire);
  const uint64_t flushes = seen_by == nullptr ? 0 : seen_by->OnBarrierBegin();
  next();
  if (seen_by != nullptr && !daxkv::crash::IsDead()) seen_by->OnBarrierEnd(flushes);
}

int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  static const auto real = daxkv::crash::RealMutexFunction("pthread_mutex_lock");
  const int result = real(mutex);
  if (result == 0 && daxkv::crash::fences_to_live != daxkv::crash::kNever) {
    daxkv::crash::held_mutexes.push_back(mutex);
  }
  return result;
}

int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept {
  auto& held = daxkv::crash::held_mutexes;
  held.erase(std::remove(held.begin(), held.end(), mutex), held.end());
  return daxkv::crash::Unlock(mutex);
}

int munmap(void* address, size_t size_bytes) noexcept {
  if (auto* seen_by = daxkv::crash::observer.load(std::memory_order_acquire)) seen_by->OnUnmap();
  return static_cast<int>(syscall(SYS_munmap, address, size_bytes));
}

int fallocate(int file, int mode, off_t offset, off_t size_bytes) {
  if (daxkv::crash::keep_files.load(std::memory_order_relaxed) &&
      (mode & FALLOC_FL_KEEP_SIZE) != 0) {
    return 0;
  }
  const int result = static_cast<int>(syscall(SYS_fallocate, file, mode, offset, size_bytes));
  auto* seen_by = daxkv::crash::observer.load(std::memory_order_acquire);
  if (result == 0 && (mode & FALLOC_FL_PUNCH_HOLE) != 0 && seen_by != nullptr) {
    seen_by->OnPunch(file, static_cast<uint64_t>(offset), static_cast<uint64_t>(size_bytes));
  }
  return result;
}

// On tmpfs, daxkv would not take the medium for a page cache.
int fstatfs(int file, struct statfs* info) noexcept {
  const int result = static_cast<int>(syscall(SYS_fstatfs, file, info));
  if (daxkv::crash::CurrentPlatform() == daxkv::crash::Platform::kPages) {
    info->f_type = daxkv::crash::kExt4;
  }
  return result;
}

}  // extern "C"
