#include "xarray/tree.h"

namespace daxkv::xarray::internal {
namespace {

constexpr uint64_t AlignDown(uint64_t index, unsigned order) {
  return index & ~((uint64_t{1} << order) - 1);
}
constexpr uint64_t BlockLast(uint64_t index, unsigned order) {
  return index | ((uint64_t{1} << order) - 1);
}

}  // namespace

// ---- Reading ----

template <unsigned kSlotShift>
auto Tree<kSlotShift>::Locate(uint64_t index) const -> Place {
  for (;;) {
    Entry entry = Head();
    if (!entry.is_node()) return {index == 0 ? entry : Entry()};
    Node* node = entry.template node<Node>();
    if (!node->TopCovers(index)) return {};
    for (;;) {
      const unsigned slot = node->SlotOf(index);
      entry = node->Load(slot);
      if (!entry.is_node()) {
        const Tie tie = node->ReadTie(slot);
        entry = tie.entry;
        if (!entry.is_internal() || entry.is_reserved()) {
          return {entry, node, tie.slot, tie.slots};
        }
      }
      if (entry.is_retry()) break;
      node = entry.template node<Node>();
    }
  }
}

template <unsigned kSlotShift>
bool Tree<kSlotShift>::Marked(const Place& place, Mark mark) const {
  if (place.entry.is_null()) return false;
  if (place.node == nullptr) return Marked(mark);
  return place.node->Marked(static_cast<unsigned>(mark), place.slot);
}

template <unsigned kSlotShift>
bool Tree<kSlotShift>::ExchangeInPlace(const Place& place, Entry expected, Entry desired) {
  std::atomic<uint64_t>& word = place.node == nullptr ? head_ : place.node->slots[place.slot];
  uint64_t raw = expected.raw();
  // Acquire and release: who finds `desired` sees what this thread did before, and conversely.
  return word.compare_exchange_strong(raw, desired.raw(), std::memory_order_acq_rel,
                                      std::memory_order_relaxed);
}

// ---- Storing ----

// The shift of the lowest top node that covers indices up to `last` and is no lower than `shift`.
template <unsigned kSlotShift>
unsigned Tree<kSlotShift>::TopShift(uint64_t last, unsigned shift) {
  while (last >> shift > Node::kSlotMask) shift += kSlotShift;
  return shift;
}

template <unsigned kSlotShift>
uint64_t Tree<kSlotShift>::NodesToStore(uint64_t index, unsigned order, bool reservation) const {
  const unsigned shift = ShiftFor<kSlotShift>(order);
  const unsigned top_shift = TopShift(BlockLast(index, order), shift);
  const uint64_t chain = (top_shift - shift) / kSlotShift;  // nodes below a new top
  const Entry head = Head();
  if (!head.is_node()) {
    const bool at_zero = AlignDown(index, order) == 0;
    if (at_zero && order == 0 && !reservation) return 0;
    if (at_zero || head.is_null()) return chain + 1;
    return top_shift / kSlotShift + 1 + chain;
  }
  const Node* node = head.template node<Node>();
  if (top_shift > node->shift) return (top_shift - node->shift) / kSlotShift + chain;
  while (node->shift > shift) {
    const Entry entry = node->Load(node->SlotOf(index));
    if (entry.is_null()) return (node->shift - shift) / kSlotShift;
    if (!entry.is_node()) return 0;
    node = entry.template node<Node>();
  }
  return 0;
}

template <unsigned kSlotShift>
auto Tree<kSlotShift>::Store(uint64_t index, unsigned order, Entry entry, Reserve& reserve,
                             Entry* old) -> Place {
  const unsigned shift = ShiftFor<kSlotShift>(order);
  const unsigned slots = 1u << (order - shift);
  const Entry head = Head();
  const bool at_zero = AlignDown(index, order) == 0;
  if (!head.is_node() && (at_zero || head.is_null())) {
    return StoreAsHead(index, order, entry, reserve, old);
  }
  Grow(TopShift(BlockLast(index, order), shift), reserve);

  Node* node = Head().template node<Node>();
  while (node->shift > shift) {
    const Tie tie = node->ReadTie(node->SlotOf(index));
    if (tie.entry.is_node()) {
      node = tie.entry.template node<Node>();
    } else if (tie.entry.is_null()) {
      Node* top = nullptr;
      const Place place =
          MakeChain(node->shift - kSlotShift, shift, index, slots, entry, reserve, &top);
      top->parent = node;
      top->parent_slot = static_cast<uint8_t>(tie.slot);
      ++node->count;
      node->Publish(tie.slot, Entry::Node(top));
      *old = Entry();
      TellPath(place.node, node);
      return place;
    } else {  // a larger entry: replaced as a whole
      *old = node->Replace(tie.slot, entry, exchanged_in_place_).visible();
      TellReplaced(node, tie.entry, entry);
      return {entry, node, tie.slot, tie.slots};
    }
  }
  return StoreInNode(node, index, slots, entry, old);
}

// No node is there, and what is in the head, if anything, is inside the block.
template <unsigned kSlotShift>
auto Tree<kSlotShift>::StoreAsHead(uint64_t index, unsigned order, Entry entry, Reserve& reserve,
                                   Entry* old) -> Place {
  const unsigned shift = ShiftFor<kSlotShift>(order);
  Place place{entry};
  Entry head = entry;
  if (order > 0 || index != 0 || entry.is_reserved()) {
    Node* top = nullptr;
    place = MakeChain(TopShift(BlockLast(index, order), shift), shift, index, 1u << (order - shift),
                      entry, reserve, &top);
    SetMarksAt(place, marks_.load(std::memory_order_relaxed));
    head = Entry::Node(top);
  }
  const Entry before = Entry::FromRaw(head_.exchange(head.raw(), std::memory_order_acq_rel));
  *old = index == 0 ? before : Entry();
  TellPath(place.node, nullptr);
  return place;
}

// The block lies in slots of this node, or inside a larger tie of it.
template <unsigned kSlotShift>
auto Tree<kSlotShift>::StoreInNode(Node* node, uint64_t index, unsigned slots, Entry entry,
                                   Entry* old) -> Place {
  const unsigned slot = node->SlotOf(index) & ~(slots - 1);
  const Tie tie = node->ReadTie(slot);
  const bool present = !tie.entry.is_null() && !tie.entry.is_node();
  if (present && tie.slots >= slots) {
    *old = node->Replace(tie.slot, entry, exchanged_in_place_).visible();
    TellReplaced(node, tie.entry, entry);
    return {entry, node, tie.slot, tie.slots};
  }
  if (tie.entry.is_null() && slots == 1) {
    *old = Entry();
    ++node->count;
    node->Publish(slot, entry);
  } else {
    *old = Locate(index).entry.visible();
    SweepSlots(node, slot, slots, entry);
  }
  Tell(node);
  return {entry, node, slot, slots};
}

// Lays a tie over slots, whatever they hold.
template <unsigned kSlotShift>
void Tree<kSlotShift>::SweepSlots(Node* node, unsigned slot, unsigned slots, Entry entry) {
  Node* swept[kSlots];
  unsigned swept_nodes = 0;
  for (unsigned i = slot; i < slot + slots; ++i) {
    const Entry before = node->Load(i);
    if (before.is_null()) ++node->count;
    if (before.is_node()) swept[swept_nodes++] = before.template node<Node>();
  }
  const uint64_t bits = SlotBits(slot, slots);
  const uint64_t canonical = SlotBits(slot, 1);
  node->full &= ~bits;
  for (unsigned mark = 0; mark < kMarks; ++mark) {
    if (node->marks[mark].load(std::memory_order_relaxed) & bits) {
      node->SetMarkBits(mark, canonical);
    }
  }
  node->BeginTies();
  node->PublishTie(slot, slots, entry);
  node->EndTies();
  for (unsigned mark = 0; mark < kMarks; ++mark) node->ClearMarkBits(mark, bits & ~canonical);
  for (unsigned i = 0; i < swept_nodes; ++i) Discard(swept[i]);
}

// Builds a path of new nodes, with shifts from `top_shift` down to `shift`, to a new entry.
template <unsigned kSlotShift>
auto Tree<kSlotShift>::MakeChain(unsigned top_shift, unsigned shift, uint64_t index, unsigned slots,
                                 Entry entry, Reserve& reserve, Node** top) -> Place {
  Node* node = reserve.Take(shift);
  const Place place{entry, node, node->SlotOf(index) & ~(slots - 1), slots};
  if (slots > 1) node->BeginTies();
  node->PublishTie(place.slot, slots, entry);
  if (slots > 1) node->EndTies();
  node->count = static_cast<uint8_t>(slots);
  while (node->shift < top_shift) {
    Node* above = reserve.Take(node->shift + kSlotShift);
    node->parent = above;
    node->parent_slot = static_cast<uint8_t>(above->SlotOf(index));
    above->Publish(node->parent_slot, Entry::Node(node));
    above->count = 1;
    node = above;
  }
  *top = node;
  return place;
}

// Puts nodes on top until the top has `top_shift`.
template <unsigned kSlotShift>
void Tree<kSlotShift>::Grow(unsigned top_shift, Reserve& reserve) {
  for (;;) {
    Entry head = Head();
    Node* below = head.is_node() ? head.template node<Node>() : nullptr;
    if (below != nullptr && below->shift >= top_shift) return;
    Node* top = reserve.Take(below == nullptr ? 0 : below->shift + kSlotShift);
    top->count = 1;
    for (unsigned mark = 0; mark < kMarks; ++mark) {
      if (Marked(static_cast<Mark>(mark))) top->SetMarkBits(mark, 1);
    }
    if (below != nullptr) {
      below->parent = top;
      below->parent_slot = 0;
    }
    // T5: an in-place exchange may change an entry in the head until this one succeeds.
    uint64_t raw = head.raw();
    do {
      top->Publish(0, Entry::FromRaw(raw));
    } while (!head_.compare_exchange_weak(raw, Entry::Node(top).raw(), std::memory_order_acq_rel,
                                          std::memory_order_acquire));
    Tell(top);
  }
}

// ---- Erasing ----

template <unsigned kSlotShift>
Entry Tree<kSlotShift>::Erase(const Place& place, std::optional<Entry> expected) {
  const uint8_t marks = MarksAt(place);
  ClearMarksAt(place);  // T4
  Node* node = place.node;
  std::atomic<uint64_t>& word = node == nullptr ? head_ : node->slots[place.slot];
  if (node != nullptr && place.slots > 1) node->BeginTies();
  uint64_t raw = place.entry.raw();
  bool erased = true;
  if (expected.has_value()) {
    raw = expected->raw();
    erased =
        word.compare_exchange_strong(raw, 0, std::memory_order_acq_rel, std::memory_order_acquire);
  } else if (exchanged_in_place_) {
    raw = word.exchange(0, std::memory_order_acq_rel);
  } else {
    word.store(0, std::memory_order_release);
  }
  if (node != nullptr && place.slots > 1) {
    for (unsigned i = 1; erased && i < place.slots; ++i) node->Publish(place.slot + i, Entry());
    node->EndTies();
  }
  if (!erased) {
    SetMarksAt(place, marks);
  } else if (node != nullptr) {
    NoteNotFull(node);
    node->count = static_cast<uint8_t>(node->count - place.slots);
    if (node->count > 0) Tell(node);
    Prune(node);
    Shrink();
  }
  return Entry::FromRaw(raw);
}

template <unsigned kSlotShift>
void Tree<kSlotShift>::Clear() {
  marks_.store(0, std::memory_order_release);
  const Entry head = Entry::FromRaw(head_.exchange(0, std::memory_order_acq_rel));
  if (head.is_node()) Discard(head.template node<Node>());
}

// Removes nodes that have become empty, upwards.
template <unsigned kSlotShift>
void Tree<kSlotShift>::Prune(Node* node) {
  while (node != nullptr && node->count == 0) {
    Node* parent = node->parent;
    if (parent != nullptr) {
      parent->Publish(node->parent_slot, Entry());
      --parent->count;
    } else {
      head_.store(0, std::memory_order_release);
    }
    Retire(node);
    node = parent;
    if (parent != nullptr && parent->count > 0) Tell(parent);
  }
}

// Removes top nodes that hold nothing but slot 0.
template <unsigned kSlotShift>
void Tree<kSlotShift>::Shrink() {
  for (;;) {
    const Entry head = Head();
    if (!head.is_node()) return;
    Node* top = head.template node<Node>();
    const Entry only = top->Load(0);
    if (top->count != 1 || only.is_null()) return;
    if (only.is_node()) {
      only.template node<Node>()->parent = nullptr;
    } else if (top->shift > 0 || only.is_value() || only.is_reserved()) {
      return;  // an entry of a higher order; one that may not move (T5); the head reserves nothing
    }
    head_.store(only.raw(), std::memory_order_release);
    Retire(top);
  }
}

// Fills a node that was unlinked with Retry (N4).
template <unsigned kSlotShift>
void Tree<kSlotShift>::Poison(Node* node) {
  node->BeginTies();
  for (unsigned i = 0; i < kSlots; ++i) node->Publish(i, Entry::Retry());
  node->EndTies();
}

// What is left to do with a node that was unlinked (T2).
template <unsigned kSlotShift>
void Tree<kSlotShift>::Retire(Node* node) {
  if (__builtin_expect(observer_ != nullptr, false)) TellObserver(node, true);
  Poison(node);
  RetireNode(node);
}

// Retires a whole subtree that was unlinked.
template <unsigned kSlotShift>
void Tree<kSlotShift>::Discard(Node* node) {
  for (unsigned i = 0; i < kSlots; ++i) {
    const Entry entry = node->Load(i);
    if (entry.is_node()) Discard(entry.template node<Node>());
  }
  Retire(node);
}

// ---- Marks ----

template <unsigned kSlotShift>
void Tree<kSlotShift>::SetMark(const Place& place, Mark mark) {
  const unsigned m = static_cast<unsigned>(mark);
  unsigned slot = place.slot;
  for (Node* node = place.node; node != nullptr; node = node->parent) {
    if (node->Marked(m, slot)) return;  // N2: then all above are set, too
    node->SetMarkBits(m, SlotBits(slot, 1));
    slot = node->parent_slot;
  }
  marks_.store(static_cast<uint8_t>(marks_.load(std::memory_order_relaxed) | 1u << m),
               std::memory_order_release);
}

template <unsigned kSlotShift>
void Tree<kSlotShift>::ClearMark(const Place& place, Mark mark) {
  const unsigned m = static_cast<unsigned>(mark);
  unsigned slot = place.slot;
  for (Node* node = place.node; node != nullptr; node = node->parent) {
    if (!node->Marked(m, slot)) return;
    node->ClearMarkBits(m, SlotBits(slot, 1));
    if (node->AnyMarked(m)) return;
    slot = node->parent_slot;
  }
  marks_.store(static_cast<uint8_t>(marks_.load(std::memory_order_relaxed) & ~(1u << m)),
               std::memory_order_release);
}

template <unsigned kSlotShift>
uint8_t Tree<kSlotShift>::MarksAt(const Place& place) const {
  unsigned marks = 0;
  for (unsigned mark = 0; mark < kMarks; ++mark) {
    if (Marked(place, static_cast<Mark>(mark))) marks |= 1u << mark;
  }
  return static_cast<uint8_t>(marks);
}

template <unsigned kSlotShift>
void Tree<kSlotShift>::ClearMarksAt(const Place& place) {
  for (unsigned mark = 0; mark < kMarks; ++mark) ClearMark(place, static_cast<Mark>(mark));
}

template <unsigned kSlotShift>
void Tree<kSlotShift>::SetMarksAt(const Place& place, uint8_t marks) {
  for (unsigned mark = 0; mark < kMarks; ++mark) {
    if (marks >> mark & 1) SetMark(place, static_cast<Mark>(mark));
  }
}

template struct Place<3>;
template struct Place<6>;
template class Tree<3>;
template class Tree<6>;

}  // namespace daxkv::xarray::internal
