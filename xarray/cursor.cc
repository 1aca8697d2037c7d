#include "xarray/cursor.h"

#include <algorithm>
#include <cassert>
#include <new>

#include "absl/strings/str_cat.h"

namespace daxkv::xarray {
namespace {

// Never throws: lack of memory is what it mostly tells of.
template <typename... Parts>
absl::Status ResourceExhausted(const Parts&... parts) noexcept {
  try {
    return absl::ResourceExhaustedError(absl::StrCat(parts...));
  } catch (const std::bad_alloc&) {
    return absl::Status(absl::StatusCode::kResourceExhausted, "");  // Needs none.
  }
}

// 8 GiB of nodes; what is beyond is a mistake.
constexpr uint64_t kMaxNodesAtOnce = uint64_t{1} << 24;

// The next slot at or behind `slot` that may hold what a search wants; kSlots if none.
template <typename Node>
unsigned NextSlot(const Node& node, unsigned slot, int mark) {
  if (mark < 0) {
    while (slot < Node::kSlots && node.Load(slot).is_null()) ++slot;
    return slot;
  }
  // In the middle of a tie the mark is at the canonical slot, further back; and a dead node has no
  // marks, but is to be noticed.
  const Entry entry = node.Load(slot);
  if (entry.is_sibling() || entry.is_retry()) return slot;
  const uint64_t bits = node.marks[mark].load(std::memory_order_acquire) >> slot;
  return bits == 0 ? Node::kSlots : slot + static_cast<unsigned>(__builtin_ctzll(bits));
}

// Fetches the node that a walk enters after the one at `slot`. Always inlined: g++ 12 takes a
// function that only prefetches for one without effect, and drops the calls.
template <typename Node>
[[gnu::always_inline]] inline void PrefetchBehind(const Node& node, unsigned slot, int mark) {
  if (++slot < Node::kSlots) slot = NextSlot(node, slot, mark);
  const Entry entry = slot < Node::kSlots ? node.Load(slot) : Entry();
  if (!entry.is_node()) return;
  const char* next = reinterpret_cast<const char*>(entry.template node<Node>());
  // Marked entries are few: the node's header tells where they are.
  const unsigned bytes = mark < 0 ? sizeof(Node) : 64;
  for (unsigned byte = 0; byte < bytes; byte += 64) __builtin_prefetch(next + byte);
}

}  // namespace

// ---- Reading ----

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::Arrive(const Place& place, uint64_t index, Node* above) {
  current_ = place;
  above_ = above;
  index_ = index;
  at_end_ = false;
  next_ = place.Last(index) + 1;
  return place.entry;
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::NotFound(uint64_t last) {
  Forget();
  at_end_ = last == UINT64_MAX;
  next_ = last + 1;
  return Entry();
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::Load() {
  const Place place = tree_->Locate(index_);
  return place.entry.visible() ? Arrive(place, index_) : NotFound(index_);
}

// Searches [index, last] from the top of the tree.
template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::Search(uint64_t index, uint64_t last, int mark) {
  while (index <= last) {
    const Entry head = tree_->Head();
    if (!head.is_node()) {
      const bool marked = mark < 0 || tree_->Marked(static_cast<Mark>(mark));
      return index == 0 && head && marked ? Arrive({head}, 0) : NotFound(last);
    }
    Node* top = head.template node<Node>();
    if (!top->TopCovers(index)) return NotFound(last);
    Entry found;
    if (SearchBelow(top, nullptr, &index, last, mark, &found)) return found;
  }
  return NotFound(last);
}

// Where a search goes on at `index`, just behind an entry of `node`: there, or in the node above.
// Null: from the top.
template <unsigned kSlotShift>
auto BasicCursor<kSlotShift>::Onwards(Node* node, Node** above, uint64_t index) -> Node* {
  if (node->SlotOf(index) != 0) return node;
  node = *above;
  *above = nullptr;
  return node != nullptr && node->SlotOf(index) != 0 ? node : nullptr;
}

// Searches [*index, last] in `node`, to which the search came down from `above`, and below. True:
// finished, with or without a find. False: go on from the top at *index, for this path has no more,
// or a node has left the tree.
template <unsigned kSlotShift>
bool BasicCursor<kSlotShift>::SearchBelow(Node* node, Node* above, uint64_t* index, uint64_t last,
                                          int mark, Entry* found) {
  for (;;) {
    const unsigned slot = NextSlot(*node, node->SlotOf(*index), mark);
    uint64_t passed;  // the last index that is known not to hold what we want
    if (slot < Node::kSlots) {
      *index = std::max(*index, node->SlotFirst(*index, slot));
      if (*index > last) break;
      const Tie tie = node->ReadTie(slot);
      if (tie.entry.is_retry()) return false;
      if (tie.entry.is_node()) {
        // Who enters a node at its first index is probably walking through all.
        if (*index == node->SlotFirst(*index, slot)) PrefetchBehind(*node, slot, mark);
        above = node;
        node = tie.entry.template node<Node>();
        continue;
      }
      const Place place{tie.entry, node, tie.slot, tie.slots};
      const bool wanted = mark < 0 || tree_->Marked(place, static_cast<Mark>(mark));
      if ((mark == kTaken ? tie.entry : tie.entry.visible()) && wanted) {
        *found = Arrive(place, *index, above);
        return true;
      }
      // Unmarked, or erased or unmarked since.
      passed = place.Last(*index);
    } else {
      passed = node->LastIndex(*index);
    }
    if (passed >= last) break;
    *index = passed + 1;
    node = Onwards(node, &above, *index);
    if (node == nullptr) return false;
  }
  *found = NotFound(last);
  return true;
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::SearchNext(uint64_t last, int mark) {
  if (AtEnd() || next_ > last) {
    Forget();
    return Entry();
  }
  return SearchOnwards(current_.node, above_, last, mark);
}

// Searches [next_, last], which begins just behind an entry of `node`, if that is not null.
template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::SearchOnwards(Node* node, Node* above, uint64_t last, int mark) {
  uint64_t index = next_;
  if (node != nullptr) node = Onwards(node, &above, index);
  Entry found;
  if (node != nullptr && SearchBelow(node, above, &index, last, mark, &found)) return found;
  return Search(index, last, mark);
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::Find(uint64_t last) {
  return Search(index_, last, kUnmarked);
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::FindMarked(uint64_t last, Mark mark) {
  return Search(index_, last, static_cast<int>(mark));
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::FindNextMarked(uint64_t last, Mark mark) {
  return SearchNext(last, static_cast<int>(mark));
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::FindConflict() {
  const uint64_t mask = (uint64_t{1} << store_order_) - 1;
  return Search(index_ & ~mask, index_ | mask, kUnmarked);
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::NextConflict() {
  const uint64_t mask = (uint64_t{1} << store_order_) - 1;
  return SearchNext(index_ | mask, kUnmarked);
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::Next() {
  if (index_ == UINT64_MAX) return NotFound(UINT64_MAX);
  Set(index_ + 1);
  return Load();
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::Prev() {
  if (index_ == 0) {
    Set(0);
    return Entry();
  }
  Set(index_ - 1);
  return Load();
}

template <unsigned kSlotShift>
bool BasicCursor<kSlotShift>::GetMark(Mark mark) {
  if (!current()) Load();
  return tree_->Marked(current_, mark);
}

template <unsigned kSlotShift>
bool BasicCursor<kSlotShift>::CompareExchangeInPlace(Entry expected, Entry desired) {
  assert(tree_->exchanged_in_place());
  if (!tree_->exchanged_in_place() || !expected.is_value() || !desired.is_value()) return false;
  if (!current() && !Load()) return false;
  if (!tree_->ExchangeInPlace(current_, expected, desired)) return false;
  current_.entry = desired;
  return true;
}

// ---- Changing ----

template <unsigned kSlotShift>
absl::Status BasicCursor<kSlotShift>::CheckStore(Entry entry) const {
  if (store_order_ > kMaxOrder) {
    return absl::InvalidArgumentError(
        absl::StrCat("order ", store_order_, " is above ", kMaxOrder, ", the largest"));
  }
  if (entry.is_internal()) {
    return absl::InvalidArgumentError(
        "the entry has the bit pattern of the array's own entries; pointers must be aligned to 4");
  }
  return absl::OkStatus();
}

template <unsigned kSlotShift>
absl::Status BasicCursor<kSlotShift>::NeedNodes(uint64_t nodes) {
  nodes_wanted_ = nodes;
  if (nodes <= reserve_.size()) return absl::OkStatus();
  return ResourceExhausted("index ", index_, " needs ", nodes - reserve_.size(),
                           " more tree nodes: call Reserve()");
}

template <unsigned kSlotShift>
absl::StatusOr<Entry> BasicCursor<kSlotShift>::Store(Entry entry) {
  if (absl::Status status = CheckStore(entry); !status.ok()) return status;
  return entry.is_null() ? EraseBlock() : Put(entry);
}

template <unsigned kSlotShift>
absl::StatusOr<Entry> BasicCursor<kSlotShift>::Put(Entry entry) {
  Entry old;
  Place place = tree_->LocateLocked(index_);
  if (!tree_->StoreAt(&place, store_order_, entry, &old)) {
    absl::Status status = NeedNodes(tree_->NodesToStore(index_, store_order_, entry.is_reserved()));
    if (!status.ok()) return status;
    place = tree_->Store(index_, store_order_, entry, reserve_, &old);
  }
  nodes_wanted_ = 0;
  Arrive(place, index_);
  return old;
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::EraseBlock() {
  const uint64_t index = index_;
  const uint64_t mask = (uint64_t{1} << store_order_) - 1;
  Entry old;
  Forget();
  while (FindTaken(index & ~mask, index | mask)) {
    const bool covers = first() <= index && index <= last();
    const Entry erased = tree_->Erase(current_).visible();
    if (covers) old = erased;
    Forget();  // its node may be gone
  }
  Set(index);
  return old;
}

template <unsigned kSlotShift>
absl::StatusOr<Entry> BasicCursor<kSlotShift>::CompareExchange(Entry expected, Entry desired) {
  if (absl::Status status = CheckStore(desired); !status.ok()) return status;
  for (;;) {
    const Entry found = Load();
    if (found != expected) return found;
    if (found.is_null()) return desired.is_null() ? Entry() : Store(desired);
    if (desired.is_null()) {
      const Entry erased = tree_->Erase(current_, expected);
      if (erased == expected) Forget();
      if (erased == expected) return erased;
    } else if (tree_->ExchangeInPlace(current_, expected, desired)) {
      tree_->TellReplaced(current_.node, expected, desired);
      current_.entry = desired;
      return found;
    }
    // An in-place exchange came between: look again.
  }
}

template <unsigned kSlotShift>
Entry BasicCursor<kSlotShift>::Erase() {
  if (!current()) {
    const Place place = tree_->LocateLocked(index_);
    if (!place.entry) return NotFound(index_);
    Arrive(place, index_);
  }
  const Entry erased = tree_->Erase(current_).visible();
  Forget();  // its node may be gone; next_ stays behind it
  return erased;
}

// Whether an entry or a reservation overlaps [first, last]; it is the current one then.
template <unsigned kSlotShift>
bool BasicCursor<kSlotShift>::FindTaken(uint64_t first, uint64_t last) {
  Search(first, last, kTaken);
  return !current_.entry.is_null();
}

template <unsigned kSlotShift>
bool BasicCursor<kSlotShift>::SetMark(Mark mark) {
  if (!current() && !Load()) return false;
  tree_->SetMark(current_, mark);
  return true;
}

template <unsigned kSlotShift>
bool BasicCursor<kSlotShift>::ClearMark(Mark mark) {
  if (!current() && !Load()) return false;
  tree_->ClearMark(current_, mark);
  return true;
}

template <unsigned kSlotShift>
absl::Status BasicCursor<kSlotShift>::Split(unsigned new_order, Piece piece) {
  const Place place = tree_->Locate(index_);
  if (!place.entry.visible()) {
    return absl::NotFoundError(absl::StrCat("index ", index_, " holds no entry to split"));
  }
  if (place.Order() <= new_order) {
    return absl::InvalidArgumentError(absl::StrCat("the entry at index ", index_, " has order ",
                                                   place.Order(), ", not above ", new_order));
  }
  const uint64_t nodes = Tree::NodesToSplit(place, new_order);
  if (nodes > kMaxNodesAtOnce) {
    nodes_wanted_ = 0;
    return ResourceExhausted("splitting order ", place.Order(), " at index ", index_,
                             " into order ", new_order, " takes more than ", kMaxNodesAtOnce,
                             " tree nodes: split in several steps");
  }
  absl::Status status = NeedNodes(nodes);
  if (!status.ok()) return status;
  if (!tree_->Split(place, index_, new_order, piece, reserve_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a piece of the entry at index ", index_, " is null or internal"));
  }
  nodes_wanted_ = 0;
  Load();
  return absl::OkStatus();
}

template <unsigned kSlotShift>
absl::Status BasicCursor<kSlotShift>::SplitPath(unsigned new_order, PieceOfOrder piece) {
  if (!Load()) return Split(new_order, [](uint64_t) { return Entry(); });  // says why not
  const uint64_t index = index_;
  const unsigned old_order = order();
  for (unsigned half = new_order; half < old_order; ++half) {
    const uint64_t first = index & ~((uint64_t{1} << half) - 1);
    for (uint64_t at : {first, first ^ (uint64_t{1} << half)}) {
      const Entry entry = piece(at, half);
      if (entry && !entry.is_internal()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("the piece of order ", half, " at index ", at, " is null or internal"));
    }
  }
  if (old_order > new_order) {
    const unsigned levels = old_order / kSlotShift - new_order / kSlotShift;
    if (absl::Status status = NeedNodes(levels); !status.ok()) return status;
  }
  for (unsigned half = old_order; half > new_order;) {
    --half;
    absl::Status status = Split(half, [&](uint64_t first) { return piece(first, half); });
    if (!status.ok()) return status;
  }
  return old_order > new_order ? absl::OkStatus()
                               : Split(new_order, [](uint64_t) { return Entry(); });
}

template <unsigned kSlotShift>
absl::Status BasicCursor<kSlotShift>::CreateRange(uint64_t last) {
  if (absl::Status status = CheckStore(Entry()); !status.ok()) return status;
  nodes_wanted_ = 0;
  if (last < index_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the range from ", index_, " to ", last, " is empty: its ends are swapped"));
  }
  const uint64_t nodes = tree_->NodesToStoreRange(index_, last, store_order_);
  if (nodes > kMaxNodesAtOnce) {
    return ResourceExhausted("the range from ", index_, " to ", last, " takes more than ",
                             kMaxNodesAtOnce, " tree nodes: create it in several steps");
  }
  return NeedNodes(nodes);
}

template <unsigned kSlotShift>
absl::Status BasicCursor<kSlotShift>::Reserve() {
  if (reserve_.FillTo(nodes_wanted_)) return absl::OkStatus();
  return ResourceExhausted("no memory for ", nodes_wanted_, " tree nodes of ", sizeof(Node),
                           " bytes");
}

template class BasicCursor<3>;
template class BasicCursor<6>;

}  // namespace daxkv::xarray
