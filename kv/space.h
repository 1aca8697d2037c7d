// Space: slots for records and nodes of one keyspace, inside the pool's runs. The spaces of a pool
// share its pages and nothing else: each has its own mapping and its own extents.
//
// Slots of up to kMaxSlabSlotSizeBytes lie in slab extents: runs of 64 KiB at first, growing with
// their size class to 256 KiB. A larger record has a run of its own. Which slots are used is kept
// in DRAM only, in a *frame* per extent. Extents of earlier sessions get their frame when they are
// first allocated from or freed into: from the map that a clean close saved, or, after a crash, by
// asking the index about every slot (LivenessOracle): the extent is *derived*. Nothing leaks: an
// unreachable slot is found free again by that. Open reads none of them: it is O(1).
//
// Nor is any call after it O(extents), but those that say so. Extents of earlier sessions are
// *listed* a window of the pool at a time (dax::Pool::ForEachRunBelow), the newest first: a few by
// an allocation that finds no free slot, the others by the worker thread from then on, with pauses.
// The worker also has the pool find its free pages. Until an extent is listed, its free slots are
// not used.
//
// Thread safety: every method from any thread at the same time, except Open, Close, destructor.
//
// Which call may sleep, and what may be held meanwhile
//   PresentUntil               wait-free; inside a ReadGuard
//   Retire, Abandon            short locks only; inside a ReadGuard or not
//   ReserveRetires, CancelRetires   short locks only
//   Allocate                   may wait for the medium, never for readers, never asks the oracle:
//                              locks of nodes may be held, a ReadGuard must not
//   FaultIn                    as Allocate
//   IsEmptying                 wait-free; inside a ReadGuard
//   AllocateForMove            as Allocate
//   LimitRetired, MakeRoom, Reclaim, BeginEmptying, EndEmptying, Audit, Quiesce, Close   wait for
//                              readers and ask the oracle: hold nothing that a reader, a writer or
//                              the index may wait for. A pin may be held: Reclaim waits for pins
//                              without any lock
//
// Invariants
//   E1  An extent's run is live in the pool only after its header is durable, and before anything
//       refers to one of its slots: a new extent is committed by the first Drain of a thread that
//       has a slot of it, which comes before the store that publishes the slot.
//   E2  A slot is handed out only if no index entry refers to it, also not on the medium, every
//       reader that might have seen it has left its ReadGuard, and afterwards its extent was seen
//       without any pin.
//   E3  A saved map counts only while every session since it was saved has ended in a clean Close:
//       such a Close saves the map of each extent that its session changed. So neither allocating
//       nor retiring ever writes to a map, and no crash between an unlink and its Retire can leak.
//   E4  Only a wholly empty extent, detached from its arena, is truncated.
//   E5  Slots of an extent without a frame are never handed out. Their retires are passed over,
//       since deriving finds them; but where the saved map counts, it is loaded first.
//   E6  A slot that touches a lost page is never handed out. If it is known to be dead, it does not
//       keep its extent from being truncated, which ends the loss (dax::Pool). After a crash that
//       is not known: whether the index refers to it can't be told without its key.
#ifndef DAXKV_KV_SPACE_H_
#define DAXKV_KV_SPACE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "dax/mapping.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/memory.h"
#include "kv/size_classes.h"
#include "kv/slot_usage.h"
#include "kv/space_worker.h"

namespace daxkv::kv {

// Tells whether the index refers to a slot. Implemented by the engine on kv::Index.
class LivenessOracle {
 public:
  virtual ~LivenessOracle() = default;
  // Called from any thread, outside any ReadGuard; may sleep. The slot's extent is present, and its
  // header fields are plausible. A slot is taken as live if the answer is an error; only after
  // kResourceExhausted, which means memory, the question is asked again later.
  virtual absl::StatusOr<bool> IsLive(SlotKind kind, Address address) = 0;
};

class Writeback;

struct SpaceStats {
  uint64_t slab_extents = 0, large_extents = 0;
  uint64_t extents_not_derived = 0;  // Which of their slots are free is not known.
  uint64_t slab_size_bytes = 0, large_size_bytes = 0;  // Of the runs.
  uint64_t used_slots = 0, used_slots_size_bytes = 0;  // Of extents with a frame.
  uint64_t retired_slots = 0;                          // Waiting for readers or pins.
};

struct ReclaimResult {
  uint64_t extents_freed = 0;
  uint64_t size_bytes_freed = 0;
  uint64_t extents_pinned = 0;  // Empty, but somebody holds a pin: left for a later call.
};

class Space : public Memory, public dax::ExtentProvider {
 public:
  // `pool` must outlive the space. One space of a keyspace at a time; the first of a session opens
  // before there are others. O(1). kInternal: the medium failed.
  // Without a `worker`, which must outlive the space, it has one of its own.
  static absl::StatusOr<std::unique_ptr<Space>> Open(
      dax::Pool* pool, KeyspaceId keyspace = kDefaultKeyspace,
      const dax::MappingOptions& mapping_options = dax::MappingOptions(),
      SpaceWorker* worker = nullptr);
  // Saves nothing unless Close was called: the next open sees a crash. Nothing may be pinned.
  ~Space() override;
  // Without an oracle, extents whose saved map does not count stay as they are: their free slots
  // can't be used. Waits until the previous oracle is not in use.
  void SetLivenessOracle(LivenessOracle* oracle);

  dax::Mapping& mapping();

  // Memory. PresentUntil of a large record's address is the end of the record, if all of it is
  // present; FaultIn makes all of it present. After kResourceExhausted from Allocate, or from a
  // call of the index that allocates, MakeRoom and one more try tell whether the pool is really
  // full (left alone, the worker thread makes room soon). Further statuses of Allocate:
  //   kInvalidArgument  a record of less than its header or more than key, value and header can
  //                     have
  //   kInternal         the medium failed
  Address PresentUntil(Address address) const override;
  absl::Status FaultIn(Address address) override;
  absl::StatusOr<Address> Allocate(SlotKind kind, uint64_t size_bytes) override;
  void Abandon(Address address) noexcept override;
  absl::Status ReserveRetires(size_t count) override;
  void CancelRetires(size_t count) noexcept override;
  void Retire(Address address, const uint64_t* link) noexcept override;
  void NoteRemoved() noexcept override;
  void NoteKept(Address address) noexcept override;
  void Flush(const void* address, size_t size_bytes) noexcept override;
  absl::Status Drain() override;
  bool DrainAtOnce(absl::Status* status) noexcept override;
  absl::Status DrainRest() override;
  absl::Status DropFlushes() override;
  bool IsLost(Address address, uint64_t size_bytes) const override;
  Address PresentBeyond(Address end, Address wanted) const override;
  void FlushInherited(const void* address, size_t size_bytes) noexcept override;
  void CopyAndFlush(Address to, const void* from, size_t size_bytes) noexcept override;

  // ---- Process durability (stamps.h) ----
  // From now on slots are stamped and reused as the writeback goes on; it outlives the space.
  // `all_stamped`: no extent of an earlier session holds a dead record without a stamp. Otherwise
  // the worker thread sees to that first. Called once, before anything is retired.
  void BeginProcessDurability(Writeback* writeback, bool all_stamped);
  bool has_process_durability() const;
  // The writeback's hooks. A slot retired before a writeback's Before is stamped in its After.
  void BeforeWriteback();
  void AfterWriteback() { BeforeWriteback(); }
  // Derives every extent and stamps every free slot, durably: for a store that was written without
  // process durability, before anybody writes to it. Statuses of Reclaim.
  absl::Status StampFreeSlots();

  // Everything stored so far by any thread becomes durable (dax::Pool::Sync). kInternal.
  absl::Status Sync();
  // Takes in the pages that were lost since the last call: dax::Pool::SettleMediaErrors, and sets
  // free slots on them aside. Costs two loads if there are none. Hold nothing.
  void SettleMediaErrors();

  // dax::ExtentProvider: validates the extent's header against its run, which must be the
  // keyspace's. kNotFound, kDataLoss.
  absl::StatusOr<dax::Extent> Provide(uint64_t index, unsigned max_order,
                                      dax::Access access) override;

  // Back-pressure, for a thread that is about to allocate `size_bytes` and holds nothing: if it and
  // others retire faster than the worker frees, it does the worker's work, so that what waits to be
  // freed stays a small part of the store. Otherwise it costs one load. With process durability it
  // waits for nobody: only a writeback lets slots go.
  void LimitRetired(uint64_t size_bytes) noexcept;
  // Finds free slots and runs for an allocation that failed: frees what was retired, lists and
  // derives every extent, and truncates the empty ones. O(extents). Statuses of Reclaim.
  absl::Status MakeRoom();

  // Lists and derives every extent (after a crash this finds all that leaked), waits for retired
  // slots, and truncates extents without a used slot. Those that are pinned are tried again until
  // `deadline`, while others may work; damaged ones are skipped. kFailedPrecondition: an extent
  // must be derived and there is no oracle.
  absl::StatusOr<ReclaimResult> Reclaim(absl::Time deadline);

  // Compaction, one at a time. BeginEmptying chooses extents of records, or leaves, of which at
  // most `max_used_share` is used and whose slots find room in other extents of their class, the
  // emptiest first, until `max_size_bytes` of slots are to be moved. From then on they are neither
  // allocated from nor truncated, and no slot of theirs is reused, so that what it holds can be
  // read outside of any ReadGuard. Pinned extents are left alone. Returns the bytes of their used
  // slots; 0: nothing to do. Statuses of Reclaim.
  struct EmptyingLimits {
    double max_used_share = 1;
    uint64_t max_size_bytes = UINT64_MAX;
    uint64_t least_gain_bytes = 0;  // Rather nothing than less.
    bool derive = true;             // Otherwise only extents that have a frame.
  };
  absl::StatusOr<uint64_t> BeginEmptying(const EmptyingLimits& limits);
  // Whether a slot lies in such an extent. Wait-free; inside a ReadGuard.
  bool IsEmptying(Address address) const;
  // A slot for a record or leaf that moves: as Allocate, but rather in an extent that is nearly
  // full than in a new one.
  absl::StatusOr<Address> AllocateForMove(SlotKind kind, uint64_t size_bytes);
  // A slot for a record of a slab: behind the one that this call gave last for its size class, in
  // extents that hold nothing else. Until EndOrdering these are not chosen to be emptied. Statuses
  // of Allocate; without room for another extent kResourceExhausted.
  absl::StatusOr<Address> AllocateInOrder(uint64_t size_bytes);
  // What such extents have left takes part in allocation.
  void EndOrdering() noexcept;
  // On tmpfs: gives each 2 MiB that are all in use a huge page, if the kernel has some. Holes that
  // truncation punches, and what fills them, have small ones.
  void UseHugePages() noexcept;
  // Truncates those that are empty and not pinned; the others take part in allocation again.
  // Statuses of Reclaim.
  absl::StatusOr<ReclaimResult> EndEmptying();

  // For check, on a quiet store: derives everything, then compares the maps with the slots that
  // the index reaches. `reachable(address)` tells; `report` gets one line for each leaked slot,
  // each reachable slot marked free, each damaged extent. Returns the number of slots compared.
  // Statuses of Reclaim.
  absl::StatusOr<uint64_t> Audit(const std::function<bool(Address)>& reachable,
                                 const std::function<void(std::string)>& report);

  // The keyspace is at its end: nobody uses the space any more, but pins may be held. Gives up to
  // `most_extents` extents back, whatever they hold; to be called until none is left. Pinned ones
  // are tried anew by the next call. Statuses of Drain, and of dax::Pool::ReleaseRun.
  struct DropResult {
    uint64_t extents_left = 0;
    uint64_t extents_pinned = 0;  // Of those that were tried.
  };
  absl::StatusOr<DropResult> Drop(size_t most_extents);

  // Waits until everything retired so far that no pin holds is free again.
  void Quiesce() noexcept;
  // Saves the maps (E3). The pool's Close comes next: it makes them durable, and then its 8-byte
  // mark commits them. Without that, as after a crash, the maps do not count.
  // kInternal: the medium failed.
  absl::Status Close();

  absl::StatusOr<SpaceStats> stats() const;
  // Of extents that have a frame. Classes without one are left out; the last are large records,
  // slot_size_bytes being 0.
  absl::StatusOr<std::vector<SlotClassUsage>> UsageByClass() const;

 private:
  struct Impl;
  Space(dax::Pool* pool, KeyspaceId keyspace, const dax::MappingOptions& mapping_options,
        SpaceWorker* worker);
  std::unique_ptr<Impl> impl_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SPACE_H_
