// Views of inner nodes, children that come, splits of inner nodes, new roots.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"

namespace daxkv::kv {
namespace {

using Child = InnerView::Child;

absl::Status Damaged(Address node, const char* what) {
  return absl::DataLossError(absl::StrCat("index node at pool offset ", node, ": ", what));
}

bool BySeparator(const Child& a, const Child& b) { return a.separator < b.separator; }

// The address of the child right of child i; null: that is the last.
Address NextIn(const std::vector<Child>& children, size_t i) {
  return i + 1 < children.size() ? children[i + 1].address : kNullAddress;
}

}  // namespace

InnerFrame* Index::Impl::FrameOf(Address node, unsigned level) {
  std::lock_guard<std::mutex> lock(frames_mutex);
  if (const auto known = frames.find(node); known != frames.end()) return known->second.get();
  auto fresh = std::make_unique<InnerFrame>(node, level);
  return frames.emplace(node, std::move(fresh)).first->second.get();
}

// The children that the node holds, in order, all set up. Children beyond the right neighbour's
// fence moved there in a split; their slots are freed, durably: the neighbour will not tell us when
// such a child goes, and the slot must not lead there then. Caller holds the frame's mutex.
absl::Status Index::Impl::CollectChildren(InnerFrame* frame, const InnerView::Right& right,
                                          std::vector<Child>* children) {
  InnerNode& node = Inner(frame->address);
  const unsigned level = frame->level - 1;
  bool freed = false;
  for (uint64_t& slot : node.slots) {
    Child child;
    child.address = LoadWord(slot);
    if (child.address == kNullAddress) continue;
    if (absl::Status status = SetUp(child.address, level); !status.ok()) return status;
    absl::StatusOr<std::string_view> fence = LowFence(Header(child.address));
    if (!fence.ok()) return fence.status();
    child.separator = *fence;
    if (right.frame != nullptr && child.separator >= right.fence) {
      StoreWord(slot, 0);
      memory->Flush(&slot, sizeof(slot));
      freed = true;
      continue;
    }
    children->push_back(child);
  }
  if (freed) {
    if (absl::Status status = Drain(); !status.ok()) return status;
  }
  if (children->empty()) return Damaged(frame->address, "it has no child");
  std::sort(children->begin(), children->end(), BySeparator);
  for (size_t i = 1; i < children->size(); ++i) {
    if ((*children)[i - 1].separator == (*children)[i].separator) {
      return Damaged(frame->address, "two of its children have one low fence");
    }
  }
  if (Header(children->front().address).low_fence != Header(frame->address).low_fence) {
    return Damaged(frame->address, "its first child has another low fence");
  }
  return absl::OkStatus();
}

// Follows the links from each child to the next one; what lies between was split off, and a crash
// or a full medium kept it from being stored here. A split that is under way now (its flag is set:
// the slots that moved may still be used on the left) is left to its writer.
absl::Status Index::Impl::AddMissingChildren(InnerFrame* frame, const InnerView::Right& right,
                                             std::vector<Child>* children) {
  const unsigned level = frame->level - 1;
  const Address right_fence =
      right.frame == nullptr ? kNullAddress : Header(right.frame->address).low_fence;
  for (size_t i = 0; i < children->size(); ++i) {
    const Child& child = (*children)[i];
    const bool last = i + 1 == children->size();
    const uint64_t next_word = LoadWord(Header(child.address).next);
    if (next_word & kSplitUnfinished) continue;
    if (!last && next_word == (*children)[i + 1].address) continue;
    if (last && right.frame == nullptr && next_word == kNullAddress) continue;
    if (next_word == kNullAddress) {
      return Damaged(child.address, "its link to the right is missing");
    }
    if (absl::Status status = SetUp(next_word, level); !status.ok()) return status;
    const NodeHeader& next = Header(next_word);
    if (last && next.low_fence == right_fence && right_fence != kNullAddress) continue;
    Child missing;
    missing.address = next_word;
    absl::StatusOr<std::string_view> fence = LowFence(next);
    if (!fence.ok()) return fence.status();
    missing.separator = *fence;
    const bool in_order = missing.separator > child.separator &&
                          (last ? right.frame == nullptr || missing.separator < right.fence
                                : missing.separator < (*children)[i + 1].separator);
    if (!in_order) return Damaged(child.address, "its link to the right leads astray");
    StoreChild(frame, missing.address);
    children->insert(children->begin() + static_cast<ptrdiff_t>(i) + 1, missing);
  }
  return absl::OkStatus();
}

// Stores a child in a free slot and starts flushing it. Not waited for: without it the child is
// found through its left neighbour. False: no slot is free. Caller holds the frame's mutex.
bool Index::Impl::StoreChild(InnerFrame* frame, Address child) noexcept {
  for (uint64_t& slot : Inner(frame->address).slots) {
    if (LoadWord(slot) != 0) continue;
    StoreWord(slot, child);
    memory->Flush(&slot, sizeof(slot));
    return true;
  }
  return false;
}

// The split count at which leaf `child` covers exactly [its separator, the next one's), or unknown.
// `next_child` is the frame's child right of it; null: there is none.
// Proof: let c be the count, read even, before the link. If the link then leads to the next child,
// no split had committed when it was read; a later one makes the count odd before it commits, and
// it never becomes c again. So whoever reads c in the leaf may rely on the link as it is here.
uint32_t Index::Impl::ExactSplitCount(const InnerFrame& frame, const InnerFrame* right,
                                      Address child, Address next_child) const {
  if (frame.level > 1) return InnerView::kUnknownSplitCount;
  rcu::ReadGuard guard;  // The link may lead to another parent's leaf, which may go.
  const NodeHeader& leaf = Header(child);
  const uint32_t count = SplitCount(leaf);
  if (IsSplitting(count)) return InnerView::kUnknownSplitCount;
  const Address next = NextOf(LoadWord(leaf.next));
  bool exact = false;
  if (next_child != kNullAddress) {
    exact = next == next_child;
  } else if (right == nullptr) {
    exact = next == kNullAddress;
  } else if (next != kNullAddress) {
    // The right neighbour's first leaf shares the neighbour's low fence. A link to a leaf that
    // nobody has checked yet is not followed.
    Obstacle obstacle;
    exact = CheckReady(next, 0, obstacle).ok() &&
            Header(next).low_fence == Header(right->address).low_fence;
  }
  return exact ? count : InnerView::kUnknownSplitCount;
}

// Caller holds the frame's mutex.
void Index::Impl::PublishView(InnerFrame* frame, std::unique_ptr<const InnerView> next) noexcept {
  const InnerView* old = frame->view.load(std::memory_order_relaxed);
  frame->view.store(next.release(), std::memory_order_release);
  if (old != nullptr) rcu::Retire(const_cast<InnerView*>(old));
}

absl::Status Index::Impl::BuildView(InnerFrame* frame) {
  std::lock_guard<std::mutex> lock(frame->mutex);
  if (frame->view.load(std::memory_order_relaxed) != nullptr) return absl::OkStatus();
  if (absl::Status status = SetUp(frame->address, frame->level); !status.ok()) return status;
  const NodeHeader& header = Header(frame->address);
  InnerView::Right right;
  if (const Address next = NextOf(LoadWord(header.next)); next != kNullAddress) {
    if (absl::Status status = SetUp(next, frame->level); !status.ok()) return status;
    absl::StatusOr<std::string_view> low = LowFence(header);
    absl::StatusOr<std::string_view> high = LowFence(Header(next));
    if (!low.ok()) return low.status();
    if (!high.ok()) return high.status();
    if (*high <= *low) {
      return Damaged(next, "its low fence is not above its left neighbour's");
    }
    right = {FrameOf(next, frame->level), *high};
  }
  std::vector<Child> children;
  if (absl::Status status = CollectChildren(frame, right, &children); !status.ok()) return status;
  if (absl::Status status = AddMissingChildren(frame, right, &children); !status.ok()) {
    return status;
  }
  for (size_t i = 0; i < children.size(); ++i) {
    children[i].split_count =
        ExactSplitCount(*frame, right.frame, children[i].address, NextIn(children, i));
    if (frame->level > 1) children[i].frame = FrameOf(children[i].address, frame->level - 1);
  }
  PublishView(frame, InnerView::Make(children, right));
  return absl::OkStatus();
}

void Index::Impl::AddToParent(NewChild child) noexcept {
  for (;;) {
    std::optional<NewChild> made;
    absl::Status stored = WithoutExceptions([&] { return StoreInParent(child, &made); });
    if (!stored.ok() || !made.has_value()) return;
    child = *made;  // The parent was split.
  }
}

absl::Status Index::Impl::FindParent(const NewChild& child, InnerFrame** parent) {
  for (;;) {
    const InnerFrame* root = root_frame.load(std::memory_order_acquire);
    if (root != nullptr && root->level > child.level) break;
    if (absl::Status grown = GrowRoot(child.level); !grown.ok()) return grown;
  }
  return Run([&](Obstacle& obstacle) {
    const InnerView* view;
    return DescendToFrame(child.fence, child.level + 1, parent, &view, obstacle);
  });
}

std::vector<Child> Index::Impl::ChildrenWith(const NewChild& added, const InnerFrame& frame,
                                             const InnerView& view) {
  std::vector<Child> children = view.Children(frame.level);
  Child child;
  child.separator = added.fence;
  child.address = added.address;
  auto place = std::lower_bound(children.begin(), children.end(), child, BySeparator);
  if (place == children.end() || place->separator != added.fence) {
    if (frame.level > 1) child.frame = FrameOf(added.address, added.level);
    place = children.insert(place, child);
  }
  const size_t i = static_cast<size_t>(place - children.begin());
  for (size_t changed = i == 0 ? 0 : i - 1; changed <= i; ++changed) {
    children[changed].split_count =
        ExactSplitCount(frame, view.right(), children[changed].address, NextIn(children, changed));
  }
  return children;
}

std::unique_ptr<const InnerView> Index::Impl::ViewWith(const NewChild& added,
                                                       const InnerFrame& frame,
                                                       const InnerView& view) {
  const unsigned left = view.Search(added.fence);
  if (view.separator(left) == added.fence || !view.MayGain(added.fence)) {
    return InnerView::Make(ChildrenWith(added, frame, view),
                           InnerView::Right{view.right(), view.right_fence()});
  }
  const auto address_of = [&](unsigned i) {
    return frame.level > 1 ? view.frame(i)->address : view.leaf(i);
  };
  const Address next = left + 1 < view.size() ? address_of(left + 1) : kNullAddress;
  Child child;
  child.separator = added.fence;
  child.address = added.address;
  if (frame.level > 1) child.frame = FrameOf(added.address, added.level);
  child.split_count = ExactSplitCount(frame, view.right(), added.address, next);
  const uint32_t left_split_count =
      ExactSplitCount(frame, view.right(), address_of(left), added.address);
  return view.With(left, left_split_count, child);
}

// `made`: the right half, if the parent had to be split.
absl::Status Index::Impl::StoreInParent(const NewChild& child, std::optional<NewChild>* made) {
  OwnedSlot reserve;  // For a split of the parent: allocated without its mutex (X5).
  bool may_allocate = true;
  for (;;) {
    InnerFrame* frame = nullptr;
    if (absl::Status found = FindParent(child, &frame); !found.ok()) return found;
    std::unique_lock<std::mutex> lock(frame->mutex);
    // Only the mutex's holder replaces the view.
    const InnerView* view = frame->view.load(std::memory_order_relaxed);
    if (!view->Covers(child.fence)) continue;  // The parent was split since.
    const bool is_new = view->separator(view->Search(child.fence)) != child.fence;
    std::unique_ptr<const InnerView> next = ViewWith(child, *frame, *view);
    if (is_new && !StoreChild(frame, child.address)) {
      if (may_allocate) {
        lock.unlock();
        may_allocate = false;
        absl::StatusOr<Address> node = memory->Allocate(SlotKind::kInner, kInnerSizeBytes);
        if (node.ok()) reserve = OwnedSlot(memory, *node);
        continue;
      }
      const bool split = reserve.address() != kNullAddress &&
                         SplitInner(frame, ChildrenWith(child, *frame, *view), &reserve, made).ok();
      if (split) return absl::OkStatus();
      // No room for a split: only the view has the child. A later one stores it.
    }
    PublishView(frame, std::move(next));
    return absl::OkStatus();
  }
}

namespace {

// How many of a full node's children stay in it when it is split.
size_t MiddleOf(const InnerNode& node, const std::vector<Child>& children, bool is_last_node) {
  // Ascending keys fill the right edge of a level: leave the left node full there. Elsewhere halve.
  const auto holds = [&node](Address child) {
    return std::find(std::begin(node.slots), std::end(node.slots), child) != std::end(node.slots);
  };
  const size_t slots_used = static_cast<size_t>(std::count_if(
      std::begin(node.slots), std::end(node.slots), [](const uint64_t& s) { return s != 0; }));
  const bool at_edge =
      is_last_node && children.size() == slots_used + 1 && !holds(children.back().address);
  return at_edge ? children.size() - 1 : children.size() / 2;
}

}  // namespace

// Splits a full inner node, whose children shall be `children`, into itself and a new right node in
// *slot. Caller holds the frame's mutex.
absl::Status Index::Impl::SplitInner(InnerFrame* frame, const std::vector<Child>& children,
                                     OwnedSlot* slot, std::optional<NewChild>* made) {
  const InnerView* view = frame->view.load(std::memory_order_relaxed);
  const InnerView::Right old_right = {view->right(), view->right_fence()};
  const auto middle =
      static_cast<ptrdiff_t>(MiddleOf(Inner(frame->address), children, old_right.frame == nullptr));
  const std::vector<Child> left_children(children.begin(), children.begin() + middle);
  const std::vector<Child> right_children(children.begin() + middle, children.end());
  absl::StatusOr<std::string_view> fence = LowFence(Header(right_children.front().address));
  if (!fence.ok()) return fence.status();
  auto right_view = InnerView::Make(right_children, old_right);
  const Address right_address = slot->address();
  auto right_frame = std::make_unique<InnerFrame>(right_address, frame->level);
  auto left_view = InnerView::Make(left_children, InnerView::Right{right_frame.get(), *fence});
  InnerFrame* right = right_frame.get();
  {
    std::lock_guard<std::mutex> lock(frames_mutex);
    if (!frames.try_emplace(right_address, std::move(right_frame)).second) {
      return Damaged(right_address, "a free slot was taken for a node before");
    }
  }
  if (absl::Status linked = LinkRightInner(frame, right_children, slot); !linked.ok()) {
    return linked;  // The medium failed: no other node will ever get this address.
  }
  KeepChildren(frame, left_children);
  // Readers of the old view go on with it: it is complete. The new left view leads to the right
  // frame, so that one comes first.
  {
    std::lock_guard<std::mutex> lock(right->mutex);
    PublishView(right, std::move(right_view));
  }
  PublishView(frame, std::move(left_view));
  *made = NewChild{frame->level, right_address, *fence};
  return absl::OkStatus();
}

// Writes a right neighbour with these children, and commits it.
absl::Status Index::Impl::LinkRightInner(InnerFrame* left, const std::vector<Child>& children,
                                         OwnedSlot* slot) noexcept {
  InnerNode& node = Inner(left->address);
  const Address right_address = slot->address();
  InnerNode& right = Inner(right_address);
  WriteHeader(right_address, left->level, Header(children.front().address).low_fence,
              NextOf(LoadWord(node.header.next)), /*version=*/0, /*overflow=*/0);
  for (uint64_t& word : right.slots) word = 0;
  // More than fit can only come of earlier splits that found no room; the rest stay in the view.
  for (size_t i = 0; i < std::min<size_t>(children.size(), kInnerSlots); ++i) {
    right.slots[i] = children[i].address;
  }
  memory->Flush(&right, sizeof(right));
  if (absl::Status status = Drain(); !status.ok()) return status;

  // Commits. Before: the right node does not exist. After: the left node's children from the right
  // one's low fence on count as absent. The flag keeps view builds above from storing the right
  // node before this word is durable.
  slot->Release();
  StoreWord(node.header.next, right_address | kSplitUnfinished);
  memory->Flush(&node.header, sizeof(node.header));
  return absl::OkStatus();
}

// After a split: frees the slots of children that moved, then stores those that had found no slot.
// Waits for that and for the link, in no order: without the link, and with the slots freed, the
// children are found through their left neighbours again. Without a wait a slot might lead to a
// child that the right node has given up since, and the parent to a node without a link to it.
void Index::Impl::KeepChildren(InnerFrame* frame, const std::vector<Child>& kept) noexcept {
  InnerNode& node = Inner(frame->address);
  const auto is_kept = [&kept](Address address) {
    return std::any_of(kept.begin(), kept.end(),
                       [address](const Child& child) { return child.address == address; });
  };
  for (uint64_t& slot : node.slots) {
    if (LoadWord(slot) != 0 && !is_kept(LoadWord(slot))) StoreWord(slot, 0);
  }
  for (const Child& child : kept) {
    if (std::find(std::begin(node.slots), std::end(node.slots), child.address) ==
        std::end(node.slots)) {
      StoreChild(frame, child.address);
    }
  }
  memory->Flush(node.slots, sizeof(node.slots));
  Drain().IgnoreError();  // Which keeps writers away if it fails.
  StoreWord(node.header.next, NextOf(LoadWord(node.header.next)));
  memory->Flush(&node.header, sizeof(node.header));
}

absl::Status Index::Impl::GrowRoot(unsigned level) {
  absl::StatusOr<Address> address = memory->Allocate(SlotKind::kInner, kInnerSizeBytes);
  if (!address.ok()) return address.status();
  OwnedSlot slot(memory, *address);
  std::lock_guard<std::mutex> lock(root_mutex);
  InnerFrame* old = root_frame.load(std::memory_order_relaxed);
  const unsigned old_level = old == nullptr ? 0 : old->level;
  if (old_level > level) return absl::OkStatus();
  // From here on only the medium can fail, and then no other node gets this address.
  InnerFrame* frame = FrameOf(*address, old_level + 1);
  // The new root begins with one child; its view's build adds what lies right of that.
  InnerNode& node = Inner(*address);
  WriteHeader(*address, old_level + 1, kNullAddress, /*next=*/0, /*version=*/0, /*overflow=*/0);
  for (uint64_t& word : node.slots) word = 0;
  node.slots[0] = old == nullptr ? root_leaf : old->address;
  memory->Flush(&node, sizeof(node));
  if (absl::Status status = Drain(); !status.ok()) return status;
  // Commits. Before: the old root, with right neighbours that are found by going right.
  slot.Release();
  StoreWord(*root_word, *address | uint64_t{old_level + 1} << 48);
  memory->Flush(root_word, sizeof(*root_word));
  if (absl::Status status = Drain(); !status.ok()) return status;
  root_frame.store(frame, std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace daxkv::kv
