// NodePool: memory for tree nodes, carved from 2 MiB pages. Internal to the array and its tests.
#ifndef DAXKV_XARRAY_NODE_POOL_H_
#define DAXKV_XARRAY_NODE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <mutex>

namespace daxkv::xarray::internal {

// Blocks of one size for the whole process. A lookup in a large array reads one node per level,
// each in another page; from huge pages those reads miss the TLB far less.
//
// Blocks come from *regions*: 2 MiB of aligned memory that the system is asked to back by one huge
// page. A region that is wholly free goes back to the system, unless it is the only one with room.
// So the pool takes 2 MiB at the first node.
//
// Thread-safe. Each thread keeps a few blocks of its own, so most calls take no lock. In children
// of fork() the pool works on.
template <size_t kBlockBytes>
class NodePool {
 public:
  static_assert(kBlockBytes % 64 == 0, "blocks begin at cache lines");
  static constexpr size_t kRegionBytes = size_t{2} << 20;
  // The first cache line of a region is its header.
  static constexpr uint32_t kBlocksPerRegion =
      static_cast<uint32_t>((kRegionBytes - 64) / kBlockBytes);

  // The pool of this block size. It lives to the end of the process.
  static NodePool& Get();

  // A block aligned to 64 bytes with indeterminate content; null if the system has no memory.
  void* Allocate();
  // Takes back a block of Allocate.
  void Free(void* memory);

  // Gives the calling thread's own blocks back; happens by itself when a thread ends.
  void FlushThread();
  // Regions that exist now.
  uint64_t regions();

 private:
  struct Region;
  struct Magazine;
  struct FreeBlock {
    FreeBlock* next;
  };

  NodePool();
  static Magazine& ThreadMagazine();
  bool Refill(Magazine& magazine);
  void Drain(Magazine& magazine, uint32_t keep);
  Region* AddRegion();
  void FreeToRegion(FreeBlock* block);
  void Link(Region* region);
  void Unlink(Region* region);

  std::mutex mutex_;
  Region* with_room_ = nullptr;  // doubly linked; guarded by mutex_, as are all regions
  uint64_t regions_ = 0;
};

extern template class NodePool<128>;
extern template class NodePool<576>;

}  // namespace daxkv::xarray::internal

#endif  // DAXKV_XARRAY_NODE_POOL_H_
