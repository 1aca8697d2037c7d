// Finding free indices.
#include "xarray/tree.h"

namespace daxkv::xarray::internal {
namespace {

// Whether every index below `node` is taken.
template <typename Node>
bool IsFull(const Node& node) {
  if (node.count != Node::kSlots) return false;
  for (unsigned i = 0; node.shift > 0 && i < Node::kSlots; ++i) {
    if (node.Load(i).is_node() && (node.full >> i & 1) == 0) return false;
  }
  return true;
}

}  // namespace

template <unsigned kSlotShift>
std::optional<uint64_t> Tree<kSlotShift>::FindFree(uint64_t index, uint64_t last) {
  while (index <= last) {
    const Entry head = Head();
    if (!head.is_node()) {
      if (index > 0 || head.is_null()) return index;
      ++index;
      continue;
    }
    Node* node = head.template node<Node>();
    if (!node->TopCovers(index)) return index;
    for (;;) {
      const unsigned slot = node->SlotOf(index);
      const Entry entry = node->Load(slot);
      if (entry.is_null()) return index;
      if (entry.is_node() && (node->full >> slot & 1) == 0) {
        node = entry.template node<Node>();
        continue;
      }
      // All of this slot is taken.
      const uint64_t slot_last = index | ((uint64_t{1} << node->shift) - 1);
      if (slot_last >= last) return std::nullopt;
      index = slot_last + 1;
      if (slot + 1 == kSlots) break;
    }
    // The next search will pass the nodes that are full without entering them.
    for (; node->parent != nullptr && IsFull(*node); node = node->parent) {
      node->parent->full |= SlotBits(node->parent_slot, 1);
    }
  }
  return std::nullopt;
}

template std::optional<uint64_t> Tree<3>::FindFree(uint64_t, uint64_t);
template std::optional<uint64_t> Tree<6>::FindFree(uint64_t, uint64_t);

}  // namespace daxkv::xarray::internal
