// Cursor: a position in an XArray, for several steps under one lock or one RCU section.
//
//   Cursor cursor(array, 100);                  Cursor cursor(array, index);
//   rcu::ReadGuard guard;                       cursor.SetOrder(9);
//   while (Entry e = cursor.FindNext(900)) {    std::lock_guard lock(array);
//     Use(cursor.first(), cursor.order(), e);   if (!cursor.FindConflict()) cursor.Store(entry);
//   }
//
// What each call needs:
//
//   Load Find FindNext FindMarked FindNextMarked         | an RCU section or the lock
//   FindConflict NextConflict Next Prev GetMark          |
//   CompareExchangeInPlace                               | an RCU section (or the lock)
//   Store Erase CompareExchange SetMark ClearMark Split  | the lock
//   SplitPath CreateRange                                |
//   Reserve                                              | neither: it allocates
//   Set SetOrder Pause Reset index first last order      | nothing
//
// Out of memory. These calls never allocate: they take nodes that the cursor holds in reserve,
// and count first what they need. If the reserve does not suffice they change nothing, return
// ResourceExhausted, and remember the number; Reserve() then allocates it:
//
//   for (;;) {
//     std::unique_lock lock(array);
//     cursor.Reset();                            // after a dropped lock: look again
//     ... decide ...
//     absl::StatusOr<Entry> old = cursor.Store(entry);
//     lock.unlock();
//     if (!cursor.NeedsReserve()) return old.status();
//     if (absl::Status status = cursor.Reserve(); !status.ok()) return status;
//   }
//
// Invariants
// C1. A cursor's position is valid inside one read section, or while the lock is held and nobody
//     but this cursor changes the array. When that ends, Pause() (go on behind the current entry)
//     or Reset() (look at the same index again) before the next call.
// C2. index() is where the caller looks: Find moves it forwards to the first index, at or behind
//     its old place, that the found entry covers. first()..last() is the whole entry. Marked and
//     unmarked searches behave the same.
// C3. Searches meet each entry once, in ascending order, also when they start in its middle, and
//     end at UINT64_MAX.
// C4. Under RCU a search may meet an entry that a writer replaces at that moment; entry, range and
//     order that the cursor reports belong together all the same.
//
// A cursor belongs to one thread.
#ifndef DAXKV_XARRAY_CURSOR_H_
#define DAXKV_XARRAY_CURSOR_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "xarray/entry.h"
#include "xarray/tree.h"
#include "xarray/xarray.h"

namespace daxkv::xarray {

template <unsigned kSlotShift>
class BasicCursor {
 public:
  using Array = BasicXArray<kSlotShift>;

  explicit BasicCursor(Array& array, uint64_t index = 0)
      : tree_(&array.tree_), index_(index), next_(index) {}
  BasicCursor(const BasicCursor&) = delete;
  BasicCursor& operator=(const BasicCursor&) = delete;

  // ---- Position ----

  // Goes to `index`, forgetting the current entry.
  void Set(uint64_t index) {
    Forget();
    index_ = next_ = index;
    at_end_ = false;
  }
  // The order (0..kMaxOrder) of Store and FindConflict, which work on the aligned block of that
  // order around index(). Starts as 0.
  void SetOrder(unsigned order) { store_order_ = order; }
  // Forgets the current entry and stays: the next FindNext looks at index() again.
  void Reset() { Set(index_); }
  // Forgets the current entry and goes where FindNext would continue: behind it, or behind what the
  // last search without success covered.
  void Pause() {
    Forget();
    if (!at_end_) index_ = next_;
  }

  uint64_t index() const { return index_; }
  // The current entry, null if none (nothing found, or after Set, Reset, Pause, Erase).
  Entry current() const { return current_.entry; }
  // Of the current entry, as of the call that found it. Without one: index(), index(), 0.
  uint64_t first() const { return current() ? current_.First(index_) : index_; }
  uint64_t last() const { return current() ? current_.Last(index_) : index_; }
  unsigned order() const { return current() ? current_.Order() : 0; }
  Located located() const { return {current(), first(), last(), order()}; }

  // ---- Reading ----

  // The entry at index(), null if none.
  Entry Load();
  // The first entry that covers an index in [index(), last]; null if none. index() follows (C2);
  // it stays if there is none.
  Entry Find(uint64_t last = UINT64_MAX);
  // The first entry behind the current one, up to `last`. Without a current entry: Find.
  Entry FindNext(uint64_t last = UINT64_MAX);
  // The same, among the entries that carry `mark`.
  Entry FindMarked(uint64_t last, Mark mark);
  Entry FindNextMarked(uint64_t last, Mark mark);
  // The first entry that overlaps the block of SetOrder around index(); null: the block is free.
  // index() stays in the block, so Store works on the same one.
  Entry FindConflict();
  // The next such entry behind the current one.
  Entry NextConflict();
  // One index on or back, then Load. Null also when there is no such index; index() then stays.
  Entry Next();
  Entry Prev();

  // Whether the entry at index() carries `mark`.
  bool GetMark(Mark mark);

  // Exchanges a value entry for another without the lock, in the canonical slot of the current
  // entry (found by any reading call). True: the slot held exactly `expected` and now holds
  // `desired`. False: it held anything else, or the entry has left the tree; look again. Order,
  // range and marks stay. Both must be values, and equal `expected` must mean the same entry to the
  // caller, whose order it should therefore encode.
  //
  // Safe against every writer: one that removes the entry does so by an atomic exchange, so either
  // this call fails, or the remover gets `desired` returned. Not so for the many small entries that
  // a larger Store sweeps away, nor for Split: their caller must have ruled out concurrent
  // exchanges (dax holds the entry locks).
  // Of an array made with InPlaceExchange::kAllowed only (asserted; always false on others).
  bool CompareExchangeInPlace(Entry expected, Entry desired);

  // ---- Changing ----

  // Stores at the block of SetOrder around index() (X2) and returns the entry that index() had;
  // null erases every entry that overlaps the block. Afterwards the stored entry is the current
  // one. InvalidArgument: order > kMaxOrder, internal entry. ResourceExhausted: Reserve() and try
  // again.
  absl::StatusOr<Entry> Store(Entry entry);

  // If the entry at index() is `expected`, replaces it as a whole (null erases). With null
  // expected, stores as Store does, at SetOrder's block, if index() is null. Returns the entry
  // found: done if it equals `expected`. Errors as Store.
  absl::StatusOr<Entry> CompareExchange(Entry expected, Entry desired);

  // Removes the whole entry that covers index() and returns it, null if none. FindNext continues
  // behind it. Needs no memory.
  Entry Erase();

  // Sets or clears a mark of the entry at index(); false if there is none.
  bool SetMark(Mark mark);
  bool ClearMark(Mark mark);

  // Splits the entry at index(), of an order above `new_order`, into entries of `new_order`, each
  // with all its marks. `piece` gives the entry of the block that begins at an index: non-null, not
  // internal. A reader sees at each index the old entry or its piece, never anything else.
  // NotFound: no entry. InvalidArgument: it is not larger than new_order, or a piece is null or
  // internal (nothing changes). ResourceExhausted: as Store; without NeedsReserve(): it would
  // take more than 2^24 nodes. Afterwards the piece at index() is the current entry.
  using Piece = absl::FunctionRef<Entry(uint64_t first)>;
  absl::Status Split(unsigned new_order, Piece piece);

  // Splits the entry at index() no further than an entry of `new_order` around index() asks for: it
  // is halved again and again, and the halves without index() stay whole. So at most one node per
  // level is taken, however large the entry. `piece` gives the entry of the block of 2^order
  // indices from `first` on; also of the halves that are split further, which readers may see in
  // between. Errors as Split, before anything changes.
  using PieceOfOrder = absl::FunctionRef<Entry(uint64_t first, unsigned order)>;
  absl::Status SplitPath(unsigned new_order, PieceOfOrder piece);

  // Brings the nodes for a whole range: after OK, and as long as the lock is held and nothing is
  // erased, Store through this cursor fails at no index of [index(), last] for want of memory, if
  // its order is at least that of SetOrder now. The nodes stay in the cursor: none is linked empty,
  // and those that are not used go with it. InvalidArgument: last < index(), or order > kMaxOrder.
  // ResourceExhausted: Reserve() and try again; without NeedsReserve(): it would take more than
  // 2^24 nodes. O(nodes that are there).
  absl::Status CreateRange(uint64_t last);

  // Whether the last Store, CompareExchange, Split or CreateRange failed for want of nodes.
  bool NeedsReserve() const { return nodes_wanted_ > reserve_.size(); }
  // Allocates those nodes. ResourceExhausted: no memory. Call it without the lock, outside RCU.
  absl::Status Reserve();

 private:
  friend class BasicXArray<kSlotShift>;
  friend class EntryRange<kSlotShift>;
  using Tree = internal::Tree<kSlotShift>;
  using Node = internal::Node<kSlotShift>;
  using Tie = internal::Tie;
  using Place = internal::Place<kSlotShift>;
  static constexpr int kUnmarked = -1;  // any entry will do, marked or not
  static constexpr int kTaken = -2;     // so will a reservation

  explicit BasicCursor(Tree* tree, uint64_t index) : tree_(tree), index_(index), next_(index) {}

  void Forget() {
    at_end_ = AtEnd();
    current_ = Place();
    above_ = nullptr;
  }
  // Whether the current entry, or the last search without success, reached UINT64_MAX.
  bool AtEnd() const { return at_end_ || (current() && next_ == 0); }
  Entry Arrive(const Place& place, uint64_t index, Node* above = nullptr);
  static Node* Onwards(Node* node, Node** above, uint64_t index);
  Entry NotFound(uint64_t last);
  Entry Search(uint64_t index, uint64_t last, int mark);
  Entry SearchNext(uint64_t last, int mark);
  Entry SearchOnwards(Node* node, Node* above, uint64_t last, int mark);
  bool SearchBelow(Node* node, Node* above, uint64_t* index, uint64_t last, int mark, Entry* found);
  absl::Status CheckStore(Entry entry) const;
  absl::Status NeedNodes(uint64_t nodes);
  absl::StatusOr<Entry> Put(Entry entry);
  bool FindTaken(uint64_t first, uint64_t last);
  Entry EraseBlock();

  Tree* tree_;
  uint64_t index_;
  uint64_t next_;        // where FindNext continues without a current entry
  bool at_end_ = false;  // next_ would be behind UINT64_MAX
  unsigned store_order_ = 0;
  Place current_;
  Node* above_ = nullptr;  // where the search came down from to current_.node, if that is known
  internal::NodeReserve<kSlotShift> reserve_;
  uint64_t nodes_wanted_ = 0;
};

// Inline for the speed of iteration: mostly the next entry is in the next slot.
template <unsigned kSlotShift>
inline Entry BasicCursor<kSlotShift>::FindNext(uint64_t last) {
  Node* const node = current_.node;
  const unsigned slot = current_.slot + current_.slots;
  const uint64_t index = next_;
  // Behind UINT64_MAX there are only empty slots, or none.
  if (__builtin_expect(node == nullptr || slot >= Node::kSlots || index > last, false)) {
    return SearchNext(last, kUnmarked);
  }
  const Tie tie = node->TryReadTie(slot);
  if (__builtin_expect(tie.entry.is_null() || tie.entry.is_internal(), false)) {
    return SearchNext(last, kUnmarked);
  }
  current_.entry = tie.entry;
  current_.slot = slot;
  current_.slots = tie.slots;
  index_ = index;
  next_ = index + (uint64_t{tie.slots} << node->shift);
  return tie.entry;
}

using Cursor = BasicCursor<6>;

extern template class BasicCursor<3>;
extern template class BasicCursor<6>;

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_CURSOR_H_
