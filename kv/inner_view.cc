#include "kv/inner_view.h"

#include <algorithm>
#include <cstring>

#include "kv/key_order.h"

namespace daxkv::kv {
InnerFrame::~InnerFrame() { delete view.load(std::memory_order_relaxed); }

InnerView::InnerView(const std::vector<Child>& children, const Right& right)
    : count_(static_cast<unsigned>(children.size())),
      right_(right.frame),
      right_fence_(right.fence) {
  // The first child takes every key below the second's separator, so its own does not count.
  if (count_ > 1) {
    const std::string_view second = children[1].separator;
    prefix_ = second.substr(0, CommonPrefix(second, children.back().separator));
  }
  uint64_t separators_size_bytes = 0;
  for (const Child& child : children) separators_size_bytes += child.separator.size();
  Link* links;
  char* bytes;
  uint64_t* const heads = Allocate(separators_size_bytes, &links, &bytes);
  uint32_t end = 0;
  for (unsigned i = 0; i < count_; ++i) {
    const Child& child = children[i];
    heads[i] = i == 0 ? 0 : HeadOf(child.separator.substr(prefix_.size()));
    if (!child.separator.empty()) {
      std::memcpy(bytes + end, child.separator.data(), child.separator.size());
    }
    end += static_cast<uint32_t>(child.separator.size());
    links[i] = LinkTo(child, end);
  }
}

InnerView::InnerView(const InnerView& before, unsigned left, uint32_t left_split_count,
                     const Child& added)
    : count_(before.count_ + 1),
      prefix_(before.prefix_),
      right_(before.right_),
      right_fence_(before.right_fence_) {
  const uint32_t begin = before.links_[left].separator_end;
  const uint32_t end = before.links_[before.count_ - 1].separator_end;
  const auto added_size_bytes = static_cast<uint32_t>(added.separator.size());
  Link* links;
  char* bytes;
  uint64_t* const heads = Allocate(uint64_t{end} + added_size_bytes, &links, &bytes);

  const unsigned place = left + 1;
  std::copy_n(before.heads_, place, heads);
  heads[place] = HeadOf(added.separator.substr(prefix_.size()));
  std::copy(before.heads_ + place, before.heads_ + before.count_, heads + place + 1);

  std::copy_n(before.links_, place, links);
  links[left].split_count = left_split_count;
  links[place] = LinkTo(added, begin + added_size_bytes);
  for (unsigned i = place; i < before.count_; ++i) {
    links[i + 1] = before.links_[i];
    links[i + 1].separator_end += added_size_bytes;
  }

  char* to = std::copy_n(before.bytes_, begin, bytes);
  to = std::copy_n(added.separator.data(), added_size_bytes, to);
  std::copy(before.bytes_ + begin, before.bytes_ + end, to);
}

uint64_t* InnerView::Allocate(uint64_t separators_size_bytes, Link** links, char** bytes) {
  storage_size_bytes_ = count_ * (sizeof(uint64_t) + sizeof(Link)) + separators_size_bytes;
  storage_.reset(new uint64_t[(storage_size_bytes_ + 7) / 8]);  // Not zeroed: all of it is stored.
  uint64_t* const heads = storage_.get();
  *links = reinterpret_cast<Link*>(heads + count_);
  *bytes = reinterpret_cast<char*>(*links + count_);
  heads_ = heads;
  links_ = *links;
  bytes_ = *bytes;
  return heads;
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

  // The last of heads_[0..count_) that is <= head. Invariant: it lies in [base, base + size).
  // Compiles to conditional moves: on hashed keys each branch would be mispredicted half the time.
  unsigned base = 0;
  for (unsigned size = count_; size > 1;) {
    const unsigned half = size / 2;
    base += heads_[base + half] <= head ? half : 0;
    size -= half;
  }
  if (base == 0 || heads_[base] != head) return base;

  // Heads tie: the whole separators decide, among [first tie, base].
  unsigned low = static_cast<unsigned>(std::lower_bound(heads_ + 1, heads_ + base, head) - heads_);
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
  return sizeof(InnerView) + storage_size_bytes_ + right_fence_.capacity();
}

}  // namespace daxkv::kv
