// Faults: finding or installing the entry of an index.
#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "dax/exceptions.h"
#include "dax/huge_pages.h"
#include "dax/invariant.h"
#include "dax/mapping_impl.h"
#include "dax/yield_point.h"

namespace daxkv::dax::internal {

absl::StatusOr<FaultResult> MappingImpl::Fault(uint64_t index, unsigned order, Access access) {
  if (order > DaxEntry::kMaxOrder) {
    return absl::InvalidArgumentError(
        absl::StrCat("fault of order ", order, ": orders are 0..", DaxEntry::kMaxOrder));
  }
  for (;;) {
    DaxEntry entry;
    {
      rcu::ReadGuard guard;
      entry = LoadUnderRcu(index);
    }
    if (entry && entry.poisoned()) return PoisonedError(index);
    if (entry && entry.zero() && access == Access::kWrite) {
      if (entry.locked()) {
        WaitWhileLocked(index);
      } else {
        YieldPoint("fault:hole-seen");
        EraseHole(index);
      }
      continue;
    }
    if (entry && entry.order() < order) {  // Before the lock bit: a fallback never sleeps.
      faults_fallback_[order].fetch_add(1, std::memory_order_relaxed);
      return FaultResult::kFallback;
    }
    if (entry && !entry.locked()) return FaultResult::kNoPage;
    if (entry) {
      WaitWhileLocked(index);
      continue;
    }
    absl::StatusOr<std::optional<unsigned>> installed = Install(index, order, access);
    if (!installed.ok()) return installed.status();
    if (!installed->has_value()) continue;
    const bool fallback = **installed < order;
    (fallback ? faults_fallback_ : faults_no_page_)[order].fetch_add(1, std::memory_order_relaxed);
    return fallback ? FaultResult::kFallback : FaultResult::kNoPage;
  }
}

absl::Status MappingImpl::Prefault(const IndexRange& range, Access access) {
  for (uint64_t index = range.first;;) {
    absl::StatusOr<FaultResult> fault = Fault(index, DaxEntry::kMaxOrder, access);
    if (!fault.ok()) return fault.status();
    Pinned pinned;
    const PinAttempt attempt = TryPin(index, access, &pinned);
    if (attempt != PinAttempt::kPinned) {
      absl::Status status = PrepareToPin(attempt, index, access);
      if (!status.ok()) return status;
      continue;
    }
    const uint64_t last = pinned.first_index_ + ((pinned.size_bytes_ >> kPageShift) - 1);
    if (pinned.folio_ != nullptr) {
      absl::Status populated =
          PopulatePages(pinned.data_, pinned.size_bytes_, access == Access::kWrite);
      if (!populated.ok()) return populated;
    }
    if (last >= range.last) return absl::OkStatus();
    index = last + 1;
  }
}

std::optional<unsigned> MappingImpl::FreeOrder(uint64_t index, unsigned order) {
  Cursor cursor(array_, index);
  for (;; --order) {
    cursor.Set(index);
    cursor.SetOrder(order);
    if (FindBreak(IndexRange::Block(index, order)) == nullptr && !cursor.FindConflict()) {
      return order;
    }
    if (order == 0) return std::nullopt;
  }
}

absl::StatusOr<std::optional<unsigned>> MappingImpl::Install(uint64_t index, unsigned order,
                                                             Access access) {
  FaultInFlight fault;
  {
    ArrayLock lock(array_);
    if (FindBreak({index, index}) != nullptr) {
      SleepOn(BreakKey(), WaitTable::Mode::kShared, &lock, absl::InfiniteFuture());
      return std::nullopt;
    }
    const std::optional<unsigned> free_order = FreeOrder(index, order);
    if (!free_order.has_value()) return std::nullopt;  // Someone was quicker.
    order = *free_order;
    fault.block = IndexRange::Block(index, order);
    faults_in_flight_.push_back(&fault);
  }
  // `fault` must not be left behind in the list.
  absl::StatusOr<std::optional<unsigned>> installed =
      WithoutExceptions([&] { return ProvideExtent(index, order, access, fault); });
  ArrayLock lock(array_);
  faults_in_flight_.erase(std::find(faults_in_flight_.begin(), faults_in_flight_.end(), &fault));
  // An error of a stale answer says nothing about what lies there now.
  if (fault.stale && !installed.ok()) return std::nullopt;
  return installed;
}

absl::StatusOr<std::optional<unsigned>> MappingImpl::ProvideExtent(uint64_t index,
                                                                   unsigned max_order,
                                                                   Access access,
                                                                   const FaultInFlight& fault) {
  absl::StatusOr<Extent> extent;
  for (;; max_order = extent->order - 1) {
    {
      const SurviveMediaErrors survive;  // The provider may look at the extent's bytes.
      extent = provider_->Provide(index, max_order, access);
    }
    YieldPoint("fault:provided");
    if (!extent.ok()) return extent.status();
    absl::Status fits = CheckExtent(*extent, index, max_order, access);
    if (!fits.ok()) return fits;
    // Around a lost page there are smaller extents.
    if (!IsLost(*extent)) break;
    if (extent->order == 0) return PoisonedError(index);
  }
  if (extent->first_frame != kNoFrame) {
    if (absl::Status room = frames_->Reserve(extent->first_frame); !room.ok()) return room;
  }
  absl::StatusOr<std::optional<unsigned>> installed = InstallExtent(*extent, fault);
  // Lost since we asked: whoever listed the page may have found no entry yet. Either he sees ours,
  // or we see the page listed.
  if (installed.ok() && installed->has_value() && IsLost(*extent)) {
    for (uint64_t page = extent->first_frame; page < extent->first_frame + extent->pages();
         ++page) {
      if (pool_->IsLost(page << kPageShift, kPageSizeBytes)) PoisonFrame(pool_, page);
    }
  }
  if (options_.prefault != MappingOptions::Prefault::kNone && installed.ok() && *installed) {
    const bool write = options_.prefault == MappingOptions::Prefault::kWrite;
    Pinned pinned;  // Nobody gets the pages meanwhile.
    if (TryPin(index, access, &pinned) == PinAttempt::kPinned && pinned.folio_ != nullptr) {
      PopulatePages(pinned.data_, pinned.size_bytes_, write).IgnoreError();
    }
  }
  return installed;
}

bool MappingImpl::IsLost(const Extent& extent) const {
  return extent.first_frame != kNoFrame &&
         pool_->IsLost(extent.first_frame << kPageShift, extent.pages() << kPageShift);
}

absl::Status MappingImpl::CheckExtent(const Extent& extent, uint64_t index, unsigned max_order,
                                      Access access) const {
  const uint64_t mask = extent.order <= DaxEntry::kMaxOrder ? extent.pages() - 1 : UINT64_MAX;
  const bool frames_fit =
      extent.first_frame == kNoFrame
          ? access == Access::kRead
          : (extent.first_frame & mask) == 0 && extent.first_frame < FrameTable::kMaxFrames &&
                pool_->Contains(extent.first_frame << kPageShift, extent.pages() << kPageShift);
  if (extent.order > max_order || (index & ~mask) != extent.first_index || !frames_fit) {
    return absl::InternalError(absl::StrCat("the provider's extent for index ", index,
                                            " does not fit: order ", extent.order, " (at most ",
                                            max_order, "), first index ", extent.first_index,
                                            ", first frame ", extent.first_frame));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<unsigned>> MappingImpl::InstallExtent(const Extent& extent,
                                                                   const FaultInFlight& fault) {
  Cursor cursor(array_, extent.first_index);
  cursor.SetOrder(extent.order);
  const bool hole = extent.first_frame == kNoFrame;
  const DaxEntry entry = hole ? DaxEntry(0, extent.order, DaxEntry::kZero)
                              : DaxEntry(extent.first_frame, extent.order);
  for (;;) {
    {
      ArrayLock lock(array_);
      cursor.Reset();
      if (fault.stale || cursor.FindConflict()) return std::nullopt;
      cursor.Set(extent.first_index);
      if (absl::Status claimed = hole ? absl::OkStatus() : ClaimFrames(extent); !claimed.ok()) {
        return claimed;
      }
      absl::Cleanup give_up = [&] {
        if (!hole) frames_->At(entry)->ClearMapped();
      };
      absl::StatusOr<xarray::Entry> stored = cursor.Store(entry.xentry());
      if (stored.ok()) {
        std::move(give_up).Cancel();
        return extent.order;
      }
      if (!cursor.NeedsReserve()) return stored.status();
    }
    if (absl::Status status = cursor.Reserve(); !status.ok()) return status;
  }
}

absl::Status MappingImpl::ClaimFrames(const Extent& extent) {
  for (unsigned order = extent.order; order <= DaxEntry::kMaxOrder; ++order) {
    if (frames_->At(extent.first_frame, order)->mapping() != nullptr) {
      return absl::InternalError(absl::StrCat("frame ", extent.first_frame, " for index ",
                                              extent.first_index, " is mapped elsewhere"));
    }
  }
  frames_->At(extent.first_frame, extent.order)->SetMapped(this, extent.first_index);
  return absl::OkStatus();
}

// Pins of a hole hold its zeroes, not its entry, so it may go under them.
void MappingImpl::EraseHole(uint64_t index) {
  Cursor cursor(array_, index);
  ArrayLock lock(array_);
  const DaxEntry entry(cursor.Load());
  if (!entry || !entry.zero() || entry.locked()) return;
  cursor.Erase();
  frames_->waits().WakeAll(KeyOf(entry, index));
}

}  // namespace daxkv::dax::internal
