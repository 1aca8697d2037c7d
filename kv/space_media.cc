// Lost pages, and the slots on them (E6).
#include <algorithm>

#include "kv/space_impl.h"
#include "xarray/rcu.h"

namespace daxkv::kv {

bool Space::IsLost(Address address, uint64_t size_bytes) const {
  const dax::Pool& pool = *impl_->pool;
  return pool.HasLostPages() && address <= kAddressMask && pool.IsLost(address, size_bytes);
}

Address Space::PresentBeyond(Address end, Address wanted) const {
  const dax::Pool& pool = *impl_->pool;
  if (!pool.HasLostPages()) return end;
  const absl::StatusOr<dax::Run> run = pool.FindRun((end - 1) >> dax::kPageShift);
  // PresentUntil has seen to all of a large record.
  if (!run.ok() || UseOf(*run).kind != RunUse::Kind::kSlab) return end;
  const Address run_end = run->offset() + run->size_bytes();
  while (end < wanted && end < run_end) {
    const std::optional<dax::Extent> next = impl_->mapping.LookUp(end >> dax::kPageShift);
    if (!next.has_value()) return IsLost(end, 1) ? end : kNullAddress;
    end += next->pages() << dax::kPageShift;
  }
  return end;
}

void Space::SettleMediaErrors() {
  dax::Pool& pool = *impl_->pool;
  // Acquire pairs with the release below.
  const auto settled = [&] {
    return impl_->settled_media_events.load(std::memory_order_acquire) == pool.media_events();
  };
  if (settled()) return;
  // What could not be recorded is taken in all the same; what the pool can't do without, every
  // Drain reports.
  const uint64_t events = pool.media_events();
  pool.SettleMediaErrors().IgnoreError();
  for (const uint64_t page : pool.ListLostPages()) {
    rcu::ReadGuard guard;  // Keeps the frame.
    const absl::StatusOr<dax::Run> run = pool.FindRun(page);
    ExtentFrame* frame = run.ok() ? impl_->FindFrame(run->offset()) : nullptr;
    if (frame != nullptr && !frame->is_large()) impl_->SetAsideFreeSlots(frame, page);
  }
  impl_->settled_media_events.store(events, std::memory_order_release);
}

std::pair<uint32_t, uint32_t> Space::Impl::SlotsOnPage(const ExtentFrame& frame,
                                                       uint64_t page) const {
  const SlotLayout& layout = frame.layout();
  const uint64_t first_byte = (page << dax::kPageShift) - frame.address();
  const uint64_t last_byte = first_byte + dax::kPageSizeBytes - 1;
  if (last_byte < layout.first_slot_offset) return {0, 0};
  const uint64_t before = std::max<uint64_t>(first_byte, layout.first_slot_offset);
  const uint64_t first = (before - layout.first_slot_offset) / layout.slot_size_bytes;
  const uint64_t last = (last_byte - layout.first_slot_offset) / layout.slot_size_bytes;
  const uint64_t count = layout.slot_count;
  return {static_cast<uint32_t>(std::min(first, count)),
          static_cast<uint32_t>(std::min(last + 1, count))};
}

void Space::Impl::SetAsideFreeSlots(ExtentFrame* frame, uint64_t page) {
  const std::lock_guard<std::mutex> lock(media_mutex);
  const auto [first, end] = SlotsOnPage(*frame, page);
  for (uint32_t slot = first; slot < end; ++slot) {
    if (frame->ClaimSlot(slot)) frame->lost.insert(slot);
  }
  frame->changed.store(true, std::memory_order_relaxed);
}

bool Space::Impl::IsLostSlot(const ExtentFrame& frame, uint32_t slot) const {
  return pool->HasLostPages() &&
         pool->IsLost(frame.SlotAddress(slot), frame.layout().slot_size_bytes);
}

bool Space::Impl::KeepIfLost(ExtentFrame* frame, uint32_t slot) {
  if (!IsLostSlot(*frame, slot)) return false;
  const std::lock_guard<std::mutex> lock(media_mutex);
  frame->lost.insert(slot);
  return true;
}

size_t Space::Impl::LostCount(const ExtentFrame& frame) {
  if (!pool->HasLostPages()) return 0;
  const std::lock_guard<std::mutex> lock(media_mutex);
  return frame.lost.size();
}

bool Space::Impl::IsHeaderLost(const dax::Run& run) const {
  return pool->HasLostPages() && pool->IsLost(run.offset(), sizeof(ExtentHeader));
}

// The entries around a lost page are small, and of no order that is known here.
absl::Status Space::Impl::FaultAroundLostPages(const dax::Run& run) {
  for (uint64_t page = run.first_page; page < run.first_page + run.pages; ++page) {
    if (pool->IsLost(page << dax::kPageShift, 1)) continue;
    const absl::StatusOr<dax::FaultResult> result =
        mapping.Fault(page, dax::kHugeOrder, dax::Access::kWrite);
    // Lost since we looked.
    if (!result.ok() && !pool->IsLost(page << dax::kPageShift, 1)) return result.status();
  }
  return absl::OkStatus();
}

}  // namespace daxkv::kv
