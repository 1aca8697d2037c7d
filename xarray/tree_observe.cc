// Telling the array's observer of nodes.
#include "xarray/tree.h"

namespace daxkv::xarray::internal {

template <unsigned kSlotShift>
void Tree<kSlotShift>::TellObserver(const Node* node, bool gone) const {
  NodeState state;
  state.node = node;
  for (const Node* below = node; below->parent != nullptr; below = below->parent) {
    state.first |= uint64_t{below->parent_slot} << below->parent->shift;
  }
  state.last = node->LastIndex(state.first);
  for (unsigned i = 0; i < kSlots && !gone; ++i) {
    Entry entry = node->Load(i);
    if (entry.is_null()) continue;
    if (entry.is_sibling()) entry = node->Load(entry.sibling_first());
    ++state.taken;
    if (entry.is_value()) ++state.values;
  }
  observer_->NodeChanged(state);
}

template <unsigned kSlotShift>
void Tree<kSlotShift>::TellPath(const Node* node, const Node* top) const {
  if (observer_ == nullptr) return;
  for (; node != nullptr; node = node == top ? nullptr : node->parent) TellObserver(node, false);
}

template <unsigned kSlotShift>
void Tree<kSlotShift>::TellBelow(Entry entry) const {
  if (observer_ == nullptr || !entry.is_node()) return;
  const Node* node = entry.template node<Node>();
  for (unsigned i = 0; i < kSlots; ++i) TellBelow(node->Load(i));
  TellObserver(node, false);
}

template void Tree<3>::TellObserver(const Node*, bool) const;
template void Tree<6>::TellObserver(const Node*, bool) const;
template void Tree<3>::TellPath(const Node*, const Node*) const;
template void Tree<6>::TellPath(const Node*, const Node*) const;
template void Tree<3>::TellBelow(Entry) const;
template void Tree<6>::TellBelow(Entry) const;

}  // namespace daxkv::xarray::internal
