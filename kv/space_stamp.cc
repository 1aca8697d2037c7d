// Process durability: retired slots wait for the writeback, are stamped, wait again, and are free
// (stamps.h, V1 to V3, V6).
#include <algorithm>

#include "kv/space_impl.h"
#include "kv/stamps.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// Bytes of slots on their way back beyond which the next writeback does not wait: at least so many,
// and at least this part of all slots.
constexpr uint64_t kLeastHurrySizeBytes = 64 << 20;
constexpr uint64_t kHurryPart = 8;
// Extents that are looked through before others may have `maintenance`.
constexpr size_t kExtentsPerLook = 64;

}  // namespace

void Space::BeginProcessDurability(Writeback* writeback, bool all_stamped) {
  {
    std::lock_guard<std::mutex> lock(impl_->maintenance);
    impl_->all_stamped = all_stamped;
    impl_->writeback.store(writeback, std::memory_order_release);
  }
  impl_->WakeWorkerToRetire(/*now=*/true);
}

bool Space::has_process_durability() const {
  return impl_->writeback.load(std::memory_order_relaxed) != nullptr;
}

void Space::BeforeWriteback() {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  impl_->RetireRound();
}

void Space::NoteRemoved() noexcept {
  if (!has_process_durability()) return;
  // Relaxed: the mutex of the queue into which the record comes next orders it.
  if (!impl_->removed.load(std::memory_order_relaxed)) {
    impl_->removed.store(true, std::memory_order_relaxed);
  }
}

void Space::NoteKept(Address address) noexcept {
  if (!has_process_durability()) return;
  RetireQueue& queue = impl_->retire_queues[QueueNumber()];
  // Without memory a power cut may bring it back.
  WithoutExceptions([&] {
    std::lock_guard<std::mutex> lock(queue.mutex);
    queue.kept.push_back(address);
    return absl::OkStatus();
  }).IgnoreError();
}

absl::Status Space::StampFreeSlots() {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  absl::Status status = impl_->DeriveAll();
  if (!status.ok()) return status;
  impl_->RetireRound();
  for (ExtentFrame* frame : impl_->Frames()) impl_->StampFree(*frame);
  return impl_->pool->Sync();
}

// The slot at an address that was retired, if Space gives it back: of an extent with a frame, used,
// and not on its way already. Null extents (E5) are derived later, which finds and stamps it.
absl::StatusOr<ExtentFrame*> Space::Impl::FrameOfRetired(Address address) {
  ExtentFrame* frame = FindFrame(address);
  if (frame == nullptr) {
    const absl::StatusOr<dax::Run> run = FindExtent(address >> dax::kPageShift);
    if (!run.ok() || !run->live) return nullptr;
    const absl::StatusOr<ExtentFrame*> loaded = LoadFrame(run->offset(), /*retired=*/true);
    if (absl::IsResourceExhausted(loaded.status())) return loaded.status();
    if (!loaded.ok() || *loaded == nullptr) return nullptr;
    frame = *loaded;
  }
  const std::optional<uint32_t> slot = frame->SlotAt(address);
  if (!slot.has_value() || !frame->IsUsed(*slot) || frame->held.count(*slot) != 0) return nullptr;
  return frame;
}

// Readers of what is in the round have gone. What is passed over is known otherwise.
absl::Status Space::Impl::QueueUnlinked() {
  if (in_round.empty()) return absl::OkStatus();
  PendingSlots pending, of_batches;
  pending.slots.reserve(in_round.size());
  for (const Retired& retired : in_round) {
    const absl::StatusOr<ExtentFrame*> frame = FrameOfRetired(retired.address);
    if (!frame.ok()) return frame.status();
    if (*frame == nullptr) continue;
    PendingSlots& group = retired.link == nullptr ? of_batches : pending;
    ReserveMore(group.slots, 1);
    group.slots.push_back(retired.address);
    group.size_bytes += (*frame)->layout().slot_size_bytes;
    if (!MayStamp(retired.address)) continue;
    const auto* header = reinterpret_cast<const RecordHeader*>(pool->At(retired.address));
    if ((KindAndFlags(*header) & kOfBatchFlag) != 0) {
      group.last_batch = std::max(group.last_batch, header->sequence);
    }
  }
  of_batches.of_batches = true;
  NoticeRemovals();
  // Read after the unlinking stores (W1).
  pending.since = of_batches.since = writeback.load(std::memory_order_relaxed)->begun();
  const uint64_t slots = pending.slots.size() + of_batches.slots.size();
  const uint64_t size_bytes = pending.size_bytes + of_batches.size_bytes;
  for (PendingSlots* group : {&pending, &of_batches}) {
    if (!group->slots.empty()) to_stamp.push_back(std::move(*group));
  }
  in_round.clear();
  in_round_count.store(0, std::memory_order_relaxed);
  pending_count.fetch_add(slots, std::memory_order_relaxed);
  pending_size_bytes += size_bytes;
  uint64_t all_size_bytes = 0;
  for (size_t number = 0; number < classes.size(); ++number) {
    const SizeClass* const size_class = classes.Find(number);
    if (size_class == nullptr) continue;
    all_size_bytes += size_class->run_size_bytes.load(std::memory_order_relaxed);
  }
  if (pending_size_bytes > std::max(kLeastHurrySizeBytes, all_size_bytes / kHurryPart)) {
    writeback.load(std::memory_order_relaxed)->Hurry();
  }
  return absl::OkStatus();
}

absl::Status Space::Impl::QueueKept() {
  PendingSlots pending;
  for (RetireQueue& queue : retire_queues) {
    std::lock_guard<std::mutex> lock(queue.mutex);
    pending.slots.insert(pending.slots.end(), queue.kept.begin(), queue.kept.end());
    queue.kept.clear();
  }
  if (pending.slots.empty()) return absl::OkStatus();
  NoticeRemovals();
  pending.since = writeback.load(std::memory_order_relaxed)->begun();
  to_flag.push_back(std::move(pending));
  return absl::OkStatus();
}

// Before StampDurable: what was retired since is stamped later than it is flagged.
void Space::Impl::FlagDurable(uint64_t done) {
  for (PendingSlots& pending : to_flag) {
    if (pending.since >= done) continue;
    for (const Address address : pending.slots) {
      const absl::StatusOr<ExtentFrame*> frame = FrameOfRetired(address);
      if (!frame.ok() || *frame == nullptr) continue;
      if (MayStamp(address) && !IsStampedDead(*pool, address)) StampUnlinked(*pool, address);
    }
    pending.slots.clear();
  }
  to_flag.remove_if([](const PendingSlots& pending) { return pending.slots.empty(); });
}

bool Space::Impl::MayStamp(Address address) const {
  const ExtentFrame* frame = FindFrame(address);
  return frame != nullptr && !IsNode(KindOfSlots(*frame)) && !space->IsLost(address, 1);
}

SlotKind Space::Impl::KindOfSlots(const ExtentFrame& frame) {
  return frame.is_large() ? SlotKind::kRecord : SlotKindOf(frame.layout().size_class);
}

// Those that a pin may show come to the next look, with a flag until then.
absl::Status Space::Impl::StampDurable() {
  const Writeback& running = *writeback.load(std::memory_order_relaxed);
  const uint64_t done = running.done();
  if (!all_stamped) return absl::OkStatus();
  FlagDurable(done);
  PendingSlots stamped, pinned;
  const auto stamp = [&](std::vector<Address>& slots) {
    ReserveMore(stamped.slots, slots.size());
    ReserveMore(pinned.slots, slots.size());
    for (const Address address : slots) {
      if (mapping.PinCount(address >> dax::kPageShift) != 0) {
        if (MayStamp(address)) StampUnlinked(*pool, address);
        pinned.slots.push_back(address);
      } else {
        if (MayStamp(address)) kv::StampDead(*pool, address);
        stamped.slots.push_back(address);
      }
    }
    slots.clear();
  };
  stamp(pinned_unlinked);
  for (PendingSlots& pending : to_stamp) {
    if (pending.since >= done) continue;
    if (pending.of_batches && !pending.others_stamped) continue;
    if (pending.last_batch > running.horizon()) continue;
    if (!pending.of_batches && !stamp_all_until.has_value()) FreeReplaced(pending);
    stamp(pending.slots);
    stamped.size_bytes += std::exchange(pending.size_bytes, 0);
  }
  // Once all that set out with these, or before them, is stamped or flagged. How many writebacks
  // are done tells nothing of that: we need not have been called after each.
  for (PendingSlots& pending : to_stamp) {
    if (!pending.of_batches && !pending.slots.empty()) break;
    if (!pending.of_batches || pending.others_stamped || pending.since >= done) continue;
    pending.others_stamped = true;
    pending.since = running.begun();
  }
  to_stamp.remove_if([](const PendingSlots& pending) { return pending.slots.empty(); });
  pinned_unlinked = std::move(pinned.slots);
  const auto waits = [this](const PendingSlots& pending) {
    return pending.since <= *stamp_all_until;
  };
  if (stamp_all_until.has_value() && std::none_of(to_stamp.begin(), to_stamp.end(), waits) &&
      std::none_of(to_flag.begin(), to_flag.end(), waits)) {
    stamp_all_until.reset();
  }
  if (stamped.slots.empty()) return absl::OkStatus();
  stamped.since = running.begun();
  to_free.push_back(std::move(stamped));
  return absl::OkStatus();
}

// V2: of slabs, what nothing stands in the way of. The rest stays.
void Space::Impl::FreeReplaced(PendingSlots& pending) noexcept {
  size_t kept = 0;
  for (const Address address : pending.slots) {
    ExtentFrame* const frame = FindFrame(address);
    const std::optional<uint32_t> slot = frame == nullptr ? std::nullopt : frame->SlotAt(address);
    if (!slot.has_value() || frame->is_large() || !frame->IsUsed(*slot) ||
        frame->held.count(*slot) != 0 || IsPinned(*frame, *slot) || space->IsLost(address, 1)) {
      pending.slots[kept++] = address;
      continue;
    }
    frame->may_lack_stamps = frame->may_lack_stamps || frame->is_of_records();
    frame->changed.store(true, std::memory_order_relaxed);
    frame->Free(*slot);
    Relist(frame);
  }
  pending_count.fetch_sub(pending.slots.size() - kept, std::memory_order_relaxed);
  pending.slots.resize(kept);
  pending_size_bytes -= std::min(pending_size_bytes, std::exchange(pending.size_bytes, 0));
}

void Space::Impl::NoticeRemovals() noexcept {
  if (!removed.exchange(false, std::memory_order_relaxed)) return;
  StampLacking();
  stamp_all_until = writeback.load(std::memory_order_relaxed)->begun();
}

// Slots are claimed meanwhile, for nobody else to write there.
void Space::Impl::StampFreeOf(ExtentFrame& frame) noexcept {
  for (uint32_t slot = 0; slot < frame.slot_count(); ++slot) {
    const Address address = frame.SlotAddress(slot);
    if (frame.IsUsed(slot) || IsStampedDead(*pool, address) || !frame.ClaimSlot(slot)) continue;
    if (!IsStampedDead(*pool, address)) kv::StampDead(*pool, address);
    frame.Free(slot);
  }
  frame.may_lack_stamps = false;
  Relist(&frame);
}

void Space::Impl::StampLacking() noexcept {
  bool any = false;
  frames.ForEach(0, UINT64_MAX, [&](const xarray::Located& located) {
    ExtentFrame& frame = *located.entry.pointer<ExtentFrame>();
    any = any || frame.may_lack_stamps;
    if (frame.may_lack_stamps) StampFreeOf(frame);
    return true;
  });
  if (!any) return;
  // Slots that were claimed meanwhile were, or are, stamped under these.
  for (size_t number = 0; number < classes.size(); ++number) {
    SizeClass* const size_class = classes.Find(number);
    if (size_class == nullptr) continue;
    for (Shard& shard : size_class->shards) const std::lock_guard<std::mutex> lock(shard.mutex);
  }
}

absl::Status Space::Impl::StampDurably(absl::Span<ExtentFrame* const> frames_to_stamp) {
  bool any = false;
  for (ExtentFrame* frame : frames_to_stamp) {
    if (!frame->may_lack_stamps) continue;
    StampFreeOf(*frame);
    any = true;
  }
  return any ? writeback.load(std::memory_order_relaxed)->Now() : absl::OkStatus();
}

absl::Status Space::Impl::FreeStamped() {
  const uint64_t done = writeback.load(std::memory_order_relaxed)->done();
  while (!to_free.empty() && to_free.front().since < done) {
    PendingSlots& pending = to_free.front();
    while (!pending.slots.empty()) {
      absl::Status freed = FreeRetiredSlot(pending.slots.back());
      if (!freed.ok()) return freed;
      pending.slots.pop_back();
      pending_count.fetch_sub(1, std::memory_order_relaxed);
    }
    pending_size_bytes -= std::min(pending_size_bytes, pending.size_bytes);
    to_free.pop_front();
  }
  return absl::OkStatus();
}

// Without memory everything stays where it is until the next time.
void Space::Impl::AdvancePending() noexcept {
  WithoutExceptions([this] { return QueueKept(); }).IgnoreError();
  WithoutExceptions([this] { return QueueUnlinked(); }).IgnoreError();
  WithoutExceptions([this] { return FreeStamped(); }).IgnoreError();
  WithoutExceptions([this] { return StampDurable(); }).IgnoreError();
}

void Space::Impl::FreePendingNow() noexcept {
  Writeback* const running = writeback.load(std::memory_order_relaxed);
  if (running == nullptr) return;
  while (!LookThroughSome()) {
  }
  // Two, and one more for what is of batches.
  for (int round = 0; round < 3; ++round) {
    if (pending_count.load(std::memory_order_relaxed) == 0 || !running->Now().ok()) return;
    AdvancePending();
  }
  WithoutExceptions([this] {
    FreeHeld();
    return absl::OkStatus();
  }).IgnoreError();
}

void Space::Impl::StampFree(const ExtentFrame& frame) {
  if (IsNode(KindOfSlots(frame))) return;
  for (uint32_t slot = 0; slot < frame.slot_count(); ++slot) {
    const Address address = frame.SlotAddress(slot);
    if (frame.IsUsed(slot) || IsStampedDead(*pool, address) || space->IsLost(address, 1)) continue;
    kv::StampDead(*pool, address);
  }
}

// What scans found dead, of extents that nobody allocates from yet. Their unlinking becomes
// durable, then their stamps; what a pin may show goes the way of what is retired, and so does what
// says of a batch that it deleted or was whole: that waits until all extents are stamped otherwise
// (V8).
absl::Status Space::Impl::StampScanned(const std::vector<ExtentFrame*>& scanned) {
  Writeback& running = *writeback.load(std::memory_order_relaxed);
  absl::Status status = running.Now();
  if (!status.ok()) return status;
  PendingSlots shown, of_batches;  // Durably unlinked by now: begun by no writeback, done by any.
  of_batches.of_batches = true;
  for (ExtentFrame* frame : scanned) {
    if (IsNode(KindOfSlots(*frame))) continue;
    const bool pinned = IsPinned(*frame, 0);
    for (uint32_t slot = 0; slot < frame->slot_count(); ++slot) {
      const Address address = frame->SlotAddress(slot);
      if (frame->IsUsed(slot) || IsStampedDead(*pool, address) || space->IsLost(address, 1)) {
        continue;
      }
      const RecordKind kind =
          KindOf(KindAndFlags(*reinterpret_cast<const RecordHeader*>(pool->At(address))));
      const bool of_batch = kind == kDeleteRecord || kind == kBatchRecord;
      if (!of_batch && !pinned) {
        kv::StampDead(*pool, address);
        continue;
      }
      PendingSlots& group = of_batch ? of_batches : shown;
      ReserveMore(group.slots, 1);
      group.slots.push_back(address);
      group.size_bytes += frame->layout().slot_size_bytes;
      frame->SetUsed(slot);
    }
  }
  for (PendingSlots* group : {&shown, &of_batches}) {
    pending_count.fetch_add(group->slots.size(), std::memory_order_relaxed);
    pending_size_bytes += group->size_bytes;
    if (!group->slots.empty()) to_stamp.push_back(std::move(*group));
  }
  return running.Now();
}

// For the worker: some extents of the session before, which died. True when all have been seen.
bool Space::Impl::LookThroughSome() {
  if (all_stamped || oracle == nullptr || writeback.load(std::memory_order_relaxed) == nullptr) {
    return true;
  }
  for (uint16_t number = 0; number < classes.size(); ++number) {
    SizeClass* const size_class = classes.Find(number);
    if (size_class == nullptr) continue;
    bool some;
    {
      std::lock_guard<std::mutex> lock(size_class->mutex);
      some = !size_class->unknown.empty() || !size_class->underived.empty();
    }
    if (!some) continue;
    const absl::Status derived =
        WithoutExceptions([&] { return DeriveSome(number, kExtentsPerLook); });
    // Without memory, or a medium, it is tried again when there is something to do.
    return !derived.ok();
  }
  if (!all_listed()) return !ListSome().ok();
  all_stamped = true;
  AdvancePending();
  return true;
}

}  // namespace daxkv::kv
