// Extents that compaction empties: which ones, and what becomes of them.
#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "dax/huge_pages.h"
#include "kv/exceptions.h"
#include "kv/space_impl.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// Extents whose shares of used slots lie in the same fifth are equally good to be emptied.
constexpr double kShareSteps = 5;
// A kernel that has looked for a huge page so often in vain is not asked again.
constexpr unsigned kMostHugeRefusals = 4;

double UsedShare(const ExtentFrame& frame) {
  return static_cast<double>(frame.used_count()) / static_cast<double>(frame.slot_count());
}

uint64_t HugeBlockOf(const ExtentFrame& frame) { return frame.run().first_page / dax::kHugePages; }

// What is in use in each aligned 2 MiB of the pool.
HugeBlockUse UseOfHugeBlocks(const std::vector<ExtentFrame*>& frames) {
  HugeBlockUse use;
  for (const ExtentFrame* frame : frames) {
    // Those of several are large records': nothing else is in there.
    if (frame->run().pages > dax::kHugePages) continue;
    use[HugeBlockOf(*frame)] +=
        static_cast<uint64_t>(UsedShare(*frame) * static_cast<double>(frame->run().size_bytes()));
  }
  return use;
}

void AddUsage(const ExtentFrame& frame, SlotClassUsage* usage) {
  if (!frame.is_large()) {
    usage->kind = SlotKindOf(frame.layout().size_class);
    usage->slot_size_bytes = frame.layout().slot_size_bytes;
  }
  ++usage->extents;
  usage->size_bytes += frame.run().size_bytes();
  usage->slots += frame.slot_count();
  usage->used_slots += frame.used_count();
}

}  // namespace

// The emptiest extents whose used slots all fit into the free ones of the rest: moving them needs
// no new extent (but one that is partly filled already), and none is moved twice. Among equals
// those in the emptiest surroundings, so that the holes make room for large runs and for huge
// pages.
std::vector<ExtentFrame*> Space::Impl::FindSparse(const std::vector<ExtentFrame*>& of_class,
                                                  const HugeBlockUse& block_use,
                                                  double max_used_share) {
  using Rank = std::tuple<int, uint64_t, uint64_t>;  // The last tells blocks apart.
  std::vector<std::pair<Rank, ExtentFrame*>> ranked;
  uint64_t free_slots = 0;
  for (ExtentFrame* frame : of_class) {
    if (frame->ordered.load(std::memory_order_relaxed)) continue;
    free_slots += frame->slot_count() - std::min(frame->slot_count(), frame->used_count());
    const double share = UsedShare(*frame);
    if (share > max_used_share) continue;
    const uint64_t block = HugeBlockOf(*frame);
    ranked.emplace_back(Rank(static_cast<int>(share * kShareSteps), block_use.at(block), block),
                        frame);
  }
  std::sort(ranked.begin(), ranked.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<ExtentFrame*> sparse;
  uint64_t used_slots = 0;
  for (const auto& [rank, frame] : ranked) {
    const uint32_t used = frame->used_count();
    const uint64_t free_elsewhere =
        free_slots - (frame->slot_count() - std::min(frame->slot_count(), used));
    if (used_slots + used > free_elsewhere) break;
    // An empty one is for Reclaim.
    if (IsEmpty(*frame)) continue;
    // Its slots can't be reused as long as somebody holds the pin.
    if (!frame->held.empty() || IsPinned(*frame, 0)) continue;
    free_slots = free_elsewhere;
    used_slots += used;
    sparse.push_back(frame);
  }
  return sparse;
}

absl::StatusOr<uint64_t> Space::BeginEmptying(const EmptyingLimits& limits) {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  absl::Status status = limits.derive ? impl_->DeriveAll() : absl::OkStatus();
  if (!status.ok()) return status;
  impl_->RetireRound();
  std::map<uint16_t, std::vector<ExtentFrame*>> by_class;
  const std::vector<ExtentFrame*> all_frames = impl_->Frames();
  const HugeBlockUse block_use = UseOfHugeBlocks(all_frames);
  for (ExtentFrame* frame : all_frames) {
    const uint16_t number = frame->layout().size_class;
    if (number == kLargeClass) continue;
    const SlotKind kind = SlotKindOf(number);
    if (kind == SlotKind::kRecord || kind == SlotKind::kLeaf) {
      by_class[number].push_back(frame);
    }
  }
  std::vector<ExtentFrame*> chosen;
  uint64_t used_size_bytes = 0;
  uint64_t run_size_bytes = 0;
  for (const auto& [number, frames] : by_class) {
    for (ExtentFrame* frame : impl_->FindSparse(frames, block_use, limits.max_used_share)) {
      if (used_size_bytes >= limits.max_size_bytes) break;
      used_size_bytes += uint64_t{frame->used_count()} * frame->layout().slot_size_bytes;
      run_size_bytes += frame->run().size_bytes();
      chosen.push_back(frame);
    }
  }
  if (run_size_bytes < used_size_bytes + limits.least_gain_bytes) return 0;
  impl_->emptying.reserve(chosen.size());
  for (ExtentFrame* frame : chosen) {
    // Nobody allocates from it from then on.
    if (!impl_->Detach(frame)) continue;
    frame->place.store(Place::kEmptying, std::memory_order_seq_cst);
    impl_->emptying.push_back(frame);
  }
  return used_size_bytes;
}

bool Space::IsEmptying(Address address) const {
  const ExtentFrame* frame = impl_->FindFrame(address);
  return frame != nullptr && frame->place.load(std::memory_order_seq_cst) == Place::kEmptying;
}

absl::StatusOr<Address> Space::AllocateForMove(SlotKind kind, uint64_t size_bytes) {
  return impl_->AllocateSlot(kind == SlotKind::kLeaf ? kLeafClass : RecordClass(size_bytes),
                             Purpose::kMove);
}

absl::StatusOr<Address> Space::AllocateInOrder(uint64_t size_bytes) {
  return impl_->AllocateSlot(RecordClass(size_bytes), Purpose::kOrder);
}

void Space::EndOrdering() noexcept {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  for (size_t number = 0; number < impl_->classes.size(); ++number) {
    SizeClass* const size_class = impl_->classes.Find(number);
    if (size_class == nullptr) continue;
    Shard& shard = size_class->shards[kOrderShard];
    std::lock_guard<std::mutex> shard_lock(shard.mutex);
    if (shard.current != nullptr) impl_->Attach(std::exchange(shard.current, nullptr));
  }
  impl_->frames.ForEach(0, UINT64_MAX, [](const xarray::Located& located) {
    located.entry.pointer<ExtentFrame>()->ordered.store(false, std::memory_order_relaxed);
    return true;
  });
}

// A block that is not all in use would get blocks of the file system for its holes.
bool Space::Impl::IsFullHugeBlock(uint64_t block) const {
  const uint64_t first_page = block * dax::kHugePages;
  uint64_t used_pages = 0;
  frames.ForEach(first_page, first_page + dax::kHugePages - 1, [&](const xarray::Located& located) {
    const dax::Run& run = located.entry.pointer<ExtentFrame>()->run();
    if (run.first_page >= first_page) used_pages += run.pages;
    return true;
  });
  return used_pages == dax::kHugePages;
}

// The lock is given back for each: others free what they retired meanwhile.
void Space::UseHugePages() noexcept {
  if (impl_->pool->media().media_class != dax::MediaClass::kVolatile) return;
  unsigned refusals = 0;
  for (uint64_t block = 0; refusals < kMostHugeRefusals; ++block) {
    std::lock_guard<std::mutex> lock(impl_->maintenance);
    const std::optional<xarray::Located> next = impl_->frames.Find(block * dax::kHugePages);
    if (!next.has_value()) return;
    block = next->first / dax::kHugePages;
    if (!impl_->IsFullHugeBlock(block)) continue;
    const Address begin = block * dax::kHugePages << dax::kPageShift;
    refusals += !dax::AllocateHugePage(At(begin));
  }
}

absl::StatusOr<ReclaimResult> Space::EndEmptying() {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  const uint64_t extents_before = impl_->truncated_extents;
  const uint64_t size_bytes_before = impl_->truncated_size_bytes;
  impl_->RetireAllNow();
  std::vector<ExtentFrame*> empty;
  empty.swap(impl_->emptying);
  for (ExtentFrame* frame : empty) frame->place.store(Place::kDetached, std::memory_order_seq_cst);
  const auto first_in_use =
      std::partition(empty.begin(), empty.end(),
                     [this](const ExtentFrame* frame) { return impl_->IsEmpty(*frame); });
  std::for_each(first_in_use, empty.end(), [this](ExtentFrame* frame) { impl_->Attach(frame); });
  empty.erase(first_in_use, empty.end());
  std::sort(empty.begin(), empty.end(), [](const ExtentFrame* a, const ExtentFrame* b) {
    return a->run().first_page < b->run().first_page;
  });
  const absl::Status status = WithoutExceptions([&] { return impl_->TruncateExtents(&empty); });
  for (ExtentFrame* frame : empty) impl_->Attach(frame);  // Pinned.
  if (!status.ok()) return status;
  ReclaimResult result;
  result.extents_pinned = empty.size();
  result.extents_freed = impl_->truncated_extents - extents_before;
  result.size_bytes_freed = impl_->truncated_size_bytes - size_bytes_before;
  return result;
}

// Not by the pool's runs: the background asks every few seconds.
absl::StatusOr<std::vector<SlotClassUsage>> Space::UsageByClass() const {
  return WithoutExceptions([&]() -> absl::StatusOr<std::vector<SlotClassUsage>> {
    std::map<uint16_t, SlotClassUsage> by_class;
    std::array<xarray::Located, 256> some;
    size_t count = some.size();
    for (uint64_t from = 0; count == some.size();) {
      const rcu::ReadGuard guard;  // Keeps the frames.
      count = impl_->frames.Extract(from, UINT64_MAX, absl::MakeSpan(some));
      for (const xarray::Located& located : absl::MakeConstSpan(some.data(), count)) {
        from = located.last + 1;
        const auto& frame = *located.entry.pointer<ExtentFrame>();
        if (located.first == frame.address() >> dax::kPageShift) {
          AddUsage(frame, &by_class[frame.layout().size_class]);
        }
      }
    }
    std::vector<SlotClassUsage> all;
    for (const auto& [number, usage] : by_class) all.push_back(usage);
    return all;
  });
}

}  // namespace daxkv::kv
