#include "tests/crash/pool_cache.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <libpmemobj.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "dax/pool_format.h"
#include "tests/crash/arena.h"
#include "tests/crash/interposer.h"

namespace daxkv::crash {
namespace {

constexpr uint64_t kPageSizeBytes = 4096;

struct SavedLine {
  uint64_t offset;
  char bytes[kLineSizeBytes];
};

// The one pool that is kept open.
struct Kept {
  PMEMobjpool* pool = nullptr;
  uint64_t size_bytes = 0;
  CrashImage::Ranges own;  // Of the store.
  uint64_t hash_outside = 0;
  std::vector<SavedLine> opened;  // What libpmemobj's open changed.
  std::atomic<bool> changed{false};
};

CrashImage* image = nullptr;
Kept kept;
uint64_t real_opens = 0;

template <typename Function>
Function* RealFunction(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) Die("looking a function of libpmemobj up");
  return reinterpret_cast<Function*>(found);
}

void ReallyClose(PMEMobjpool* pool) {
  static auto* const real = RealFunction<void(PMEMobjpool*)>("pmemobj_close");
  real(pool);
}

void CloseKept() {
  if (kept.pool == nullptr) return;
  PMEMobjpool* const pool = std::exchange(kept.pool, nullptr);
  ReallyClose(pool);
}

// libpmemobj keeps the run-time state of an open pool behind its descriptor, in the mapping: bytes
// that may come to the medium at any time, and that each open writes anew before it reads them.
// They begin at 6688, after reserved ones that stay zero.
constexpr uint64_t kRunTimeStateOffset = 6656;
constexpr uint64_t kLanesOffsetOffset = 5120;

uint64_t LanesOffset(const char* base) {
  uint64_t offset;
  memcpy(&offset, base + kLanesOffsetOffset, sizeof(offset));
  return offset;
}

// What of an open pool is the store's, or run-time state, and not what libpmemobj goes by. Nothing,
// if its root makes no sense.
CrashImage::Ranges OwnRanges(PMEMobjpool* pool, uint64_t size_bytes) {
  const char* base = reinterpret_cast<const char*>(pool);
  if (pmemobj_root_size(pool) < sizeof(dax::RootObject)) return {};
  const uint64_t root_object = pmemobj_root(pool, sizeof(dax::RootObject)).off;
  uint64_t root_offset;
  memcpy(&root_offset, base + root_object, sizeof(root_offset));
  if (root_offset % kLineSizeBytes != 0 || root_offset == 0 ||
      root_offset > size_bytes - sizeof(dax::PoolRoot)) {
    return {};
  }
  const auto* root = reinterpret_cast<const dax::PoolRoot*>(base + root_offset);
  if (root->magic != dax::kRootMagic || root->segment_count > dax::kMaxSegments) return {};
  CrashImage::Ranges own = {
      {kRunTimeStateOffset, LanesOffset(base)},
      {root_offset + offsetof(dax::PoolRoot, open_epoch),
       root_offset + offsetof(dax::PoolRoot, segment_count)},
      {root_offset + offsetof(dax::PoolRoot, root_area),
       root_offset + offsetof(dax::PoolRoot, segments) / kLineSizeBytes * kLineSizeBytes}};
  for (uint64_t i = 0; i < root->segment_count; ++i) {
    const uint64_t object = root->segments[i].object_offset;
    const uint64_t header_offset = (object + kLineSizeBytes - 1) / kLineSizeBytes * kLineSizeBytes;
    if (object > size_bytes - kPageSizeBytes) return {};
    dax::SegmentHeader header;
    memcpy(&header, base + header_offset, sizeof(header));
    const uint64_t end = (header.first_page + header.pages) * kPageSizeBytes;
    if (header.magic != dax::kSegmentMagic || end > size_bytes || end < header_offset) return {};
    own.emplace_back(header_offset + sizeof(header), end);
  }
  return own;
}

// What to put back: the lines of the open pool's private pages that differ from the image, and all
// run-time state, as other images may have any in its place.
std::vector<SavedLine> ChangedLines(const char* base, uint64_t size_bytes) {
  constexpr uint64_t kPresent = uint64_t{1} << 63, kOfFile = uint64_t{1} << 61;
  static const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  std::vector<uint64_t> words(size_bytes / kPageSizeBytes);
  const auto at = static_cast<off_t>(reinterpret_cast<uint64_t>(base) / kPageSizeBytes * 8);
  const auto wanted = static_cast<ssize_t>(words.size() * 8);
  if (pread(pagemap, words.data(), words.size() * 8, at) != wanted) Die("reading the page map");
  std::vector<SavedLine> changed;
  const uint64_t run_time_end = LanesOffset(base);
  for (uint64_t page = 0; page < words.size(); ++page) {
    if ((words[page] & kPresent) == 0 || (words[page] & kOfFile) != 0) continue;
    for (uint64_t offset = page * kPageSizeBytes; offset < (page + 1) * kPageSizeBytes;
         offset += kLineSizeBytes) {
      const bool run_time = offset >= kRunTimeStateOffset && offset < run_time_end;
      const bool same = memcmp(base + offset, image->bytes() + offset, kLineSizeBytes) == 0;
      if (same && !run_time) continue;
      SavedLine line;
      line.offset = offset;
      memcpy(line.bytes, base + offset, kLineSizeBytes);
      changed.push_back(line);
    }
  }
  return changed;
}

PMEMobjpool* OpenImage(const char* path, const char* layout) {
  static auto* const real = RealFunction<PMEMobjpool*(const char*, const char*)>("pmemobj_open");
  if (image == nullptr) return real(path, layout);
  if (kept.pool != nullptr && kept.size_bytes == image->size_bytes() &&
      kept.hash_outside == image->HashOutside(kept.own)) {
    char* const base = reinterpret_cast<char*>(kept.pool);
    if (madvise(base, kept.size_bytes, MADV_DONTNEED) != 0) Die("madvise");
    for (const SavedLine& line : kept.opened) {
      memcpy(base + line.offset, line.bytes, kLineSizeBytes);
    }
    kept.changed.store(false, std::memory_order_relaxed);
    return kept.pool;
  }
  CloseKept();
  ++real_opens;
  PMEMobjpool* const pool = real(path, layout);
  if (pool == nullptr) return nullptr;
  kept.pool = pool;
  kept.size_bytes = image->size_bytes();
  kept.own = OwnRanges(pool, kept.size_bytes);
  kept.hash_outside = image->HashOutside(kept.own);
  kept.opened = ChangedLines(reinterpret_cast<const char*>(pool), kept.size_bytes);
  kept.changed.store(false, std::memory_order_relaxed);
  return pool;
}

}  // namespace

void OpenCopiesOf(CrashImage* wanted) {
  if (wanted == image) return;
  CloseKept();
  image = wanted;
  KeepFilesUntouched(wanted != nullptr);
  int on = wanted != nullptr ? 1 : 0;
  pmemobj_ctl_set(nullptr, "copy_on_write.at_open", &on);
}

uint64_t RealOpens() { return real_opens; }

void NoteFlushOfImage(const char* address, size_t size_bytes) {
  if (kept.pool == nullptr || size_bytes == 0 || kept.changed.load(std::memory_order_relaxed)) {
    return;
  }
  const char* const base = reinterpret_cast<const char*>(kept.pool);
  if (address >= base && address < base + kept.size_bytes) {
    const auto first = static_cast<uint64_t>(address - base);
    for (const auto& [begin, end] : kept.own) {
      if (first >= begin && first + size_bytes <= end) return;
    }
  }
  // Parts that the pool has grown by lie elsewhere too.
  kept.changed.store(true, std::memory_order_relaxed);
}

}  // namespace daxkv::crash

extern "C" {

PMEMobjpool* pmemobj_open(const char* path, const char* layout) {
  return daxkv::crash::OpenImage(path, layout);
}

void pmemobj_close(PMEMobjpool* pool) {
  using daxkv::crash::kept;
  if (pool == nullptr || pool != kept.pool) return daxkv::crash::ReallyClose(pool);
  if (kept.changed.load(std::memory_order_relaxed)) daxkv::crash::CloseKept();
}

}  // extern "C"
