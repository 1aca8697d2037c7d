#include "xarray/node_pool.h"

#include <pthread.h>
#include <sys/mman.h>

#include <new>

namespace daxkv::xarray::internal {
namespace {

// A thread keeps at most this many blocks; half of them move at once.
constexpr uint32_t kMagazineBlocks = 64;

// 2 MiB of aligned address space: twice as much is mapped, and what sticks out unmapped.
void* MapRegion(size_t bytes) {
  void* mapped =
      mmap(nullptr, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const begin = static_cast<char*>(mapped);
  const size_t excess = (bytes - reinterpret_cast<uintptr_t>(begin) % bytes) % bytes;
  if (excess > 0) munmap(begin, excess);
  munmap(begin + excess + bytes, bytes - excess);
  // A wish only: without huge pages the pool works as well, if slower.
  madvise(begin + excess, bytes, MADV_HUGEPAGE);
  return begin + excess;
}

}  // namespace

template <size_t kBlockBytes>
struct NodePool<kBlockBytes>::Region {
  FreeBlock* free = nullptr;
  uint32_t used = 0;     // blocks that are out, those in magazines included
  uint32_t touched = 0;  // blocks from here on were never used, and are not in `free`
  Region* previous = nullptr;
  Region* next = nullptr;

  bool full() const { return free == nullptr && touched == kBlocksPerRegion; }
  FreeBlock* Take() {
    ++used;
    if (free == nullptr) {
      return reinterpret_cast<FreeBlock*>(reinterpret_cast<char*>(this) + 64 +
                                          kBlockBytes * touched++);
    }
    FreeBlock* block = free;
    free = block->next;
    return block;
  }
};

template <size_t kBlockBytes>
struct NodePool<kBlockBytes>::Magazine {
  FreeBlock* blocks = nullptr;
  uint32_t count = 0;

  ~Magazine() { NodePool::Get().Drain(*this, 0); }
};

// A child must not inherit the mutex from a thread that it does not have.
template <size_t kBlockBytes>
NodePool<kBlockBytes>::NodePool() {
  pthread_atfork([] { Get().mutex_.lock(); }, [] { Get().mutex_.unlock(); },
                 [] { Get().mutex_.unlock(); });
}

template <size_t kBlockBytes>
NodePool<kBlockBytes>& NodePool<kBlockBytes>::Get() {
  // Never destroyed: RCU callbacks free nodes until the very end.
  static NodePool* const pool = new NodePool;
  return *pool;
}

template <size_t kBlockBytes>
auto NodePool<kBlockBytes>::ThreadMagazine() -> Magazine& {
  static thread_local Magazine magazine;
  return magazine;
}

template <size_t kBlockBytes>
void* NodePool<kBlockBytes>::Allocate() {
  Magazine& magazine = ThreadMagazine();
  if (magazine.count == 0 && !Refill(magazine)) return nullptr;
  FreeBlock* block = magazine.blocks;
  magazine.blocks = block->next;
  --magazine.count;
  return block;
}

template <size_t kBlockBytes>
void NodePool<kBlockBytes>::Free(void* memory) {
  Magazine& magazine = ThreadMagazine();
  magazine.blocks = new (memory) FreeBlock{magazine.blocks};
  if (++magazine.count > kMagazineBlocks) Drain(magazine, kMagazineBlocks / 2);
}

template <size_t kBlockBytes>
void NodePool<kBlockBytes>::FlushThread() {
  Drain(ThreadMagazine(), 0);
}

template <size_t kBlockBytes>
uint64_t NodePool<kBlockBytes>::regions() {
  std::lock_guard<std::mutex> lock(mutex_);
  return regions_;
}

// Puts some blocks into an empty magazine, such that neighbours are given out one after the other.
// False: no memory.
template <size_t kBlockBytes>
bool NodePool<kBlockBytes>::Refill(Magazine& magazine) {
  std::lock_guard<std::mutex> lock(mutex_);
  FreeBlock** tail = &magazine.blocks;
  while (magazine.count < kMagazineBlocks / 2) {
    Region* region = with_room_ != nullptr ? with_room_ : AddRegion();
    if (region == nullptr) break;
    FreeBlock* block = new (region->Take()) FreeBlock{nullptr};
    if (region->full()) Unlink(region);
    *tail = block;
    tail = &block->next;
    ++magazine.count;
  }
  return magazine.count > 0;
}

template <size_t kBlockBytes>
void NodePool<kBlockBytes>::Drain(Magazine& magazine, uint32_t keep) {
  if (magazine.count <= keep) return;
  std::lock_guard<std::mutex> lock(mutex_);
  for (; magazine.count > keep; --magazine.count) {
    FreeBlock* block = magazine.blocks;
    magazine.blocks = block->next;
    FreeToRegion(block);
  }
}

template <size_t kBlockBytes>
auto NodePool<kBlockBytes>::AddRegion() -> Region* {
  void* memory = MapRegion(kRegionBytes);
  if (memory == nullptr) return nullptr;
  static_assert(sizeof(Region) <= 64, "the header is one cache line");
  Region* region = new (memory) Region;
  ++regions_;
  Link(region);
  return region;
}

template <size_t kBlockBytes>
void NodePool<kBlockBytes>::FreeToRegion(FreeBlock* block) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(block) % kRegionBytes;
  Region* region = reinterpret_cast<Region*>(reinterpret_cast<char*>(block) - offset);
  if (region->full()) Link(region);
  block->next = region->free;
  region->free = block;
  --region->used;
  const bool only = with_room_ == region && region->next == nullptr;
  if (region->used > 0 || only) return;
  Unlink(region);
  --regions_;
  munmap(region, kRegionBytes);
}

template <size_t kBlockBytes>
void NodePool<kBlockBytes>::Link(Region* region) {
  region->previous = nullptr;
  region->next = with_room_;
  if (with_room_ != nullptr) with_room_->previous = region;
  with_room_ = region;
}

template <size_t kBlockBytes>
void NodePool<kBlockBytes>::Unlink(Region* region) {
  (region->previous != nullptr ? region->previous->next : with_room_) = region->next;
  if (region->next != nullptr) region->next->previous = region->previous;
  region->previous = region->next = nullptr;
}

template class NodePool<128>;
template class NodePool<576>;

namespace {

// Made before main(), so that fork() takes these mutexes after rcu.cc has stopped the callback
// thread, which may want them, and not before: prepare handlers run in reverse order.
[[maybe_unused]] const NodePool<128>& g_small = NodePool<128>::Get();
[[maybe_unused]] const NodePool<576>& g_large = NodePool<576>::Get();

}  // namespace

}  // namespace daxkv::xarray::internal
