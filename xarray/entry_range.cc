#include "xarray/entry_range.h"

namespace daxkv::xarray {

template <unsigned kSlotShift>
auto EntryRange<kSlotShift>::Iterator::Next(Iterator it) -> Iterator {
  if (it.next_ == 0 || it.next_ > it.last_) {
    it.entry_ = Entry();
    return it;
  }
  BasicCursor<kSlotShift> cursor(it.tree_, it.index_);
  cursor.current_ = {it.entry_, it.node_, it.next_slot_ - it.slots_, it.slots_};
  cursor.next_ = it.next_;
  cursor.SearchNext(it.last_, it.mark_);
  return At(it, cursor);
}

template <unsigned kSlotShift>
auto EntryRange<kSlotShift>::Iterator::Find(Iterator it) -> Iterator {
  BasicCursor<kSlotShift> cursor(it.tree_, it.index_);
  cursor.Search(it.index_, it.last_, it.mark_);
  return At(it, cursor);
}

template <unsigned kSlotShift>
auto EntryRange<kSlotShift>::Iterator::At(Iterator it, const BasicCursor<kSlotShift>& cursor)
    -> Iterator {
  const auto& place = cursor.current_;
  it.node_ = place.node;
  it.entry_ = place.entry;
  it.slots_ = place.slots;
  it.next_slot_ = place.slot + place.slots;
  // Marked entries are found by their bits, not by going from slot to slot.
  it.steps_until_ = place.node != nullptr && it.mark_ < 0 ? Node::kSlots : 0;
  it.index_ = cursor.index_;
  it.next_ = cursor.next_;
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
