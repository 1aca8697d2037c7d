// NodeObserver: told of every change in how full an array's tree nodes are.
//
// A cache that leaves a small note (a value entry) where an object was, keeps a list of the nodes
// that hold nothing but such notes, to free them one day:
//
//   void Shadows::NodeChanged(const NodeState& node) {      // under the array's lock
//     if (node.taken > 0 && node.values == node.taken) {
//       only_notes_[node.node] = {node.first, node.last};
//     } else {
//       only_notes_.erase(node.node);
//     }
//   }
//   ... array.EraseRange(first, last);                      // frees such a node, later
//
// The kernel's XArray has this as xas_set_update, which every writer must remember to call. Here it
// belongs to the array, so that no writer can forget it.
#ifndef DAXKV_XARRAY_NODE_OBSERVER_H_
#define DAXKV_XARRAY_NODE_OBSERVER_H_

#include <cstdint>

namespace daxkv::xarray {

// A tree node and what its slots hold after a change.
struct NodeState {
  const void* node = nullptr;  // a name, unique among the array's nodes; not to be dereferenced
  uint64_t first = 0;          // the indices below it: no entry reaches from inside out
  uint64_t last = 0;
  unsigned taken = 0;   // slots in use: by entries (each slot of a tie), reservations, lower nodes
  unsigned values = 0;  // of those, by value entries

  // It leaves the tree, and is never mentioned again. Its memory is freed after a grace period that
  // begins after this call; another node may get its name then.
  bool gone() const { return taken == 0; }
};

class NodeObserver {
 public:
  virtual ~NodeObserver() = default;

  // Called at least for each node whose `taken` or `values` has changed, and for each new one,
  // after the change, under the array's lock. May use the array's lock-free calls, not those that
  // need or take its lock.
  //
  // Exchanges in place change values into values and go untold. An index in the array's head (index
  // 0 alone) has no node. Costs a pass over the node's slots for each change.
  virtual void NodeChanged(const NodeState& state) = 0;
};

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_NODE_OBSERVER_H_
