// The pages of a pool: its segments, and the runs in them. Everything of the Pool's contract that
// is about runs is here; see pool.h for what the calls promise.
//
// A free page is a hole or a *spare* one, which is known to have its blocks. Growth makes the files
// longer, by holes; blocks come run by run, or shortly before (ReserveAhead), so that what a call
// may have to wait for does not grow with the pool.
//
// Thread safety: all methods from any thread, except Attach, which comes first. One mutex guards
// the allocators. Blocks are reserved and punched for runs outside it, while the pages are in no
// allocator and so nobody else's. Those of free pages are punched under it, and reserved under
// ahead_mutex_. Growth, which waits for the medium, is under growth_mutex_: who finds room does not
// wait for it. Whoever gives a whole segment away holds all three. Their order: ahead, growth, the
// allocators'.
#ifndef DAXKV_DAX_PAGE_SPACE_H_
#define DAXKV_DAX_PAGE_SPACE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/backing_files.h"
#include "dax/bad_pages.h"
#include "dax/object_heap.h"
#include "dax/persist.h"
#include "dax/pool.h"
#include "dax/segment.h"
#include "dax/segment_index.h"

namespace daxkv::dax {

class PageSpace {
 public:
  struct Parts {
    ObjectHeap* heap;
    BackingFiles* files;
    Persister* persister;
    BadPages* bad_pages;
    bool huge_pages;  // PoolOptions::huge_pages.
    // What is reserved ahead is also mapped, and filled with zeros; but only for reading where pages
    // that are mapped for writing count as written,
    bool write_ahead;
    bool huge_ahead;  // and comes in huge pages as long as the kernel has some.
  };
  // `most_bytes`: what the pool may grow to; 0 if it has a fixed size. The parts must outlive this.
  PageSpace(const Parts& parts, uint64_t most_bytes);

  // Takes in the segments that the table names. `was_clean`: no free page hides blocks.
  //   kDataLoss  an entry is out of range, overlaps another, or its header is damaged
  absl::Status Attach(uint64_t open_epoch, bool was_clean);
  // Makes the heap's free memory segments: for a new pool. Its pages are spare.
  absl::Status TakeWholeHeap();
  // Clears descriptor words of every older epoch now rather than at a segment's first use.
  absl::Status ForgetOldEpochs();

  absl::StatusOr<Run> AllocateRun(uint64_t pages, uint8_t kind, uint16_t owner,
                                  uint64_t used_bytes);
  absl::Status CommitRuns(absl::Span<const Run> runs);
  absl::Status ReleaseRuns(absl::Span<const Run> runs);
  absl::StatusOr<Run> FindRun(uint64_t page) const;
  absl::Status ForEachRun(const std::function<absl::Status(const Run&)>& visit) const;
  absl::StatusOr<uint64_t> ForEachRunBelow(
      uint64_t end_page, const std::function<absl::Status(const Run&)>& visit) const;
  bool FindMoreFreePages();
  uint64_t descriptors_read() const { return descriptors_read_.load(std::memory_order_relaxed); }
  bool Contains(uint64_t offset, uint64_t size_bytes) const;

  // Takes a page that was just listed as lost out of the allocator, if it is free there, and gets
  // fresh blocks for it if the medium can. Pages of runs wait for their run's release.
  void Quarantine(uint64_t page);

  bool WantsAhead() const { return wants_ahead_.load(std::memory_order_relaxed); }
  void ReserveAhead();

  // Punches the spare pages.
  absl::Status TrimSpare();
  uint64_t runs_allocated() const { return runs_allocated_.load(std::memory_order_relaxed); }
  // Punches all free pages, and gives segments without runs back to libpmemobj.
  absl::Status Trim();
  // Punches the free pages that have blocks or may have: cheap after a session that changed little.
  absl::Status TrimKnown();
  // Fills in what is counted in pages.
  absl::Status AddStats(PoolStats& stats);

 private:
  // By how much a pool grows at a time: with its size, as each part costs time at open.
  static uint64_t GrowthStep(uint64_t size_bytes);
  // Below this an object holds nothing of use beside its alignment.
  static constexpr uint64_t kLeastSegmentBytes = uint64_t{3} << 20;

  struct Taken {
    Segment* segment;
    uint64_t first;  // Counted from the segment's first page.
  };
  using Lock = std::lock_guard<std::mutex>;

  // These need growth_mutex_ held, and take mutex_ where they need it.
  absl::Status Grow(uint64_t pages);
  absl::Status GrowByPart(uint64_t least_bytes);
  bool HasRoomFor(uint64_t pages);
  absl::Status MakePart(uint64_t size_bytes);
  absl::Status ExtendHeap(uint64_t least_bytes);
  absl::Status VerifyMapping() const;
  // What is known of the heap's free memory from an offset on: all its pages have blocks, or none.
  struct Fresh {
    uint64_t offset;
    bool has_blocks;
  };
  absl::Status TakeGrowth(uint64_t least_bytes, const Fresh& fresh);
  absl::Status AppendSegments(uint64_t least_bytes, const Fresh& fresh);
  absl::Status ReserveObjectHeader(uint64_t chunk);
  // Once the heap has it, a new segment is there for everybody.
  absl::Status TakeIn(const Fresh& fresh);
  void GrowAhead();

  // These need mutex_ held.
  // Gives the lock back meanwhile if it has to grow.
  absl::StatusOr<Taken> TakeOrGrow(uint64_t pages, std::unique_lock<std::mutex>* lock);
  // Looks at no more than so many windows more.
  std::optional<Taken> Take(uint64_t pages, uint64_t most_windows);
  bool WantsGrowth() const;
  absl::Status ReturnEmptySegments();  // And growth_mutex_.
  absl::StatusOr<Segment*> AttachEntry(uint64_t number);
  std::optional<Taken> NextAhead();
  absl::Status PunchSpare();
  absl::Status PunchFree(Segment& segment);
  // Segment::Build, and no lost page stays in the allocator.
  absl::Status Build(Segment& segment, uint64_t window);
  absl::Status BuildAll(Segment& segment);
  void QuarantineFree(Segment& segment, uint64_t page);

  // False: there is nothing more to reserve, or no room for it.
  bool ReserveNextAhead();
  absl::Status ReserveBlocks(const Taken& taken, uint64_t pages, uint64_t used_pages);
  absl::Status PunchRun(const Segment& segment, uint64_t first, uint64_t pages);
  void GiveBack(const Taken& taken, uint64_t pages, bool punched) noexcept;
  // Visits those of the pages that are on the list of lost ones.
  template <typename Visit>
  void ForEachLost(uint64_t first_page, uint64_t pages, Visit visit) const;
  // Of pages that are in no run and were punched, so that they have fresh blocks to come: maps the
  // lost ones again and takes them off the list, durably. Those that can't be stay on it.
  void Restore(uint64_t first_page, uint64_t pages) noexcept;
  // The next live runs from a page on, some hundred of them at most; none: the end.
  absl::Status NextRuns(uint64_t from, std::vector<Run>* runs) const;
  // Stores the word that says the run is free; not yet durably.
  absl::Status ForgetRun(const Run& run);
  // The word of a run that the caller says it holds; kNotFound when there is no such run.
  absl::StatusOr<uint64_t> WordOfRun(const Run& run, Segment** segment) const;

  ObjectHeap& heap_;
  BackingFiles& files_;
  Persister& persister_;
  BadPages& bad_pages_;
  const bool huge_pages_, write_ahead_, huge_ahead_;
  const uint64_t most_bytes_;
  uint64_t open_epoch_ = 0;

  std::mutex ahead_mutex_;      // Held while blocks of free pages are reserved; before mutex_.
  unsigned huge_refusals_ = 0;  // ahead_mutex_
  std::mutex growth_mutex_;     // Of the heap, and of the files' number; before mutex_.
  // A crash, or a lack of memory, may have left heap in no segment. Guarded by growth_mutex_.
  bool heap_may_have_rest_ = true;
  bool cannot_extend_ = false;  // libpmemobj failed to grow in this session. growth_mutex_.
  std::mutex mutex_;
  // In the table's order. Changes under growth_mutex_ and mutex_, so that either is enough to read
  // it; what the segments hold is under mutex_.
  std::vector<std::unique_ptr<Segment>> segments_;
  std::atomic<uint64_t> runs_allocated_{0};
  std::atomic<bool> wants_ahead_{false};  // Spare pages were taken, or there were none.
  std::atomic<bool> one_ahead_{false};    // No more than one block belongs ahead: a hint.
  mutable std::atomic<uint64_t> descriptors_read_{0};
  bool can_grow_ = true;  // The last growth did not fail. Guarded by mutex_.
  SegmentIndex index_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_PAGE_SPACE_H_
