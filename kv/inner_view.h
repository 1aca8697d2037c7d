// The view of an inner node: its children in order, in DRAM. Internal to kv/.
//
// Thread safety: a view is immutable; it is published by InnerFrame::view and freed by RCU after it
// was replaced. A frame lives as long as its index.
#ifndef DAXKV_KV_INNER_VIEW_H_
#define DAXKV_KV_INNER_VIEW_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "kv/format.h"
#include "xarray/rcu.h"

namespace daxkv::kv {

class InnerView;

// An inner node's place in DRAM.
struct InnerFrame {
  InnerFrame(Address address_in, unsigned level_in) : address(address_in), level(level_in) {}
  ~InnerFrame();

  const Address address;
  const unsigned level;  // 1 or more.
  // Compaction's: nobody may still be about to set up a child that was not ready.
  bool settled = false;
  // Held to build or replace the view and to change the node's slots and `next`.
  std::mutex mutex;
  // Null until the first touch. Stored with release under the mutex; readers acquire it inside a
  // ReadGuard.
  std::atomic<const InnerView*> view{nullptr};
};

class InnerView : public rcu::Head {
 public:
  // A split count that no leaf at rest has (it is odd): the child's bounds are not known.
  static constexpr uint32_t kUnknownSplitCount = ~uint32_t{0};

  struct Child {
    std::string_view separator;  // The child's low fence; empty for the leftmost of its level.
    Address address = kNullAddress;
    InnerFrame* frame = nullptr;  // Null for a leaf.
    // A leaf whose split count is this covers [its separator, the next one's) exactly.
    uint32_t split_count = kUnknownSplitCount;
  };
  // What lies right of a node; `frame` is null at the right edge of a level.
  struct Right {
    InnerFrame* frame = nullptr;
    std::string_view fence;
  };

  // `children` in strictly ascending order, one at least.
  InnerView(const std::vector<Child>& children, const Right& right);
  // `before` with one child more, right of child `left`, whose split count is `left_split_count`
  // from now on; before.MayGain(added.separator). Copies, and computes next to nothing.
  InnerView(const InnerView& before, unsigned left, uint32_t left_split_count, const Child& added);
  // Whether the constructor above does for a new separator: it has the prefix of all the others.
  bool MayGain(std::string_view separator) const {
    return count_ > 1 && separator.substr(0, prefix_.size()) == prefix_;
  }

  // Whether `key` lies below the right neighbour's low fence.
  bool Covers(std::string_view key) const {
    return right_ == nullptr || key.compare(right_fence_) < 0;
  }
  InnerFrame* right() const { return right_; }
  std::string_view right_fence() const { return right_fence_; }

  // The child for `key`: the last one with separator <= key, or the first.
  unsigned Search(std::string_view key) const;
  // The last child with separator < key, or the first.
  unsigned SearchBefore(std::string_view key) const {
    const unsigned i = Search(key);
    return i > 0 && separator(i) == key ? i - 1 : i;
  }

  // Ask the processor for what Search reads; and for what leads to child i.
  void PrefetchSearch() const {
    for (unsigned i = 0; i < count_; i += 8) __builtin_prefetch(heads_ + i);
  }
  void PrefetchChild(unsigned i) const { __builtin_prefetch(links_ + i); }

  unsigned size() const { return count_; }
  // Of a level-1 node.
  Address leaf(unsigned i) const { return links_[i].leaf; }
  uint32_t split_count(unsigned i) const { return links_[i].split_count; }
  // Of a node above level 1.
  InnerFrame* frame(unsigned i) const { return links_[i].frame; }
  std::string_view separator(unsigned i) const {
    const uint32_t begin = i == 0 ? 0 : links_[i - 1].separator_end;
    return std::string_view(bytes_ + begin, links_[i].separator_end - begin);
  }
  // All of it again, for the next version; the separators are views into this one. `level` is the
  // node's.
  std::vector<Child> Children(unsigned level) const;
  uint64_t size_bytes() const;

 private:
  struct Link {
    union {
      Address leaf;       // In a node of level 1.
      InnerFrame* frame;  // In a higher one.
    };
    uint32_t split_count;
    uint32_t separator_end;
  };

  static Link LinkTo(const Child& child, uint32_t separator_end);
  // Makes room for count_ children with separators of so many bytes; *links and *bytes lie behind
  // the heads, which are returned.
  uint64_t* Allocate(uint64_t separators_size_bytes, Link** links, char** bytes);

  unsigned count_;
  std::string prefix_;                   // Which all separators but the first begin with.
  std::unique_ptr<uint64_t[]> storage_;  // Heads, then links, then the separators' bytes.
  const uint64_t* heads_;                // Past the prefix. heads_[0] is 0: "anything less".
  const Link* links_;
  const char* bytes_;
  uint64_t storage_size_bytes_;
  InnerFrame* right_;
  std::string right_fence_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_INNER_VIEW_H_
