// The pool: one libpmemobj pool, mapped once, that hands out page runs.
//
//   absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Open("/mnt/pmem/store", PoolOptions());
//   absl::StatusOr<Run> run = (*pool)->AllocateRun(/*pages=*/512, kMyKind, /*owner=*/7, 2 << 20);
//   char* bytes = (*pool)->At(run->offset());
//   ... fill, (*pool)->Flush(bytes, n); (*pool)->Drain();
//   (*pool)->CommitRun(*run);
//
// Definitions
//   page     4 KiB. Page number = pool offset / 4096. The mapping's base is 2 MiB aligned, so a run
//            that is naturally aligned by page number is aligned in memory too.
//   run      contiguous pages: 2^k pages, k = 0..9, aligned to its size; or a multiple of 512 pages
//            (2 MiB), aligned to 2 MiB.
//   segment  one large, long-lived libpmemobj object, carved into runs. Segments are never moved.
//   hole     pages without blocks in the backing file. Pages of no run are holes or spare blocks.
//   open epoch  a number raised and persisted at each open; stamps of an older epoch are stale.
//   window   kWindowPages pages of a segment, counted from its first; the last one may be shorter.
//
// Shapes (PoolOptions::shape)
//   kDirectory  `path` is a directory: daxkv.set (a poolset with OPTION SINGLEHDR) beside parts/,
//               where libpmemobj adds a part file whenever the pool grows. The default.
//   kFixed      `path` is one file of a fixed size, or a device (/dev/dax0.0).
//
// Thread safety: all methods may be called from any thread at the same time, except Open, Close and
// the destructor.
//
// Invariants
//   P1  A run is described by exactly one 8-byte descriptor word, at its first page; the words of
//       its other pages are zero. Allocation and release commit by storing that word.
//   P2  Every page of a handed-out run that the caller asked for (`used_bytes`) has its blocks:
//       storing to it cannot raise SIGBUS for want of space.
//   P3  A run is in one of three states: free, reserved (handed out, not committed), live. A
//       reserved run of an older open epoch counts as free: a crash leaks nothing.
//   P4  A page is punched only while it belongs to no run.
//   P5  A page that a media error took is never handed out before it has fresh blocks.
//
// Lazy work
//   Open reads no descriptor word, whatever the pool's size. Which pages are free is found out
//   later, window by window: AllocateRun looks at more of them, the newest first, when what is
//   known has no room, but at no more than kMostWindowsPerRun before it rather grows the pool; only
//   if that can't grow does it look at all. ReleaseRuns looks at the windows that its runs lie in.
//   So after any open a call costs the same in a large pool as in a small one, unless the pool is
//   full. FindMoreFreePages does the rest ahead of time, for whoever has the time. Trim, Stats, and
//   Close after a crash look at everything.
//
// Media errors
//   A page is *lost* when touching it raised SIGBUS (sigbus.h) or somebody says so
//   (ReportLostPage). SettleMediaErrors takes a loss in: it records the page on the medium, poisons
//   its mapping entry (one page's; a larger entry is split), and from then on Pin and Fault of that
//   page return kDataLoss. The other pages of its run stay readable. Its run is quarantined as long
//   as it lives: nothing but its release helps. Release punches the run's blocks, and the file
//   system gives fresh ones to whoever gets the pages next: that ends the page's being lost. Where
//   nothing can be punched, on devices and on file systems without holes, the page stays out of use
//   for ever.
//   Losses are taken in by whoever calls SettleMediaErrors: a program that uses the pool by itself
//   does so after a MediaGuard that is not Intact, or now and then while media_events() differs
//   from what it saw; kv::Db does it in every call.
//   Limits. A lost page of the pool's own records (libpmemobj's, the root, a segment's descriptor
//   words) is not replaced by anything: no Drain succeeds any more, the pool can't be marked clean,
//   and an open that meets it again returns kDataLoss. At most 512 pages are recorded.
#ifndef DAXKV_DAX_POOL_H_
#define DAXKV_DAX_POOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "dax/lost_pages.h"
#include "dax/media.h"
#include "dax/media_guard.h"

namespace daxkv::dax {

inline constexpr uint64_t kPageSizeBytes = 4096;
inline constexpr unsigned kPageShift = 12;
inline constexpr unsigned kHugeOrder = 9;
inline constexpr uint64_t kHugePages = uint64_t{1} << kHugeOrder;
// 8 GiB: libpmemobj's largest objects, and so our segments, are a little below 16 GiB.
inline constexpr uint64_t kMaxRunPages = uint64_t{1} << 21;
// 64 MiB: what lazy work after open looks at in one go.
inline constexpr uint64_t kWindowPages = uint64_t{1} << 14;

enum class PoolShape { kDirectory, kFixed };

struct PoolOptions {
  bool create_if_missing = true;
  bool error_if_exists = false;
  // Used at creation only; an existing pool's shape is read from the path.
  PoolShape shape = PoolShape::kDirectory;
  // kFixed, at creation: the file's size, 16 MiB or more; 0 for a device (its whole size).
  uint64_t fixed_size_bytes = 0;
  // kDirectory, at creation: the most that the pool may grow to (address space is reserved for it
  // at each open), 64 MiB..16 TiB.
  uint64_t max_size_bytes = uint64_t{1} << 40;
  // What a returned Drain promises on an ordinary file: see Pool::SetDurability.
  Durability durability = Durability::kPower;
  // Whether this process's SIGBUS handler minds the pool's pages.
  SigbusPolicy sigbus = SigbusPolicy::kGuarded;
  // Advises the kernel to use huge pages throughout the pool (MADV_HUGEPAGE; counts on tmpfs
  // mounted with huge=advise or within_size). Not the default: where the advice counts, the
  // kernel's khugepaged may fill 2 MiB up that were punched in part. DAX, and tmpfs with
  // huge=always, need no advice; Mapping::Prefault gets single huge extents mapped huge without it.
  // What ReserveAhead reserves on any tmpfs comes in huge pages without it, if the kernel has any.
  bool huge_pages = false;
};

// A run of pages. A plain value: it owns nothing.
struct Run {
  uint64_t first_page = 0;
  uint64_t pages = 0;
  uint8_t kind = 0;    // Of the layer above; 1..255. 0 means: no run.
  uint16_t owner = 0;  // Free use by the layer above (a size class, a keyspace).
  bool live = false;   // Committed.

  uint64_t offset() const { return first_page << kPageShift; }
  uint64_t size_bytes() const { return pages << kPageShift; }
};

struct PoolStats {
  uint64_t segments = 0;
  uint64_t segment_pages = 0;   // Pages that runs can be carved from.
  uint64_t live_pages = 0;      // In committed runs.
  uint64_t reserved_pages = 0;  // In runs handed out and not yet committed.
  uint64_t free_pages = 0;
  uint64_t quarantined_pages = 0;  // Lost to media errors: in live runs, or out of use.
  // Maximal free buddies; order 9 counts whole 2 MiB blocks.
  uint64_t free_runs_by_order[kHugeOrder + 1] = {};
  uint64_t largest_free_run_pages = 0;
  uint64_t file_size_bytes = 0;    // Sum of the backing files' lengths.
  uint64_t file_blocks_bytes = 0;  // What the file system really holds for them (st_blocks).
  // Whether pages of no run can be given back: not on a device, whose space is all its own, nor on
  // a file system that has refused. There they are reused inside the pool.
  bool has_holes = true;
};

class Pool {
 public:
  // Opens, or creates, the pool at `path`. Costs libpmemobj's own open plus O(segments).
  //   kNotFound            nothing there and create_if_missing is false
  //   kAlreadyExists       error_if_exists, and a pool is there
  //   kFailedPrecondition  another process holds the pool (the message names its pid); `path` is
  //                        something else than a pool; the format is newer than this program's
  //   kInvalidArgument     an option out of its range
  //   kResourceExhausted   no room on the file system, or no address space
  //   kPermissionDenied    the file system refuses
  //   kDataLoss            the pool's root or segment table is damaged or can't be read
  static absl::StatusOr<std::unique_ptr<Pool>> Open(const std::string& path,
                                                    const PoolOptions& options);
  // Closes without marking the pool clean, as a crash would, if Close was not called.
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Punches the spare blocks of free pages, marks the pool clean (one 8-byte store commits that,
  // after everything before it is durable) and closes it. Nothing may use the pool afterwards.
  // Statuses of Sync, after which the pool is closed, but not clean; kResourceExhausted: no memory,
  // it is open still; kFailedPrecondition: it was closed before.
  absl::Status Close();

  const std::string& path() const;
  PoolShape shape() const;
  const MediaInfo& media() const;
  uint32_t format_version() const;
  // This open's epoch; the first is 1.
  uint64_t open_epoch() const;
  // Whether the close before this open was clean (true for a new pool).
  bool was_clean() const;
  // The epoch of the last session before this one that ended in a clean close; 0 for a new pool.
  // Nullopt: not known, as the word is damaged, or is one of an earlier daxkv.
  std::optional<uint64_t> last_clean_epoch() const;

  // One 8-byte word that holds an epoch and tells when it was damaged: the epoch in bits 0..31, the
  // complement of its CRC32C above. Neither all zeros nor all ones is one.
  static uint64_t SealEpoch(uint64_t epoch);
  static std::optional<uint64_t> UnsealEpoch(uint64_t word);

  // The address of a pool offset / the offset of an address inside the mapping. No check.
  char* At(uint64_t offset) const { return base_ + offset; }
  uint64_t OffsetOf(const void* address) const {
    return static_cast<uint64_t>(static_cast<const char*>(address) - base_);
  }
  // Whether [offset, offset + size_bytes) lies inside the data pages of one segment.
  bool Contains(uint64_t offset, uint64_t size_bytes) const;

  // kRootAreaSizeBytes bytes for the layer above, zero in a new pool, 64-byte aligned.
  static constexpr uint64_t kRootAreaSizeBytes = 4096;
  char* root_area() const;

  // Hands out a free run of at least `pages` pages (rounded up to a power of two, or above 512 to
  // a multiple of 512), in state reserved, with blocks for its first `used_bytes` (rounded up to
  // pages). Grows the pool when it must and may. The bytes are unspecified, not zero.
  // Cost: about a microsecond, a fallocate for pages without blocks, and now and then a growth step
  // (but see ReserveAhead for both), which all who find no room wait for. A step makes the files
  // longer by a hole: its cost is that of libpmemobj's transactions (on kPageCache ten msyncs and
  // fsyncs, with either durability) and, per 1 GiB, 2 MiB of descriptor words.
  // After open: see Lazy work above.
  //   kResourceExhausted  the pool or the file system is full; nothing changed
  //   kInvalidArgument    pages 0 or above kMaxRunPages, kind 0, used_bytes above the run
  absl::StatusOr<Run> AllocateRun(uint64_t pages, uint8_t kind, uint16_t owner,
                                  uint64_t used_bytes);
  // Makes a reserved run live, durably. Commit point: the 8-byte store of its descriptor. A crash
  // before it: the run is free at the next open; after it: live. What the run holds must be durable
  // before. For a live run it makes sure that it is durably so: one that a dead process committed
  // may not be yet.
  //   kNotFound  no such run is reserved
  absl::Status CommitRun(const Run& run) { return CommitRuns(absl::MakeConstSpan(&run, 1)); }
  // The same for several with one wait for the medium; a crash may leave any of them live.
  absl::Status CommitRuns(absl::Span<const Run> runs);
  // Releases a reserved or live run: durably free, then its blocks are punched (a failure to punch
  // is no error: the blocks stay as spare ones). Commit point: the descriptor's 8-byte store.
  // The caller has made sure that nobody reads it any more (see Mapping::Truncate).
  //   kNotFound  there is no such run
  //   kDataLoss  another descriptor of its segment is damaged: nothing there is given out or back,
  //              but in windows that were looked at before that was met
  absl::Status ReleaseRun(const Run& run) { return ReleaseRuns(absl::MakeConstSpan(&run, 1)); }
  // The same for several with one wait for the medium; a crash may leave any of them. After an
  // error some may be released: those whose FindRun no longer finds them.
  absl::Status ReleaseRuns(absl::Span<const Run> runs);

  // The run that covers `page`. kNotFound when the page is in no live or reserved run; kDataLoss
  // when the descriptor words there contradict P1. O(1) on average, lock-free.
  absl::StatusOr<Run> FindRun(uint64_t page) const;
  // Calls `visit` for every live run in ascending order until it returns a status that is not OK,
  // which is then returned. kDataLoss when descriptors contradict P1. Concurrent allocations and
  // releases may be seen or not.
  absl::Status ForEachRun(const std::function<absl::Status(const Run&)>& visit) const;
  // The same a part at a time, for the live runs that begin in the next kWindowPages pages, or a
  // few less, below `end_page` (UINT64_MAX: the pool's end). Returns the `end_page` for the next
  // call; 0: there is nothing below. Runs that were live before the first call and stay so are each
  // visited once; others may be or not.
  absl::StatusOr<uint64_t> ForEachRunBelow(
      uint64_t end_page, const std::function<absl::Status(const Run&)>& visit) const;

  // ---- Lazy work ----

  static constexpr uint64_t kMostWindowsPerRun = 8;
  // Looks at one more window for free pages. False: all that can be is known.
  bool FindMoreFreePages();
  // For how many pages descriptor words were read since open, by all calls but FindRun; any thread.
  uint64_t descriptors_read() const;

  // ---- Media errors ----

  // Enters the page as lost and settles: for errors that come by other ways than SIGBUS (the
  // kernel's bad-block lists, a scrubber). Any thread, not a signal handler.
  //   kInvalidArgument  the page is no data page; then statuses of SettleMediaErrors
  absl::Status ReportLostPage(uint64_t page);
  // Takes in what was lost so far: see above. Costs a load if there is nothing new. Sleeps; takes
  // entry locks, so the caller holds none, nor an RCU read section.
  //   kDataLoss           the pool's own records are lost
  //   kResourceExhausted  the list of lost pages is full: this one is lost to this session only
  //   kInternal           the medium failed, with the same effect
  absl::Status SettleMediaErrors();
  bool media_settled() const { return lost_pages_->events() == lost_pages_->settled(); }
  // Grows with every loss that this session meets; 0 at open.
  uint64_t media_events() const { return lost_pages_->events(); }
  const std::atomic<uint64_t>* media_event_counter() const { return lost_pages_->event_counter(); }
  // Whether any page is lost. A few loads.
  bool HasLostPages() const;
  // Whether a page of the range is lost, settled or not.
  bool IsLost(uint64_t offset, uint64_t size_bytes) const;
  // Page numbers, ascending.
  std::vector<uint64_t> ListLostPages() const;

  // Durability. Flush starts writing [address, address + size_bytes) back; Drain waits until all
  // that this thread flushed is durable, as far as the medium's promise goes: clwb and sfence on
  // kDax and kVolatile; on kPageCache Flush only notes the range and Drain msyncs what was noted,
  // neighbouring ranges in one call (but see SetDurability). Drain's errors (kInternal with the
  // range; EIO) mean that the data may not be durable; after one, every later Drain fails, in each
  // thread. kDataLoss: this thread flushed something on a page that is lost to a media error; or
  // the pool's own records are, and then every later Drain fails, too.
  void Flush(const void* address, size_t size_bytes) noexcept;
  absl::Status Drain() noexcept;
  // Instead of Drain, where on an ordinary file nobody waits for what this thread has flushed.
  // Statuses of Drain.
  absl::Status DropFlushes() noexcept;
  absl::Status Persist(const void* address, size_t size_bytes) {
    Flush(address, size_bytes);
    return Drain();
  }
  // Makes everything durable, and changes what Drain promises from now on; on other media than
  // kPageCache it changes nothing. With kProcess Flush and Drain write nothing back: a returned
  // Drain survives the end of the process, and Sync is what survives power loss. Runs still come
  // and go so that a power cut leaves each of them live or free and none overlapping (a release
  // msyncs its words before it punches; growth, lost pages and Close msync as ever), but a live run
  // may hold anything that was in it since the last Sync began, page by page: who uses kProcess
  // must verify what it finds after one. The caller excludes other users of the pool meanwhile.
  //   statuses of Sync
  absl::Status SetDurability(Durability durability);
  // Sync, if something was flushed under kProcess since the last call that only that makes durable.
  // One thread at a time. Statuses of Sync.
  absl::Status SyncIfNeeded();
  // One 8-byte word, durable when this returns with either durability, without what else the thread
  // has flushed. Statuses of Drain.
  absl::Status PersistWord(const uint64_t* word);
  // Copies into the pool past the cache where that is quicker, and flushes. Drain finishes it.
  void CopyAndFlush(void* to, const void* from, size_t size_bytes) noexcept;
  // Everything stored so far by any thread becomes durable: msync of the whole mapping on
  // kPageCache, a fence elsewhere. Statuses of Drain.
  absl::Status Sync();

  // Punches the spare blocks of free pages, and gives segments without runs (but the first) back to
  // libpmemobj, each by one transaction: the pool's next growth makes segments of that memory, of
  // neighbours one, before it adds to the files. Returns the bytes given back: 0 where there are
  // no holes (PoolStats::has_holes).
  //   kDataLoss  a segment's descriptors are damaged; the others were trimmed
  //   kInternal  the file system or libpmemobj refused; others of the segments were trimmed
  absl::StatusOr<uint64_t> Trim();

  // Does what AllocateRun would have to wait for ahead of time, for whoever has the time.
  //   Growth, with Durability::kProcess, where nobody else waits for the medium: a step, when less
  //   than half of one is free, and less than half of the pool.
  //   Blocks: reserves them for the pages that will be handed out next, 1/128 of what is in use but
  //   2 MiB at least and 32 MiB at most, and maps them (on kPageCache for reading, which writes
  //   nothing); 2 MiB at a time, during which no other call waits for it, but one that meets a full
  //   file system, and Trim. None in pools that use less than 32 MiB, nor without holes. Spare
  //   blocks go back when the file system has no others.
  void ReserveAhead();
  // Whether it may have something to do: AllocateRun came to pages that are not ahead, or left few
  // free. A load.
  bool WantsReserveAhead() const;

  // Punches the spare blocks; Trim without the search for others. The runs that come next reserve
  // theirs anew: to be called when none have come for a while. O(segments) if there are none.
  absl::Status TrimSpare();
  // Runs allocated since open; any thread.
  uint64_t runs_allocated() const;

  // Walks descriptors and files: reads eight bytes of every page's. kDataLoss: descriptors are
  // damaged.
  absl::StatusOr<PoolStats> Stats() const;
  // Of that, what the files alone tell: a system call for each.
  struct FileSizes {
    uint64_t size_bytes = 0;    // PoolStats::file_size_bytes
    uint64_t blocks_bytes = 0;  // PoolStats::file_blocks_bytes
  };
  absl::StatusOr<FileSizes> SizesOfFiles() const;

 private:
  struct Impl;
  explicit Pool(std::unique_ptr<Impl> impl);

  char* base_ = nullptr;
  const LostPages* lost_pages_ = nullptr;  // Of impl_.
  std::unique_ptr<Impl> impl_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_POOL_H_
