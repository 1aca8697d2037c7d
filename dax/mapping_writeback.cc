// Dirty tracking and writeback.
#include <vector>

#include "dax/mapping_impl.h"
#include "dax/yield_point.h"

namespace daxkv::dax::internal {

void MappingImpl::MarkDirty(const IndexRange& range) {
  Cursor cursor(array_, range.first);
  ArrayLock lock(array_);
  while (const DaxEntry entry = DaxEntry(cursor.FindNext(range.last))) {
    if (!entry.zero()) cursor.SetMark(kDirty);  // Nobody can have stored into a hole.
  }
}

// An entry is cleaned before its bytes are flushed: a store that the flush misses is followed by
// its own MarkDirty. The marks tell who owes the flush:
//
//   DIRTY     nobody has begun it
//   TOWRITE   the Writeback under way has; the mutex keeps others from taking that for clean
//
// Entries may be erased or split meanwhile: flushing bytes that are no longer theirs does no harm,
// since the pool stays mapped as a whole.
absl::Status MappingImpl::Writeback(const IndexRange& range) {
  std::lock_guard one_at_a_time(writeback_mutex_);
  MoveMarks(range, kDirty, kToWrite);
  absl::Status status;
  uint64_t index = range.first;
  for (bool more = true; more && status.ok();) {
    std::vector<DaxEntry> batch;
    {
      rcu::ReadGuard guard;
      Cursor cursor(array_, index);
      while (batch.size() < kBatch) {
        const DaxEntry entry(cursor.FindNextMarked(range.last, kToWrite));
        more = bool{entry} && cursor.last() < range.last;
        if (!entry) break;
        batch.push_back(entry);
        index = cursor.last() + 1;
        if (!more) break;
      }
    }
    YieldPoint("writeback:cleaned");
    for (DaxEntry entry : batch) {
      pool_->Flush(pool_->At(entry.frame() << kPageShift), entry.pages() << kPageShift);
    }
    if (!batch.empty()) status = pool_->Drain();
  }
  // After an error nobody knows which bytes are durable: all stay dirty.
  if (status.ok()) {
    MoveMarks(range, kToWrite, std::nullopt);
  } else {
    MoveMarks(range, kToWrite, kDirty);
  }
  return status;
}

void MappingImpl::MoveMarks(const IndexRange& range, xarray::Mark from,
                            std::optional<xarray::Mark> to) {
  Cursor cursor(array_, range.first);
  ArrayLock lock(array_);
  while (cursor.FindNextMarked(range.last, from)) {
    if (to.has_value()) cursor.SetMark(*to);
    cursor.ClearMark(from);
  }
}

}  // namespace daxkv::dax::internal
