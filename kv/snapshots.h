// Snapshots: numbers at which the store can be read as it was, whatever is written meanwhile. All
// indexes of a store share them, and so a snapshot sees all of them at one moment.
//
// Every put takes a number from one counter, and its record carries it. A snapshot takes the
// counter's value S. At S a key has the version that *begins* at or below S and does not end there:
//   a version begins with its record's number; or, if the record appears in its leaf only after a
//   snapshot at or above that number was taken, with a fresh number (a *late* version)
//   it ends where its successor begins, or at a fresh number taken by its delete
// So a writer may wait for the medium between number and publication for as long as it likes: no
// snapshot waits for that, and no writer has to start over for a snapshot.
//
// What a slot alone does not tell is kept in histories of leaves (leaf_history.h). Each version
// there is owned by one snapshot, the newest that needs it (as deadlists of ZFS). When that one is
// released, each of its versions goes to the next older snapshot if that needs it too, and else
// comes free: a release costs what the snapshot alone held, whatever others hold.
//
// A snapshot costs writers nothing but the memory and slots of what they supersede, and two atomic
// additions for each store of a slot whether or not there are snapshots.
//
// Thread safety: every method from any thread.
//
// Invariants
//   N1  A number above S is taken after the snapshot is registered, and who takes one sees it
//       registered (both are operations on the counter).
//   N2  Slots are stored inside a WriteWindow. A writer that does not see the snapshot has stored
//       before Acquire returns, and all its numbers are below S.
//   N3  A fresh number that a window takes is below S of every snapshot that the window does not
//       see. Only the newest snapshot counts for the question whether a version must be kept:
//       whatever begins above its number, begins above those of all the others.
//   N4  The slot of a superseded version is retired when it leaves the history, in one ReadGuard.
#ifndef DAXKV_KV_SNAPSHOTS_H_
#define DAXKV_KV_SNAPSHOTS_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kv/format.h"
#include "kv/leaf_history.h"
#include "kv/memory.h"
#include "kv/record.h"
#include "kv/write_windows.h"

namespace daxkv::kv {

// A snapshot that is registered. Read through Snapshots.
class SnapshotEntry {
 public:
  uint64_t number() const { return number_.load(std::memory_order_relaxed); }

 private:
  friend class Snapshots;
  friend class CommitWindow;
  std::atomic<uint64_t> number_{0};  // 0 while it is being made.
  // What it owns: pushed by writers in their windows, taken by its release.
  std::atomic<Version*> owned_{nullptr};
  std::atomic<uint64_t> versions_{0}, size_bytes_{0};
  // The rest under Snapshots::mutex_.
  uint64_t references_ = 1;
  bool settled_ = false;  // Every writer that does not see it has stored.
  SnapshotEntry* older_ = nullptr;
  SnapshotEntry* newer_ = nullptr;
  std::chrono::steady_clock::time_point made_;
};

struct SnapshotStats {
  uint64_t snapshots = 0;                  // Different ones; iterators have theirs.
  std::chrono::nanoseconds oldest_age{0};  // 0 without snapshots.
  uint64_t versions = 0;                   // Superseded records kept for them.
  uint64_t size_bytes = 0;                 // Of those records.
};

class Snapshots {
 public:
  // Numbers begin above all those of earlier opens: the upper 24 bits are the open epoch.
  explicit Snapshots(uint64_t open_epoch);
  // There may be versions left, but no user of a snapshot.
  ~Snapshots();
  Snapshots(const Snapshots&) = delete;
  Snapshots& operator=(const Snapshots&) = delete;

  // Acquires and releases: N1.
  uint64_t NextNumber() { return last_number_.fetch_add(1, std::memory_order_acq_rel) + 1; }

  // Of all numbers taken so far.
  uint64_t LastNumber() const { return last_number_.load(std::memory_order_seq_cst); }

  // A snapshot of now: it shows every change that was complete before the call. To be released
  // once. Waits for the slot stores under way. Throws std::bad_alloc.
  SnapshotEntry* Acquire();
  // One more reference to it, to be released as well.
  SnapshotEntry* Share(SnapshotEntry* snapshot);
  void Release(SnapshotEntry* snapshot) noexcept;

  // For readers, inside a ReadGuard: null if the leaf has no history.
  const LeafHistory* HistoryOf(Address leaf) const { return histories_.Find(leaf); }

  // Of a leaf that the caller has locked; without a history it gets none but from the caller.
  bool HasHistory(Address leaf) const {
    const rcu::ReadGuard guard;
    return histories_.Find(leaf) != nullptr;
  }

  // A hint of a writer that will change the leaf.
  void PrefetchHistory(Address leaf) const {
    if (!any()) return;
    const rcu::ReadGuard guard;
    histories_.Prefetch(leaf);
  }

  // Whether a snapshot of a number below this one is held, or is about to hand on what it owned.
  // Once not, never again, if no lower number is left to be taken.
  bool AnyBelow(uint64_t number);

  bool any() const { return newest_.load(std::memory_order_relaxed) != nullptr; }
  SnapshotStats Stats() const;
  // Calls visit(address) for each slot that is kept for snapshots.
  void ForEachKept(absl::FunctionRef<void(Address)> visit) const;

 private:
  friend class CommitWindow;
  friend class HistoryReserve;

  static void Own(SnapshotEntry& owner, Version* version) noexcept;
  // Hands on what a released snapshot owned, to `older` or (null) to nobody.
  void HandOn(SnapshotEntry& released, SnapshotEntry* older) noexcept;
  void Free(Version* version) noexcept;

  alignas(64) std::atomic<uint64_t> last_number_;
  alignas(64) std::atomic<SnapshotEntry*> newest_{nullptr};  // Stored under mutex_.
  mutable std::mutex mutex_;
  WriteWindows windows_;
  WriteWindows releases_;  // Releases under way.
  LeafHistories histories_;
};

// Memory for what a change may leave in histories, so that nothing fails once stores have begun.
class HistoryReserve {
 public:
  HistoryReserve() = default;
  ~HistoryReserve();
  HistoryReserve(const HistoryReserve&) = delete;
  HistoryReserve& operator=(const HistoryReserve&) = delete;

  // For `versions` more versions, in the history of `leaf`, which the caller has locked or made.
  // An update may need two: one for the old record, one for the new.
  //   kResourceExhausted  out of memory; the reserve is as it was, or has more
  absl::Status Add(Snapshots* snapshots, Address leaf, size_t versions);
  bool empty() const { return leaves_.empty(); }

 private:
  friend class CommitWindow;
  Version* Take() noexcept;

  Snapshots* snapshots_ = nullptr;
  Version* spare_ = nullptr;  // By next_owned.
  absl::InlinedVector<Address, 2> leaves_;
};

// A window in which slots are stored; all that is stored in one window appears at one moment to
// every snapshot, if its records carry one number. The caller holds the locks of the leaves. Short
// (N2: Acquire waits for it), except for a caller that had no snapshot to prepare for.
class CommitWindow {
 public:
  explicit CommitWindow(Snapshots* snapshots) noexcept;
  ~CommitWindow() { Close(); }
  CommitWindow(const CommitWindow&) = delete;
  CommitWindow& operator=(const CommitWindow&) = delete;
  void Close() noexcept;

  // If not, none of the calls below need be made. If so, they may need a reserve, which must not be
  // made inside the window: close it, make the reserve, open another.
  bool sees_snapshot() const { return newest_ != nullptr; }
  // Of a window that sees a snapshot: whether that needs a version which begins at `since` and is
  // superseded, or appears, in this window.
  bool MustKeep(uint64_t since) const {
    // Acquires what Acquire released. A snapshot that has no number yet may get one on either side
    // of any.
    const uint64_t newest_number = newest_->number_.load(std::memory_order_acquire);
    return newest_number == 0 || since <= newest_number;
  }

  // To be called before the slot of a new record is stored: where its version begins.
  uint64_t Begin(HistoryReserve* reserve, Address leaf, Address record, uint64_t number) noexcept;
  // Where a version ends by a delete.
  uint64_t End() const { return fresh_number_; }
  // To be called before the slot of a record is overwritten by a version that begins at `until`, or
  // cleared. Whether the record is kept, to go back to `memory` later; if not, the caller retires
  // it once the slot is stored.
  bool Supersede(HistoryReserve* reserve, Memory* memory, Address leaf, const RecordView& old,
                 const uint64_t* link, uint64_t until) noexcept;
  // To be called when versions of the locked leaf `from` must follow their keys to another leaf,
  // before that is linked: `home(version)` is the leaf that covers the version's key from now on.
  void MoveVersions(Address from, absl::FunctionRef<Address(const Version&)> home) noexcept;

 private:
  void Keep(Version* version, Address leaf) noexcept;

  Snapshots* snapshots_;
  WriteWindows::Token token_;
  SnapshotEntry* newest_ = nullptr;  // Null: no snapshot to care for.
  uint64_t fresh_number_ = 0;        // If there is one.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SNAPSHOTS_H_
