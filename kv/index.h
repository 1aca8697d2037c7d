// The ordered index: a persistent B-link tree from keys to record addresses.
//
// Leaves are sets of tagged pointers in the pool; inner nodes are sets of child pointers in the
// pool with an immutable, sorted *view* in DRAM that is built at first touch and replaced, never
// changed, when a child comes (readers follow it without any lock or version).
// Sources: Lehman and Yao 1981 (right links); NV-Tree, FPTree and FAST&FAIR (unsorted leaves, one
// 8-byte store as commit); Graefe's survey of B-tree techniques (prefix and suffix truncation).
//
// Thread safety: every method from any thread at the same time. Methods enter their own ReadGuard
// and may sleep outside it (faults, locks); never call them inside one.
//
// Invariants
//   X1  Every change commits by one 8-byte store: a slot (insert, update, delete, new child) or
//       `next` (split). Before it, the change never happened; after it, it is complete: slots that
//       moved right count as absent on the left, an entry missing in a parent is found by going
//       right and is added when the parent's view is built.
//   X2  Before a store that commits is made, everything it makes reachable is durable.
//   X3  A node's low fence never changes. Keys in a node lie in [low fence, next's low fence).
//   X4  A reader takes no lock and writes nothing. A leaf's split count is odd while a split is
//       under way and grows with each. Compared with what the parent's view noted, and on a miss
//       before and after the search, it tells a reader whether the leaf covers its key.
//   X5  Leaf locks are taken rightwards. A right leaf is born locked, and unlocked once the slots
//       that moved to it are durably cleared on the left. Who holds a view's mutex waits for no
//       leaf lock and allocates nothing. Allocation is called with leaf locks only: it may look
//       things up in this index, which waits for no leaf lock.
//   X6  Volatile words of a node are valid only under this open's stamp (the open epoch, salted at
//       random so that no file can claim to be set up); the first toucher sets them up and finishes
//       a split that a crash left unfinished.
//   X7  A slot is replaced only by a record of a higher sequence, or by a copy of its own.
//   X8  Slots are stored in commit windows, and what a snapshot still needs of an overwritten or
//       removed slot is in the leaf's history before that (snapshots.h, N2; leaf_history.h, H2).
//   X9  A leaf goes when a rewrite has put its slots into a fresh one (RewriteLeaves). The link of
//       its left neighbour and its parent's slots change together, by the redo of a set of stores
//       (word_stores.h); all leaves concerned are locked before and the fresh ones until after.
//       First everything leads to the fresh leaf, then the old one is marked dead and its split
//       count is odd for ever, then both may be changed and reused. So what a reader finds in a
//       leaf whose count it has read even was current then, and who meets a dead leaf descends
//       again.
//   X10 A leaf stays as long as somebody holds its lock, or its left neighbour's, or, while its
//       parent has no view, its parent's mutex; or is in the ReadGuard in which he found it. Leaves
//       are locked in the guard in which they were found. A fence stays as long as a leaf that has
//       it. The leftmost leaf, inner nodes and the fences that these share are never freed.
#ifndef DAXKV_KV_INDEX_H_
#define DAXKV_KV_INDEX_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kv/format.h"
#include "kv/memory.h"
#include "kv/record.h"
#include "kv/snapshots.h"
#include "kv/word_stores.h"

namespace daxkv::kv {

// Which leaf is meant.
struct LeafTarget {
  LeafTarget(std::string_view covered_key) : key(covered_key) {}  // NOLINT: a key means its leaf
  static LeafTarget Before(std::string_view key) { return {Kind::kBefore, key}; }
  static LeafTarget Last() { return {Kind::kLast, {}}; }

  enum class Kind {
    kCovering,  // The one that covers `key`.
    kBefore,    // The last one that may hold a key below `key`.
    kLast,      // The rightmost.
  };
  // Whether the leaf whose low fence is `fence`, or one right of it, is meant.
  bool IsRightOf(std::string_view fence) const {
    if (kind == Kind::kLast) return true;
    const int order = key.compare(fence);
    return kind == Kind::kCovering ? order >= 0 : order > 0;
  }

  Kind kind = Kind::kCovering;
  std::string_view key;

 private:
  LeafTarget(Kind kind_in, std::string_view key_in) : kind(kind_in), key(key_in) {}
};

// A leaf as a snapshot sees it. Records stay good, in place in the pool, as long as the snapshot
// does: what is visible at a snapshot is neither changed nor reused.
struct LeafContents {
  struct Entry {
    uint64_t head;   // Bytes of the key behind the prefix, as a big-endian number: HeadIn(key).
    Address record;  // See RecordAt.
    uint8_t place;   // Of the slot that leads there; kNoPlace: none does any more.
  };
  static constexpr uint8_t kNoPlace = UINT8_MAX;
  // Every record of the leaf, in ascending order of the keys.
  std::vector<Entry> entries;
  // The leaf holds keys >= low and, if there is a leaf to its right, < upper.
  std::string low, upper;
  bool has_upper = false;
  // Bytes that all these keys have in common; heads are of what follows.
  size_t prefix_size_bytes = 0;
  uint64_t head_mask = UINT64_MAX;  // Which bits of heads are known; the others are 0.
  // The leaf to the right, as it seems: to ask the processor for.
  Address next = kNullAddress;

  // The head of a key, which tells something if the key has the prefix.
  uint64_t HeadIn(std::string_view key) const;
  // The position of the first entry whose head is not below that of `key`: reads no record, and is
  // where LowerBound begins to look. With the prefix unlike: where LowerBound ends.
  size_t LowerBoundOfHead(const Memory& memory, std::string_view key) const;
  // The position of the first entry whose key is not below `key`. Reads records where heads tie.
  size_t LowerBound(const Memory& memory, std::string_view key) const;
};

struct IndexStats {
  uint64_t leaves = 0;           // Those that views know: built ones, so far as touched since open.
  uint64_t inner_nodes = 0;      // Likewise.
  unsigned height = 0;           // Levels, 1 for a lone leaf.
  uint64_t view_size_bytes = 0;  // DRAM held by views.
};

// What a conditional change expects of its key: this very version, or none. A sequence number is
// never used twice for a key, so a version that went and came back is not taken for the old one.
struct ExpectedVersion {
  Address address = kNullAddress;  // Null: the key is not there.
  uint64_t sequence = 0;
};

// How a change of many leaves becomes one (Index::ApplyAtomically): each is called once, in this
// order, by the thread that holds the leaves' locks.
class AtomicCommit {
 public:
  virtual ~AtomicCommit() = default;
  // Every leaf is locked, and what is needed is allocated; nothing is changed yet. Completes the
  // records, and what redoes them after a crash, and starts flushing. Drained next.
  virtual void Prepare() = 0;
  // From here on a crash is followed by a redo, durably.
  virtual absl::Status Commit() = 0;
  // All changes are durable. Durably takes the redo back: what is changed next must not be undone.
  virtual absl::Status Finish() = 0;
};

// How compaction takes part in a rewrite of leaves (Index::RewriteLeaves).
class LeafRewriter {
 public:
  virtual ~LeafRewriter() = default;
  // Whether the leaf shall leave its place even if it is full. Inside a ReadGuard.
  virtual bool MustMove(Address leaf) const = 0;
  // A slot for a fresh leaf; as Memory::Allocate. Leaf locks are held.
  virtual absl::StatusOr<Address> AllocateLeaf() = 0;
  // Called once before the first store is made, then the other once they are durable; locks are
  // held, nothing may be allocated. After Commit, whatever it returns, a crash may be followed by a
  // redo of the stores; after Finish it is not. Commit begins with a drain: everything flushed
  // before, as the fresh leaves, is durable before the redo can be. *begun tells that it came so
  // far that a redo is possible.
  static constexpr size_t kMostStores = 2 * kInnerSlots + 2;
  virtual absl::Status Commit(absl::Span<const WordStore> stores, bool* begun) = 0;
  virtual absl::Status Finish() = 0;
};

class Index {
 public:
  // `root` is a word in the pool; the index alone stores it from here on. Indexes that one snapshot
  // shall show share `snapshots`, which outlive them. Create makes an empty leaf and commits it as
  // the root (8-byte store of *root). Open reads nothing but the root node: O(1).
  //   kDataLoss, kResourceExhausted as of Memory
  static absl::StatusOr<std::unique_ptr<Index>> Create(Memory* memory, Snapshots* snapshots,
                                                       uint64_t* root);
  static absl::StatusOr<std::unique_ptr<Index>> Open(Memory* memory, Snapshots* snapshots,
                                                     uint64_t* root);
  ~Index();

  // Finds `key` and calls `visit` with its record inside the ReadGuard. `visit` may return
  // kUnavailable to have the whole look-up done again after `visit`'s reason has passed (the index
  // leaves the guard and faults the record's extent in between). Any other status is returned.
  //   kNotFound  no such key (an empty message: cheap). A slot that damage has emptied is no slot;
  //              after a clean close Verify and Space::Audit tell (a slot in use that nothing
  //              refers to), after a crash nothing can. A slot whose tag was damaged into another
  //              that may lie in the same lines hides its key; scans and Verify report it.
  //   kDataLoss  a damaged node or record on the way
  // `reads`: what `visit` reads of the record, which is asked of the processor beforehand.
  enum class Reads { kRecord, kKey };
  absl::Status Find(std::string_view key, absl::FunctionRef<absl::Status(const RecordView&)> visit,
                    Reads reads = Reads::kRecord) const;

  // Find for every key, the cache misses of up to kFindsTogether of them overlapping. `visit` gets
  // the key's position too; the status of each goes to (*statuses)[position], which the caller has
  // sized.
  static constexpr size_t kFindsTogether = 16;
  void FindMany(absl::Span<const std::string_view> keys,
                absl::FunctionRef<absl::Status(size_t, const RecordView&)> visit,
                absl::Span<absl::Status> statuses) const;
  // The same at a snapshot, which the caller holds. `visit` gets the key's record at it; the bytes
  // stay good as long as the snapshot.
  absl::Status FindAt(const SnapshotEntry& snapshot, std::string_view key,
                      absl::FunctionRef<absl::Status(const RecordView&)> visit) const;
  // What a snapshot, which the caller holds, sees of a leaf. Who walks from leaf to leaf meets what
  // has been merged meanwhile: the leaf may begin below a target, or end above what it is before.
  // kDataLoss, kResourceExhausted.
  // Leaves that are read again and were not changed are not sorted again, nor are their records
  // looked at (leaf_orders.h).
  absl::Status ReadLeafAt(const SnapshotEntry& snapshot, const LeafTarget& target,
                          LeafContents* contents) const;
  // Asks the processor for a leaf. `leaf` may be anything.
  void PrefetchLeaf(Address leaf) const;
  // And for what an Upsert of the key will read first. Outside any ReadGuard.
  void PrefetchFor(std::string_view key) const;
  // Of orders that are kept of leaves.
  size_t CountLeafOrders() const;

  // Makes `address` (a complete record with this key, which this thread has flushed but need not
  // have drained) the key's record, and retires the one it replaces. Durable on return; with
  // Wait::kLater, on an ordinary file, the record is, and the change whenever the leaf's page is
  // (recent_puts.h). Returns whether a record was replaced.
  //   kAborted            the key's record, undamaged, has this sequence or a higher one, or is not
  //                       the `expected` version, if given; nothing changed
  //   kResourceExhausted  no room for a split; nothing changed
  //   kOutOfRange         see RefuseNumbersOfRemoved; nothing changed
  //   kDataLoss           as above; nothing changed
  //   kInternal           the medium failed, now or in an earlier call: after a failed drain nobody
  //                       knows what is durable, so every later change is refused; reads go on
  enum class Wait { kDurable, kLater };
  absl::StatusOr<bool> Upsert(std::string_view key, Address address,
                              const ExpectedVersion* expected = nullptr,
                              Wait wait = Wait::kDurable);
  // From now on a record whose key is absent is refused (kOutOfRange) while its number is not above
  // those of all that was removed since: so numbers grow over removals, too. Before others use it.
  void RefuseNumbersOfRemoved();

  // Many at once with about three drains for every 256 leaves: `entries` in strictly ascending key
  // order, their records complete and flushed but not yet drained. An entry with kNullAddress
  // removes its key if it is there. Each entry is atomic by itself, the group is not: after a crash
  // any subset may be there. Adds to *replaced, if given, how many keys existed.
  // Statuses as of Upsert. On an error the entries before *done are published and, unless it is
  // kInternal, durable; those from *done on are not published.
  struct GroupEntry {
    std::string_view key;
    Address address;
    const ExpectedVersion* expected = nullptr;  // As of Upsert.
    // The record gets its sequence number, a new one, when its leaf is locked (ApplyAtomically).
    bool numbered_later = false;
  };
  absl::Status UpsertSorted(absl::Span<const GroupEntry> entries, size_t* done, uint64_t* replaced);

  // All entries or none, over crashes too, with `commit` to make it so: every leaf concerned is
  // locked before the first change and unlocked after the last. Entries as of UpsertSorted, with
  // numbered_later; each index once, in an order that all callers share. Five drains, or rounds of
  // drains. Readers may see some changes before others.
  //   kResourceExhausted, kDataLoss  nothing changed
  //   kInternal                      the medium failed; if Commit was called before, the entries
  //                                  are published or not, until an open redoes what `commit` left
  struct IndexEntries {
    Index* index;
    absl::Span<const GroupEntry> entries;
  };
  static absl::Status ApplyAtomically(absl::Span<const IndexEntries> changes, AtomicCommit& commit);

  // Unlinks `key` and retires its record. Durable on return. Never allocates. kNotFound, kDataLoss,
  // kInternal (as of Upsert); kAborted when the key is there in another version than `expected`.
  // *removed, if given: its number.
  absl::Status Remove(std::string_view key, const ExpectedVersion* expected = nullptr,
                      uint64_t* removed = nullptr);

  // Visits, in ascending order and inside one ReadGuard, the records with key >= `from` of the leaf
  // that covers `from`. `visit` returns false to stop early. Afterwards *next_from is the key to go
  // on from (the successor of the last visited key if stopped early, else the leaf's upper fence)
  // and *end tells that nothing follows. Each visited record was current at some moment of the
  // call. `from` may be empty, and may be *next_from.
  absl::Status ScanLeaf(std::string_view from, absl::FunctionRef<bool(const RecordView&)> visit,
                        std::string* next_from, bool* end) const;

  // About how much lies in [from, to), an empty `to` meaning no end: counted, if the parents know
  // of at most `most_leaves` leaves there, else from so many of them that are picked at random from
  // equal parts of the range. Reads the inner nodes over the range; sets up those never touched.
  struct RangeSample {
    uint64_t leaves = 0;  // In the range, by their parents.
    // In the leaves where the range begins and ends, or in all of them if it was counted.
    uint64_t edge_records = 0, edge_size_bytes = 0;
    // Of each picked leaf between them.
    std::vector<std::pair<uint64_t, uint64_t>> records_and_size_bytes;
  };
  absl::StatusOr<RangeSample> SampleRange(std::string_view from, std::string_view to,
                                          size_t most_leaves) const;
  // Compaction, one thread at a time, with what follows. Where a leaf holds a record: good until
  // its slot changes, or the next RewriteLeaves.
  struct SlotPosition {
    Address leaf;
    unsigned place;
    uint64_t slot;

    Address record() const { return slot & kAddressMask; }
  };
  // Adds the positions of all records that are `wanted` (called inside a ReadGuard, with the
  // record's address) in up to `max_leaves` leaves from the one that covers `from` on. Reads no
  // record. *next_from and *end as of ScanLeaf.
  absl::Status FindSlots(std::string_view from, size_t max_leaves,
                         absl::FunctionRef<bool(Address)> wanted, std::vector<SlotPosition>* found,
                         std::string* next_from, bool* end) const;
  // Inside a ReadGuard: whether a slot still is as it was found. If so, the bytes of its record stay
  // as they are until the guard ends.
  bool Holds(const SlotPosition& at) const;
  // Makes slots that still are as they were found, and lead to a record of that sequence, lead to a
  // copy of it, complete, flushed and drained at `to`; retires the old one. (An address may have
  // been given to another record of the same tag meanwhile; that has another sequence.) A record of
  // another tag than the slot's stays: damage has led the slot there. Not durable on return: a
  // crash may bring the old places back, which are not reused before (Memory::Retire). Sets
  // (*moved)[i] where moves[i] was done; elsewhere `to` is still the caller's. Moves within a leaf
  // come one after the other. Adds to *kept how many old places stay, as snapshots show them.
  // kInternal as of Upsert.
  struct Move {
    SlotPosition at;
    Address to;
    uint64_t sequence;
  };
  absl::Status Relocate(absl::Span<const Move> moves, std::vector<bool>* moved, uint64_t* kept);

  // Puts runs of neighbouring leaves that fill no more than one together, and leaves that must
  // move, into fresh leaves: among the children of the parent that covers `from`. Reads no record.
  // Leaves with a history, damaged ones and those being split are left as they are; the leftmost
  // leaf always is. Four drains, if there is anything to do; writers of the leaves concerned wait
  // for them. *next_from and *end as of ScanLeaf. Adds to *result.
  //   kResourceExhausted  no room for a fresh leaf; what found room is done
  //   kDataLoss           as above
  //   kInternal           the medium failed: as of Upsert
  struct RewriteResult {
    uint64_t leaves_seen = 0;
    uint64_t leaves_freed = 0;
    uint64_t leaves_written = 0;
  };
  absl::Status RewriteLeaves(std::string_view from, LeafRewriter& rewriter, RewriteResult* result,
                             std::string* next_from, bool* end) const;

  // For recovery of extents: whether the index, or a snapshot, refers to this very slot now. The
  // bytes in it may be anything. Waits for no leaf lock.
  absl::StatusOr<bool> RefersToRecord(const RecordView& record) const;
  absl::StatusOr<bool> RefersToNode(Address node) const;

  // Walks the whole tree (quiet: no writer meanwhile) and checks headers, fences, order, tags,
  // levels, links, record bounds and, if asked, checksums. `visit_slot` gets every reachable
  // slot (records, fences, nodes), `report` one line for each fault found; the walk goes on where
  // it can. Returns kDataLoss when there was any fault.
  struct VerifyOptions {
    bool checksums = true;
  };
  absl::Status Verify(const VerifyOptions& options,
                      absl::FunctionRef<void(SlotKind, Address)> visit_slot,
                      absl::FunctionRef<void(std::string)> report) const;

  // Counts the keys: O(leaves), reads no record.
  absl::StatusOr<uint64_t> Count() const;
  IndexStats stats() const;

 private:
  struct Impl;
  explicit Index(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_INDEX_H_
