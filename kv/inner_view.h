// The view of an inner node: its children in order, in DRAM. Internal to kv/.
//
// A view is one block of memory, so that a search follows no pointer but the one to the view, and
// can ask for all that it will read as soon as it has that:
//   InnerView | a head for each child | a link for each child | the separators' bytes
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
  static std::unique_ptr<const InnerView> Make(const std::vector<Child>& children,
                                               const Right& right);
  // This one with one child more, right of child `left`, whose split count is `left_split_count`
  // from now on; MayGain(added.separator). Copies, and computes next to nothing.
  std::unique_ptr<const InnerView> With(unsigned left, uint32_t left_split_count,
                                        const Child& added) const;
  static void operator delete(void* view) { ::operator delete(view); }
  // Whether With does for a new separator: it has the prefix of all the others.
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
    for (unsigned i = 0; i < count_; i += 8) __builtin_prefetch(heads() + i);
  }
  void PrefetchChild(unsigned i) const { __builtin_prefetch(links() + i); }

  unsigned size() const { return count_; }
  // Of a level-1 node.
  Address leaf(unsigned i) const { return links()[i].leaf; }
  uint32_t split_count(unsigned i) const { return links()[i].split_count; }
  // Of a node above level 1.
  InnerFrame* frame(unsigned i) const { return links()[i].frame; }
  std::string_view separator(unsigned i) const {
    const uint32_t begin = i == 0 ? 0 : links()[i - 1].separator_end;
    return std::string_view(bytes() + begin, links()[i].separator_end - begin);
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

  // The room behind the object.
  struct Room {
    uint64_t size_bytes;
  };
  static void* operator new(size_t object_size_bytes, Room room) {
    return ::operator new(object_size_bytes + room.size_bytes);
  }
  static void operator delete(void* view, Room) { ::operator delete(view); }
  static Room RoomFor(uint64_t count, uint64_t separators_size_bytes) {
    return {count * (sizeof(uint64_t) + sizeof(Link)) + separators_size_bytes};
  }
  static Link LinkTo(const Child& child, uint32_t separator_end);

  InnerView(unsigned count, std::string_view prefix, const Right& right)
      : count_(count), prefix_(prefix), right_(right.frame), right_fence_(right.fence) {}

  // Past the prefix. heads()[0] is 0: "anything less".
  const uint64_t* heads() const { return reinterpret_cast<const uint64_t*>(this + 1); }
  uint64_t* heads() { return reinterpret_cast<uint64_t*>(this + 1); }
  const Link* links() const { return reinterpret_cast<const Link*>(heads() + count_); }
  Link* links() { return reinterpret_cast<Link*>(heads() + count_); }
  const char* bytes() const { return reinterpret_cast<const char*>(links() + count_); }
  char* bytes() { return reinterpret_cast<char*>(links() + count_); }

  const unsigned count_;
  const std::string prefix_;  // Which all separators but the first begin with.
  InnerFrame* const right_;
  const std::string right_fence_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_INNER_VIEW_H_
