// Entry locks: taking, sleeping for, and giving back the LOCKED bit of a slot.
#include <utility>

#include "absl/strings/str_cat.h"
#include "dax/invariant.h"
#include "dax/mapping_impl.h"
#include "dax/yield_point.h"

namespace daxkv::dax {
namespace internal {

bool MappingImpl::SleepOn(const WaitKey& key, WaitTable::Mode mode, ArrayLock* lock,
                          absl::Time deadline) {
  waits_.fetch_add(1, std::memory_order_relaxed);
  WaitTable::Sleeper sleeper(&frames_->waits(), key, mode);
  lock->unlock();
  YieldPoint("wait:enqueued");
  const bool woken = sleeper.Sleep(deadline);
  YieldPoint("wait:woken");
  return woken;
}

void MappingImpl::Replace(Cursor* cursor, DaxEntry from, DaxEntry to) {
  CheckInvariant(cursor->CompareExchangeInPlace(from.xentry(), to.xentry()),
                 "a DAX entry is not what its holder or the array lock says");
}

EntryLock MappingImpl::TakeLock(Cursor* cursor, DaxEntry entry, uint64_t index) {
  Replace(cursor, entry, entry.With(DaxEntry::kLocked));
  EntryLock handle;
  handle.mapping_ = owner_;
  handle.extent_ = {entry.FirstIndex(index), entry.zero() ? kNoFrame : entry.frame(),
                    entry.order()};
  handle.unlocked_entry_ = entry.xentry().raw();
  return handle;
}

absl::StatusOr<EntryLock> MappingImpl::LockEntry(uint64_t index) {
  for (;;) {
    ArrayLock lock(array_);
    Cursor cursor(array_, index);
    const DaxEntry entry(cursor.Load());
    if (!entry) return absl::NotFoundError(absl::StrCat("index ", index, " is not mapped"));
    if (!entry.locked()) return TakeLock(&cursor, entry, index);
    SleepOn(KeyOf(entry, index), WaitTable::Mode::kExclusive, &lock, absl::InfiniteFuture());
  }
}

namespace {

// The mapping that holds `frame` and the frame's index in it. Under RCU; true a moment ago.
std::pair<MappingImpl*, uint64_t> FindOwner(const FrameTable& frames, uint64_t frame) {
  for (unsigned order = 0; order <= DaxEntry::kMaxOrder; ++order) {
    const Folio* folio = frames.Find(frame, order);
    MappingImpl* mapping = folio == nullptr ? nullptr : folio->mapping();
    if (mapping == nullptr) continue;
    return {mapping, folio->first_index() + (frame & ((uint64_t{1} << order) - 1))};
  }
  return {nullptr, 0};
}

}  // namespace

absl::StatusOr<EntryLock> MappingImpl::LockFrame(const Pool* pool, uint64_t frame) {
  const std::shared_ptr<FrameTable> frames = FrameTable::FindForPool(pool);
  for (;;) {
    std::optional<WaitTable::Sleeper> sleeper;
    {
      rcu::ReadGuard guard;  // Keeps the mapping allocated, though perhaps no longer in use.
      const auto [mapping, index] =
          frames == nullptr ? std::pair<MappingImpl*, uint64_t>() : FindOwner(*frames, frame);
      if (mapping == nullptr) {
        return absl::NotFoundError(absl::StrCat("frame ", frame, " is in no mapping"));
      }
      YieldPoint("lock-frame:owner-seen");
      ArrayLock lock(mapping->array_);
      Cursor cursor(mapping->array_, index);
      const DaxEntry entry(cursor.Load());
      // The frame may have moved to another index or mapping since we read it (S8).
      if (!entry || entry.zero() || entry.frame() + (index - entry.FirstIndex(index)) != frame) {
        continue;
      }
      if (!entry.locked()) return mapping->TakeLock(&cursor, entry, index);
      mapping->waits_.fetch_add(1, std::memory_order_relaxed);
      sleeper.emplace(&frames->waits(), mapping->KeyOf(entry, index), WaitTable::Mode::kExclusive);
    }
    // From here on the mapping may be freed: nothing of it is touched again.
    YieldPoint("wait:enqueued");
    sleeper->Sleep(absl::InfiniteFuture());
  }
}

void MappingImpl::Unlock(const Extent& extent, DaxEntry unlocked) {
  ArrayLock lock(array_);
  Cursor cursor(array_, extent.first_index);
  cursor.Load();
  Replace(&cursor, unlocked.With(DaxEntry::kLocked), unlocked);
  frames_->waits().WakeOne(KeyOf(unlocked, extent.first_index));
}

DaxEntry MappingImpl::Poison(const Extent& extent, DaxEntry unlocked) {
  ArrayLock lock(array_);
  Cursor cursor(array_, extent.first_index);
  cursor.Load();
  const DaxEntry poisoned = unlocked.With(DaxEntry::kPoisoned);
  Replace(&cursor, unlocked.With(DaxEntry::kLocked), poisoned.With(DaxEntry::kLocked));
  return poisoned;
}

void MappingImpl::WaitWhileLocked(uint64_t index) {
  ArrayLock lock(array_);
  const DaxEntry entry = LoadUnderRcu(index);
  if (!entry || !entry.locked()) return;
  SleepOn(KeyOf(entry, index), WaitTable::Mode::kShared, &lock, absl::InfiniteFuture());
}

}  // namespace internal

EntryLock& EntryLock::operator=(EntryLock&& other) noexcept {
  if (this == &other) return *this;
  Unlock();
  mapping_ = std::exchange(other.mapping_, nullptr);
  extent_ = other.extent_;
  unlocked_entry_ = other.unlocked_entry_;
  return *this;
}

void EntryLock::Unlock() {
  if (mapping_ == nullptr) return;
  // The mapping's destructor may be what we wake: the guard keeps its inside until we have left it.
  rcu::ReadGuard guard;
  std::exchange(mapping_, nullptr)
      ->impl_->Unlock(extent_, DaxEntry(xarray::Entry::FromRaw(unlocked_entry_)));
}

void EntryLock::Poison() {
  if (mapping_ == nullptr || extent_.first_frame == kNoFrame) return;
  const DaxEntry entry(xarray::Entry::FromRaw(unlocked_entry_));
  unlocked_entry_ = mapping_->impl_->Poison(extent_, entry).xentry().raw();
}

}  // namespace daxkv::dax
