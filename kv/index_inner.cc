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

}  // namespace

InnerFrame* Index::Impl::FrameOf(Address node, unsigned level) {
  std::lock_guard<std::mutex> lock(frames_mutex);
  std::unique_ptr<InnerFrame>& frame = frames[node];
  if (frame == nullptr) frame = std::make_unique<InnerFrame>(node, level);
  return frame.get();
}

// The children that the node holds, in order, all set up. Children beyond the right neighbour's
// fence moved there in a split; their slots are freed. Caller holds the frame's mutex.
absl::Status Index::Impl::CollectChildren(InnerFrame* frame, const InnerView::Right& right,
                                          std::vector<Child>* children) {
  InnerNode& node = Inner(frame->address);
  const unsigned level = frame->level - 1;
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
      continue;
    }
    children->push_back(child);
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
bool Index::Impl::StoreChild(InnerFrame* frame, Address child) {
  for (uint64_t& slot : Inner(frame->address).slots) {
    if (LoadWord(slot) != 0) continue;
    StoreWord(slot, child);
    memory->Flush(&slot, sizeof(slot));
    return true;
  }
  return false;
}

// The split count at which leaf i covers exactly [its separator, the next one's), or unknown.
// Proof: let c be the count, read even, before the link. If the link then leads to the next child,
// no split had committed when it was read; a later one makes the count odd before it commits, and
// it never becomes c again. So whoever reads c in the leaf may rely on the link as it is here.
uint32_t Index::Impl::ExactSplitCount(const InnerFrame& frame, const InnerView::Right& right,
                                      const std::vector<Child>& children, size_t i) const {
  if (frame.level > 1) return InnerView::kUnknownSplitCount;
  const NodeHeader& leaf = Header(children[i].address);
  const uint32_t count = SplitCount(leaf);
  if (IsSplitting(count)) return InnerView::kUnknownSplitCount;
  const Address next = NextOf(LoadWord(leaf.next));
  bool exact = false;
  if (i + 1 < children.size()) {
    exact = next == children[i + 1].address;
  } else if (right.frame == nullptr) {
    exact = next == kNullAddress;
  } else if (next != kNullAddress) {
    // The right neighbour's first leaf shares the neighbour's low fence. A link to a leaf that
    // nobody has checked yet is not followed.
    rcu::ReadGuard guard;
    Obstacle obstacle;
    exact = CheckReady(next, 0, obstacle).ok() &&
            Header(next).low_fence == Header(right.frame->address).low_fence;
  }
  return exact ? count : InnerView::kUnknownSplitCount;
}

void Index::Impl::PublishView(InnerFrame* frame, const std::vector<Child>& children,
                              const InnerView::Right& right) {
  const InnerView* old = frame->view.load(std::memory_order_relaxed);
  frame->view.store(new InnerView(children, right), std::memory_order_release);
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
    children[i].split_count = ExactSplitCount(*frame, right, children, i);
    if (frame->level > 1) children[i].frame = FrameOf(children[i].address, frame->level - 1);
  }
  PublishView(frame, children, right);
  return absl::OkStatus();
}

void Index::Impl::AddToParent(unsigned child_level, Address child, std::string_view fence) {
  Address reserve = kNullAddress;  // For a split of the parent: allocated without its mutex (X5).
  bool may_allocate = true;
  for (;;) {
    InnerFrame* frame = root_frame.load(std::memory_order_acquire);
    if (frame == nullptr || frame->level <= child_level) {
      if (!GrowRoot(child_level).ok()) break;
      continue;
    }
    absl::Status status = Run([&](Obstacle& obstacle) {
      const InnerView* view;
      return DescendToFrame(fence, child_level + 1, &frame, &view, obstacle);
    });
    if (!status.ok()) break;
    std::unique_lock<std::mutex> lock(frame->mutex);
    // Only the mutex's holder replaces the view.
    const InnerView* view = frame->view.load(std::memory_order_relaxed);
    if (!view->Covers(fence)) continue;  // The parent was split since.
    const InnerView::Right right = {view->right(), view->right_fence()};
    std::vector<Child> children = view->Children(frame->level);
    Child added;
    added.separator = fence;
    added.address = child;
    auto place = std::lower_bound(children.begin(), children.end(), added, BySeparator);
    const bool is_new = place == children.end() || place->separator != fence;
    if (is_new) {
      if (frame->level > 1) added.frame = FrameOf(child, child_level);
      place = children.insert(place, added);
    }
    const size_t i = static_cast<size_t>(place - children.begin());
    children[i].split_count = ExactSplitCount(*frame, right, children, i);
    if (i > 0) children[i - 1].split_count = ExactSplitCount(*frame, right, children, i - 1);
    if (is_new && !StoreChild(frame, child)) {
      if (may_allocate && reserve == kNullAddress) {
        lock.unlock();
        may_allocate = false;
        absl::StatusOr<Address> node = memory->Allocate(SlotKind::kInner, kInnerSizeBytes);
        if (node.ok()) reserve = *node;
        continue;
      }
      InnerView::Right made;
      if (reserve != kNullAddress && SplitInner(frame, children, reserve, &made).ok()) {
        lock.unlock();
        AddToParent(made.frame->level, made.frame->address, made.fence);
        return;
      }
      // No room for a split: only the view has the child. A later one stores it.
    }
    PublishView(frame, children, right);
    break;
  }
  if (reserve != kNullAddress && !medium_failed.load(std::memory_order_relaxed)) {
    memory->Abandon(reserve);
  }
}

// Splits a full inner node, whose children shall be `children`, into itself and a new right node at
// `right_address`. Caller holds the frame's mutex.
absl::Status Index::Impl::SplitInner(InnerFrame* frame, const std::vector<Child>& children,
                                     Address right_address, InnerView::Right* made) {
  const InnerView* view = frame->view.load(std::memory_order_relaxed);
  const InnerView::Right old_right = {view->right(), view->right_fence()};
  InnerNode& left = Inner(frame->address);
  InnerNode& right = Inner(right_address);

  // Ascending keys fill the right edge of a level: leave the left node full there. Elsewhere halve.
  const size_t slots_used = static_cast<size_t>(std::count_if(
      std::begin(left.slots), std::end(left.slots), [](uint64_t s) { return LoadWord(s) != 0; }));
  const bool at_edge = old_right.frame == nullptr && children.size() == slots_used + 1 &&
                       std::find(std::begin(left.slots), std::end(left.slots),
                                 children.back().address) == std::end(left.slots);
  const size_t middle = at_edge ? children.size() - 1 : children.size() / 2;
  const std::vector<Child> left_children(children.begin(),
                                         children.begin() + static_cast<ptrdiff_t>(middle));
  const std::vector<Child> right_children(children.begin() + static_cast<ptrdiff_t>(middle),
                                          children.end());
  const Address next = NextOf(LoadWord(left.header.next));
  absl::StatusOr<std::string_view> fence = LowFence(Header(right_children.front().address));
  if (!fence.ok()) return fence.status();

  WriteHeader(right_address, frame->level, Header(right_children.front().address).low_fence, next,
              /*version=*/0, /*overflow=*/0);
  for (uint64_t& slot : right.slots) slot = 0;
  // More than fit can only come of earlier splits that found no room; the rest stay in the view.
  for (size_t i = 0; i < std::min<size_t>(right_children.size(), kInnerSlots); ++i) {
    right.slots[i] = right_children[i].address;
  }
  memory->Flush(&right, sizeof(right));
  if (absl::Status status = Drain(); !status.ok()) return status;

  // Commits. Before: the right node does not exist. After: the left node's children from the right
  // one's low fence on count as absent. The flag keeps view builds above from storing the right
  // node before this word is durable.
  StoreWord(left.header.next, right_address | kSplitUnfinished);
  memory->Flush(&left.header, sizeof(left.header));
  if (absl::Status status = Drain(); !status.ok()) return status;

  // Free the slots of children that moved, then store those that had found no slot.
  const auto find = [](const std::vector<Child>& among, Address address) {
    return std::any_of(among.begin(), among.end(),
                       [address](const Child& child) { return child.address == address; });
  };
  for (uint64_t& slot : left.slots) {
    if (LoadWord(slot) != 0 && !find(left_children, LoadWord(slot))) StoreWord(slot, 0);
  }
  for (const Child& child : left_children) {
    if (std::find(std::begin(left.slots), std::end(left.slots), child.address) ==
        std::end(left.slots)) {
      StoreChild(frame, child.address);
    }
  }
  memory->Flush(left.slots, sizeof(left.slots));
  StoreWord(left.header.next, right_address);
  memory->Flush(&left.header, sizeof(left.header));

  // Readers of the old view go on with it: it is complete. The new left view leads to the right
  // frame, so that one comes first.
  made->frame = FrameOf(right_address, frame->level);
  made->fence = *fence;
  {
    std::lock_guard<std::mutex> lock(made->frame->mutex);
    PublishView(made->frame, right_children, old_right);
  }
  PublishView(frame, left_children, *made);
  return absl::OkStatus();
}

absl::Status Index::Impl::GrowRoot(unsigned level) {
  absl::StatusOr<Address> address = memory->Allocate(SlotKind::kInner, kInnerSizeBytes);
  if (!address.ok()) return address.status();
  std::lock_guard<std::mutex> lock(root_mutex);
  InnerFrame* old = root_frame.load(std::memory_order_relaxed);
  const unsigned old_level = old == nullptr ? 0 : old->level;
  if (old_level > level) {
    memory->Abandon(*address);
    return absl::OkStatus();
  }
  // The new root begins with one child; its view's build adds what lies right of that.
  InnerNode& node = Inner(*address);
  WriteHeader(*address, old_level + 1, kNullAddress, /*next=*/0, /*version=*/0, /*overflow=*/0);
  for (uint64_t& slot : node.slots) slot = 0;
  node.slots[0] = old == nullptr ? root_leaf : old->address;
  memory->Flush(&node, sizeof(node));
  if (absl::Status status = Drain(); !status.ok()) return status;
  // Commits. Before: the old root, with right neighbours that are found by going right.
  StoreWord(*root_word, *address | uint64_t{old_level + 1} << 48);
  memory->Flush(root_word, sizeof(*root_word));
  if (absl::Status status = Drain(); !status.ok()) return status;
  root_frame.store(FrameOf(*address, old_level + 1), std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace daxkv::kv
