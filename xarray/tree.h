// Tree: the radix tree inside an XArray. Internal to the array and its cursor.
//
// The reading half needs an RCU section or the lock; the writing half needs the lock. The writing
// half never fails: who changes the tree first asks how many nodes that takes, and brings them.
//
// How a change becomes visible
// T1. New nodes are filled privately and appear by one store to the slot (or head) above them.
// T2. A node leaves in this order: unlink it from above, poison its slots with Retry, give it to
//     RCU. No path leads to it from then on (rcu.h, R2), and a cursor that still stands in it
//     starts again from the top.
// T3. Parent pointers are the writer's. Readers go down; a search may also go back to the node that
//     it came down from, in the same read section: no second path, for whoever finds that node
//     dead (T2) starts again from the top.
// T4. Marks are cleared before null is published, and united before a larger entry is.
// T5. A value entry that may be exchanged in place never moves from one slot to another unless by
//     an atomic exchange: growing takes it out of the head by compare-exchange, and shrinking
//     leaves a value in its node instead of moving it to the head.
#ifndef DAXKV_XARRAY_TREE_H_
#define DAXKV_XARRAY_TREE_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "absl/functional/function_ref.h"
#include "xarray/entry.h"
#include "xarray/node.h"
#include "xarray/node_observer.h"

namespace daxkv::xarray {

// The three marks. Their meaning is the caller's.
enum class Mark : uint8_t { k0 = 0, k1 = 1, k2 = 2 };

namespace internal {

// Where an entry is: a tie in a node, or the head (node == nullptr), which is index 0.
template <unsigned kSlotShift>
struct Place {
  Entry entry;
  Node<kSlotShift>* node = nullptr;
  unsigned slot = 0;
  unsigned slots = 1;

  unsigned Order() const;
  // Given any index that the entry covers.
  uint64_t First(uint64_t index) const { return index & ~Mask(); }
  uint64_t Last(uint64_t index) const { return index | Mask(); }

 private:
  uint64_t Mask() const { return (uint64_t{1} << Order()) - 1; }
};

template <unsigned kSlotShift>
class Tree {
 public:
  using Node = internal::Node<kSlotShift>;
  using Place = internal::Place<kSlotShift>;
  using Reserve = NodeReserve<kSlotShift>;
  static constexpr unsigned kSlots = Node::kSlots;

  // `exchanged_in_place`: ExchangeInPlace may run without the lock, so writers replace values
  // atomically. `observer`: may be null; outlives the tree.
  Tree(bool exchanged_in_place, NodeObserver* observer)
      : exchanged_in_place_(exchanged_in_place), observer_(observer) {}

  bool exchanged_in_place() const { return exchanged_in_place_; }

  // ---- Reading ----

  // Null; an entry, which then covers index 0 alone; or the top node.
  Entry Head() const { return Entry::FromRaw(head_.load(std::memory_order_acquire)); }
  Entry Load(uint64_t index) const;
  // The entry at `index` and its place. Without an entry: the slot that `index` would be below, or
  // no node.
  Place Locate(uint64_t index) const;
  bool Marked(Mark mark) const {
    return (marks_.load(std::memory_order_acquire) >> static_cast<unsigned>(mark) & 1) != 0;
  }
  bool Marked(const Place& place, Mark mark) const;
  // Replaces a value by a value in place; also without the lock.
  bool ExchangeInPlace(const Place& place, Entry expected, Entry desired);

  // ---- Writing ----

  // As Locate.
  Place LocateLocked(uint64_t index) const;
  // Stores at a place that LocateLocked found for `index`, if that takes no new node and sweeps
  // nothing away: an entry of at least this order, or an empty slot of just this order. Updates
  // *place.
  bool StoreAt(Place* place, unsigned order, Entry entry, Entry* old);
  // How many nodes Store needs for this block. A reservation never lies in the head.
  uint64_t NodesToStore(uint64_t index, unsigned order, bool reservation) const;
  // How many nodes it takes at most to store an entry of this order at each block that overlaps
  // [first, last], in any sequence, reservations apart.
  uint64_t NodesToStoreRange(uint64_t first, uint64_t last, unsigned order) const;
  // Stores a non-null entry (X2). Returns its place, and in *old what `index` had.
  Place Store(uint64_t index, unsigned order, Entry entry, Reserve& reserve, Entry* old);

  // Removes the entry at `place`; returns the last value it had. With `expected`: only if it has
  // that value.
  Entry Erase(const Place& place, std::optional<Entry> expected = std::nullopt);
  void Clear();

  // The first index in [index, last] without entry or reservation.
  std::optional<uint64_t> FindFree(uint64_t index, uint64_t last);

  void SetMark(const Place& place, Mark mark);
  void ClearMark(const Place& place, Mark mark);

  // Tells the observer that `after` was stored where `before` was.
  void TellReplaced(const Node* node, Entry before, Entry after) const {
    if (node != nullptr && before.is_value() != after.is_value()) Tell(node);
  }

  // How many nodes Split needs; saturates.
  static uint64_t NodesToSplit(const Place& place, unsigned new_order);
  // Splits the entry at `place`. False: a piece was null or internal, nothing changed.
  using Piece = absl::FunctionRef<Entry(uint64_t first)>;
  bool Split(const Place& place, uint64_t index, unsigned new_order, Piece piece, Reserve& reserve);

 private:
  static unsigned TopShift(uint64_t last, unsigned shift);
  void Grow(unsigned top_shift, Reserve& reserve);
  Place StoreAsHead(uint64_t index, unsigned order, Entry entry, Reserve& reserve, Entry* old);
  Place StoreInNode(Node* node, uint64_t index, unsigned slots, Entry entry, Entry* old);
  void SweepSlots(Node* node, unsigned slot, unsigned slots, Entry entry);
  Place MakeChain(unsigned top_shift, unsigned shift, uint64_t index, unsigned slots, Entry entry,
                  Reserve& reserve, Node** top);
  Entry MakePieces(unsigned shift, uint64_t first, unsigned new_order, Piece piece, uint8_t marks,
                   Reserve& reserve);
  void Unmake(Entry entry, Reserve& reserve);
  uint8_t MarksAt(const Place& place) const;
  void ClearMarksAt(const Place& place);
  void SetMarksAt(const Place& place, uint8_t marks);
  // Takes back what FindFree noted about the nodes above an entry that goes.
  static void NoteNotFull(Node* node) {
    for (; node->parent != nullptr; node = node->parent) {
      const uint64_t bit = SlotBits(node->parent_slot, 1);
      if ((node->parent->full & bit) == 0) return;
      node->parent->full &= ~bit;
    }
  }
  void Prune(Node* node);
  void Shrink();
  static void Poison(Node* node);
  void Discard(Node* node);
  void Retire(Node* node);

  // Tell the observer, if there is one: of a node; of those from `node` up to `top`, or to the
  // tree's top if that is null; of a whole subtree.
  void Tell(const Node* node) const {
    if (__builtin_expect(observer_ != nullptr, false)) TellObserver(node, false);
  }
  void TellPath(const Node* node, const Node* top) const;
  void TellBelow(Entry entry) const;
  void TellObserver(const Node* node, bool gone) const;

  std::atomic<uint64_t> head_{0};
  // Bit m: some entry carries mark m. Written under the lock.
  std::atomic<uint8_t> marks_{0};
  const bool exchanged_in_place_;
  NodeObserver* const observer_;
};

template <unsigned kSlotShift>
inline Entry Tree<kSlotShift>::Load(uint64_t index) const {
  for (;;) {
    Entry entry = Head();
    if (!entry.is_node()) return index == 0 ? entry : Entry();
    const Node* node = entry.template node<Node>();
    if (!node->TopCovers(index)) return Entry();
    do {
      const unsigned slot = node->SlotOf(index);
      entry = node->Load(slot);
      if (entry.is_sibling()) entry = node->LoadTie(slot);
      if (!entry.is_internal()) return entry;
      node = entry.template node<Node>();
    } while (entry.is_node());
    if (entry.is_reserved()) return Entry();
    // The node has left the tree: start again from the top.
  }
}

template <unsigned kSlotShift>
inline auto Tree<kSlotShift>::LocateLocked(uint64_t index) const -> Place {
  Entry entry = Head();
  if (!entry.is_node()) return {index == 0 ? entry : Entry()};
  Node* node = entry.template node<Node>();
  if (!node->TopCovers(index)) return {};
  for (;;) {
    unsigned slot = node->SlotOf(index);
    entry = node->Load(slot);
    if (entry.is_node()) {
      node = entry.template node<Node>();
      continue;
    }
    if (entry.is_sibling()) {
      slot = entry.sibling_first();
      entry = node->Load(slot);
    }
    const Entry next = node->Load((slot + 1) & Node::kSlotMask);
    return {entry, node, slot, next.is_sibling() && entry ? next.sibling_slots() : 1};
  }
}

template <unsigned kSlotShift>
inline bool Tree<kSlotShift>::StoreAt(Place* place, unsigned order, Entry entry, Entry* old) {
  Node* node = place->node;
  if (node == nullptr) return false;
  if (place->entry.is_null()) {
    if (node->shift != order) return false;
    ++node->count;
    node->Publish(place->slot, entry);
    *old = Entry();
    Tell(node);
  } else {
    if (place->Order() < order) return false;
    *old = node->Replace(place->slot, entry, exchanged_in_place_).visible();
    TellReplaced(node, place->entry, entry);
  }
  place->entry = entry;
  return true;
}

template <unsigned kSlotShift>
inline unsigned Place<kSlotShift>::Order() const {
  return (node == nullptr ? 0 : node->shift) + static_cast<unsigned>(__builtin_ctz(slots));
}

extern template struct Place<3>;
extern template struct Place<6>;
extern template class Tree<3>;
extern template class Tree<6>;

}  // namespace internal
}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_TREE_H_
