#include "tests/crash/interposer.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <libpmem.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace daxkv::crash {
namespace {

constexpr int kMaxFrames = 16;
constexpr uint32_t kExt4 = 0xef53;

std::atomic<Observer*> observer{nullptr};
std::atomic<Platform> platform{Platform::kCacheLines};
std::atomic<bool> keep_files{false};
std::atomic<bool> count_sites{false};
std::atomic<bool> drop_one{false};

std::mutex sites_mutex;
std::map<std::pair<CallKind, const void*>, CallSite> sites;  // Guarded by sites_mutex.
CallSite dropped;                                            // Guarded by sites_mutex.
std::map<const void*, std::string> function_names;           // Guarded by sites_mutex.

// The function at `address` when it is daxkv's, else empty.
const std::string& FunctionName(const void* address) {
  const auto [it, fresh] = function_names.try_emplace(address);
  Dl_info info;
  if (!fresh || dladdr(address, &info) == 0 || info.dli_sname == nullptr) return it->second;
  int status = 0;
  char* name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  if (name != nullptr && absl::StartsWith(name, "daxkv::")) {
    const std::string whole = name;
    it->second = absl::StrCat(
        whole.substr(0, whole.find('(')), "+0x",
        absl::Hex(static_cast<const char*>(address) - static_cast<const char*>(info.dli_saddr)));
  }
  free(name);
  return it->second;
}

// Whether a function only hands flushes and fences down.
bool HandsDown(const std::string& name) {
  for (const char* prefix : {"daxkv::crash::", "daxkv::dax::Persister::", "daxkv::dax::Pool::",
                             "daxkv::kv::Space::Flush", "daxkv::kv::Space::Drain",
                             "daxkv::kv::Space::CopyAndFlush", "daxkv::kv::Index::Impl::Drain"}) {
    if (absl::StartsWith(name, prefix)) return true;
  }
  return false;
}

// Whether the call that is under way counts: true unless its site is dropped.
bool Passes(CallKind kind) {
  if (!count_sites.load(std::memory_order_relaxed) && !drop_one.load(std::memory_order_relaxed)) {
    return true;
  }
  void* frames[kMaxFrames];
  const int count = backtrace(frames, kMaxFrames);
  const std::lock_guard<std::mutex> lock(sites_mutex);
  bool seen_daxkv = false;
  for (int i = 1; i < count; ++i) {
    const std::string& name = FunctionName(frames[i]);
    if (name.empty()) {
      // Our own C functions come first; then a call by libpmemobj is not daxkv's own.
      if (seen_daxkv || i > 3) return true;
      continue;
    }
    if (absl::StartsWith(name, "daxkv::dax::ObjectHeap") ||
        absl::StartsWith(name, "daxkv::crash::")) {
      continue;
    }
    seen_daxkv = true;
    if (HandsDown(name)) continue;
    CallSite& site = sites[{kind, frames[i]}];
    site.kind = kind;
    site.return_address = frames[i];
    site.name = name;
    ++site.calls;
    return dropped.return_address != frames[i] || dropped.kind != kind;
  }
  return true;
}

void Flush(const void* address, size_t size_bytes) {
  if (!Passes(CallKind::kFlush)) return;
  if (Observer* seen_by = observer.load(std::memory_order_acquire)) {
    seen_by->OnFlush(static_cast<const char*>(address), size_bytes);
  }
}

void Fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!Passes(CallKind::kFence)) return;
  if (Observer* seen_by = observer.load(std::memory_order_acquire)) seen_by->OnFence();
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

void DropCallSite(const CallSite& site) {
  const std::lock_guard<std::mutex> lock(sites_mutex);
  dropped = site;
  drop_one.store(site.return_address != nullptr, std::memory_order_relaxed);
}

}  // namespace daxkv::crash

// ---- What takes the place of libpmem's and libc's own
// ----------------------------------------------

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
void pmem_drain() { Fence(); }
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
  if (!daxkv::crash::Passes(daxkv::crash::CallKind::kFence)) return 0;
  if (auto* seen_by = daxkv::crash::observer.load(std::memory_order_acquire)) {
    seen_by->OnMsync(static_cast<const char*>(address), size_bytes);
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
