// One segment: its place, its descriptor words, and the volatile allocator over its pages.
//
// The layout is in pool_format.h. Words are read by anyone at any time and stored by whoever owns
// the run that they describe; the rest is volatile and guarded by the pool's allocation mutex.
//
// The allocator is built window by window, in any order. Pages of a window that is not built are
// not free to it, so no run is made there; nor is a run released there before its windows are
// built, so that no build meets pages whose release is under way.
#ifndef DAXKV_DAX_SEGMENT_H_
#define DAXKV_DAX_SEGMENT_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/page_bitmap.h"
#include "dax/persist.h"
#include "dax/pool.h"
#include "dax/pool_format.h"
#include "dax/run_allocator.h"
#include "dax/run_descriptor.h"

namespace daxkv::dax {

class Segment {
 public:
  // Writes the header and clears the words of a new object; the caller makes these bytes durable:
  // from `object_offset` on, as many as are returned. 0: too small for a single page; nothing was
  // written.
  static uint64_t Format(char* base, uint64_t object_offset, uint64_t object_size_bytes);
  // What Format will return.
  static uint64_t FormatBytes(uint64_t object_offset, uint64_t object_size_bytes);

  // Checks an entry of the segment table, and the header that it leads to, against the size of the
  // pool's files. kDataLoss with the entry's number and what is wrong.
  static absl::StatusOr<std::unique_ptr<Segment>> Attach(char* base, uint64_t pool_size_bytes,
                                                         uint64_t number, uint64_t object_offset,
                                                         uint64_t object_size_bytes);

  uint64_t first_page() const { return first_page_; }
  uint64_t pages() const { return pages_; }
  uint64_t end_page() const { return first_page_ + pages_; }
  uint64_t object_offset() const { return object_offset_; }
  uint64_t object_end() const { return object_end_; }
  // The whole pages between the descriptor words and the data: alignment, never used.
  uint64_t gap_offset() const { return gap_offset_; }
  uint64_t gap_bytes() const { return first_page_ * kPageSizeBytes - gap_offset_; }
  bool Covers(uint64_t page) const { return page >= first_page_ && page < end_page(); }

  // The descriptor word of a page of this segment. A release store publishes a run's state; the
  // acquire loads of FindRun and Walk pair with it.
  std::atomic<uint64_t>& Word(uint64_t page) const { return words_[page - first_page_]; }

  // Pool::FindRun for a page of this segment. Lock-free.
  absl::StatusOr<Run> FindRun(uint64_t page, uint64_t open_epoch) const;
  // Visits every run that begins in pages [from, end), live or reserved in this epoch, in ascending
  // order, and checks P1. A run that `from` lies inside is passed over.
  // `stale` is called, if set, with the page of each word that an older epoch reserved.
  absl::Status Walk(uint64_t open_epoch, uint64_t from, uint64_t end,
                    const std::function<absl::Status(const Run&)>& visit,
                    const std::function<void(uint64_t)>& stale) const;

  uint64_t WindowOf(uint64_t page) const { return (page - first_page_) / kWindowPages; }
  uint64_t FirstPageOf(uint64_t window) const { return first_page_ + window * kWindowPages; }
  uint64_t EndPageOf(uint64_t window) const {
    return std::min(FirstPageOf(window + 1), end_page());
  }
  uint64_t windows() const { return built_.size(); }

  // What follows is guarded by the pool's allocation mutex.

  // Lets the allocator know the free pages of a window, once. Words of older epochs are cleared,
  // durably: without that a crash could bring one back inside a newer run. After damage was met no
  // more windows are built, and each call says why.
  absl::Status Build(uint64_t window, uint64_t open_epoch, Persister& persister);
  bool IsBuilt(uint64_t window) const { return built_[window]; }
  // The last window that is not built; nothing also after damage was met.
  std::optional<uint64_t> NextToBuild();
  // Null while no window is built. Counts pages from the segment's first.
  RunAllocator* allocator() { return allocator_.get(); }
  // Free pages that are known to have blocks. The other free ones are holes, or unknown.
  PageBitmap& spare() { return spare_; }
  // How often free pages of it were punched, or pages that may be holes became free.
  uint64_t punches = 0;
  // Free pages not in spare() may have blocks too: after a crash, or a punch that failed,
  // or where some were reserved ahead while the pages came and went.
  bool may_hide_blocks = false;
  // Lost pages of no run, which are neither free nor anybody's.
  uint64_t quarantined_free_pages = 0;

 private:
  Segment(char* base, const SegmentHeader& header);

  absl::Status Damaged(uint64_t page, const std::string& what) const;
  // What the words say of the run that covers a page, of whatever epoch.
  absl::StatusOr<std::optional<RunDescriptor>> FindDescriptor(uint64_t page) const;

  const uint64_t first_page_;
  const uint64_t pages_;
  const uint64_t object_offset_;
  const uint64_t object_end_;
  const uint64_t gap_offset_;
  std::atomic<uint64_t>* const words_;
  std::vector<bool> built_;   // By window.
  uint64_t not_built_below_;  // Every window from here on is built.
  absl::Status build_status_;
  std::unique_ptr<RunAllocator> allocator_;
  PageBitmap spare_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_SEGMENT_H_
