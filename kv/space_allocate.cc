// Handing out slots: shards, lists of extents with free slots, new extents.
#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kv/space_impl.h"
#include "kv/stamps.h"

namespace daxkv::kv {
namespace {

// One more shard of a class is in use for each so many bytes that it has: small stores stay small.
constexpr unsigned kShardShift = 23;
// The run of a class doubles while the class has so many times the next size: what the last,
// partly filled extent wastes stays a small part of the class.
constexpr uint64_t kGrowthPart = 16;
// One pin keeps an extent from being given back. At 256 KiB an entry of the mapping is still one
// slot of the same node that has those of 2 MiB.
constexpr uint64_t kMostSlabPages = 64;
constexpr uint64_t kMaxRecordSizeBytes =
    sizeof(RecordHeader) + kMaxKeySizeBytes + kMaxValueSizeBytes;

unsigned ThreadNumber() {
  static std::atomic<unsigned> next{0};
  thread_local const unsigned number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

// A load first: the flag's cache line stays shared.
void NoteChange(ExtentFrame* frame) {
  if (!frame->changed.load(std::memory_order_relaxed)) {
    frame->changed.store(true, std::memory_order_relaxed);
  }
}

}  // namespace

absl::StatusOr<Address> Space::Allocate(SlotKind kind, uint64_t size_bytes) {
  return WithoutExceptions([&] { return impl_->Allocate(kind, size_bytes); });
}

absl::StatusOr<Address> Space::Impl::Allocate(SlotKind kind, uint64_t size_bytes) {
  if (kind == SlotKind::kLeaf) return AllocateSlot(kLeafClass, Purpose::kNew);
  if (kind == SlotKind::kInner) return AllocateSlot(kInnerClass, Purpose::kNew);
  if (size_bytes < sizeof(RecordHeader) || size_bytes > kMaxRecordSizeBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a record can't have ", size_bytes, " bytes"));
  }
  if (size_bytes > kMaxSlabSlotSizeBytes) return AllocateLarge(size_bytes);
  return AllocateSlot(kind == SlotKind::kFence ? FenceClass(size_bytes) : RecordClass(size_bytes),
                      Purpose::kNew);
}

void Space::Abandon(Address address) noexcept {
  rcu::ReadGuard guard;  // Keeps the frame: freed of its last slot the extent may be truncated.
  ExtentFrame* frame = impl_->FindFrame(address);
  if (frame == nullptr) return;
  const std::optional<uint32_t> slot = frame->SlotAt(address);
  if (!slot.has_value()) return;
  // V4. Nobody else has seen it.
  if (impl_->writeback.load(std::memory_order_acquire) != nullptr && impl_->MayStamp(address)) {
    StampDead(*impl_->pool, address);
  }
  if (!frame->is_large()) return impl_->ReleaseSlot(frame, *slot);
  // It goes as a whole, and that sleeps. Release: pairs with the exchange in CollectAbandoned.
  frame->abandoned.store(true, std::memory_order_relaxed);
  impl_->abandoned_waiting.store(true, std::memory_order_release);
  impl_->WakeWorkerToRetire(/*now=*/false);
}

Shard& Space::Impl::ShardOf(SizeClass& size_class) {
  const uint64_t size_bytes = size_class.run_size_bytes.load(std::memory_order_relaxed);
  const uint64_t in_use = std::clamp<uint64_t>(size_bytes >> kShardShift, 1, kShards);
  return size_class.shards[ThreadNumber() % in_use];
}

Shard& Space::Impl::ShardFor(Purpose purpose, SizeClass& size_class) {
  switch (purpose) {
    case Purpose::kMove:
      return size_class.shards[kMoveShard];
    case Purpose::kOrder:
      return size_class.shards[kOrderShard];
    case Purpose::kNew:
      break;
  }
  return ShardOf(size_class);
}

// Needs the shard's mutex.
std::optional<Address> Space::Impl::ClaimSlot(Shard& shard) {
  if (shard.current == nullptr) return std::nullopt;
  const std::optional<uint32_t> slot = shard.current->Claim(&shard.word);
  if (!slot.has_value()) return std::nullopt;
  NoteChange(shard.current);
  const Address address = shard.current->SlotAddress(*slot);
  // V2: whoever is given it may take long to fill it.
  if (writeback.load(std::memory_order_relaxed) != nullptr && shard.current->is_of_records() &&
      !IsStampedDead(*pool, address)) {
    kv::StampDead(*pool, address);
  }
  return address;
}

absl::StatusOr<Address> Space::Impl::AllocateSlot(uint16_t class_number, Purpose purpose) {
  SizeClass& size_class = classes[class_number];
  Shard& shard = ShardFor(purpose, size_class);
  absl::Status status;
  {
    std::lock_guard<std::mutex> lock(shard.mutex);
    do {
      if (const std::optional<Address> address = ClaimSlot(shard)) return *address;
      status = Refill(class_number, shard, purpose);
    } while (status.ok());
  }
  // Elsewhere a record would be as far from its neighbours as before.
  if (!absl::IsResourceExhausted(status) || purpose == Purpose::kOrder) return status;
  if (const std::optional<Address> address = ClaimFromOtherShards(size_class)) return *address;
  if (purpose == Purpose::kNew) WantRoom();
  return status;
}

// Our caller may hold locks, so what waits for readers is the worker's, or MakeRoom's.
void Space::Impl::WantRoom() {
  {
    std::lock_guard<std::mutex> lock(wanted_mutex);
    room_wanted = true;
  }
  worker.Call(this, std::chrono::milliseconds(0));
}

// Gives the shard another current extent, one with a free slot. Moved records also fill extents
// that are nearly full, before they get a new one. Needs the shard's mutex.
absl::Status Space::Impl::Refill(uint16_t class_number, Shard& shard, Purpose purpose) {
  SizeClass& size_class = classes[class_number];
  if (shard.current != nullptr) {
    ExtentFrame* old = shard.current;
    shard.current = nullptr;
    Attach(old);
  }
  if (purpose == Purpose::kOrder) {
    const absl::StatusOr<ExtentFrame*> fresh = NewSlabExtent(class_number);
    if (!fresh.ok()) return fresh.status();
    (*fresh)->ordered.store(true, std::memory_order_relaxed);
    SetCurrent(shard, *fresh);
    return absl::OkStatus();
  }
  if (TakeFromList(size_class, Place::kRoomy, shard)) return absl::OkStatus();
  FeedFromSavedMaps(class_number);
  if (TakeFromList(size_class, Place::kRoomy, shard)) return absl::OkStatus();
  if (purpose == Purpose::kMove && TakeFromList(size_class, Place::kNearlyFull, shard)) {
    return absl::OkStatus();
  }
  const absl::StatusOr<ExtentFrame*> fresh = NewSlabExtent(class_number);
  if (fresh.ok()) {
    SetCurrent(shard, *fresh);
    return absl::OkStatus();
  }
  if (absl::IsResourceExhausted(fresh.status()) &&
      TakeFromList(size_class, Place::kNearlyFull, shard)) {
    return absl::OkStatus();
  }
  return fresh.status();
}

bool Space::Impl::TakeFromList(SizeClass& size_class, Place place, Shard& shard) {
  std::lock_guard<std::mutex> lock(size_class.mutex);
  std::vector<ExtentFrame*>& list = *size_class.ListOf(place);
  if (list.empty()) return false;
  ExtentFrame* frame = list.back();
  list.pop_back();
  frame->place.store(Place::kCurrent, std::memory_order_seq_cst);
  shard.current = frame;
  shard.word = 0;
  return true;
}

void Space::Impl::SetCurrent(Shard& shard, ExtentFrame* frame) {
  std::lock_guard<std::mutex> lock(ClassOf(*frame).mutex);
  frame->place.store(Place::kCurrent, std::memory_order_seq_cst);
  shard.current = frame;
  shard.word = 0;
}

std::optional<Address> Space::Impl::ClaimFromOtherShards(SizeClass& size_class) {
  for (Shard& shard : size_class.shards) {
    std::lock_guard<std::mutex> lock(shard.mutex);
    if (shard.current != nullptr) shard.word = 0;  // Slots before it may have come free.
    if (const std::optional<Address> address = ClaimSlot(shard)) return address;
  }
  return std::nullopt;
}

// ---- Lists ----

// A free lowers the count, then reads `place`; Attach stores `place`, then reads the count. Both
// are sequentially consistent, so one of the two sees the other, and the frame gets into its list.
void Space::Impl::Relist(ExtentFrame* frame) noexcept {
  SizeClass& size_class = ClassOf(*frame);
  const auto wanted_place = [frame] {
    const uint64_t free_slots = frame->slot_count() - frame->used_count();
    if (free_slots == 0) return Place::kFull;
    return free_slots * 8 >= frame->slot_count() ? Place::kRoomy : Place::kNearlyFull;
  };
  const auto settled = [&](Place place) {
    return place == Place::kCurrent || place == Place::kDetached || place == Place::kEmptying ||
           place == Place::kRoomy || place == wanted_place();
  };
  if (settled(frame->place.load(std::memory_order_seq_cst))) return;
  std::lock_guard<std::mutex> lock(size_class.mutex);
  if (settled(frame->place.load(std::memory_order_seq_cst))) return;
  Unlist(size_class, frame);
  const Place place = wanted_place();
  if (std::vector<ExtentFrame*>* list = size_class.ListOf(place)) {
    frame->list_index = list->size();
    list->push_back(frame);
  }
  frame->place.store(place, std::memory_order_seq_cst);
}

void Space::Impl::Attach(ExtentFrame* frame) noexcept {
  {
    std::lock_guard<std::mutex> lock(ClassOf(*frame).mutex);
    frame->place.store(Place::kFull, std::memory_order_seq_cst);
  }
  Relist(frame);
}

// Needs the class's mutex.
void Space::Impl::Unlist(SizeClass& size_class, ExtentFrame* frame) noexcept {
  std::vector<ExtentFrame*>* list = size_class.ListOf(frame->place.load(std::memory_order_relaxed));
  if (list == nullptr) return;
  list->back()->list_index = frame->list_index;
  (*list)[frame->list_index] = list->back();
  list->pop_back();
}

bool Space::Impl::Detach(ExtentFrame* frame) noexcept {
  SizeClass& size_class = ClassOf(*frame);
  for (Shard& shard : size_class.shards) {
    if (frame->place.load(std::memory_order_relaxed) != Place::kCurrent) break;
    std::lock_guard<std::mutex> lock(shard.mutex);
    if (shard.current != frame) continue;
    shard.current = nullptr;
    std::lock_guard<std::mutex> class_lock(size_class.mutex);
    frame->place.store(Place::kDetached, std::memory_order_seq_cst);
    return true;
  }
  std::lock_guard<std::mutex> lock(size_class.mutex);
  const Place place = frame->place.load(std::memory_order_relaxed);
  if (place == Place::kCurrent || place == Place::kEmptying) return false;
  Unlist(size_class, frame);
  frame->place.store(Place::kDetached, std::memory_order_seq_cst);
  return true;
}

void Space::Impl::ReleaseSlot(ExtentFrame* frame, uint32_t slot) noexcept {
  NoteChange(frame);
  if (KeepIfLost(frame, slot)) return;
  if (!frame->is_large()) StampDead(*frame, slot);
  frame->Free(slot);
  Relist(frame);
}

// Only a repair reads the stamp. It is not flushed: the end of the process keeps it, and after a
// power cut it is there mostly, which a repair takes into account (repair.h).
void Space::Impl::StampDead(const ExtentFrame& frame, uint32_t slot) noexcept {
  const Address address = frame.SlotAddress(slot);
  char* const at = pool->At(address);
  if (IsNode(SlotKindOf(frame.layout().size_class))) {
    auto* magic = &reinterpret_cast<NodeHeader*>(at)->magic;
    if (__atomic_load_n(magic, __ATOMIC_RELAXED) == 0) return;
    __atomic_store_n(magic, 0, __ATOMIC_RELAXED);
  } else {
    auto* kind = &reinterpret_cast<RecordHeader*>(at)->kind_and_flags;
    if (__atomic_load_n(kind, __ATOMIC_RELAXED) == kNoRecord) return;
    __atomic_store_n(kind, uint8_t{kNoRecord}, __ATOMIC_RELAXED);
  }
}

// ---- New extents ----

absl::StatusOr<ExtentFrame*> Space::Impl::NewSlabExtent(uint16_t class_number) {
  SizeClass& size_class = classes[class_number];
  const uint64_t small_pages = SmallRunPages(class_number);
  // A power of two of 1/16 to 1/8 of what the class has.
  uint64_t pages = small_pages;
  const uint64_t most_pages = std::max(small_pages, kMostSlabPages);
  const uint64_t class_size_bytes = size_class.run_size_bytes.load(std::memory_order_relaxed);
  while (pages < most_pages && class_size_bytes >> dax::kPageShift >= pages * kGrowthPart) {
    pages *= 2;
  }
  const auto allocate = [&](uint64_t run_pages) {
    return pool->AllocateRun(run_pages, SlabRunKind(class_number),
                             SlabRunOwner(keyspace, class_number), run_pages << dax::kPageShift);
  };
  absl::StatusOr<dax::Run> run = allocate(pages);
  if (pages > small_pages && absl::IsResourceExhausted(run.status())) run = allocate(small_pages);
  if (!run.ok()) return run.status();
  WantReserveAhead();
  WriteSlabHeader(*pool, *run);
  return AdoptRun(*run);
}

// A record's run is committed before the record is reachable: after a crash an unreferenced one is
// found by asking the oracle, as an unreferenced slot of a slab is.
absl::StatusOr<Address> Space::Impl::AllocateLarge(uint64_t size_bytes) {
  const uint64_t used_size_bytes = kLargeRecordOffset + size_bytes;
  const uint64_t pages = (used_size_bytes + dax::kPageSizeBytes - 1) >> dax::kPageShift;
  WantListing();
  const absl::StatusOr<dax::Run> run =
      pool->AllocateRun(pages, kLargeRun, keyspace, used_size_bytes);
  if (absl::IsResourceExhausted(run.status())) WantRoom();
  if (!run.ok()) return run.status();
  WantReserveAhead();
  WriteLargeHeader(*pool, *run, size_bytes);
  const absl::StatusOr<ExtentFrame*> frame = AdoptRun(*run);
  if (!frame.ok()) return frame.status();
  return (*frame)->SlotAddress(0);
}

// The worker gets the blocks of the runs to come.
void Space::Impl::WantReserveAhead() noexcept {
  if (pool->WantsReserveAhead()) worker.Call(&ahead, std::chrono::milliseconds(0));
}

// All of a new run will be written soon, and its pages are there: one call for all page faults. In
// the page cache it would make pages dirty that are not written for long. Huge runs come in huge
// pages where these can be had (dax::Pool::ReserveAhead).
void Space::Impl::PrefaultNew(const dax::Run& run) noexcept {
  if (pool->media().media_class == dax::MediaClass::kPageCache || run.pages >= dax::kHugePages) {
    return;
  }
  // Without it the pages are mapped one by one.
  mapping.Prefault(run.first_page, run.pages, dax::Access::kWrite).IgnoreError();
}

// Makes a reserved run with a header an extent, whose run the next Drain commits (E1). The frame
// comes before that, so that nobody takes a live run for one of an earlier session.
absl::StatusOr<ExtentFrame*> Space::Impl::AdoptRun(const dax::Run& run) {
  absl::Cleanup release = [&] {
    WithoutExceptions([&] { return pool->ReleaseRun(run); }).IgnoreError();
  };
  const absl::StatusOr<SlotLayout> layout = CheckExtent(*pool, run);
  if (!layout.ok()) return layout.status();
  auto owned = std::make_unique<ExtentFrame>(run, *layout);
  ExtentFrame* frame = owned.get();
  frame->changed.store(true, std::memory_order_relaxed);
  // Neither looks empty and unused to a Reclaim that comes now.
  if (frame->is_large()) {
    frame->SetUsed(0);
  } else {
    frame->place.store(Place::kCurrent, std::memory_order_relaxed);
  }
  {
    std::lock_guard<std::mutex> lock(commit_mutex);
    ReserveMore(uncommitted, 1);
    absl::Status status = InsertFrame(frame);
    if (!status.ok()) {
      rcu::Retire(owned.release());
      return status;
    }
    uncommitted.push_back(run);
    // Pairs with the acquire in Space::Drain: whoever got a slot of this extent sees the count.
    uncommitted_count.store(uncommitted.size(), std::memory_order_release);
  }
  static_cast<void>(owned.release());  // `frames` has it.
  std::move(release).Cancel();
  ClassOf(*frame).run_size_bytes.fetch_add(run.size_bytes(), std::memory_order_relaxed);
  absl::Status status = WithoutExceptions([&] { return FaultRun(run); });
  if (status.ok()) {
    PrefaultNew(run);
    return frame;
  }
  // Not wanted now. It goes back, or is used later, in a way that does not sleep here.
  if (frame->is_large()) {
    space->Abandon(frame->SlotAddress(0));
  } else {
    Attach(frame);
  }
  return status;
}

}  // namespace daxkv::kv
