#include "xarray/entry_range.h"

namespace daxkv::xarray {

template <unsigned kSlotShift>
auto EntryRange<kSlotShift>::Iterator::Next(Iterator it) -> Iterator {
  const uint64_t index = it.node_first_ + (uint64_t{it.next_slot_ % kSearch} << it.shift_);
  it.entry_ = Entry();
  if (index == 0 || index > it.last_) return it;  // 0: behind UINT64_MAX
  BasicCursor<kSlotShift> cursor(it.tree_, index);
  cursor.SearchOnwards(it.node_, it.above_, it.last_, it.mark_);
  return At(it, cursor);
}

template <unsigned kSlotShift>
auto EntryRange<kSlotShift>::Iterator::Find(Iterator it, uint64_t first) -> Iterator {
  BasicCursor<kSlotShift> cursor(it.tree_, first);
  cursor.Search(first, it.last_, it.mark_);
  return At(it, cursor);
}

template <unsigned kSlotShift>
auto EntryRange<kSlotShift>::Iterator::At(Iterator it, const BasicCursor<kSlotShift>& cursor)
    -> Iterator {
  const auto& place = cursor.current_;
  it.node_ = place.node;
  it.above_ = cursor.above_;
  it.entry_ = place.entry;
  it.slots_ = place.slots;
  it.next_slot_ = place.slot + place.slots;
  it.shift_ = 0;
  it.node_first_ = 0;
  bool to_the_end = false;
  if (place.node != nullptr) {
    it.shift_ = place.node->shift;
    it.node_first_ = place.node->SlotFirst(cursor.index_, 0);
    to_the_end = place.node->LastIndex(cursor.index_) <= it.last_;
  }
  // Marked entries are found by their bits, not by going from slot to slot.
  if (it.mark_ >= 0 || !to_the_end) it.next_slot_ += kSearch;
  return it;
}

template <unsigned kSlotShift>
EntryRange<kSlotShift> BasicXArray<kSlotShift>::Entries(uint64_t first, uint64_t last) const {
  return EntryRange<kSlotShift>(&tree_, first, last, -1);
}

template <unsigned kSlotShift>
EntryRange<kSlotShift> BasicXArray<kSlotShift>::MarkedEntries(Mark mark, uint64_t first,
                                                              uint64_t last) const {
  return EntryRange<kSlotShift>(&tree_, first, last, static_cast<int>(mark));
}

template class EntryRange<3>;
template class EntryRange<6>;
template EntryRange<3> BasicXArray<3>::Entries(uint64_t, uint64_t) const;
template EntryRange<6> BasicXArray<6>::Entries(uint64_t, uint64_t) const;
template EntryRange<3> BasicXArray<3>::MarkedEntries(Mark, uint64_t, uint64_t) const;
template EntryRange<6> BasicXArray<6>::MarkedEntries(Mark, uint64_t, uint64_t) const;

}  // namespace daxkv::xarray
