// The volatile allocator of one segment: which of its pages are free, and which of them to hand
// out next. Built from the descriptor words; 72 bytes for each 2 MiB.
//
// A bitmap has one bit for each page; the buddies of a 2 MiB block are computed from its eight
// words when somebody asks, so freed neighbours merge by themselves. A byte for each block holds
// the order of its largest free buddy, and a counter for each order says which of them exist.
//
// Fit: the smallest free buddy of the block whose largest one is the smallest that will do, so
// small runs come from blocks that are broken already. Runs above 2 MiB take the first fit.
//
// Pages are numbered from 0, the segment's first data page. Not thread-safe.
#ifndef DAXKV_DAX_RUN_ALLOCATOR_H_
#define DAXKV_DAX_RUN_ALLOCATOR_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "dax/page_bitmap.h"
#include "dax/pool.h"

namespace daxkv::dax {

class RunAllocator {
 public:
  enum Start { kAllFree, kNoneFree };
  explicit RunAllocator(uint64_t pages, Start start = kAllFree);

  // How large a free buddy Allocate(pages) would have to break: an order, kHugeOrder also for all
  // larger runs. Nothing if they don't fit.
  std::optional<unsigned> Fit(uint64_t pages) const;
  // The first page of a run of `pages` pages (rounded as pool.h says), taken.
  std::optional<uint64_t> Allocate(uint64_t pages);
  // Takes pages that are free.
  void Take(uint64_t first, uint64_t pages);
  // Gives taken pages back.
  void Free(uint64_t first, uint64_t pages);

  // The first block of 2 MiB at or behind `first`, itself the first page of one, that is free as a
  // whole: Allocate breaks them in this order.
  std::optional<uint64_t> NextFreeBlock(uint64_t first) const;

  uint64_t free_pages() const { return free_pages_; }
  const PageBitmap& free() const { return free_; }
  // Adds this segment's free buddies, by order, to `counts`.
  void CountFreeRuns(uint64_t (&counts)[kHugeOrder + 1]) const;
  // In pages: the largest run that Allocate could hand out now.
  uint64_t LargestFreeRun() const;

 private:
  static constexpr uint8_t kFull = kHugeOrder + 1;

  std::optional<uint64_t> FindBlocks(uint64_t count) const;
  void Refresh(uint64_t first, uint64_t pages);

  PageBitmap free_;
  uint64_t free_pages_ = 0;
  std::vector<uint8_t> largest_;                        // By block: an order or kFull.
  std::array<uint64_t, kHugeOrder + 2> blocks_with_{};  // How many blocks have that in largest_.
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_RUN_ALLOCATOR_H_
