// The way back of retired slots: queue, grace period, pins, bitmap or truncation; and the worker
// thread that does it.
#include <algorithm>
#include <chrono>

#include "kv/space_impl.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// A queue of so many addresses is not left waiting for more.
constexpr size_t kUrgentRetires = 4096;
constexpr std::chrono::milliseconds kGatherTime(10);
// How often pinned slots are looked at again: nobody tells us that a pin went.
constexpr std::chrono::milliseconds kFirstHeldPoll(20);
constexpr std::chrono::milliseconds kLastHeldPoll(1000);

unsigned QueueNumber() {
  static std::atomic<unsigned> next{0};
  thread_local const unsigned number = next.fetch_add(1, std::memory_order_relaxed) % kShards;
  return number;
}

}  // namespace

void Space::Retire(Address address, const uint64_t* link) {
  RetireQueue& queue = impl_->retire_queues[QueueNumber()];
  bool many = false;
  {
    std::lock_guard<std::mutex> lock(queue.mutex);
    queue.slots.push_back({address, link});
    many = queue.slots.size() == kUrgentRetires;
  }
  // Relaxed: the worker looks into the queues under their mutexes; a round that clears the flag
  // collects what was queued before it was set.
  if (!many && impl_->retired_waiting.load(std::memory_order_relaxed)) return;
  std::lock_guard<std::mutex> lock(impl_->worker_mutex);
  impl_->retired_waiting.store(true, std::memory_order_relaxed);
  impl_->urgent |= many;
  impl_->worker_wakeup.notify_one();
}

void Space::Quiesce() {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  impl_->RetireRound();
}

std::vector<Retired> Space::Impl::CollectRetired() {
  {
    std::lock_guard<std::mutex> lock(worker_mutex);
    retired_waiting.store(false, std::memory_order_relaxed);
  }
  std::vector<Retired> all = std::move(undrained);
  undrained.clear();
  for (RetireQueue& queue : retire_queues) {
    std::vector<Retired> slots;
    {
      std::lock_guard<std::mutex> lock(queue.mutex);
      slots.swap(queue.slots);
      in_round_count.fetch_add(slots.size(), std::memory_order_relaxed);
    }
    all.insert(all.end(), slots.begin(), slots.end());
  }
  return all;
}

void Space::Impl::RetireRound() {
  std::vector<Retired> slots = CollectRetired();
  if (!slots.empty()) {
    rcu::Synchronize();
    if (DrainLinks(slots).ok()) {
      FreeRetired(slots);
    } else {
      undrained = std::move(slots);  // What the medium holds is not known: they stay used.
    }
  }
  FreeHeld();
}

// The store that unlinked a slot reaches the medium after its Retire: its writer waits for the
// msync outside of any read section. Were the slot reused before, a power cut could leave the old
// link and new bytes. Elsewhere the flush is started in the read section, and complete after the
// grace period, in which every processor passes a full barrier.
absl::Status Space::Impl::DrainLinks(const std::vector<Retired>& slots) {
  if (pool->media().media_class != dax::MediaClass::kPageCache) return absl::OkStatus();
  for (const Retired& slot : slots) {
    if (slot.link != nullptr) pool->Flush(slot.link, sizeof(*slot.link));
  }
  return pool->Drain();
}

// Frees slots whose readers have all left. Wrong addresses (from damaged nodes), slots already free
// and slots of extents that are yet to be derived are passed over (E5).
void Space::Impl::FreeRetired(const std::vector<Retired>& slots) {
  for (const auto& [address, link] : slots) {
    ExtentFrame* frame = FindFrame(address);
    if (frame == nullptr) {
      const absl::StatusOr<dax::Run> run = pool->FindRun(address >> dax::kPageShift);
      if (!run.ok() || !run->live) continue;
      const absl::StatusOr<ExtentFrame*> loaded = LoadFrame(run->offset(), /*retired=*/true);
      if (!loaded.ok() || *loaded == nullptr) continue;
      frame = *loaded;
    }
    const std::optional<uint32_t> slot = frame->SlotAt(address);
    if (!slot.has_value() || !frame->IsUsed(*slot)) continue;
    if (frame->held.count(*slot) != 0) continue;
    if (frame->is_large() || IsPinned(*frame, *slot)) {
      Hold(frame, *slot);  // FreeHeld truncates the large ones.
    } else {
      ReleaseSlot(frame, *slot);
    }
  }
  in_round_count.fetch_sub(slots.size(), std::memory_order_relaxed);
}

// A pin that may show the slot was taken before the slot's grace period ended, so it is counted.
bool Space::Impl::IsPinned(const ExtentFrame& frame, uint32_t slot) const {
  return mapping.PinCount(frame.SlotAddress(slot) >> dax::kPageShift) != 0;
}

void Space::Impl::Hold(ExtentFrame* frame, uint32_t slot) {
  if (frame->held.empty()) held_frames.push_back(frame);
  frame->held.insert(slot);
  if (held_count.fetch_add(1, std::memory_order_relaxed) != 0) return;
  // The worker begins to look whether pins went.
  std::lock_guard<std::mutex> lock(worker_mutex);
  worker_wakeup.notify_one();
}

void Space::Impl::FreeHeld() {
  std::vector<ExtentFrame*> frames_to_try;
  frames_to_try.swap(held_frames);
  for (ExtentFrame* frame : frames_to_try) {
    // A slab's slots share one pin count, but for those of an extent in pieces around a lost page.
    const auto is_pinned = [&](uint32_t slot) { return IsPinned(*frame, slot); };
    const auto end = pool->HasLostPages() ? frame->held.end() : std::next(frame->held.begin());
    if (!frame->is_large() && std::any_of(frame->held.begin(), end, is_pinned)) {
      held_frames.push_back(frame);
      continue;
    }
    if (frame->is_large()) {
      if (TruncateExtent(frame, absl::InfinitePast()).ok()) {
        held_count.fetch_sub(1, std::memory_order_relaxed);
      } else {
        held_frames.push_back(frame);  // Pinned, or the medium failed: again later.
      }
      continue;
    }
    for (const uint32_t slot : frame->held) ReleaseSlot(frame, slot);
    held_count.fetch_sub(frame->held.size(), std::memory_order_relaxed);
    frame->held.clear();
  }
}

// E4: the frame is detached, and empty but for held slots, so nobody but us knows it. Its entry
// goes first: as soon as the run is released, the pages may get a new frame.
absl::Status Space::Impl::TruncateExtent(ExtentFrame* frame, absl::Time deadline) {
  const dax::Run run = frame->run();
  // A released run must not be committed by a later Drain.
  absl::Status committed = DrainAndCommit();
  if (!committed.ok()) return committed;
  EraseFrame(frame);
  absl::Status status = mapping.Truncate(run.first_page, run.pages, deadline);
  if (!status.ok()) {
    // Without memory for this, retires into the extent are passed over until the next session.
    InsertFrame(frame).IgnoreError();
    return status;
  }
  ClassOf(*frame).run_size_bytes.fetch_sub(run.size_bytes(), std::memory_order_relaxed);
  ++truncated_extents;
  truncated_size_bytes += run.size_bytes();
  rcu::Retire(frame);
  return absl::OkStatus();
}

void Space::Impl::WorkerLoop() {
  const dax::SurviveMediaErrors survive;
  std::chrono::milliseconds held_poll = kFirstHeldPoll;
  std::unique_lock<std::mutex> lock(worker_mutex);
  const auto stop = [this] { return stopping.load(std::memory_order_relaxed); };
  const auto called = [&] {
    return stop() || urgent || retired_waiting.load(std::memory_order_relaxed) ||
           !derive_wanted.empty();
  };
  while (!stop()) {
    if (held_count.load(std::memory_order_relaxed) == 0) {
      held_poll = kFirstHeldPoll;
      worker_wakeup.wait(
          lock, [&] { return called() || held_count.load(std::memory_order_relaxed) != 0; });
      if (!called()) continue;
    } else if (!worker_wakeup.wait_for(lock, held_poll, called)) {
      held_poll = std::min(held_poll * 2, kLastHeldPoll);
    }
    // A grace period serves many retires as well as one: let some gather.
    if (called() && derive_wanted.empty()) {
      worker_wakeup.wait_for(lock, kGatherTime, [&] { return stop() || urgent; });
    }
    if (stop()) return;
    const std::vector<uint16_t> wanted = std::move(derive_wanted);
    derive_wanted.clear();
    const bool make_room = room_wanted;
    urgent = room_wanted = false;
    lock.unlock();
    if (make_room) MakeRoom().IgnoreError();
    {
      std::lock_guard<std::mutex> maintenance_lock(maintenance);
      RetireRound();
      for (const uint16_t class_number : wanted) DeriveSome(class_number).IgnoreError();
    }
    lock.lock();
  }
}

}  // namespace daxkv::kv
