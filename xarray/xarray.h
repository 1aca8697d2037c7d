// XArray: an ordered map from uint64_t indices to 64-bit entries, read without locks.
//
// It is a radix tree of 64-slot nodes. Dense or clustered indices cost about 9 bytes each, and a
// lookup is one load per level. What sets it apart from other maps:
//
//   entry   What is stored: a pointer, or a value of 63 bits, in one word (entry.h).
//   order   An entry may cover 2^order aligned indices at once. It is stored once; every covered
//           index finds it, and the array tells its order: callers never need to know it ahead.
//   tie     The slots that one such entry takes up in its node.
//   mark    Three bits beside each entry, which cost nothing to search for: finding the marked
//           entries of a large array touches only the paths that lead to them.
//   RCU     Readers take no lock and write no shared memory, whatever writers do.
//
// The plain calls of this class are each atomic and take what they need (an RCU section or the
// array's lock) by themselves. xarray/cursor.h has the second interface, for several steps under
// one lock or one RCU section, and for splitting entries.
//
//   XArray pages;
//   pages.Store(512, /*order=*/9, Entry::Value(7)).status();  // covers 512..1023
//   pages.Load(700);                                          // Value(7)
//   pages.GetOrder(700);                                      // 9
//   pages.Erase(700);                                         // all of 512..1023
//
// Who needs what
//
//   every plain call of this class            | nothing: they take what they need
//   LoadUnderRcu                              | an RCU section, or the lock
//   empty, AnyMarked                          | nothing: one load
//   Entries, MarkedEntries (entry_range.h)    | nothing: the range holds an RCU section
//   Cursor, reading                           | an RCU section, or the lock
//   Cursor, changing                          | the lock; Reserve() before it, if memory lacks
//   NodeObserver, when called                 | the lock is held; lock-free calls only
//
// typed_xarray.h is a front end over pointers and integers. tests/xarray/examples_test.cc has these
// headers' examples, to run.
//
// Semantics worth knowing
// X1. Null means "nothing there". It has no order, carries no mark, is never a conflict and is
//     skipped by every search. Storing null erases.
// X2. Store(index, order, entry) works on the aligned block of 2^order indices around `index`.
//     Smaller entries inside the block go, and their marks unite in the new one. An entry that is
//     larger than the block and covers it is replaced *as a whole*: it keeps its own order (so the
//     holder of any index of a huge entry can update it) and its marks. To make entries smaller:
//     erase, or Cursor::Split.
// X3. Erasing any covered index erases the whole entry.
// X4. Marks belong to the entry, whichever covered index they are set or asked through. Replacing
//     an entry keeps them, erasing clears them.
// X5. Ranges are closed, [first, last], and may end at UINT64_MAX.
// X6. Pointers stored are the caller's. The array frees only its nodes, after a grace period.
// X7. A mutating call that runs out of memory says so and leaves the array as it was. Overwriting
//     and erasing need no memory.
//
// Thread safety: every call below may run concurrently with every other, except the destructor. A
// caller that holds the lock must not make plain mutating calls (self-deadlock); it uses a Cursor.
#ifndef DAXKV_XARRAY_XARRAY_H_
#define DAXKV_XARRAY_XARRAY_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "xarray/entry.h"
#include "xarray/lock.h"
#include "xarray/node_observer.h"
#include "xarray/rcu.h"
#include "xarray/tree.h"

namespace daxkv::xarray {

// The largest order: half of all indices.
inline constexpr unsigned kMaxOrder = 63;

// What AllocCyclic found.
struct CyclicIndex {
  uint64_t index = 0;
  bool wrapped = false;  // it lies before where the search began
};

// An entry and the indices that it covers.
struct Located {
  Entry entry;
  uint64_t first = 0;
  uint64_t last = 0;
  unsigned order = 0;
};

// Whether Cursor::CompareExchangeInPlace works on an array. Overwriting and erasing a value take
// several ns less where it is not allowed: they need not be atomic beside it.
enum class InPlaceExchange { kAllowed, kNever };

template <unsigned kSlotShift>
class BasicCursor;
template <unsigned kSlotShift>
class EntryRange;
class TreeInspector;

// `kSlotShift`: log2 of the slots per node. 6 for use; 3 makes deep trees out of small tests.
template <unsigned kSlotShift>
class BasicXArray {
 public:
  using Cursor = BasicCursor<kSlotShift>;

  // `observer` (node_observer.h) is told how full nodes become; null for none. It outlives the
  // array.
  explicit BasicXArray(InPlaceExchange in_place = InPlaceExchange::kAllowed,
                       NodeObserver* observer = nullptr)
      : tree_(in_place == InPlaceExchange::kAllowed, observer) {}
  // Clear(). No other call may be under way.
  ~BasicXArray() { Clear(); }
  BasicXArray(const BasicXArray&) = delete;
  BasicXArray& operator=(const BasicXArray&) = delete;

  // ---- Lookups: lock-free, no memory written, usable under the lock too ----

  // The entry at `index`, null if none. One load per level.
  Entry Load(uint64_t index) const {
    rcu::ReadGuard guard;
    return LoadUnderRcu(index);
  }

  // As Load, for a caller that is in a read section or holds the lock.
  Entry LoadUnderRcu(uint64_t index) const { return tree_.Load(index); }

  // The entry at `index` together with the range that it covers; both of the same moment.
  std::optional<Located> Lookup(uint64_t index) const;

  // The order of the entry at `index`; nullopt if there is none (X1: null has no order).
  std::optional<unsigned> GetOrder(uint64_t index) const;

  // The first entry that overlaps [first, last]; nullopt if none. With a mark: that carries it.
  std::optional<Located> Find(uint64_t first, uint64_t last = UINT64_MAX) const;
  std::optional<Located> FindMarked(uint64_t first, uint64_t last, Mark mark) const;

  // The first entry that overlaps the aligned block of 2^order indices around `index`, be it
  // smaller or larger than the block.
  std::optional<Located> FindConflict(uint64_t index, unsigned order) const;

  // Calls fn for each entry (with the mark) that overlaps [first, last], in ascending order, until
  // fn returns false. fn runs outside any read section and lock: it may sleep, store and erase. An
  // entry that stays in the array throughout is seen exactly once; one that comes or goes
  // meanwhile may or may not be seen.
  using Visitor = absl::FunctionRef<bool(const Located&)>;
  void ForEach(uint64_t first, uint64_t last, Visitor fn) const;
  void ForEachMarked(uint64_t first, uint64_t last, Mark mark, Visitor fn) const;

  // The same for a range-based for loop, several times as fast, inside one read section; include
  // xarray/entry_range.h, which has the rules.
  EntryRange<kSlotShift> Entries(uint64_t first = 0, uint64_t last = UINT64_MAX) const;
  EntryRange<kSlotShift> MarkedEntries(Mark mark, uint64_t first = 0,
                                       uint64_t last = UINT64_MAX) const;

  // Copies the first entries (with the mark, if one is given) that overlap [first, last] to `out`.
  // Returns how many; fewer than out.size() only if there are no more. All of one read section.
  size_t Extract(uint64_t first, uint64_t last, absl::Span<Located> out,
                 std::optional<Mark> mark = std::nullopt) const;

  // Whether there is neither entry nor reservation.
  bool empty() const { return tree_.Head().is_null(); }

  // ---- Changes: take the lock; allocate, when they must, before they take it ----

  // Stores `entry` at the block of 2^order indices around `index` (X2); null erases every entry
  // that overlaps the block. Returns the entry that `index` had before. InvalidArgument: order >
  // kMaxOrder, or an internal entry. ResourceExhausted: no memory.
  absl::StatusOr<Entry> Store(uint64_t index, unsigned order, Entry entry);

  // Stores only if no entry or reservation overlaps the block. AlreadyExists: one does. Others as
  // Store; InvalidArgument also for null.
  absl::Status Insert(uint64_t index, unsigned order, Entry entry);

  // If the entry at `index` is `expected`, stores `desired` in its place (whole entry; null
  // erases). With null expected, stores at order 0. Returns the entry found: the exchange took
  // place if that equals `expected`. Errors as Store.
  absl::StatusOr<Entry> CompareExchange(uint64_t index, Entry expected, Entry desired);

  // Removes the entry that covers `index` (X3) and returns it; null if none. Needs no memory.
  Entry Erase(uint64_t index);

  // Covers [first, last] with `entry`, in one step under the lock. Entries that overlap the range
  // go first, as by EraseRange, with their marks. The range is made of as few entries of aligned
  // 2^order indices as possible (at most 126): 1..5 becomes 1, 2..3 and 4..5, and each tells its
  // own range and order. Null erases. InvalidArgument: first > last, or an internal entry.
  // ResourceExhausted: no memory.
  absl::Status StoreRange(uint64_t first, uint64_t last, Entry entry);

  // ---- Reservations and free indices ----
  //
  // A reserved index is taken but has no entry: loads and searches find null, Insert and Alloc pass
  // it by, and storing there needs no memory. Erasing, and storing null, end a reservation.

  // Reserves `index` unless something is there. ResourceExhausted: no memory.
  absl::Status Reserve(uint64_t index);
  // Ends the reservation of `index`, if it is one: what was stored there since stays.
  void Release(uint64_t index);

  // Stores `entry` at the lowest free index of [first, last] and returns that; with null, reserves
  // it. O(log) amortized. OutOfRange: all are taken. InvalidArgument: first > last, or an internal
  // entry. ResourceExhausted: no memory.
  absl::StatusOr<uint64_t> Alloc(Entry entry, uint64_t first = 0, uint64_t last = UINT64_MAX);
  // The same, but first in [max(first, *next), last], and from `first` on if nothing is free there.
  // *next becomes the index behind the one found (or `first` behind `last`), so freed indices are
  // used again as late as possible. *next is read and written under the lock.
  absl::StatusOr<CyclicIndex> AllocCyclic(Entry entry, uint64_t first, uint64_t last,
                                          uint64_t* next);

  // ---- Removal ----

  // Removes every entry that overlaps [first, last]; also one that reaches out of the range.
  // Returns how many. Reservations go uncounted.
  uint64_t EraseRange(uint64_t first, uint64_t last);

  // Removes everything, in time proportional to the nodes.
  void Clear();

  // ---- Marks ----

  bool GetMark(uint64_t index, Mark mark) const;  // lock-free; false at null
  bool SetMark(uint64_t index, Mark mark);        // false: nothing there, nothing done
  bool ClearMark(uint64_t index, Mark mark);      // false: nothing there, nothing done
  bool AnyMarked(Mark mark) const { return tree_.Marked(mark); }  // lock-free, O(1)

  // ---- The lock, for cursors ----

  void lock() { lock_.lock(); }
  bool try_lock() { return lock_.try_lock(); }
  void unlock() { lock_.unlock(); }

 private:
  friend class BasicCursor<kSlotShift>;
  friend class EntryRange<kSlotShift>;
  friend class TreeInspector;  // of the tests

  mutable internal::Tree<kSlotShift> tree_;  // const calls read it through a cursor
  // Keeps the lock in another cache line than the head, which readers want. By distance, because
  // g++ 12's AddressSanitizer misplaces aligned objects on the stack (GCC bug 110027).
  [[maybe_unused]] char apart_[64];
  WriterLock lock_;
};

using XArray = BasicXArray<6>;

extern template class BasicXArray<3>;
extern template class BasicXArray<6>;

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_XARRAY_H_
