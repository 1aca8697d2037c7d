// How many nodes a range takes.
#include <algorithm>

#include "xarray/tree.h"

namespace daxkv::xarray::internal {
namespace {

// How many nodes of this shift lie over [first, last].
template <unsigned kSlotShift>
uint64_t NodesOver(uint64_t first, uint64_t last, unsigned shift) {
  const unsigned span = shift + kSlotShift;
  return span >= 64 ? 1 : (last >> span) - (first >> span) + 1;
}

// How many nodes of shift `shift` and more are missing below `node` over [first, last].
template <unsigned kSlotShift>
uint64_t MissingBelow(const Node<kSlotShift>* node, uint64_t first, uint64_t last, unsigned shift) {
  if (node->shift <= shift) return 0;
  uint64_t nodes = 0;
  for (unsigned slot = node->SlotOf(first); slot <= node->SlotOf(last); ++slot) {
    const uint64_t slot_first = node->SlotFirst(first, slot);
    const uint64_t from = std::max(first, slot_first);
    const uint64_t to = std::min(last, slot_first | ((uint64_t{1} << node->shift) - 1));
    const Entry entry = node->Load(slot);
    if (entry.is_node()) {
      nodes += MissingBelow(entry.template node<const Node<kSlotShift>>(), from, to, shift);
    } else if (entry.is_null()) {
      for (unsigned at = shift; at < node->shift; at += kSlotShift) {
        nodes += NodesOver<kSlotShift>(from, to, at);
      }
    }  // else a larger entry, which stores replace as a whole
  }
  return nodes;
}

}  // namespace

template <unsigned kSlotShift>
uint64_t Tree<kSlotShift>::NodesToStoreRange(uint64_t first, uint64_t last, unsigned order) const {
  const uint64_t mask = (uint64_t{1} << order) - 1;
  first &= ~mask;
  last |= mask;
  const Entry head = Head();
  if (!head.is_node() && last == 0) return 0;  // the head takes it
  const unsigned shift = ShiftFor<kSlotShift>(order);
  const unsigned top_shift = TopShift(last, shift);

  uint64_t nodes = 0;
  uint64_t outside = first;    // what the tree does not cover yet begins here
  unsigned new_shift = shift;  // nodes of this shift and more go on top of what is there
  if (head.is_node()) {
    const Node* top = head.template node<Node>();
    const uint64_t covered = top->LastIndex(0);
    if (first <= covered) nodes += MissingBelow(top, first, std::min(last, covered), shift);
    if (top->shift >= top_shift) return nodes;
    outside = std::max(first, covered + 1);
    new_shift = top->shift + kSlotShift;
  } else if (!head.is_null()) {
    new_shift = 0;  // the entry in the head goes down to a leaf
  }
  for (unsigned at = std::min(shift, new_shift); at <= top_shift; at += kSlotShift) {
    const bool over_range = at >= shift;
    const uint64_t from = at >= new_shift ? first : outside;
    if (over_range) nodes += NodesOver<kSlotShift>(from, last, at);
    // Growing also puts a node over index 0, if that one is not over the range anyway.
    const bool grows = at >= new_shift && !head.is_null();
    if (grows && (!over_range || (at + kSlotShift < 64 && from >> (at + kSlotShift) != 0))) ++nodes;
  }
  return nodes;
}

template uint64_t Tree<3>::NodesToStoreRange(uint64_t, uint64_t, unsigned) const;
template uint64_t Tree<6>::NodesToStoreRange(uint64_t, uint64_t, unsigned) const;

}  // namespace daxkv::xarray::internal
