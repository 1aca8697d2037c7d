// Node: one level of an XArray. Internal to the array, its cursor and their tests.
#ifndef DAXKV_XARRAY_NODE_H_
#define DAXKV_XARRAY_NODE_H_

#include <atomic>
#include <cstdint>

#include "xarray/entry.h"
#include "xarray/rcu.h"

namespace daxkv::xarray {

// How many independent marks an entry carries.
inline constexpr unsigned kMarks = 3;

namespace internal {

// The shift of the nodes whose slots, or ties of slots, hold entries of an order.
template <unsigned kSlotShift>
constexpr unsigned ShiftFor(unsigned order) {
  return order / kSlotShift * kSlotShift;
}

// `slots` bits from `slot` on.
constexpr uint64_t SlotBits(unsigned slot, unsigned slots) {
  return (slots == 64 ? UINT64_MAX : (uint64_t{1} << slots) - 1) << slot;
}

// An entry in a node: its canonical slot and how many slots it takes up.
struct Tie {
  Entry entry;
  unsigned slot = 0;
  unsigned slots = 1;
};

// Each slot covers 2^shift indices. Fields without a word on readers are the writer's alone, under
// the array's lock.
//
// Invariants
// N1. A *tie* is an entry over several slots: it lies in its first ("canonical") slot, and each
//     further slot is a sibling that names the canonical slot and the tie's length.
// N2. Null and sibling slots carry no mark. Where slot i holds a node, bit i of marks[m] is set if
//     and only if something below carries mark m.
// N3. count is the number of non-null slots, siblings included. No linked node has count 0.
// N4. A node that has left the tree has Retry in every slot, for ever, before RCU gets it.
// N5. tie_version is odd while ties of this node change shape, and even numbers never repeat.
//     It is 0 as long as the node has never held a tie and has not left the tree. Whoever follows a
//     sibling checks it: between the loads of the sibling and of the canonical slot, the latter may
//     have got an entry that never covered the former.
// N6. full is the writer's note for Alloc: bit i set means that slot i holds a node with no free
// index
//     below. A clear bit means nothing.
template <unsigned kSlotShift>
struct alignas(64) Node : rcu::Head {
  static constexpr unsigned kSlots = 1u << kSlotShift;
  static constexpr unsigned kSlotMask = kSlots - 1;

  unsigned SlotOf(uint64_t index) const {
    return static_cast<unsigned>(index >> shift) & kSlotMask;
  }
  // Whether `index` lies below this node, if this node is the top of the tree.
  bool TopCovers(uint64_t index) const { return index >> shift <= kSlotMask; }

  // The first index of `slot`, and the last of this node, given any index in the node.
  uint64_t SlotFirst(uint64_t index, unsigned slot) const {
    return (index & ~SpanMask()) | uint64_t{slot} << shift;
  }
  uint64_t LastIndex(uint64_t index) const { return index | SpanMask(); }

  // Slots are published with release and read with acquire: who sees a node sees its content.
  Entry Load(unsigned slot) const {
    return Entry::FromRaw(slots[slot].load(std::memory_order_acquire));
  }
  void Publish(unsigned slot, Entry entry) {
    slots[slot].store(entry.raw(), std::memory_order_release);
  }
  // Publishes a tie, in a bracket of BeginTies, so that no reader meets a sibling before its
  // canonical slot. One slot needs no bracket.
  void PublishTie(unsigned slot, unsigned tie_slots, Entry entry) {
    Publish(slot, entry);
    for (unsigned i = 1; i < tie_slots; ++i) Publish(slot + i, Entry::Sibling(slot, tie_slots));
  }
  // Replaces an entry and returns the last one: with `atomically`, for a value, since an in-place
  // exchange may be changing it.
  Entry Replace(unsigned slot, Entry entry, bool atomically) {
    const Entry before = Load(slot);
    if (atomically && before.is_value()) {
      return Entry::FromRaw(slots[slot].exchange(entry.raw(), std::memory_order_acq_rel));
    }
    Publish(slot, entry);
    return before;
  }

  // The entry that covers `slot`: null, an entry, a node or Retry. Never waits.
  Entry LoadTie(unsigned slot) const {
    return LoadTie(slot, [] {});
  }
  // `between` runs between the two loads: where a test lets a writer in.
  template <typename Between>
  Entry LoadTie(unsigned slot, Between between) const;
  // The same with its place; all of one moment. Waits while a writer changes the shape of ties in
  // this node: a few dozen stores, or a time slice if it is preempted there.
  Tie ReadTie(unsigned slot) const {
    const Tie tie = TryReadTie(slot);
    return tie.entry.is_null() ? ReadTieSlow(slot) : tie;
  }
  // The same for an entry whose first slot this is; never waits. Null: nothing is there, or a
  // sibling, or a writer is at work.
  Tie TryReadTie(unsigned slot) const {
    const Entry entry = Load(slot);
    // Relaxed: the acquire load above comes first. Had it seen a tie, this would see its version.
    if (__builtin_expect(tie_version.load(std::memory_order_relaxed) == 0, true)) {
      return {entry, slot, 1};
    }
    return TryReadTieBesideTies(slot);
  }

  // Brackets a change of ties (N5). NextTiePhase lies between removing siblings and giving their
  // canonical slot a smaller entry.
  void BeginTies() { BumpTieVersion(1); }
  void NextTiePhase() { BumpTieVersion(2); }
  void EndTies() { BumpTieVersion(1); }

  bool Marked(unsigned mark, unsigned slot) const {
    return (marks[mark].load(std::memory_order_acquire) >> slot & 1) != 0;
  }
  // Plain load and store: only the writer changes marks, readers only look.
  void SetMarkBits(unsigned mark, uint64_t bits) {
    StoreMarks(mark, marks[mark].load(std::memory_order_relaxed) | bits);
  }
  void ClearMarkBits(unsigned mark, uint64_t bits) {
    StoreMarks(mark, marks[mark].load(std::memory_order_relaxed) & ~bits);
  }
  bool AnyMarked(unsigned mark) const { return marks[mark].load(std::memory_order_relaxed) != 0; }

  uint8_t shift = 0;        // constant once the node is linked; read by readers
  uint8_t parent_slot = 0;  // the slot of `parent` that points here
  uint8_t count = 0;        // non-null slots
  std::atomic<uint32_t> tie_version{0};
  Node* parent = nullptr;
  uint64_t full = 0;
  std::atomic<uint64_t> marks[kMarks] = {};
  std::atomic<uint64_t> slots[kSlots] = {};

 private:
  Tie ReadTieSlow(unsigned slot) const;
  Tie TryReadTieBesideTies(unsigned slot) const;
  uint64_t SpanMask() const {
    return shift + kSlotShift >= 64 ? UINT64_MAX : (uint64_t{1} << (shift + kSlotShift)) - 1;
  }
  void BumpTieVersion(uint32_t by) {
    // Release: who sees the new version sees the slots stored before it. Slots stored after it are
    // releases themselves, so who sees those sees the version.
    tie_version.store(tie_version.load(std::memory_order_relaxed) + by, std::memory_order_release);
  }
  void StoreMarks(unsigned mark, uint64_t bits) {
    marks[mark].store(bits, std::memory_order_release);
  }
};

template <unsigned kSlotShift>
template <typename Between>
inline Entry Node<kSlotShift>::LoadTie(unsigned slot, Between between) const {
  for (;;) {
    const uint32_t version = tie_version.load(std::memory_order_acquire);
    Entry entry = Load(slot);
    if (!entry.is_sibling()) return entry;
    between();
    // Siblings chain while a writer lays a larger tie over a smaller one.
    while (entry.is_sibling()) entry = Load(entry.sibling_first());
    // Relaxed: the acquire loads above come first. A change since means that a writer got on, so
    // this loop is lock-free.
    if (tie_version.load(std::memory_order_relaxed) == version) return entry;
  }
}

static_assert(sizeof(Node<6>) == 576, "a 64-slot node is nine cache lines");

// A stock of unused nodes, owned by one cursor.
template <unsigned kSlotShift>
class NodeReserve {
 public:
  NodeReserve() = default;
  ~NodeReserve();
  NodeReserve(const NodeReserve&) = delete;
  NodeReserve& operator=(const NodeReserve&) = delete;

  uint64_t size() const { return size_; }
  // Allocates until `nodes` are here. False: no memory; what was allocated stays.
  bool FillTo(uint64_t nodes);
  // Takes a fresh node out; one must be here.
  Node<kSlotShift>* Take(unsigned shift);
  // Gives back a node that was never linked.
  void PutBack(Node<kSlotShift>* node);

 private:
  void Push(Node<kSlotShift>* node);

  Node<kSlotShift>* list_ = nullptr;  // through Node::parent
  uint64_t size_ = 0;
};

// Gives a node that has left the tree (N4) to RCU.
template <unsigned kSlotShift>
void RetireNode(Node<kSlotShift>* node);

// ---- For tests ----

// How many nodes exist in all arrays, reserves and grace periods.
int64_t LiveNodes();
// While set, each node allocation asks `allow` first and fails if that says no.
void SetAllocationHook(bool (*allow)());
// While set, runs where a node has left the tree and RCU does not have it yet: a writer preempted
// there must do no harm.
void SetRetireHook(void (*stall)(const void* node));

extern template struct Node<3>;
extern template struct Node<6>;
extern template class NodeReserve<3>;
extern template class NodeReserve<6>;

}  // namespace internal
}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_NODE_H_
