// Compaction: moves live records and leaves out of sparse extents, merges sparse leaves, and gives
// the extents that are empty then back, in one keyspace after the other.
//
// One *pass*: Space chooses sparse extents and stops allocating from them; the leaves of the index
// are walked, in order; each record found in such an extent is copied to another slot (same
// sequence and bytes, a new checksum, as that is bound to the address), many at a time share a wait
// for the medium; Index::Relocate makes the slot in the leaf lead to the copy, if it still leads to
// the original; Space truncates the extents that became empty. Walking the index instead of the
// extents meets published records only, costs a kilobyte for every 70 records, and leaves records
// that are neighbours by key as neighbours in the pool.
//
// Then the leaves: Index::RewriteLeaves puts runs of leaves that fill no more than one together,
// and leaves in extents that were chosen, into fresh ones, parent by parent. What a first pass
// merges a second one moves: merged, the leaves leave their extents sparse.
//
// Asked to order by key, it then writes the records anew that do not lie behind their neighbours
// (placement.h): leaf by leaf, in the order of their keys, into extents that hold nothing else, each
// size class its own. Their old places are scattered, so after each step what is left around them is
// packed, as in a pass, which gives back as much as the step took. What is in place stays: a second
// ordering moves next to nothing.
//
// Thread safety: all methods from any thread; passes run one at a time. Readers, writers and pins
// go on meanwhile: an old place lives until its readers and pins are gone, like that of any record
// that was replaced.
//
// Crashes: a copy that no slot leads to is a free slot at the next open. Leaves are replaced by
// sets of stores (word_stores.h), with a word of the batch table.
#ifndef DAXKV_KV_COMPACTION_H_
#define DAXKV_KV_COMPACTION_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "dax/pool.h"
#include "kv/batch_table.h"
#include "kv/db.h"
#include "kv/index.h"
#include "kv/placement.h"
#include "kv/space.h"

namespace daxkv::kv {

// The parts of a keyspace.
struct CompactionTarget {
  Space* space;
  Index* index;
};

class CompactionTargets {
 public:
  virtual ~CompactionTargets() = default;
  // Calls visit(target) for every keyspace, or for those that are `open` already, until it returns
  // an error, which is then returned. A target stays as long as the call. Also returns what kept a
  // keyspace from being opened.
  virtual absl::Status ForEachTarget(
      bool open, absl::FunctionRef<absl::Status(const CompactionTarget&)> visit) = 0;
};

class Compactor {
 public:
  // All must outlive the compactor. `bytes_per_second`: what the background may read and write of
  // records and leaves; 0: there is no background.
  Compactor(dax::Pool* pool, CompactionTargets* targets, BatchTable* table,
            uint64_t bytes_per_second);
  ~Compactor();

  // Everything that pays, at full speed. Statuses of Db::Compact.
  absl::StatusOr<CompactionResult> Compact(const CompactOptions& options);

  // For a caller that holds nothing and found no room although what is empty was given back: moves
  // what lies in sparse extents together, a bounded amount. Returns whether that has made room.
  bool MakeRoom();

  // Keeps the background from changing anything while the object lives: for Check.
  class Pause {
   public:
    explicit Pause(Compactor* compactor) : lock_(compactor->TakePasses()) {}

   private:
    std::unique_lock<std::mutex> lock_;
  };

 private:
  class Throttle;
  class Rewriter;

  // For all but the background, which goes at full speed while somebody waits.
  std::unique_lock<std::mutex> TakePasses();
  // Each needs passes_.
  absl::Status Pass(const CompactionTarget& target, const Space::EmptyingLimits& limits,
                    bool merge_leaves, Throttle* throttle, CompactionResult* result, bool* gained);
  // A pass, if leaves look sparse with their merging.
  absl::Status BackgroundPass(const CompactionTarget& target, Throttle* throttle);
  // Adds to the result; returns how many empty extents are pinned.
  absl::StatusOr<uint64_t> Reclaim(const CompactionTarget& target, absl::Time deadline,
                                   CompactionResult* result);
  // Every pass that pays, behind a Reclaim.
  absl::Status CompactTarget(const CompactionTarget& target, CompactionResult* result);
  absl::Status MoveAll(const CompactionTarget& target, Throttle* throttle,
                       CompactionResult* result);
  absl::Status MoveSome(const CompactionTarget& target,
                        const std::vector<Index::SlotPosition>& found, CompactionResult* result);

  absl::Status RewriteAll(const CompactionTarget& target, Throttle* throttle,
                          CompactionResult* result, bool* merged);

  // Copies that no slot leads to yet, and are being flushed.
  struct MoveBatch {
    std::vector<Index::Move> moves;
    std::vector<OwnedSlot> copies;  // Of the moves, in their order.
    uint64_t size_bytes = 0;
  };
  enum class Destination { kAnywhere, kInOrder };
  // Adds a copy of the record, unless it has gone, or is damaged: such a one stays where it is, for
  // check to tell of, and keeps its extent.
  absl::Status Copy(const CompactionTarget& target, const Index::SlotPosition& at,
                    Destination destination, MoveBatch* batch);
  // Makes the index lead to the copies, and empties the batch.
  absl::Status FinishMoves(const CompactionTarget& target, MoveBatch* batch,
                           CompactionResult* result);

  // ---- compaction_order.cc; with passes_, which OrderTarget gives back between its steps
  absl::Status OrderTarget(const CompactionTarget& target, std::unique_lock<std::mutex>* passes,
                           CompactionResult* result);
  // From the leaf on that covers *from, until so much was moved.
  absl::Status OrderStep(const CompactionTarget& target, uint64_t size_bytes, std::string* from,
                         bool* end, CompactionResult* result);
  absl::Status OrderSome(const CompactionTarget& target,
                         const std::vector<Index::SlotPosition>& found, PlacementWalk* walk,
                         CompactionResult* result);
  absl::Status OrderLeaf(const CompactionTarget& target, absl::Span<const PlacedRecord> sorted,
                         PlacementWalk* walk, MoveBatch* batch);
  // Moves what lies in extents with free slots together, as far as these go.
  absl::Status Pack(const CompactionTarget& target, CompactionResult* result);
  void BackgroundLoop();
  // Gives spare blocks back if no run was made since the last call. False: some were.
  bool TrimIfIdle();
  // Waits until the time has come, `wakes` or the compactor stops; false in that last case.
  bool Sleep(absl::Duration duration, absl::FunctionRef<bool()> wakes);

  dax::Pool* const pool_;
  CompactionTargets* const targets_;
  BatchTable* const table_;
  const uint64_t bytes_per_second_;

  // Bytes copied between two waits for the medium: what a full pool must have room for.
  static constexpr uint64_t kBatchSizeBytes = 4 << 20;

  std::mutex passes_;
  uint64_t kept_records_ = 0;  // passes_: moved, and shown by snapshots where they were.
  uint64_t runs_seen_ = 0, runs_trimmed_ = 0;  // The background's: pool_->runs_allocated().
  std::atomic<uint64_t> room_rounds_{0};       // MakeRooms that gained. Written under passes_.
  // passes_: after leaves of a keyspace were looked at in vain, how many records each must hold at
  // most to be looked at again.
  std::map<const Space*, double> merge_below_;

  std::mutex stop_mutex_;
  std::condition_variable stop_wakeup_;
  std::atomic<bool> stopping_{false};  // Written under stop_mutex_.
  unsigned waiting_ = 0;               // stop_mutex_: who waits for passes_ in TakePasses.
  std::thread background_;             // Last: it uses all of the above.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_COMPACTION_H_
