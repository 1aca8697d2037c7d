// The index from inside. Internal to kv/.
//
//   index.cc         Find, Upsert, Remove; Create and Open
//   index_node.cc    nodes from the medium: checks, set-up of volatile words, finishing of splits
//   index_descend.cc from the root to the leaf that covers a key
//   index_inner.cc   views of inner nodes, children that come, splits of inner nodes, new roots
//   index_group.cc   many entries at once, and commits of leaf splits
//   index_split.cc   plans of leaf splits
//   index_atomic.cc  many entries as one change
//   index_find_many.cc  many look-ups whose cache misses overlap
//   index_sample.cc  how much lies in a range, about
//   index_scan.cc    scans, counts, what refers to a slot
//   index_snapshot.cc  look-ups and leaves at a snapshot
//   index_relocate.cc  records that compaction moves
//   index_merge.cc   leaves that compaction merges and moves
//   index_verify.cc  the walk over everything
//
// How operations run: an *attempt* runs inside a ReadGuard and does not sleep. If it meets
// something absent it returns kUnavailable and describes the obstacle; that is overcome outside the
// guard, and the attempt starts again.
//
// How changes meet a lack of memory (see dax/exceptions.h): a change is planned first, on images,
// with what it will need allocated: slots (OwnedSlot), views, room for its retires. Locks are
// LeafLocks. If the plan fails, all of that goes back and nothing has changed. Committing a plan is
// noexcept.
#ifndef DAXKV_KV_INDEX_IMPL_H_
#define DAXKV_KV_INDEX_IMPL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv/exceptions.h"
#include "kv/format.h"
#include "kv/index.h"
#include "kv/inner_view.h"
#include "kv/leaf_orders.h"
#include "kv/memory.h"
#include "kv/node.h"
#include "kv/record.h"
#include "kv/write_windows.h"
#include "xarray/rcu.h"

namespace daxkv::kv {

// An extent that could not be faulted in between the attempts of an operation.
struct GoneExtent {
  Address address;  // In it: as it was met.
  absl::Status why;
};
using GoneExtents = std::vector<GoneExtent>;

// Why an attempt returned kUnavailable.
struct Obstacle {
  enum class Kind { kNone, kAbsentExtent, kNodeNotReady, kNoView, kSplitUnderWay };
  Kind kind = Kind::kNone;
  Address address = kNullAddress;  // Of the extent or the node.
  unsigned level = 0;              // Of the node.
  InnerFrame* frame = nullptr;     // Whose view is missing.

  // `gone_before`, which may be null: what the attempts before this one could not have.
  explicit Obstacle(const GoneExtents* gone_before = nullptr) : gone(gone_before) {}
  Obstacle(const Obstacle&) = delete;
  Obstacle& operator=(const Obstacle&) = delete;
  ~Obstacle() {
    if (set_ups != nullptr) set_ups->Leave(set_up);
  }

  absl::Status Absent(Address where);
  // Why an earlier attempt could not have what is absent; null: none tried.
  const absl::Status* WhyGone(Address where) const;
  // As long as the obstacle is there, `set_ups_entered` has a window open.
  absl::Status NotReady(Address node, unsigned node_level, WriteWindows* set_ups_entered);
  absl::Status NoView(InnerFrame* which);
  absl::Status SplitUnderWay();

 private:
  const GoneExtents* const gone;
  WriteWindows* set_ups = nullptr;
  WriteWindows::Token set_up;
};

// A leaf that covers a key as long as its split count is this.
struct LeafPosition {
  Address address = kNullAddress;
  LeafNode* leaf = nullptr;
  uint32_t split_count = 0;
  uint64_t version = 0;  // The whole word that the split count was in.
};

// A leaf as its parent's view knows it, and its split count there.
struct LeafGuess {
  Address address = kNullAddress;
  uint32_t split_count = 0;
  const InnerView* view = nullptr;  // Null: the root is a leaf.
  unsigned child = 0;               // Of the view.

  // Whether the leaf is where the look ended, and the view's separators bound it.
  bool BoundsAreOf(const LeafPosition& at) const {
    return view != nullptr && at.address == address && at.split_count == split_count;
  }
};

// Where a leaf holds a key.
struct Hit {
  int place = -1;  // -1: nowhere.
  RecordView record;
  // A record of the key's tag, key and all lost to a media error: it may be the key's, unless the
  // key was found, which then is a later version.
  Address lost = kNullAddress;
  absl::Status damage;  // With -1: a slot that can't be read may be the key's.
};

// A slot of the leaf that gets another record, or none, in place.
struct Replacement {
  unsigned place;
  uint64_t slot;  // 0: removed.
  RecordView old;
};

// A key that the leaf does not hold yet.
struct Insertion {
  std::string_view key;
  uint64_t slot;
};

// A leaf that a split makes, right of the one it splits.
struct NewLeaf {
  LeafImage image;
  std::string separator;
  OwnedSlot leaf, fence;
  Address address = kNullAddress;  // The leaf's, also when the slot is released.
};

// Whether a locked leaf holds what a conditional change expects.
inline bool Meets(const Hit& hit, const ExpectedVersion* expected) {
  if (expected == nullptr) return true;
  if (hit.place < 0) return expected->address == kNullAddress;
  return hit.record.address == expected->address && hit.record.sequence == expected->sequence;
}

// What a group does to one leaf, which it has locked.
struct LeafPlan {
  LeafPosition at;
  LeafLock lock;
  size_t entries = 0;  // How many of the group's, from where the leaf before left off.
  uint64_t existed = 0;
  std::vector<Replacement> replacements;
  std::vector<Insertion> insertions;
  LeafImage image;              // The leaf as it will be in the end.
  std::vector<NewLeaf> rights;  // Empty: no split.
};

// A node that a split made, for the level above.
struct NewChild {
  unsigned level = 0;
  Address address = kNullAddress;
  std::string_view fence;
};

struct Index::Impl {
  Impl(Memory* memory_in, Snapshots* snapshots_in, uint64_t* root_word_in);

  // ---- index_node.cc
  LeafNode& Leaf(Address address) const;
  InnerNode& Inner(Address address) const;
  NodeHeader& Header(Address address) const;
  bool IsReady(const NodeHeader& header) const;
  // Whether the node may be used, inside a ReadGuard. kUnavailable, kDataLoss.
  absl::Status CheckReady(Address node, unsigned level, Obstacle& obstacle) const;
  // Makes a node ready: faults it and its low fence in, checks them, sets its volatile words up and
  // finishes what a crash left. Outside any ReadGuard.
  absl::Status SetUp(Address node, unsigned level);
  // Checks a node's low fence record, checksum and all. Outside any ReadGuard.
  absl::Status CheckFence(const NodeHeader& header, Address node, unsigned level) const;
  // Clears the slots with keys >= `fence`, which a split that the medium holds moved right.
  absl::Status ClearMovedSlots(LeafNode& leaf, std::string_view fence);
  // Finishes a split of this node that a crash left with its flag set. Caller sets the node up.
  absl::Status FinishInheritedSplit(Address node, unsigned level);
  // The low fence of a ready node; empty for the leftmost. Good as long as the node (X10).
  absl::StatusOr<std::string_view> LowFence(const NodeHeader& header) const;
  // A record that can't be unlinked meanwhile (its leaf is locked, or it is a fence). Faults it in;
  // outside any ReadGuard.
  absl::StatusOr<RecordView> StableRecord(Address address) const;
  // Of a record that can't be had: whether a media error may have taken its header or its key.
  bool IsLostRecord(Address address) const;
  // The version word of a leaf that is written now, and born locked: who knew another leaf at its
  // address must not take this one for it.
  uint64_t NewLockedVersion() noexcept;
  // Writes a node's header in DRAM order; the caller flushes.
  void WriteHeader(Address node, unsigned level, Address low_fence, uint64_t next, uint64_t version,
                   uint64_t overflow) const;
  absl::Status Drain() noexcept;
  // What a drain's failure means for the index.
  absl::Status AfterDrain(const absl::Status& drained) noexcept;
  absl::Status CheckMedium() const;

  // ---- index_descend.cc
  // An extent that can't be faulted in may have been freed since, with all that led to it: that is
  // no error until it is met again. `gone` remembers it between attempts.
  absl::Status Overcome(const Obstacle& obstacle, GoneExtents* gone);
  // Of the frame, or of one right of it on its level, if that is meant: sets *frame. Null: the
  // frame has no view.
  static const InnerView* ViewToSearch(const LeafTarget& target, InnerFrame** frame);
  absl::Status DescendToFrame(const LeafTarget& target, unsigned level, InnerFrame** frame,
                              const InnerView** view, Obstacle& obstacle) const;
  absl::Status DescendToLeaf(const LeafTarget& target, LeafPosition* at, Obstacle& obstacle) const;
  // Its two halves: which leaf to look at first (touches no leaf), and from there to the covering
  // one.
  absl::Status GuessLeaf(const LeafTarget& target, LeafGuess* guess, Obstacle& obstacle) const;
  absl::Status GoToCoveringLeaf(const LeafTarget& target, const LeafGuess& guess, LeafPosition* at,
                                Obstacle& obstacle) const;
  // Asks the processor for a leaf's header and for the line where a tag's slots begin.
  void PrefetchLeaf(Address leaf, uint16_t tag) const;
  // And for all of the leaf.
  void PrefetchLeaf(Address leaf) const;
  // And for the first bytes of the records that it has of a tag, in the line where that begins.
  void PrefetchRecords(const LeafNode& leaf, uint16_t tag, uint64_t size_bytes) const;
  // Searches a leaf for a key. A miss tells only what the leaf holds, not whether it covers.
  // `expected_size_bytes` of a record that may be the key's are prefetched; 0: none.
  absl::Status Probe(const LeafNode& leaf, std::string_view key, uint16_t tag, Hit* hit,
                     Obstacle& obstacle, uint64_t expected_size_bytes = 0) const;
  // Locks the leaf that is meant.
  // With a tag, for a put of that: asks the processor for the records that the leaf may have of it,
  // and makes durable what this thread has flushed (X2), before the lock: these misses and those of
  // the leaf overlap with the drain, and nobody else waits for it. (No optional: that is stored in
  // two parts and loaded as one, which waits for all stores before it, a new record's among them: a
  // quarter of a put's time in a load.)
  static constexpr uint32_t kNoTag = UINT32_MAX;
  absl::Status LockLeafFor(const LeafTarget& target, LeafPosition* at, LeafLock* lock,
                           uint32_t tag = kNoTag);
  // kDataLoss when a media error took the leaf.
  absl::Status CheckLost(const LeafPosition& at) const;
  // Probe for the holder of the leaf's lock.
  absl::Status ProbeLocked(const LeafPosition& at, std::string_view key, uint16_t tag, Hit* hit);

  // ---- index.cc
  absl::Status Find(std::string_view key, absl::FunctionRef<absl::Status(const RecordView&)> visit,
                    Reads reads = Reads::kRecord);
  absl::StatusOr<bool> Upsert(std::string_view key, Address address,
                              const ExpectedVersion* expected, Wait wait);
  absl::Status Remove(std::string_view key, const ExpectedVersion* expected, uint64_t* removed);
  // For the holder of the leaf's lock: notes that a version goes; and whether a record may be put
  // where its key is absent.
  void NoteRemoved(uint64_t number) noexcept;
  bool IsAboveRemoved(Address address) const;
  // Whether X7 keeps `held`, in a locked leaf, from being replaced by the record at `address`. What
  // a damaged record says its sequence is does not count: puts of its key might never get above it.
  bool IsNewer(const RecordView& held, Address address) const;
  // The sequence number of a slot's record, which is complete.
  uint64_t NumberOf(uint64_t slot) const;
  // Commits an insertion, update or removal in a locked leaf and starts flushing it. `old`, if any,
  // is kept for snapshots, or retired. The reserve is used if the window sees a snapshot.
  void StoreSlot(CommitWindow& window, HistoryReserve* reserve, LeafNode& leaf, unsigned place,
                 uint64_t slot, const RecordView* old) noexcept;
  // The same in a window of its own. kResourceExhausted (nothing changed): no memory to keep `old`.
  absl::Status CommitSlot(LeafNode& leaf, unsigned place, uint64_t slot, const RecordView* old);
  // Clears a slot of a locked leaf that leads to a record which was never published: its address
  // was free before, so the slot had led to nothing (a damaged record that a crash recovery took
  // for free space).
  void ForgetStray(LeafNode& leaf, uint64_t slot) noexcept;

  // ---- index_find_many.cc
  class ManyFinds;
  void FindMany(absl::Span<const std::string_view> keys,
                absl::FunctionRef<absl::Status(size_t, const RecordView&)> visit,
                absl::Span<absl::Status> statuses);

  // ---- index_sample.cc
  struct LeafRange;
  absl::Status LeavesBetween(std::string_view from, std::string_view to,
                             std::vector<LeafRange>* ranges);
  absl::Status CountLeaf(std::string_view from, std::string_view to, uint64_t* records,
                         uint64_t* size_bytes, std::string* next_from, bool* end);
  absl::StatusOr<RangeSample> SampleRange(std::string_view from, std::string_view to,
                                          size_t most_leaves);

  // ---- index_atomic.cc
  static absl::Status ApplyAtomically(absl::Span<const IndexEntries> changes, AtomicCommit& commit);
  absl::Status PlanAll(absl::Span<const GroupEntry> entries, std::vector<LeafPlan>* plans);

  // ---- index_inner.cc
  InnerFrame* FrameOf(Address node, unsigned level);
  absl::Status BuildView(InnerFrame* frame);
  absl::Status CollectChildren(InnerFrame* frame, const InnerView::Right& right,
                               std::vector<InnerView::Child>* children);
  absl::Status AddMissingChildren(InnerFrame* frame, const InnerView::Right& right,
                                  std::vector<InnerView::Child>* children);
  bool StoreChild(InnerFrame* frame, Address child) noexcept;
  uint32_t ExactSplitCount(const InnerFrame& frame, const InnerFrame* right, Address child,
                           Address next_child) const;
  void PublishView(InnerFrame* frame, std::unique_ptr<const InnerView> next) noexcept;
  // Lets the level above know of a node that a split made, and further levels of splits that this
  // makes. Best effort: without it the node is found by going right, and added when the parent's
  // view is built next.
  void AddToParent(NewChild child) noexcept;
  absl::Status StoreInParent(const NewChild& child, std::optional<NewChild>* made);
  // The frame one level above that covers the child's fence, for a moment.
  absl::Status FindParent(const NewChild& child, InnerFrame** parent);
  // The children of a frame's view, with one more, unless it is there already. Caller holds the
  // frame's mutex.
  std::vector<InnerView::Child> ChildrenWith(const NewChild& added, const InnerFrame& frame,
                                             const InnerView& view);
  // A view of them.
  std::unique_ptr<const InnerView> ViewWith(const NewChild& added, const InnerFrame& frame,
                                            const InnerView& view);
  // Puts a new root above one of level `level`, unless there is one.
  absl::Status GrowRoot(unsigned level);
  absl::Status SplitInner(InnerFrame* frame, const std::vector<InnerView::Child>& children,
                          OwnedSlot* slot, std::optional<NewChild>* made);
  absl::Status LinkRightInner(InnerFrame* left, const std::vector<InnerView::Child>& children,
                              OwnedSlot* slot) noexcept;
  void KeepChildren(InnerFrame* frame, const std::vector<InnerView::Child>& kept) noexcept;

  // ---- index_group.cc
  // What a round does to one index. Those of a round share the snapshots.
  struct RoundPart {
    Impl* index;
    std::vector<LeafPlan> plans;
  };
  absl::Status UpsertSorted(absl::Span<const GroupEntry> entries, size_t* done, uint64_t* replaced);
  absl::Status PlanLeaf(absl::Span<const GroupEntry> entries, LeafPlan* plan);
  absl::Status PlanEntries(absl::Span<const GroupEntry> entries, LeafPlan* plan, size_t* taken);
  absl::StatusOr<size_t> EntriesWithin(absl::Span<const GroupEntry> entries,
                                       const LeafPosition& at);
  // What the round needs for histories: where leaves with one split, so that versions can follow
  // their keys; elsewhere only if there are snapshots.
  absl::Status ReserveHistory(const std::vector<LeafPlan>& plans, bool snapshots_seen,
                              HistoryReserve* reserve);
  absl::Status PlanRound(absl::Span<const GroupEntry> entries, std::vector<LeafPlan>* plans,
                         size_t* planned);
  // Makes the changes. On kResourceExhausted nothing was changed. `atomic` may be null.
  static absl::Status CommitRound(absl::Span<RoundPart> parts, AtomicCommit* atomic);
  static bool LeadsToNewRecords(absl::Span<RoundPart> parts);
  // Nothing throws from here on. `round` is the window to store in; null: each leaf has its own.
  static absl::Status CommitPlans(absl::Span<RoundPart> parts, AtomicCommit* atomic,
                                  CommitWindow* round, HistoryReserve* reserve) noexcept;
  static absl::Status StorePlans(absl::Span<RoundPart> parts, CommitWindow* round,
                                 HistoryReserve* reserve) noexcept;
  static absl::Status DrainAll(absl::Span<RoundPart> parts) noexcept;
  static absl::Status AllAfterDrain(absl::Span<RoundPart> parts,
                                    const absl::Status& drained) noexcept;
  void WriteNewLeaves(const LeafPlan& plan) noexcept;
  void StoreReplacements(const LeafPlan& plan, CommitWindow& window,
                         HistoryReserve* reserve) noexcept;
  void LinkNewLeaves(LeafPlan& plan, CommitWindow& window, HistoryReserve* reserve) noexcept;
  void StoreImage(const LeafPlan& plan, CommitWindow& window, HistoryReserve* reserve) noexcept;
  void FinishSplit(const LeafPlan& plan) noexcept;

  // ---- index_split.cc
  absl::Status PlanSplit(LeafPlan* plan);
  absl::Status AllocateRights(LeafPlan* plan);

  // ---- index_scan.cc
  struct ScanResult {
    std::vector<RecordView> records;
    std::string_view upper;
    bool has_upper = false;
  };
  absl::Status GatherLeaf(std::string_view from, ScanResult* result, std::vector<Address>* absent,
                          Obstacle& obstacle);
  absl::Status ScanLeaf(std::string_view from, absl::FunctionRef<bool(const RecordView&)> visit,
                        std::string* next_from, bool* end);
  absl::StatusOr<uint64_t> Count();
  absl::StatusOr<bool> RefersToRecord(const RecordView& record);
  absl::StatusOr<bool> RefersToNode(Address node);
  absl::StatusOr<bool> RefersToFence(const RecordView& fence);
  // The slots in use of the leaf that covers `from`, and where the next one begins.
  absl::Status CoversNothingBelow(const LeafNode& leaf, std::string_view from, bool* nothing,
                                  Obstacle& obstacle) const;
  absl::Status CountSlots(std::string_view from, uint64_t* count, std::string* next_from, bool* end,
                          Obstacle& obstacle);
  IndexStats Stats();

  // ---- index_snapshot.cc
  absl::Status FindAt(uint64_t number, std::string_view key,
                      absl::FunctionRef<absl::Status(const RecordView&)> visit);
  absl::Status ReadLeafAt(uint64_t number, const LeafTarget& target, LeafContents* contents);
  LeafOrders orders;
  struct LeafReader;
  // For the holder of a leaf's lock, or with the checks of H1: whether a snapshot keeps the record.
  absl::StatusOr<bool> SnapshotHolds(std::string_view key, Address record);
  // ---- index_relocate.cc
  absl::Status FindSlots(std::string_view from, size_t max_leaves,
                         absl::FunctionRef<bool(Address)> wanted, std::vector<SlotPosition>* found,
                         std::string* next_from, bool* end);
  bool Holds(const SlotPosition& at) const;
  absl::Status Relocate(absl::Span<const Move> moves, std::vector<bool>* moved, uint64_t* kept);
  // The part of it that is one leaf's, which is locked: all of it or, without memory, nothing.
  absl::Status RelocateInLeaf(absl::Span<const Move> moves, LeafNode& leaf,
                              std::vector<bool>* moved, size_t first, uint64_t* kept);

  // ---- index_merge.cc
  struct LeafRewrite;
  absl::Status RewriteLeaves(std::string_view from, LeafRewriter& rewriter, RewriteResult* result,
                             std::string* next_from, bool* end);

  // ---- index_verify.cc
  struct Verifier;

  // Runs an attempt until it meets no obstacle.
  template <typename Attempt>
  absl::Status Run(Attempt attempt) {
    GoneExtents gone;
    for (;;) {
      Obstacle obstacle(&gone);
      {
        rcu::ReadGuard guard;
        absl::Status status = attempt(obstacle);
        if (!absl::IsUnavailable(status)) return status;
      }
      if (absl::Status status = Overcome(obstacle, &gone); !status.ok()) return status;
    }
  }

  Memory* const memory;
  Snapshots& snapshots;
  uint64_t* const root_word;  // Superblock::root, or a keyspace's.
  const uint64_t stamp;       // X6.

  // The root: a frame, or while that is null, root_leaf (the leftmost leaf, which stays so).
  std::atomic<InnerFrame*> root_frame{nullptr};
  Address root_leaf = kNullAddress;
  std::mutex root_mutex;  // Held to grow the tree. Before it: nothing. Within it: frames_mutex.

  static constexpr unsigned kSetUpStripes = 64;
  std::mutex set_up_mutexes[kSetUpStripes];  // By node; innermost.
  // Entered in the ReadGuard in which a node was found not ready, left when it is set up
  // (Obstacle): a leaf that was ready before a grace period and a wait for these is set up by
  // nobody.
  mutable WriteWindows set_ups;

  std::mutex frames_mutex;
  std::unordered_map<Address, std::unique_ptr<InnerFrame>> frames;

  std::atomic<uint64_t> leaves_born{0};

  std::atomic<bool> medium_failed{false};
  // See RefuseNumbersOfRemoved.
  bool refuses_removed = false;
  std::atomic<uint64_t> highest_removed{0};
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_INDEX_IMPL_H_
