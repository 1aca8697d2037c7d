// The parts of Space. Jobs by file:
//   space.cc           presence, provider, statistics, open and close
//   space_allocate.cc  arenas, new extents
//   space_retire.cc    retired slots on their way back, what the worker does, truncation
//   space_derive.cc    frames for extents of earlier sessions
//   space_reclaim.cc   reclaim and audit
//   space_media.cc     lost pages and the slots on them
//   space_stamp.cc     process durability: stamps for retired slots
//   space_evacuate.cc  extents that compaction empties
//   space_drop.cc      the end of a keyspace
//
// Locks, in the order in which they are taken (a shard's holder may only try `maintenance`):
//   maintenance     deriving, freeing of retired slots, truncation: one thread at a time. Its
//                   holder waits for readers and asks the oracle
//   Shard::mutex    one shard's current extent; held while a new run is made
//   commit_mutex    commits of new extents
//   media_mutex     lost pages being taken in, and the frames' `lost`; before it: nothing, or
//                   `maintenance`, or a shard's
//   SizeClass::mutex, RetireQueue::mutex, wanted_mutex, SpaceWorker's   for a few instructions
#ifndef DAXKV_KV_SPACE_IMPL_H_
#define DAXKV_KV_SPACE_IMPL_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "dax/mapping.h"
#include "dax/pool.h"
#include "kv/exceptions.h"
#include "kv/extent_frame.h"
#include "kv/extent_header.h"
#include "kv/format.h"
#include "kv/size_classes.h"
#include "kv/space.h"
#include "kv/space_worker.h"
#include "kv/writeback.h"
#include "xarray/xarray.h"

namespace daxkv::kv {

inline constexpr unsigned kShards = 8;
// Between two windows of the pool that the worker lists.
inline constexpr std::chrono::milliseconds kListingPause(5);
// The shard that moved records go to, apart from new ones: they are likelier to stay.
inline constexpr unsigned kMoveShard = kShards;
// And those that are written anew in the order of their keys.
inline constexpr unsigned kOrderShard = kShards + 1;

// By 2 MiB block of the pool: how many of its bytes are in use.
using HugeBlockUse = std::unordered_map<uint64_t, uint64_t>;

// What a slot is allocated for.
enum class Purpose { kNew, kMove, kOrder };

// The extent that some threads allocate from.
struct alignas(64) Shard {
  std::mutex mutex;
  ExtentFrame* current = nullptr;
  uint32_t word = 0;  // Of the current extent's bitmap: no free slot before it.
};

struct SizeClass {
  std::mutex mutex;
  // Frames in Place::kNearlyFull and kRoomy. Each has room for all frames of the class, so that
  // moving a frame from list to list needs no memory.
  std::vector<ExtentFrame*> nearly_full, roomy;
  size_t frames = 0;
  // Extents of earlier sessions without a frame: not looked at yet; and those whose map does not
  // count. Hints: an extent may have got a frame, or gone, by another way.
  std::vector<Address> unknown, underived;
  std::atomic<uint64_t> run_size_bytes{0};
  std::array<Shard, kShards + 2> shards;

  std::vector<ExtentFrame*>* ListOf(Place place) {
    if (place == Place::kNearlyFull) return &nearly_full;
    return place == Place::kRoomy ? &roomy : nullptr;
  }
};

// The size classes, each made when it is first asked for: small keyspaces have few of the many.
class SizeClassTable {
 public:
  SizeClassTable() = default;
  SizeClassTable(const SizeClassTable&) = delete;
  SizeClassTable& operator=(const SizeClassTable&) = delete;
  ~SizeClassTable() {
    for (const auto& place : classes_) delete place.load(std::memory_order_relaxed);
  }
  // Throws std::bad_alloc the first time.
  SizeClass& operator[](size_t number) {
    // Acquire pairs with the release in Make.
    SizeClass* const made = classes_[number].load(std::memory_order_acquire);
    return __builtin_expect(made != nullptr, true) ? *made : Make(number);
  }
  // Null: it was never asked for.
  SizeClass* Find(size_t number) const { return classes_[number].load(std::memory_order_acquire); }
  static constexpr size_t size() { return kSizeClasses + 1; }

 private:
  SizeClass& Make(size_t number) {
    auto fresh = std::make_unique<SizeClass>();
    SizeClass* made = nullptr;
    if (classes_[number].compare_exchange_strong(made, fresh.get(), std::memory_order_acq_rel,
                                                 std::memory_order_acquire)) {
      made = fresh.release();
    }
    return *made;
  }

  std::array<std::atomic<SizeClass*>, kSizeClasses + 1> classes_ = {};
};

// A slot on its way back, and the word whose store unlinked it.
struct Retired {
  Address address;
  const uint64_t* link;
};

// Slots on their way back with process durability, and the writeback that had begun when they set
// out. Those without a frame are not here: deriving finds them.
struct PendingSlots {
  std::vector<Address> slots;
  uint64_t since = 0;
  uint64_t size_bytes = 0;
  // The highest number of those that are of batches: they wait for that horizon, too (V8).
  uint64_t last_batch = 0;
  // Those that no slot of the index ever referred to wait once more, from the moment when what
  // their batches deleted is stamped (V8).
  bool of_batches = false, others_stamped = false;
};

struct alignas(64) RetireQueue {
  std::mutex mutex;
  std::vector<Retired> slots;  // Has room for `promised` more.
  std::vector<Address> kept;   // With process durability: unlinked, not retired.
  size_t promised = 0;
  std::atomic<size_t> waiting{0};  // slots.size(), for those who look without the mutex.
};

// The calling thread's queue.
inline unsigned QueueNumber() {
  static std::atomic<unsigned> next{0};
  thread_local const unsigned number = next.fetch_add(1, std::memory_order_relaxed) % kShards;
  return number;
}

// Room for `more` elements besides those there are. Unlike reserve() it lets room grow as
// push_back does.
template <typename T>
void ReserveMore(std::vector<T>& elements, size_t more) {
  const size_t wanted = elements.size() + more;
  if (wanted > elements.capacity()) {
    elements.reserve(std::max(wanted, 2 * elements.capacity()));
  }
}

// Gets blocks for the runs to come.
class AheadTask final : public SpaceWorker::Task {
 public:
  // Throws std::bad_alloc.
  AheadTask(dax::Pool* pool, SpaceWorker* worker) : pool_(pool), worker_(worker) {
    worker_->Attach(this);
  }
  AheadTask(const AheadTask&) = delete;
  AheadTask& operator=(const AheadTask&) = delete;
  ~AheadTask() override { worker_->Detach(this); }
  std::optional<std::chrono::milliseconds> Run() noexcept override {
    pool_->ReserveAhead();
    return std::nullopt;
  }

 private:
  dax::Pool* const pool_;
  SpaceWorker* const worker_;
};

struct Space::Impl final : SpaceWorker::Task {
  // `shared_worker` may be null.
  Impl(dax::Pool* pool, KeyspaceId keyspace, Space* space,
       const dax::MappingOptions& mapping_options, SpaceWorker* shared_worker);
  ~Impl() override;

  // ---- space.cc ----
  Superblock* superblock() { return reinterpret_cast<Superblock*>(pool->root_area()); }
  void SetMapsValidSince(uint64_t epoch);
  uint64_t MapsValidSince();
  // The keyspace's extent that covers the page. As dax::Pool::FindRun; kNotFound too when what is
  // there is not the keyspace's.
  absl::StatusOr<dax::Run> FindExtent(uint64_t page) const;
  // Makes every entry of a run present.
  absl::Status FaultRun(const dax::Run& run);
  absl::Status SaveMaps();
  uint64_t RetiredCount() const;
  void StopWorker();

  // ---- Frames ----
  // The frame of the extent at `address`, or null. It stays while the caller owns a used slot of
  // the extent, holds `maintenance`, or is in a ReadGuard.
  ExtentFrame* FindFrame(Address address) const;
  // kAlreadyExists: the extent has one.
  absl::Status InsertFrame(ExtentFrame* frame);
  void EraseFrame(ExtentFrame* frame);
  // All frames; under `maintenance`.
  std::vector<ExtentFrame*> Frames() const;

  // ---- space_allocate.cc ----
  absl::StatusOr<Address> Allocate(SlotKind kind, uint64_t size_bytes);
  // Does not throw once the frame is inserted.
  SizeClass& ClassOf(const ExtentFrame& frame) { return classes[frame.layout().size_class]; }
  Shard& ShardOf(SizeClass& size_class);
  Shard& ShardFor(Purpose purpose, SizeClass& size_class);
  std::optional<Address> ClaimSlot(Shard& shard);
  absl::StatusOr<Address> AllocateSlot(uint16_t class_number, Purpose purpose);
  void WantRoom();
  absl::Status Refill(uint16_t class_number, Shard& shard, Purpose purpose);
  bool TakeFromList(SizeClass& size_class, Place place, Shard& shard);
  std::optional<Address> ClaimFromOtherShards(SizeClass& size_class);
  void SetCurrent(Shard& shard, ExtentFrame* frame);
  absl::StatusOr<ExtentFrame*> NewSlabExtent(uint16_t class_number);
  absl::StatusOr<Address> AllocateLarge(uint64_t size_bytes);
  absl::StatusOr<ExtentFrame*> AdoptRun(const dax::Run& run);
  void WantReserveAhead() noexcept;
  void PrefaultNew(const dax::Run& run) noexcept;
  // Makes everything flushed by this thread, and all headers of new extents, durable; then commits
  // the new extents' runs.
  absl::Status DrainAndCommit();
  // Puts a frame into the list for its number of free slots, unless it is current or detached.
  void Relist(ExtentFrame* frame) noexcept;
  // The same for one that was current or detached.
  void Attach(ExtentFrame* frame) noexcept;
  // Takes a frame out of its list or shard. False: it was taken up by another thread meanwhile.
  bool Detach(ExtentFrame* frame) noexcept;
  void Unlist(SizeClass& size_class, ExtentFrame* frame) noexcept;
  void ReleaseSlot(ExtentFrame* frame, uint32_t slot) noexcept;
  // Marks what lies in a slot as no record, or no node, any more (format.h). No reader may be
  // there.
  void StampDead(const ExtentFrame& frame, uint32_t slot) noexcept;

  // ---- space_retire.cc; under `maintenance` ----
  void WakeWorkerToRetire(bool now);
  // Moves what was retired into `in_round`, as far as there is memory for it.
  void CollectRetired() noexcept;
  void CollectAbandoned();
  // Any thread: whether so many slots of this size are too much to wait to be freed.
  bool IsTooMuch(uint64_t slots, uint64_t size_bytes) const;
  uint64_t WaitingCount() const;
  // Makes the stores that unlinked the slots of the round durable, whether or not the threads that
  // made them have come to do so.
  absl::Status DrainLinks() noexcept;
  // Empties `in_round`, but for slots that there is no memory for.
  void FreeRetired() noexcept;
  // Brings the next few slots of the round into the cache.
  void TouchRetired(size_t first) const;
  absl::Status FreeRetiredSlot(Address address);
  void FreeHeld();
  // Lets go of a frame's held slots; DropUnheldFrames must follow.
  void ForgetHeld(ExtentFrame* frame) noexcept;
  void DropUnheldFrames() noexcept;
  // Keeps a used slot that is dead until no pin may show it. May throw; nothing has changed then.
  void Hold(ExtentFrame* frame, uint32_t slot);
  bool IsPinned(const ExtentFrame& frame, uint32_t slot) const;
  // Frees everything retired so far, unless pinned. What can't be freed is kept for the next round.
  void RetireRound() noexcept;
  // Has everything that was retired freed before it returns, if the medium and the pins allow.
  void RetireAllNow() noexcept {
    RetireRound();
    FreePendingNow();
  }
  // Truncates what it can of detached frames, in ascending order, and takes it out of `frames`.
  // Pinned ones are no error.
  absl::Status TruncateExtents(std::vector<ExtentFrame*>* frames);
  void TruncateNeighbours(absl::Span<ExtentFrame*> group, absl::Status* status);
  // If it fails, frames that are set aside become null.
  absl::Status TruncateTogether(absl::Span<ExtentFrame*> group);
  void SetAside(ExtentFrame* frame) noexcept;
  // Lists what was set aside, as far as there is memory for it.
  void ListAside() noexcept;
  // What the worker does for this space.
  std::optional<std::chrono::milliseconds> Run() noexcept override;

  // ---- space_derive.cc ----
  // Puts an extent that there was no memory for back where it was found.
  void PutBack(std::vector<Address>* list, SizeClass& size_class, Address extent) noexcept;
  // Lists the extents of earlier sessions in one more window of the pool; in all. kDataLoss: the
  // pool's words are damaged there, and it goes no further. Under `maintenance`.
  absl::Status ListSome();
  absl::Status ListAll();
  bool all_listed() const { return listed_from == 0; }
  // Has the worker list the rest.
  void WantListing();
  // For the worker: one more window. False: no more are to come.
  bool ListForWorker();
  // A frame from the saved map; null if the map does not count. `retired`: a slot of the extent
  // was, which says all about a large one. Under `maintenance`.
  absl::StatusOr<ExtentFrame*> LoadFrame(Address extent, bool retired);
  void NoteDamage(Address extent, const absl::Status& status);
  // Gives some unknown extents of a class their frames, from saved maps only and only if
  // `maintenance` is free; asks the worker to list and to derive others.
  void FeedFromSavedMaps(uint16_t class_number);
  // The rest under `maintenance`.
  absl::Status Derive(const std::vector<Address>& extents);
  absl::StatusOr<ExtentFrame*> ScanExtent(Address extent);
  absl::Status MakeInheritedDurable(const std::vector<ExtentFrame*>& scanned);
  absl::Status ScanExtents(const std::vector<Address>& extents, std::vector<ExtentFrame*>* scanned);
  absl::Status HoldFreeSlots(ExtentFrame* frame);
  absl::StatusOr<bool> IsSlotLive(const ExtentFrame& frame, uint32_t slot);
  absl::Status DeriveSome(uint16_t class_number, size_t most_extents);
  absl::Status DeriveAll();

  // ---- space_stamp.cc; under `maintenance` ----
  static SlotKind KindOfSlots(const ExtentFrame& frame);
  absl::StatusOr<ExtentFrame*> FrameOfRetired(Address address);
  absl::Status QueueUnlinked();
  absl::Status QueueKept();
  void FlagDurable(uint64_t done);
  bool MayStamp(Address address) const;
  absl::Status StampDurable();
  absl::Status FreeStamped();
  void FreeReplaced(PendingSlots& pending) noexcept;
  // Before what is removed gets a `since`.
  void NoticeRemovals() noexcept;
  void StampFreeOf(ExtentFrame& frame) noexcept;
  void StampLacking() noexcept;
  // Under `maintenance`, of extents that nobody allocates from any more.
  absl::Status StampDurably(absl::Span<ExtentFrame* const> frames);
  // Takes in the round, and stamps and frees what the writebacks that are done allow.
  void AdvancePending() noexcept;
  // The same with two writebacks, and FreeHeld.
  void FreePendingNow() noexcept;
  void StampFree(const ExtentFrame& frame);
  absl::Status StampScanned(const std::vector<ExtentFrame*>& scanned);
  bool LookThroughSome();

  // ---- space_media.cc ----
  // The slots of a slab that touch the page; an empty range for a page without slots.
  std::pair<uint32_t, uint32_t> SlotsOnPage(const ExtentFrame& frame, uint64_t page) const;
  void SetAsideFreeSlots(ExtentFrame* frame, uint64_t page);
  // For a dead slot: true if it stays used, as it is on a lost page.
  bool KeepIfLost(ExtentFrame* frame, uint32_t slot);
  size_t LostCount(const ExtentFrame& frame);
  bool IsLostSlot(const ExtentFrame& frame, uint32_t slot) const;
  bool IsHeaderLost(const dax::Run& run) const;
  absl::Status FaultAroundLostPages(const dax::Run& run);
  // ---- space_evacuate.cc; under `maintenance` ----
  // The sparse extents among those of a class.
  std::vector<ExtentFrame*> FindSparse(const std::vector<ExtentFrame*>& of_class,
                                       const HugeBlockUse& block_use, double max_used_share);

  // Whether all pages of these 2 MiB are in extents that begin there.
  bool IsFullHugeBlock(uint64_t block) const;

  // ---- space_reclaim.cc ----
  // Slots that only a pin holds are dead, too; those on lost pages never hold anything again.
  bool IsEmpty(const ExtentFrame& frame);
  // Under `maintenance`. Tries; how many empty extents are pinned.
  absl::StatusOr<uint64_t> Reclaim();
  // Threads that come together share a round.
  absl::Status MakeRoom();
  // Under `maintenance`.
  absl::StatusOr<uint64_t> Audit(const std::function<bool(Address)>& reachable,
                                 const std::function<void(std::string)>& report);

  // ---- space_drop.cc; under `maintenance` ----
  absl::Status ListRunsToDrop();
  absl::Status StampRuns(absl::Span<const dax::Run> runs);
  absl::Status DropRuns(absl::Span<const dax::Run> group, std::vector<dax::Run>* pinned);
  absl::StatusOr<DropResult> DropSome(size_t most_extents);

  dax::Pool* const pool;
  const KeyspaceId keyspace;
  Space* const space;
  dax::Mapping mapping;

  xarray::XArray frames;   // By page; several order-9 entries for a larger extent.
  SizeClassTable classes;  // The last: large extents.
  std::array<RetireQueue, kShards> retire_queues;

  std::mutex maintenance;
  LivenessOracle* oracle = nullptr;       // maintenance
  std::vector<ExtentFrame*> held_frames;  // maintenance: frames whose `held` is not empty
  ExtentFrame* aside = nullptr;           // maintenance: frames that are not in `frames`
  std::vector<ExtentFrame*> emptying;     // maintenance: frames in Place::kEmptying
  // maintenance: collected and not free yet, as the round runs, the medium or memory failed
  std::vector<Retired> in_round;
  // maintenance: process durability; the first waits for writeback, then stamp; the second is shown
  // by a pin; the third waits for writeback, then is free
  std::list<PendingSlots> to_flag;  // Kept for snapshots: they get the flag alone.
  std::list<PendingSlots> to_stamp;
  std::vector<Address> pinned_unlinked;
  std::deque<PendingSlots> to_free;
  uint64_t pending_size_bytes = 0;  // maintenance
  // maintenance: slots of replaced records that wait get stamps, too, until those are gone that
  // waited when this many writebacks had begun (V2).
  std::optional<uint64_t> stamp_all_until;
  std::atomic<bool> removed{false};  // Something was, since NoticeRemovals.
  bool all_stamped = true;           // maintenance
  std::atomic<uint64_t> pending_count{0};
  std::atomic<Writeback*> writeback{nullptr};  // Null: no process durability.
  std::map<Address, std::string> damaged;      // maintenance: extents that were refused, and why
  bool synced_since_open = false;              // maintenance
  // maintenance: what is left of a keyspace that is dropped
  std::optional<std::vector<dax::Run>> runs_to_drop;
  uint64_t truncated_extents = 0;     // maintenance
  uint64_t truncated_size_bytes = 0;  // maintenance
  std::atomic<uint64_t> held_count{0}, in_round_count{0};
  std::atomic<uint64_t> make_room_rounds{0};
  std::atomic<bool> abandoned_waiting{false};  // Some frame is `abandoned`.

  std::mutex media_mutex;
  std::atomic<uint64_t> settled_media_events{0};

  std::mutex commit_mutex;            // Held while runs are committed.
  std::vector<dax::Run> uncommitted;  // commit_mutex: runs of new extents
  std::atomic<size_t> uncommitted_count{0};

  // maintenance: extents of earlier sessions that begin before this page are not listed yet. Those
  // behind it that have no frame were all put into `unknown`, and counted in their class.
  uint64_t listed_from = UINT64_MAX;
  std::atomic<bool> listing_wanted{false};

  std::atomic<bool> retired_waiting{false};  // Something was retired since the last round began.
  std::atomic<bool> stopping{false};
  std::mutex wanted_mutex;
  bool room_wanted = false;                // wanted_mutex
  std::vector<uint16_t> derive_wanted;     // wanted_mutex: classes
  std::chrono::milliseconds held_poll{0};  // Of Run.
  std::unique_ptr<SpaceWorker> own_worker;
  SpaceWorker& worker;
  AheadTask ahead{pool, &worker};
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SPACE_IMPL_H_
