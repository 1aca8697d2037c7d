// Breaks of layouts, and the truncation that is built on them.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "dax/invariant.h"
#include "dax/mapping_impl.h"
#include "dax/yield_point.h"

namespace daxkv::dax {
namespace internal {

const IndexRange* MappingImpl::FindBreak(const IndexRange& range) const {
  auto found = std::find_if(breaks_.begin(), breaks_.end(),
                            [&](const IndexRange& broken) { return broken.Overlaps(range); });
  return found == breaks_.end() ? nullptr : &*found;
}

// Three steps, each of which leaves less that can go on in the range: (1) no new entries, (2) no
// new pins on the entries there are, (3) no pins. After (2) nothing can become busy again, so
// unlike the kernel's scan (6be3e21d, and its fixes) this one need not start over for each busy
// page.
absl::StatusOr<LayoutBreak> MappingImpl::BreakLayouts(const IndexRange& range,
                                                      absl::Time deadline) {
  std::string busy;
  const auto too_late = [&] {
    return absl::DeadlineExceededError(
        absl::StrCat("breaking the layout of ", range.ToString(), ": ", busy));
  };
  // A try that must fail disturbs nobody.
  if (absl::Now() >= deadline) busy = DescribePins(range);
  if (!busy.empty()) return too_late();
  if (!RegisterBreak(range, deadline, &busy)) return too_late();
  std::optional<uint64_t> locked_last;
  absl::Cleanup undo = [&] {
    if (locked_last.has_value()) UnlockRange({range.first, std::min(*locked_last, range.last)});
    UnregisterBreak(range);
  };
  if (!LockRange(range, deadline, &locked_last, &busy) || !WaitForPins(range, deadline, &busy)) {
    return too_late();
  }
  std::move(undo).Cancel();
  LayoutBreak handle;
  handle.impl_ = this;
  handle.first_ = range.first;
  handle.last_ = range.last;
  return handle;
}

void MappingImpl::EndBreak(const IndexRange& range) {
  UnlockRange(range);
  UnregisterBreak(range);
}

bool MappingImpl::RegisterBreak(const IndexRange& range, absl::Time deadline, std::string* busy) {
  for (;;) {
    ArrayLock lock(array_);
    const IndexRange* other = FindBreak(range);
    if (other == nullptr) {
      breaks_.push_back(range);
      for (FaultInFlight* fault : faults_in_flight_) {
        if (fault->block.Overlaps(range)) fault->stale = true;
      }
      return true;
    }
    if (absl::Now() >= deadline) {
      *busy = absl::StrCat("another break holds ", other->ToString());
      return false;
    }
    SleepOn(BreakKey(), WaitTable::Mode::kShared, &lock, deadline);
  }
}

void MappingImpl::UnregisterBreak(const IndexRange& range) {
  ArrayLock lock(array_);
  breaks_.erase(std::find_if(breaks_.begin(), breaks_.end(), [&](const IndexRange& broken) {
    return broken.first == range.first;
  }));
  frames_->waits().WakeAll(BreakKey());
}

bool MappingImpl::LockRange(const IndexRange& range, absl::Time deadline,
                            std::optional<uint64_t>* locked_last, std::string* busy) {
  Cursor cursor(array_, range.first);
  for (;;) {
    YieldPoint("break:before-lock");
    ArrayLock lock(array_);
    // After a sleep the entry may be gone or another one: look at its place again.
    cursor.Set(locked_last->has_value() ? **locked_last + 1 : range.first);
    for (unsigned i = 0; i < kBatch; ++i) {
      const DaxEntry entry(cursor.FindNext(range.last));
      if (!entry) return true;
      if (entry.locked()) {
        if (absl::Now() >= deadline) {
          *busy = absl::StrCat("index ", cursor.first(), " is locked");
          return false;
        }
        SleepOn(KeyOf(entry, cursor.first()), WaitTable::Mode::kExclusive, &lock, deadline);
        break;
      }
      Replace(&cursor, entry, entry.With(DaxEntry::kLocked));
      *locked_last = cursor.last();
      if (cursor.last() >= range.last) return true;
    }
  }
}

bool MappingImpl::WaitForPins(const IndexRange& range, absl::Time deadline, std::string* busy) {
  Cursor cursor(array_, range.first);
  uint64_t index = range.first;
  for (;;) {
    Folio* waited = nullptr;
    {
      rcu::ReadGuard guard;
      cursor.Set(index);
      while (const DaxEntry entry = DaxEntry(cursor.FindNext(range.last))) {
        if (entry.zero()) continue;
        index = std::max(cursor.first(), range.first);
        // Pins on larger blocks are from before a split, which counted them when it had the entry
        // locked; so a plain look suffices for those.
        if (frames_->At(entry)->CountPinsAfterLocking() > 0) waited = frames_->At(entry);
        for (unsigned order = entry.order() + 1; order <= DaxEntry::kMaxOrder; ++order) {
          Folio* parent = frames_->At(entry.frame(), order);
          if (parent->pins() > 0) waited = parent;
        }
        if (waited != nullptr) break;
      }
    }
    if (waited == nullptr) return true;
    waits_.fetch_add(1, std::memory_order_relaxed);
    YieldPoint("break:busy");
    if (!waited->WaitUntilUnpinned(deadline)) {
      *busy = DescribePins(range);
      if (busy->empty()) *busy = absl::StrCat("index ", index, " was pinned until just now");
      return false;
    }
  }
}

void MappingImpl::UnlockRange(const IndexRange& range) {
  Cursor cursor(array_, range.first);
  for (;;) {
    ArrayLock lock(array_);
    for (unsigned i = 0; i < kBatch; ++i) {
      const DaxEntry entry(cursor.FindNext(range.last));
      if (!entry) return;
      Replace(&cursor, entry, entry.Without(DaxEntry::kLocked));
      frames_->waits().WakeOne(KeyOf(entry, cursor.first()));
    }
    cursor.Pause();
  }
}

void MappingImpl::EraseEntries(const IndexRange& range) {
  Cursor cursor(array_, range.first);
  for (;;) {
    ArrayLock lock(array_);
    for (unsigned i = 0; i < kBatch; ++i) {
      const DaxEntry entry(cursor.FindNext(range.last));
      if (!entry) return;
      const uint64_t first = cursor.first();
      CheckInvariant(entry.locked(), "a DAX entry is erased without its lock");
      // Before the entry: who sees that gone without our lock may map the frames elsewhere.
      if (!entry.zero()) frames_->At(entry)->ClearMapped();
      cursor.Erase();
      frames_->waits().WakeAll(KeyOf(entry, first));
    }
    cursor.Pause();
  }
}

absl::StatusOr<uint64_t> MappingImpl::FrameAt(uint64_t index) const {
  const std::optional<xarray::Located> located = array_.Lookup(index);
  if (!located.has_value() || DaxEntry(located->entry).zero()) return provider_->Locate(index);
  return DaxEntry(located->entry).frame() + (index - located->first);
}

absl::StatusOr<std::vector<Run>> MappingImpl::RunsIn(const IndexRange& range) const {
  std::vector<Run> runs;
  for (uint64_t index = range.first;;) {
    uint64_t pages = 1;
    const absl::StatusOr<uint64_t> frame = FrameAt(index);
    const absl::StatusOr<Run> run = frame.ok() ? pool_->FindRun(*frame) : frame.status();
    if (run.ok()) {
      absl::Status fits = CheckRunFits(*run, *frame, index, range);
      if (!fits.ok()) return fits;
      runs.push_back(*run);
      pages = run->pages;
    } else if (!absl::IsNotFound(run.status())) {
      return run.status();
    }
    if (pages > range.last - index) return runs;
    index += pages;
  }
}

absl::Status MappingImpl::CheckRunFits(const Run& run, uint64_t frame, uint64_t index,
                                       const IndexRange& range) const {
  const auto misfit = [&](const char* how) {
    return absl::InvalidArgumentError(absl::StrCat("the run of frames ", run.first_page, "..",
                                                   run.first_page + run.pages - 1, " ", how, " ",
                                                   range.ToString()));
  };
  // Runs are met in ascending order: one that is met in its middle began outside.
  if (frame != run.first_page || run.pages - 1 > range.last - index) {
    return misfit("is not wholly inside");
  }
  absl::Status status;
  array_.ForEach(index, index + run.pages - 1, [&](const xarray::Located& located) {
    const DaxEntry entry(located.entry);
    if (entry.zero()) return true;  // Pages of the run that nobody has written yet.
    if (located.first < index || located.last - index >= run.pages ||
        entry.frame() - run.first_page != located.first - index) {
      status = misfit("is not mapped as neighbours in");
    }
    return status.ok();
  });
  return status;
}

absl::Status MappingImpl::Truncate(const IndexRange& range, absl::Time deadline) {
  absl::StatusOr<LayoutBreak> broken = BreakLayouts(range, deadline);
  if (!broken.ok()) return broken.status();
  absl::StatusOr<std::vector<Run>> runs = RunsIn(range);
  if (!runs.ok()) return runs.status();
  YieldPoint("truncate:before-erase");
  EraseEntries(range);
  YieldPoint("truncate:erased");
  rcu::Synchronize();  // M7: whoever found an entry present has left its read section.
  return pool_->ReleaseRuns(*runs);
}

void MappingImpl::Shutdown() {
  const IndexRange everything{0, UINT64_MAX};
  std::string busy;
  RegisterBreak(everything, absl::InfiniteFuture(), &busy);
  std::optional<uint64_t> locked_last;
  LockRange(everything, absl::InfiniteFuture(), &locked_last, &busy);
  CheckInvariant(WaitForPins(everything, absl::InfinitePast(), &busy),
                 "a mapping is destroyed while extents of it are pinned");
  EraseEntries(everything);
}

}  // namespace internal

LayoutBreak& LayoutBreak::operator=(LayoutBreak&& other) noexcept {
  if (this == &other) return *this;
  Release();
  impl_ = std::exchange(other.impl_, nullptr);
  first_ = other.first_;
  last_ = other.last_;
  return *this;
}

void LayoutBreak::Release() {
  if (impl_ != nullptr) std::exchange(impl_, nullptr)->EndBreak({first_, last_});
}

}  // namespace daxkv::dax
