// MappingImpl: the inside of a Mapping. Private to the mapping*.cc files.
//
// How the kernel's invariants (fs/dax.c) are met
//   I1  balance       A Sleeper belongs to one sleep; whoever locks gets an EntryLock or a
//                     LayoutBreak whose end unlocks. Nothing else is ever "got".
//   I2  unlock value  EntryLock keeps the exact word, Unlock exchanges it and stops on a mismatch.
//   I3  one key       (this, first index of the entry seen), entered under the array lock.
//   I4  after sleep   every loop begins with a fresh lookup and keeps no local of an older one.
//   I5  baton         exclusive sleepers come back to lock; woken, they lock, sleep again behind
//                     the new holder, or find the entry gone, whose eraser woke all.
//   I6  who is woken  Unlock: WakeOne. Erase and split: WakeAll with the old entry's key.
//   I7  no sleep under RCU: checked at each sleep. LockFrame keeps only the FrameTable across one.
//   I8  re-check      LockFrame looks the entry up under the array lock and compares frames.
//   I9  results       are StatusOr, never words that an entry could be.
//   I10 fallback      Fault looks for conflicts before it asks the provider and before it installs.
//   I11 downgrade     of a hole: its unlocked entry is erased, one array operation that needs no
//                     memory, and the write goes on as if nothing had been there. Counts are
//                     derived from the entries.
//   I12 writeback     cannot protect pages against stores; it cleans first, then flushes, and the
//                     storer marks after its store (Mapping::MarkDirty).
//   I13 dirty before writable: replaced by that same rule.
//   I14 counts        are pages, from the entries' orders.
//   I15 blocked       a break registers its range and turns faults away, then locks all entries in
//                     it, then waits for pins; the same break lasts until the runs are released.
//
// Locks, in order: entry locks (ascending), the array lock, the wait table's buckets. Under the
// array lock nothing sleeps and nothing of the pool or the provider is called.
#ifndef DAXKV_DAX_MAPPING_IMPL_H_
#define DAXKV_DAX_MAPPING_IMPL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "dax/dax_entry.h"
#include "dax/frame_table.h"
#include "dax/mapping.h"
#include "dax/pin_tracker.h"
#include "dax/pool.h"
#include "dax/wait_table.h"
#include "xarray/cursor.h"
#include "xarray/rcu.h"
#include "xarray/xarray.h"

namespace daxkv::dax::internal {

// A closed range of indices.
struct IndexRange {
  uint64_t first = 0;
  uint64_t last = 0;

  // The aligned block of 2^order indices around `index`.
  static IndexRange Block(uint64_t index, unsigned order) {
    const uint64_t mask = (uint64_t{1} << order) - 1;
    return {index & ~mask, index | mask};
  }
  // kInvalidArgument: no pages, or beyond the last index.
  static absl::StatusOr<IndexRange> OfPages(uint64_t first_index, uint64_t pages);

  bool Overlaps(const IndexRange& other) const {
    return first <= other.last && other.first <= last;
  }
  std::string ToString() const;
};

class MappingImpl : public rcu::Head {
 public:
  MappingImpl(Mapping* owner, Pool* pool, ExtentProvider* provider, const MappingOptions& options);

  // ---- Looking (mapping.cc) ----

  DaxEntry LoadUnderRcu(uint64_t index) const { return DaxEntry(array_.LoadUnderRcu(index)); }
  MappingStats Stats() const;
  absl::Status PoisonedError(uint64_t index) const;

  // ---- Pins (mapping_pin.cc) ----

  absl::StatusOr<Pinned> Pin(uint64_t index, Access access);
  absl::StatusOr<Pinned> TryPin(uint64_t index);
  absl::StatusOr<PinnedRange> PinRange(uint64_t first_byte, uint64_t size_bytes, Access access);
  absl::StatusOr<PinnedRange> TryPinRange(uint64_t first_byte, uint64_t size_bytes);
  uint32_t PinCount(uint64_t index) const;
  PinReport ReportPins(size_t most_extents) const;

  // ---- Faults (mapping_fault.cc) ----

  absl::StatusOr<FaultResult> Fault(uint64_t index, unsigned order, Access access);
  absl::Status Prefault(const IndexRange& range, Access access);

  // ---- Entry locks (mapping_lock.cc) ----

  absl::StatusOr<EntryLock> LockEntry(uint64_t index);
  static absl::StatusOr<EntryLock> LockFrame(const Pool* pool, uint64_t frame);
  // Of the entry that the caller has locked; `unlocked` is its word without LOCKED.
  void Unlock(const Extent& extent, DaxEntry unlocked);
  // Poisons the entry of one page, splitting a larger one; without memory for that, all of it. Does
  // nothing when the frame is in no mapping.
  static void PoisonFrame(Pool* pool, uint64_t frame);
  DaxEntry Poison(const Extent& extent, DaxEntry unlocked);
  // Sleeps once if the entry at `index` is locked.
  void WaitWhileLocked(uint64_t index);

  // ---- Breaks and truncation (mapping_truncate.cc) ----

  absl::StatusOr<LayoutBreak> BreakLayouts(const IndexRange& range, absl::Time deadline);
  void EndBreak(const IndexRange& range);
  absl::Status Truncate(const IndexRange& range, absl::Time deadline);
  // Waits for entry locks, then removes every entry. Stops the process if one is pinned.
  void Shutdown();

  // ---- Split (mapping_split.cc) ----

  absl::Status Split(uint64_t index, unsigned new_order);
  // Of an extent whose lock is given up by that. On an error the lock is still held.
  absl::Status SplitHeld(EntryLock* held, unsigned new_order);

  // ---- Writeback (mapping_writeback.cc) ----

  void MarkDirty(const IndexRange& range);
  absl::Status Writeback(const IndexRange& range);

 private:
  using Cursor = xarray::Cursor;
  using ArrayLock = std::unique_lock<xarray::XArray>;

  static constexpr xarray::Mark kDirty = xarray::Mark::k0;
  static constexpr xarray::Mark kToWrite = xarray::Mark::k1;

  // Entries per holding of the array lock in walks over a range.
  static constexpr unsigned kBatch = 256;

  // The index of the key under which those sleep who wait for any break's end. Its sleepers are all
  // shared, so an entry that really begins there costs them, and they it, no more than a look.
  static constexpr uint64_t kBreakIndex = UINT64_MAX;

  // A fault between its question to the provider and its installing (M8). On the faulter's stack,
  // listed in faults_in_flight_.
  struct FaultInFlight {
    IndexRange block;
    bool stale = false;  // A break of the block began meanwhile.
  };

  WaitKey KeyOf(DaxEntry entry, uint64_t index) const { return {this, entry.FirstIndex(index)}; }
  WaitKey BreakKey() const { return {this, kBreakIndex}; }

  // Sleeps on the key until woken (true) or the deadline (false). `lock` is held at the call and
  // not after it.
  bool SleepOn(const WaitKey& key, WaitTable::Mode mode, ArrayLock* lock, absl::Time deadline);

  // The rest wants the array lock unless it says otherwise.

  // Puts `to` in place of `from`, which is the cursor's current entry.
  static void Replace(Cursor* cursor, DaxEntry from, DaxEntry to);
  // Locks the unlocked entry at the cursor.
  EntryLock TakeLock(Cursor* cursor, DaxEntry entry, uint64_t index);
  const IndexRange* FindBreak(const IndexRange& range) const;

  // Fault's steps. Largest order up to `order` whose block around `index` has neither entries nor
  // breaks; nullopt if not even the page has.
  std::optional<unsigned> FreeOrder(uint64_t index, unsigned order);
  // Asks the provider and installs, without locks. nullopt: look again; otherwise the order.
  absl::StatusOr<std::optional<unsigned>> Install(uint64_t index, unsigned order, Access access);
  absl::StatusOr<std::optional<unsigned>> ProvideExtent(uint64_t index, unsigned max_order,
                                                        Access access, const FaultInFlight& fault);
  bool IsLost(const Extent& extent) const;
  absl::Status CheckExtent(const Extent& extent, uint64_t index, unsigned max_order,
                           Access access) const;
  absl::StatusOr<std::optional<unsigned>> InstallExtent(const Extent& extent,
                                                        const FaultInFlight& fault);
  // Claims the extent's Folio. kInternal: its frames are mapped elsewhere.
  absl::Status ClaimFrames(const Extent& extent);
  // Takes away the hole's entry at `index`, if it is still there and unlocked. Without locks.
  void EraseHole(uint64_t index);

  // Pinning. kAbsent also for a write into a hole; kRefused: at a limit.
  enum class PinAttempt { kPinned, kAbsent, kLocked, kPoisoned, kRefused };
  PinAttempt TryPin(uint64_t index, Access access, Pinned* pinned);
  // The status of an attempt that found nothing to pin.
  absl::Status TryPinError(PinAttempt attempt, uint64_t index) const;
  absl::Status PinLimitError(uint64_t index) const;
  // Does what a failed attempt asks for before another one; may sleep.
  absl::Status PrepareToPin(PinAttempt attempt, uint64_t index, Access access);
  // Pins the extents of the bytes into *range. On failure *index is the one that can't be pinned.
  PinAttempt TryPinRange(uint64_t first_byte, uint64_t size_bytes, Access access,
                         PinnedRange* range, uint64_t* index);

  // The pins that keep the entry busy.
  uint32_t PinsOf(DaxEntry entry) const {
    return !entry || entry.zero() ? 0 : frames_->Pins(entry.frame(), entry.order()).pins;
  }
  // Visits each extent whose pins keep entries of the range busy, while visit returns true: an
  // entry's own, or one from before a split.
  template <typename Visit>
  void ForEachPinned(const IndexRange& range, Visit visit) const;
  // "index 512 (order 9) has 2 pins, busy for 3.2s; ...": the first few. Empty without pins.
  std::string DescribePins(const IndexRange& range) const;

  // BreakLayouts' steps, without locks. Each false is the deadline, with the message in *busy.
  bool RegisterBreak(const IndexRange& range, absl::Time deadline, std::string* busy);
  // *locked_last: every entry that touches [range.first, **locked_last] is locked by this break.
  bool LockRange(const IndexRange& range, absl::Time deadline, std::optional<uint64_t>* locked_last,
                 std::string* busy);
  bool WaitForPins(const IndexRange& range, absl::Time deadline, std::string* busy);
  // Unlocks the entries that touch the range, all of them the break's.
  void UnlockRange(const IndexRange& range);
  void UnregisterBreak(const IndexRange& range);

  // Truncate's steps, inside a break and without locks.
  absl::StatusOr<std::vector<Run>> RunsIn(const IndexRange& range) const;
  absl::StatusOr<uint64_t> FrameAt(uint64_t index) const;
  absl::Status CheckRunFits(const Run& run, uint64_t frame, uint64_t index,
                            const IndexRange& range) const;
  void EraseEntries(const IndexRange& range);

  // Split's last step, under the array lock: the Folios, and who waits for the whole.
  void FinishSplit(const Extent& extent, unsigned new_order);

  // Clears one mark in the range, and sets another on the same entries. Without locks.
  void MoveMarks(const IndexRange& range, xarray::Mark from, std::optional<xarray::Mark> to);

  Mapping* const owner_;
  Pool* const pool_;
  ExtentProvider* const provider_;
  const MappingOptions options_;
  const std::unique_ptr<PinTracker> tracker_;  // Null unless pins are tracked.
  const std::shared_ptr<FrameTable> frames_;

  // Entries of DaxEntry words. Its lock also guards the two lists below.
  mutable xarray::XArray array_;
  std::vector<IndexRange> breaks_;  // Disjoint.
  std::vector<FaultInFlight*> faults_in_flight_;

  std::mutex writeback_mutex_;

  // Statistics only: relaxed.
  std::atomic<uint64_t> faults_no_page_[kHugeOrder + 1] = {};
  std::atomic<uint64_t> faults_fallback_[kHugeOrder + 1] = {};
  std::atomic<uint64_t> waits_{0};
};

}  // namespace daxkv::dax::internal

#endif  // DAXKV_DAX_MAPPING_IMPL_H_
