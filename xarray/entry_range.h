// EntryRange: the entries of an XArray for a range-based for loop.
//
//   for (const Located at : array.Entries(100, 899)) Use(at.first, at.order, at.entry);
//   for (const Located at : array.MarkedEntries(Mark::k0)) ...
//
// The range holds an RCU read section from its making to its end: rcu.h's rule R1 applies to the
// loop's body. It may store to and erase from the array, the entry at hand included, but it must
// not sleep; BasicXArray::ForEach is for bodies that do. Entries come in ascending order, each
// once, also those that reach into the range from outside. One that other threads store or erase
// meanwhile may or may not come (cursor.h, C4).
#ifndef DAXKV_XARRAY_ENTRY_RANGE_H_
#define DAXKV_XARRAY_ENTRY_RANGE_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>

#include "xarray/cursor.h"
#include "xarray/rcu.h"
#include "xarray/xarray.h"

namespace daxkv::xarray {

template <unsigned kSlotShift>
class EntryRange {
  using Tree = internal::Tree<kSlotShift>;
  using Node = internal::Node<kSlotShift>;

 public:
  struct Sentinel {};

  // A forward iterator that keeps no reference into the array but under the range's read section.
  // All of its state lies in itself, where the compiler can keep it in registers: a step within a
  // node is a few loads.
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Located;
    using difference_type = std::ptrdiff_t;
    using pointer = const Located*;
    using reference = Located;

    Located operator*() const {
      const uint64_t slot = next_slot_ % kSearch - slots_;
      const uint64_t first = node_first_ + (slot << shift_);
      const unsigned order = shift_ + static_cast<unsigned>(__builtin_ctz(slots_));
      return {entry_, first, first | ((uint64_t{1} << order) - 1), order};
    }

    Iterator& operator++() {
      const unsigned slot = next_slot_;
      if (__builtin_expect(slot < Node::kSlots, true)) {
        const internal::Tie tie = node_->TryReadTie(slot);
        if (__builtin_expect(tie.entry.is_value() || tie.entry.is_pointer(), true)) {
          entry_ = tie.entry;
          slots_ = tie.slots;
          next_slot_ = slot + tie.slots;
          return *this;
        }
      }
      // The search wants the place only: so the entry at hand need not be kept in registers for it.
      Iterator place = *this;
      place.entry_ = Entry();
      place.slots_ = 1;
      *this = Next(place);
      return *this;
    }
    void operator++(int) { ++*this; }

    friend bool operator==(const Iterator& it, Sentinel) { return it.entry_.is_null(); }
    friend bool operator!=(const Iterator& it, Sentinel end) { return !(it == end); }

   private:
    friend class EntryRange;
    Iterator(Tree* tree, uint64_t last, int mark) : tree_(tree), last_(last), mark_(mark) {}
    // By value, so that an iterator's address does not escape.
    static Iterator Next(Iterator it);
    static Iterator Find(Iterator it, uint64_t first);
    static Iterator At(Iterator it, const BasicCursor<kSlotShift>& cursor);

    // Added to next_slot_ where only a search can find the next entry.
    static constexpr unsigned kSearch = 2 * Node::kSlots;

    Tree* tree_;
    Node* above_ = nullptr;  // where the search came down from to node_, if that is known
    uint64_t node_first_ = 0;
    uint64_t last_;
    int mark_;  // -1: marked or not
    unsigned shift_ = 0;
    Node* node_ = nullptr;  // null: the head
    Entry entry_;
    unsigned slots_ = 1;
    unsigned next_slot_ = 0;  // the slot behind the entry
  };

  Iterator begin() const { return Iterator::Find(Iterator(tree_, last_, mark_), first_); }
  Sentinel end() const { return {}; }

 private:
  friend class BasicXArray<kSlotShift>;
  EntryRange(Tree* tree, uint64_t first, uint64_t last, int mark)
      : tree_(tree), first_(first), last_(last), mark_(mark) {}

  rcu::ReadGuard guard_;
  Tree* tree_;
  uint64_t first_;
  uint64_t last_;
  int mark_;
};

extern template class EntryRange<3>;
extern template class EntryRange<6>;

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_ENTRY_RANGE_H_
