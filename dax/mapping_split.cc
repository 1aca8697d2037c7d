// Splitting a large entry into smaller ones.
#include "absl/strings/str_cat.h"
#include "dax/mapping_impl.h"
#include "dax/yield_point.h"

namespace daxkv::dax::internal {

absl::Status MappingImpl::Split(uint64_t index, unsigned new_order) {
  absl::StatusOr<EntryLock> held = LockEntry(index);
  if (!held.ok()) return held.status();
  return SplitHeld(&*held, new_order);
}

// Readers meet at each index the old word or its piece; both lead to the same bytes, because each
// word tells its own order. Pins that exist stay at the old entry's Folio, where whoever breaks a
// piece looks for them (F2); a pinner that counts there from now on finds its entry changed.
absl::Status MappingImpl::SplitHeld(EntryLock* held, unsigned new_order) {
  const Extent extent = held->extent();
  const uint64_t index = extent.first_index;
  if (extent.first_frame == kNoFrame) {
    return absl::InvalidArgumentError(absl::StrCat("splitting the hole at index ", index));
  }
  if (new_order >= extent.order) {
    return absl::InvalidArgumentError(absl::StrCat("splitting index ", index, " of order ",
                                                   extent.order, " to order ", new_order));
  }
  const DaxEntry unlocked(xarray::Entry::FromRaw(held->unlocked_entry_));
  const uint64_t flags = unlocked.poisoned() ? uint64_t{DaxEntry::kPoisoned} : 0;
  const auto piece = [&](uint64_t first) {
    const uint64_t frame = extent.first_frame + (first - extent.first_index);
    return DaxEntry(frame, new_order, flags).xentry();
  };
  YieldPoint("split:locked");
  Cursor cursor(array_, index);
  for (;;) {
    {
      ArrayLock lock(array_);
      cursor.Set(index);
      absl::Status status = cursor.Split(new_order, piece);
      if (status.ok()) {
        FinishSplit(extent, new_order);
        held->mapping_ = nullptr;  // The lock went with the entry.
        return status;
      }
      if (!cursor.NeedsReserve()) return status;
    }
    if (absl::Status status = cursor.Reserve(); !status.ok()) return status;
  }
}

void MappingImpl::PoisonFrame(Pool* pool, uint64_t frame) {
  for (;;) {
    absl::StatusOr<EntryLock> held = LockFrame(pool, frame);
    if (!held.ok()) return;
    // The lock keeps the mapping alive: its destructor waits for it.
    if (held->extent().order == 0 || !held->mapping()->impl_->SplitHeld(&*held, 0).ok()) {
      held->Poison();
      return;
    }
  }
}

void MappingImpl::FinishSplit(const Extent& extent, unsigned new_order) {
  Folio* whole = frames_->At(extent.first_frame, extent.order);
  // Orders every pin that succeeded on the whole before what anybody does with a piece.
  whole->CountPinsAfterLocking();
  whole->ClearMapped();
  for (uint64_t page = 0; page < extent.pages(); page += uint64_t{1} << new_order) {
    frames_->At(extent.first_frame + page, new_order)->SetMapped(this, extent.first_index + page);
  }
  frames_->waits().WakeAll({this, extent.first_index});
}

}  // namespace daxkv::dax::internal
