// The way back of retired slots: queue, grace period, pins, bitmap or truncation; and the worker
// thread that does it.
#include <algorithm>
#include <chrono>
#include <utility>

#include "kv/space_impl.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

constexpr size_t kFreedTogether = 16;
constexpr size_t kMostSyncedLinks = 8;
// A queue of so many addresses is not left waiting for more.
constexpr size_t kUrgentRetires = 4096;
// Extents whose layout is broken at once: their pages can't be pinned meanwhile.
constexpr size_t kTruncatedTogether = 256;
constexpr std::chrono::milliseconds kGatherTime(10);
// Extents that the worker derives each time that a class has run out of free slots.
constexpr size_t kDerivesPerRefill = 4;
// How often pinned slots are looked at again: nobody tells us that a pin went.
constexpr std::chrono::milliseconds kFirstHeldPoll(20);
constexpr std::chrono::milliseconds kLastHeldPoll(1000);

// Back-pressure. Below the first a thread does not look at what the others have retired; what all
// have may be the second, or a part of the store.
constexpr uint64_t kUncheckedRetiredBytes = 512 << 10;
constexpr unsigned kCheckedEvery = 32;  // Calls, if so many slots are no more bytes than that.
constexpr uint64_t kLeastRetiredBytes = 2 << 20;
constexpr uint64_t kRetiredPart = 32;

bool ByAddress(const ExtentFrame* a, const ExtentFrame* b) { return a->address() < b->address(); }

}  // namespace

absl::Status Space::ReserveRetires(size_t count) {
  if (count == 0) return absl::OkStatus();
  RetireQueue& queue = impl_->retire_queues[QueueNumber()];
  return WithoutExceptions([&] {
    std::lock_guard<std::mutex> lock(queue.mutex);
    ReserveMore(queue.slots, queue.promised + count);
    queue.promised += count;
    return absl::OkStatus();
  });
}

void Space::CancelRetires(size_t count) noexcept {
  if (count == 0) return;
  RetireQueue& queue = impl_->retire_queues[QueueNumber()];
  std::lock_guard<std::mutex> lock(queue.mutex);
  queue.promised -= std::min(queue.promised, count);
}

uint64_t Space::Impl::WaitingCount() const {
  uint64_t count = in_round_count.load(std::memory_order_relaxed);
  for (const RetireQueue& queue : retire_queues) {
    count += queue.waiting.load(std::memory_order_relaxed);
  }
  return count;
}

bool Space::Impl::IsTooMuch(uint64_t slots, uint64_t size_bytes) const {
  if (slots * size_bytes <= kLeastRetiredBytes) return false;
  uint64_t extents_size_bytes = 0;
  for (size_t number = 0; number < classes.size(); ++number) {
    const SizeClass* const size_class = classes.Find(number);
    if (size_class == nullptr) continue;
    extents_size_bytes += size_class->run_size_bytes.load(std::memory_order_relaxed);
  }
  return slots * size_bytes > extents_size_bytes / kRetiredPart;
}

// Those that wait are taken to be of the size that is wanted now.
void Space::LimitRetired(uint64_t size_bytes) noexcept {
  // Relaxed: a hint, and mostly our own. The others' counts are in their caches.
  const size_t waiting =
      impl_->retire_queues[QueueNumber()].waiting.load(std::memory_order_relaxed);
  if (waiting * size_bytes <= kUncheckedRetiredBytes) return;
  // Counts calls, not what waits: a group of puts allocates all its records before it retires any.
  thread_local unsigned calls = 0;
  if (++calls % kCheckedEvery != 0 && kCheckedEvery * size_bytes <= kUncheckedRetiredBytes) return;
  if (!impl_->IsTooMuch(impl_->WaitingCount(), size_bytes)) return;
  // Whoever has it is freeing, or about to. With process durability nothing is freed before the
  // next writeback, however long a call waits: whoever has it may wait for the medium.
  std::unique_lock<std::mutex> lock(impl_->maintenance, std::try_to_lock);
  if (!lock.owns_lock()) {
    if (impl_->pool->media().durability == dax::Durability::kProcess) return;
    lock.lock();
  }
  if (impl_->IsTooMuch(impl_->WaitingCount(), size_bytes)) impl_->RetireRound();
}

void Space::Retire(Address address, const uint64_t* link) noexcept {
  RetireQueue& queue = impl_->retire_queues[QueueNumber()];
  bool many = false;
  {
    std::lock_guard<std::mutex> lock(queue.mutex);
    if (queue.promised > 0) {
      --queue.promised;
    } else if (!WithoutExceptions([&] {
                  ReserveMore(queue.slots, 1);
                  return absl::OkStatus();
                }).ok()) {
      return;
    }
    queue.slots.push_back({address, link});
    queue.waiting.store(queue.slots.size(), std::memory_order_relaxed);
    many = queue.slots.size() == kUrgentRetires;
  }
  // Relaxed: the worker looks into the queues under their mutexes; a round that clears the flag
  // collects what was queued before it was set.
  if (!many && impl_->retired_waiting.load(std::memory_order_relaxed)) return;
  impl_->WakeWorkerToRetire(/*now=*/many);
}

void Space::Impl::WakeWorkerToRetire(bool now) {
  retired_waiting.store(true, std::memory_order_relaxed);
  // A grace period serves many retires as well as one: let some gather.
  worker.Call(this, now ? std::chrono::milliseconds(0) : kGatherTime);
}

void Space::Quiesce() noexcept {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  impl_->RetireAllNow();
}

void Space::Impl::CollectRetired() noexcept {
  retired_waiting.store(false, std::memory_order_relaxed);
  WithoutExceptions([this] {
    CollectAbandoned();
    for (RetireQueue& queue : retire_queues) {
      std::lock_guard<std::mutex> lock(queue.mutex);
      ReserveMore(in_round, queue.slots.size());
      in_round.insert(in_round.end(), queue.slots.begin(), queue.slots.end());
      queue.slots.clear();
      queue.waiting.store(0, std::memory_order_relaxed);
      if (queue.promised == 0 && queue.slots.capacity() > kUrgentRetires) queue.slots = {};
      in_round_count.store(in_round.size(), std::memory_order_relaxed);
    }
    return absl::OkStatus();
  }).IgnoreError();
}

void Space::Impl::CollectAbandoned() {
  // Acquire: pairs with the release in Abandon.
  if (!abandoned_waiting.exchange(false, std::memory_order_acquire)) return;
  bool all = true;
  frames.ForEach(0, UINT64_MAX, [&](const xarray::Located& located) {
    ExtentFrame* frame = located.entry.pointer<ExtentFrame>();
    if (!frame->abandoned.load(std::memory_order_relaxed)) return true;
    all = WithoutExceptions([&] {
            ReserveMore(in_round, 1);
            return absl::OkStatus();
          }).ok();
    if (!all) return false;
    in_round.push_back({frame->SlotAddress(0), nullptr});
    frame->abandoned.store(false, std::memory_order_relaxed);
    return true;
  });
  if (!all) abandoned_waiting.store(true, std::memory_order_relaxed);
}

// Without memory, or when it is not known what the medium holds, slots stay used.
void Space::Impl::RetireRound() noexcept {
  ListAside();
  CollectRetired();
  const bool process_durability = writeback.load(std::memory_order_acquire) != nullptr;
  if (!in_round.empty()) rcu::Synchronize();
  if (process_durability) {
    AdvancePending();
  } else if (!in_round.empty() && DrainLinks().ok()) {
    FreeRetired();
  }
  WithoutExceptions([this] {
    FreeHeld();
    return absl::OkStatus();
  }).IgnoreError();
}

// The store that unlinked a slot reaches the medium after its Retire: its writer waits for the
// msync outside of any read section. Were the slot reused before, a power cut could leave the old
// link and new bytes. Elsewhere the flush is started in the read section, and complete after the
// grace period, in which every processor passes a full barrier.
absl::Status Space::Impl::DrainLinks() noexcept {
  if (pool->media().media_class != dax::MediaClass::kPageCache) return absl::OkStatus();
  // One msync for each neighbourhood of leaves, or one for all.
  if (in_round.size() > kMostSyncedLinks) return pool->Sync();
  for (const Retired& slot : in_round) {
    if (slot.link != nullptr) pool->Flush(slot.link, sizeof(*slot.link));
  }
  return pool->Drain();
}

// Each slot is stamped dead, and neither its line nor what translates its page's address is in the
// cache. Loads that follow each other closely miss together; of prefetches, which wait for the
// translation, only the first few do.
void Space::Impl::TouchRetired(size_t first) const {
  const size_t end = std::min(first + kFreedTogether, in_round.size());
  for (size_t i = first; i < end; ++i) {
    const Address address = in_round[i].address;
    if (FindFrame(address) == nullptr) continue;  // It may be wrong.
    static_cast<void>(*static_cast<const volatile char*>(pool->At(address)));
  }
}

void Space::Impl::FreeRetired() noexcept {
  size_t kept = 0;
  for (size_t i = 0; i < in_round.size(); ++i) {
    if (i % kFreedTogether == 0) TouchRetired(i);
    const Retired slot = in_round[i];
    const absl::Status freed = WithoutExceptions([&] { return FreeRetiredSlot(slot.address); });
    if (!freed.ok()) in_round[kept++] = slot;
  }
  in_round.resize(kept);
  if (kept == 0 && in_round.capacity() > kUrgentRetires) in_round = {};
  in_round_count.store(kept, std::memory_order_relaxed);
}

// Frees a slot whose readers have all left. Wrong addresses (from damaged nodes), slots already
// free and slots of extents that are yet to be derived are passed over (E5). kResourceExhausted.
absl::Status Space::Impl::FreeRetiredSlot(Address address) {
  ExtentFrame* frame = FindFrame(address);
  if (frame == nullptr) {
    const absl::StatusOr<dax::Run> run = FindExtent(address >> dax::kPageShift);
    if (!run.ok() || !run->live) return absl::OkStatus();
    const absl::StatusOr<ExtentFrame*> loaded = LoadFrame(run->offset(), /*retired=*/true);
    if (absl::IsResourceExhausted(loaded.status())) return loaded.status();
    if (!loaded.ok() || *loaded == nullptr) return absl::OkStatus();
    frame = *loaded;
  }
  const std::optional<uint32_t> slot = frame->SlotAt(address);
  if (!slot.has_value() || !frame->IsUsed(*slot)) return absl::OkStatus();
  if (frame->held.count(*slot) != 0) return absl::OkStatus();
  if (frame->is_large() || IsPinned(*frame, *slot)) {
    Hold(frame, *slot);  // FreeHeld truncates the large ones.
  } else {
    ReleaseSlot(frame, *slot);
  }
  return absl::OkStatus();
}

// A pin that may show the slot was taken before the slot's grace period ended, so it is counted.
bool Space::Impl::IsPinned(const ExtentFrame& frame, uint32_t slot) const {
  return mapping.PinCount(frame.SlotAddress(slot) >> dax::kPageShift) != 0;
}

void Space::Impl::Hold(ExtentFrame* frame, uint32_t slot) {
  ReserveMore(held_frames, 1);
  frame->held.insert(slot);
  if (frame->held.size() == 1) held_frames.push_back(frame);
  if (held_count.fetch_add(1, std::memory_order_relaxed) != 0) return;
  worker.Call(this, kFirstHeldPoll);  // It begins to look whether pins went.
}

void Space::Impl::FreeHeld() {
  std::vector<ExtentFrame*> large;
  large.reserve(held_frames.size());
  for (ExtentFrame* frame : held_frames) {
    // A slab's slots share one pin count, but for those of an extent in pieces around a lost page.
    const auto is_pinned = [&](uint32_t slot) { return IsPinned(*frame, slot); };
    const auto end = pool->HasLostPages() ? frame->held.end() : std::next(frame->held.begin());
    if (frame->is_large()) {
      large.push_back(frame);
    } else if (std::none_of(frame->held.begin(), end, is_pinned)) {
      for (const uint32_t slot : frame->held) ReleaseSlot(frame, slot);
      ForgetHeld(frame);
    }
  }
  DropUnheldFrames();
  std::sort(large.begin(), large.end(), ByAddress);
  // Those that are pinned, or that the medium refused, are tried again later.
  TruncateExtents(&large).IgnoreError();
}

void Space::Impl::ForgetHeld(ExtentFrame* frame) noexcept {
  held_count.fetch_sub(frame->held.size(), std::memory_order_relaxed);
  frame->held.clear();
}

void Space::Impl::DropUnheldFrames() noexcept {
  held_frames.erase(std::remove_if(held_frames.begin(), held_frames.end(),
                                   [](const ExtentFrame* frame) { return frame->held.empty(); }),
                    held_frames.end());
}

// ---- Truncation ----

absl::Status Space::Impl::TruncateExtents(std::vector<ExtentFrame*>* frames) {
  if (frames->empty()) return absl::OkStatus();
  // A released run must not be committed by a later Drain.
  absl::Status status = DrainAndCommit();
  if (status.ok()) status = StampDurably(*frames);
  if (!status.ok()) return status;
  // Neighbours go together: one grace period, one wait for the medium and one hole for all.
  for (size_t begin = 0, end = 0; begin < frames->size(); begin = end) {
    const auto follows = [&](size_t i) {
      const dax::Run& before = (*frames)[i - 1]->run();
      return (*frames)[i]->run().first_page == before.first_page + before.pages;
    };
    do {
      ++end;
    } while (end < frames->size() && end - begin < kTruncatedTogether && follows(end));
    TruncateNeighbours(absl::MakeSpan(*frames).subspan(begin, end - begin), &status);
  }
  frames->erase(std::remove(frames->begin(), frames->end(), nullptr), frames->end());
  return status;
}

// Frames that are truncated, or set aside, become null. If one of the group can't be truncated, its
// halves are tried: some of it may have been released.
void Space::Impl::TruncateNeighbours(absl::Span<ExtentFrame*> group, absl::Status* status) {
  const absl::Status truncated = WithoutExceptions([&] { return TruncateTogether(group); });
  if (truncated.ok()) {
    std::fill(group.begin(), group.end(), nullptr);
  } else if (group.size() == 1 || absl::IsInternal(truncated)) {
    if (!absl::IsDeadlineExceeded(truncated)) status->Update(truncated);
  } else if (std::find(group.begin(), group.end(), nullptr) != group.end()) {
    for (size_t i = 0; i < group.size(); ++i) {
      if (group[i] != nullptr) TruncateNeighbours(group.subspan(i, 1), status);
    }
  } else {
    TruncateNeighbours(group.subspan(0, group.size() / 2), status);
    TruncateNeighbours(group.subspan(group.size() / 2), status);
  }
}

// E4: the frames are detached, and empty but for held slots, so nobody but us knows them. Their
// entries go first: as soon as a run is released, its pages may get a new frame.
absl::Status Space::Impl::TruncateTogether(absl::Span<ExtentFrame*> group) {
  const dax::Run& last = group.back()->run();
  const uint64_t first_page = group.front()->run().first_page;
  for (ExtentFrame* frame : group) EraseFrame(frame);
  absl::Status status = WithoutExceptions([&] {
    return mapping.Truncate(first_page, last.first_page + last.pages - first_page,
                            absl::InfinitePast());
  });
  if (!status.ok()) {
    for (ExtentFrame*& frame : group) {
      const absl::Status inserted = WithoutExceptions([&] { return InsertFrame(frame); });
      if (!inserted.ok()) SetAside(std::exchange(frame, nullptr));
    }
    return status;
  }
  for (ExtentFrame* frame : group) {
    ClassOf(*frame).run_size_bytes.fetch_sub(frame->run().size_bytes(), std::memory_order_relaxed);
    ++truncated_extents;
    truncated_size_bytes += frame->run().size_bytes();
    ForgetHeld(frame);
  }
  DropUnheldFrames();
  for (ExtentFrame* frame : group) rcu::Retire(frame);
  return absl::OkStatus();
}

// There is no memory to list it again. Until there is, nobody finds the extent, in which no slot is
// live, and its map must not be loaded.
void Space::Impl::SetAside(ExtentFrame* frame) noexcept {
  if (!IsHeaderLost(frame->run())) BreakMapSeal(*pool, frame->address());
  held_frames.erase(std::remove(held_frames.begin(), held_frames.end(), frame), held_frames.end());
  frame->next_aside = std::exchange(aside, frame);
}

void Space::Impl::ListAside() noexcept {
  while (aside != nullptr) {
    ExtentFrame* const frame = aside;
    const absl::Status inserted = WithoutExceptions([&] {
      const absl::StatusOr<dax::Run> run = FindExtent(frame->run().first_page);
      if (!run.ok()) return run.status();
      if (!run->live) return absl::NotFoundError("");
      ReserveMore(held_frames, 1);
      return InsertFrame(frame);
    });
    const bool gone = absl::IsNotFound(inserted) || absl::IsAlreadyExists(inserted);
    if (!inserted.ok() && !gone) return;
    aside = frame->next_aside;
    if (inserted.ok()) {
      if (!frame->held.empty()) held_frames.push_back(frame);
      if (!frame->is_large()) Attach(frame);
    } else {
      // Its run was released before the truncation failed; or a late retire has led to the extent,
      // or the listing, which got another frame and counted it.
      const uint64_t size_bytes = frame->run().size_bytes();
      ClassOf(*frame).run_size_bytes.fetch_sub(size_bytes, std::memory_order_relaxed);
      ForgetHeld(frame);
      rcu::Retire(frame);
    }
  }
}

std::optional<std::chrono::milliseconds> Space::Impl::Run() noexcept {
  if (stopping.load(std::memory_order_relaxed)) return std::nullopt;
  std::vector<uint16_t> wanted;
  bool make_room;
  {
    std::lock_guard<std::mutex> lock(wanted_mutex);
    wanted.swap(derive_wanted);
    make_room = std::exchange(room_wanted, false);
  }
  const bool called =
      make_room || !wanted.empty() || retired_waiting.load(std::memory_order_relaxed);
  if (make_room) space->MakeRoom().IgnoreError();
  bool looked_through, listing, has_aside;
  {
    std::lock_guard<std::mutex> lock(maintenance);
    RetireRound();
    for (const uint16_t class_number : wanted) {
      WithoutExceptions([&] { return DeriveSome(class_number, kDerivesPerRefill); }).IgnoreError();
    }
    looked_through = LookThroughSome();
    listing = ListForWorker();
    has_aside = aside != nullptr;
  }
  if (!looked_through) return std::chrono::milliseconds(0);
  if (listing) return kListingPause;
  // What a pin holds, or what there was no memory to free.
  const bool left_over = held_count.load(std::memory_order_relaxed) != 0 ||
                         in_round_count.load(std::memory_order_relaxed) != 0 || has_aside ||
                         abandoned_waiting.load(std::memory_order_relaxed);
  if (!left_over) return std::nullopt;
  held_poll = called ? kFirstHeldPoll : std::min(held_poll * 2, kLastHeldPoll);
  return std::max(held_poll, kFirstHeldPoll);
}

}  // namespace daxkv::kv
