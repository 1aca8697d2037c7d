#include "kv/inner_view.h"

#include <algorithm>
#include <cstring>

#include "kv/key_order.h"

namespace daxkv::kv {
namespace {

constexpr unsigned kNearLinks = 8;  // They lie in three lines at most.

// So that heads may follow at once.
static_assert(sizeof(InnerView) % alignof(uint64_t) == 0);

}  // namespace

InnerFrame::~InnerFrame() { delete view.load(std::memory_order_relaxed); }

std::unique_ptr<const InnerView> InnerView::Make(const std::vector<Child>& children,
                                                 const Right& right) {
  const auto count = static_cast<unsigned>(children.size());
  // The first child takes every key below the second's separator, so its own does not count.
  std::string_view prefix;
  if (count > 1) {
    const std::string_view second = children[1].separator;
    prefix = second.substr(0, CommonPrefix(second, children.back().separator));
  }
  uint64_t separators_size_bytes = 0;
  for (const Child& child : children) separators_size_bytes += child.separator.size();
  std::unique_ptr<InnerView> view(new (RoomFor(count, separators_size_bytes))
                                      InnerView(count, prefix, right));
  uint64_t* const heads = view->heads();
  Link* const links = view->links();
  char* const bytes = view->bytes();
  uint32_t end = 0;
  for (unsigned i = 0; i < count; ++i) {
    const Child& child = children[i];
    heads[i] = i == 0 ? 0 : HeadOf(child.separator.substr(prefix.size()));
    if (!child.separator.empty()) {
      std::memcpy(bytes + end, child.separator.data(), child.separator.size());
    }
    end += static_cast<uint32_t>(child.separator.size());
    links[i] = LinkTo(child, end);
  }
  return view;
}

std::unique_ptr<const InnerView> InnerView::With(unsigned left, uint32_t left_split_count,
                                                 const Child& added) const {
  const uint32_t begin = this->links()[left].separator_end;
  const uint32_t end = this->links()[count_ - 1].separator_end;
  const auto added_size_bytes = static_cast<uint32_t>(added.separator.size());
  std::unique_ptr<InnerView> view(new (RoomFor(count_ + 1, uint64_t{end} + added_size_bytes))
                                      InnerView(count_ + 1, prefix_, {right_, right_fence_}));

  const unsigned place = left + 1;
  uint64_t* const heads = view->heads();
  std::copy_n(this->heads(), place, heads);
  heads[place] = HeadOf(added.separator.substr(prefix_.size()));
  std::copy(this->heads() + place, this->heads() + count_, heads + place + 1);

  Link* const links = view->links();
  std::copy_n(this->links(), place, links);
  links[left].split_count = left_split_count;
  links[place] = LinkTo(added, begin + added_size_bytes);
  for (unsigned i = place; i < count_; ++i) {
    links[i + 1] = this->links()[i];
    links[i + 1].separator_end += added_size_bytes;
  }

  char* to = std::copy_n(this->bytes(), begin, view->bytes());
  to = std::copy_n(added.separator.data(), added_size_bytes, to);
  std::copy(this->bytes() + begin, this->bytes() + end, to);
  return view;
}

InnerView::Link InnerView::LinkTo(const Child& child, uint32_t separator_end) {
  Link link;
  if (child.frame == nullptr) {
    link.leaf = child.address;
  } else {
    link.frame = child.frame;
  }
  link.split_count = child.split_count;
  link.separator_end = separator_end;
  return link;
}

unsigned InnerView::Search(std::string_view key) const {
  if (count_ == 1) return 0;
  if (!prefix_.empty()) {
    const int order = key.substr(0, prefix_.size()).compare(prefix_);
    if (order != 0) return order < 0 ? 0 : count_ - 1;
  }
  const uint64_t head = HeadOf(key.substr(prefix_.size()));
  const uint64_t* const heads = this->heads();

  // The last of heads[0..count_) that is <= head. Invariant: it lies in [base, base + size).
  // Compiles to conditional moves: on hashed keys each branch would be mispredicted half the time.
  unsigned base = 0;
  unsigned size = count_;
  const auto halve = [&] {
    const unsigned half = size / 2;
    base += heads[base + half] <= head ? half : 0;
    size -= half;
  };
  while (size > kNearLinks) halve();
  // The caller will read one of these.
  PrefetchChild(base);
  PrefetchChild(base + size - 1);
  while (size > 1) halve();
  if (base == 0 || heads[base] != head) return base;

  // Heads tie: the whole separators decide, among [first tie, base].
  unsigned low = static_cast<unsigned>(std::lower_bound(heads + 1, heads + base, head) - heads);
  unsigned high = base + 1;
  while (low < high) {
    const unsigned middle = (low + high) / 2;
    if (separator(middle).compare(key) <= 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - 1;
}

std::vector<InnerView::Child> InnerView::Children(unsigned level) const {
  std::vector<Child> children(count_);
  for (unsigned i = 0; i < count_; ++i) {
    children[i].separator = separator(i);
    children[i].frame = level > 1 ? frame(i) : nullptr;
    children[i].address = level > 1 ? frame(i)->address : leaf(i);
    children[i].split_count = split_count(i);
  }
  return children;
}

uint64_t InnerView::size_bytes() const {
  return sizeof(InnerView) + RoomFor(count_, links()[count_ - 1].separator_end).size_bytes +
         right_fence_.capacity();
}

}  // namespace daxkv::kv
