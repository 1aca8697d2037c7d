// Splitting entries.
#include "xarray/tree.h"

namespace daxkv::xarray::internal {

template <unsigned kSlotShift>
uint64_t Tree<kSlotShift>::NodesToSplit(const Place& place, unsigned new_order) {
  const unsigned shift = place.node == nullptr ? 0 : place.node->shift;
  const unsigned new_shift = ShiftFor<kSlotShift>(new_order);
  if (shift > new_shift + 30) return UINT64_MAX;
  uint64_t nodes = 0;
  for (unsigned below = new_shift; below < shift; below += kSlotShift) {
    nodes += uint64_t{place.slots} << (shift - kSlotShift - below);
  }
  return nodes;
}

template <unsigned kSlotShift>
bool Tree<kSlotShift>::Split(const Place& place, uint64_t index, unsigned new_order, Piece piece,
                             Reserve& reserve) {
  Node* node = place.node;
  const unsigned new_shift = ShiftFor<kSlotShift>(new_order);
  const unsigned piece_slots = new_shift < node->shift ? 1 : 1u << (new_order - new_shift);
  const uint8_t marks = MarksAt(place);
  Entry made[kSlots];  // what goes to each canonical slot
  for (unsigned i = 0; i < place.slots; i += piece_slots) {
    const uint64_t first = place.First(index) + (uint64_t{i} << node->shift);
    made[i] = new_shift == node->shift
                  ? piece(first)
                  : MakePieces(node->shift - kSlotShift, first, new_order, piece, marks, reserve);
    const bool bad = made[i].is_null() || (made[i].is_internal() && new_shift == node->shift);
    if (bad) {
      while (i > 0) Unmake(made[i -= piece_slots], reserve);
      return false;
    }
  }
  for (unsigned i = 0; i < place.slots; i += piece_slots) {
    const unsigned slot = place.slot + i;
    if (made[i].is_node()) {
      Node* child = made[i].template node<Node>();
      child->parent = node;
      child->parent_slot = static_cast<uint8_t>(slot);
    }
    for (unsigned mark = 0; mark < kMarks; ++mark) {
      if (marks >> mark & 1) node->SetMarkBits(mark, SlotBits(slot, 1));
    }
  }
  // From the top down: as long as siblings of the old tie are there, its canonical slot must hold
  // the old entry.
  node->BeginTies();
  for (unsigned i = place.slots - piece_slots; i > 0; i -= piece_slots) {
    node->PublishTie(place.slot + i, piece_slots, made[i]);
  }
  node->NextTiePhase();
  node->PublishTie(place.slot, piece_slots, made[0]);
  node->EndTies();
  for (unsigned i = 0; i < place.slots; i += piece_slots) TellBelow(made[i]);
  Tell(node);
  Shrink();  // an entry of a higher order kept the top where it was
  return true;
}

// Builds a full subtree of pieces from `first` on; null if a piece is null or internal.
template <unsigned kSlotShift>
Entry Tree<kSlotShift>::MakePieces(unsigned shift, uint64_t first, unsigned new_order, Piece piece,
                                   uint8_t marks, Reserve& reserve) {
  const unsigned new_shift = ShiftFor<kSlotShift>(new_order);
  const unsigned piece_slots = shift > new_shift ? 1 : 1u << (new_order - new_shift);
  Node* node = reserve.Take(shift);
  uint64_t canonical = 0;
  if (piece_slots > 1) node->BeginTies();
  for (unsigned slot = 0; slot < kSlots; slot += piece_slots) {
    const uint64_t index = first + (uint64_t{slot} << shift);
    Entry made;
    if (shift == new_shift) {
      made = piece(index);
      if (made.is_internal()) made = Entry();
    } else {
      made = MakePieces(shift - kSlotShift, index, new_order, piece, marks, reserve);
    }
    if (made.is_null()) {
      Unmake(Entry::Node(node), reserve);
      return Entry();
    }
    if (made.is_node()) {
      made.template node<Node>()->parent = node;
      made.template node<Node>()->parent_slot = static_cast<uint8_t>(slot);
    }
    node->PublishTie(slot, piece_slots, made);
    canonical |= SlotBits(slot, 1);
  }
  if (piece_slots > 1) node->EndTies();
  node->count = static_cast<uint8_t>(kSlots);
  for (unsigned mark = 0; mark < kMarks; ++mark) {
    if (marks >> mark & 1) node->SetMarkBits(mark, canonical);
  }
  return Entry::Node(node);
}

// Gives the nodes of a subtree that was never linked back to the reserve.
template <unsigned kSlotShift>
void Tree<kSlotShift>::Unmake(Entry entry, Reserve& reserve) {
  if (!entry.is_node()) return;
  Node* node = entry.template node<Node>();
  for (unsigned i = 0; i < kSlots; ++i) Unmake(node->Load(i), reserve);
  reserve.PutBack(node);
}

template Entry Tree<3>::MakePieces(unsigned, uint64_t, unsigned, Piece, uint8_t, Reserve&);
template Entry Tree<6>::MakePieces(unsigned, uint64_t, unsigned, Piece, uint8_t, Reserve&);
template void Tree<3>::Unmake(Entry, Reserve&);
template void Tree<6>::Unmake(Entry, Reserve&);
template uint64_t Tree<3>::NodesToSplit(const Place&, unsigned);
template uint64_t Tree<6>::NodesToSplit(const Place&, unsigned);
template bool Tree<3>::Split(const Place&, uint64_t, unsigned, Piece, Reserve&);
template bool Tree<6>::Split(const Place&, uint64_t, unsigned, Piece, Reserve&);

}  // namespace daxkv::xarray::internal
