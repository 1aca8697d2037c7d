// What the XArray's tests share.
#ifndef DAXKV_TESTS_XARRAY_XARRAY_TESTING_H_
#define DAXKV_TESTS_XARRAY_XARRAY_TESTING_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "xarray/cursor.h"
#include "xarray/xarray.h"

namespace daxkv::xarray {

// Every typed test runs at 8 and at 64 slots per node.
using SlotShifts =
    ::testing::Types<std::integral_constant<unsigned, 3>, std::integral_constant<unsigned, 6>>;

inline constexpr Mark kAllMarks[] = {Mark::k0, Mark::k1, Mark::k2};

inline Entry V(uint64_t value) { return Entry::Value(value); }

// Asserts success and returns the old entry.
template <typename Array>
Entry Put(Array& array, uint64_t index, unsigned order, Entry entry) {
  absl::StatusOr<Entry> old = array.Store(index, order, entry);
  EXPECT_TRUE(old.ok()) << old.status();
  return old.value_or(Entry());
}

// One entry with all that can be said of it.
using Row = std::tuple<uint64_t, uint64_t, uint64_t, unsigned>;  // first, last, raw, marks

template <typename Array>
unsigned MarksOf(const Array& array, uint64_t index) {
  unsigned marks = 0;
  for (Mark mark : kAllMarks) {
    if (array.GetMark(index, mark)) marks |= 1u << static_cast<unsigned>(mark);
  }
  return marks;
}

// All entries, in order.
template <typename Array>
std::vector<Row> Dump(const Array& array) {
  std::vector<Row> rows;
  array.ForEach(0, UINT64_MAX, [&](const Located& at) {
    rows.emplace_back(at.first, at.last, at.entry.raw(), MarksOf(array, at.first));
    return true;
  });
  return rows;
}

// Looks into the tree of an array that nobody is writing.
class TreeInspector {
 public:
  // The first violation of node.h's invariants; empty if there is none.
  template <unsigned kSlotShift>
  static std::string Violation(const BasicXArray<kSlotShift>& array) {
    const auto& tree = array.tree_;
    const Entry head = tree.Head();
    if (head.is_internal() && !head.is_node()) return "the head is a sibling or retry entry";
    if (!head.is_node()) {
      if (head.is_null() && MarksOfHead(tree) != 0) return "an empty array is marked";
      return "";
    }
    const auto* top = head.template node<internal::Node<kSlotShift>>();
    if (top->parent != nullptr) return "the top node has a parent";
    if (top->count == 1 && top->Load(0).is_node()) return "the tree is higher than need be";
    for (unsigned mark = 0; mark < kMarks; ++mark) {
      if (top->AnyMarked(mark) != tree.Marked(static_cast<Mark>(mark))) {
        return absl::StrCat("the array's own mark ", mark, " disagrees with the top node's");
      }
    }
    return NodeViolation(top);
  }

  // Whether `node` can be reached from the head.
  template <unsigned kSlotShift>
  static bool Reachable(const BasicXArray<kSlotShift>& array, const void* node) {
    return Contains<kSlotShift>(array.tree_.Head(), node);
  }

  template <unsigned kSlotShift>
  static Entry Head(const BasicXArray<kSlotShift>& array) {
    return array.tree_.Head();
  }

  template <unsigned kSlotShift>
  static uint64_t CountNodes(const BasicXArray<kSlotShift>& array) {
    return Count<kSlotShift>(array.tree_.Head());
  }

 private:
  template <typename Tree>
  static unsigned MarksOfHead(const Tree& tree) {
    unsigned marks = 0;
    for (Mark mark : kAllMarks) marks += tree.Marked(mark) ? 1 : 0;
    return marks;
  }

  template <typename Node>
  static unsigned MarksOfSlot(const Node* node, unsigned slot) {
    unsigned marks = 0;
    for (unsigned mark = 0; mark < kMarks; ++mark) {
      if (node->Marked(mark, slot)) marks |= 1u << mark;
    }
    return marks;
  }

  template <unsigned kSlotShift>
  static bool Contains(Entry entry, const void* wanted) {
    if (!entry.is_node()) return false;
    const auto* node = entry.template node<internal::Node<kSlotShift>>();
    if (node == wanted) return true;
    for (unsigned i = 0; i < node->kSlots; ++i) {
      if (Contains<kSlotShift>(node->Load(i), wanted)) return true;
    }
    return false;
  }

  template <unsigned kSlotShift>
  static uint64_t Count(Entry entry) {
    if (!entry.is_node()) return 0;
    const auto* node = entry.template node<internal::Node<kSlotShift>>();
    uint64_t nodes = 1;
    for (unsigned i = 0; i < node->kSlots; ++i) nodes += Count<kSlotShift>(node->Load(i));
    return nodes;
  }

  template <unsigned kSlotShift>
  static std::string NodeViolation(const internal::Node<kSlotShift>* node) {
    using Node = internal::Node<kSlotShift>;
    unsigned count = 0;
    if (node->tie_version % 2 != 0) return "a tie version stayed odd";
    for (unsigned i = 0; i < Node::kSlots; ++i) {
      const Entry entry = node->Load(i);
      if (!entry.is_null()) ++count;
      unsigned marks_below = 0;
      if (entry.is_retry()) return "a linked node holds a retry entry";
      if (entry.is_sibling()) {
        if (node->tie_version == 0) return "a tie in a node that says it never had one";
        const unsigned first = entry.sibling_first();
        const unsigned slots = entry.sibling_slots();
        if (first >= i || i >= first + slots) return "a sibling lies outside its tie";
        const Entry canonical = node->Load(first);
        if (canonical.is_null() || canonical.is_internal()) return "a sibling has no entry";
        for (unsigned k = 1; k < slots; ++k) {
          if (node->Load(first + k) != entry) return "the siblings of a tie disagree";
        }
      } else if (entry.is_node()) {
        const auto* child = entry.template node<Node>();
        if (child->parent != node || child->parent_slot != i) return "a wrong parent pointer";
        if (child->shift + kSlotShift != node->shift) return "a wrong shift";
        std::string below = NodeViolation(child);
        if (!below.empty()) return below;
        for (unsigned k = 0; k < Node::kSlots; ++k) marks_below |= MarksOfSlot(child, k);
      }
      const unsigned marks = MarksOfSlot(node, i);
      if ((entry.is_null() || entry.is_sibling()) && marks != 0) return "a marked null or sibling";
      if (entry.is_node() && marks != marks_below) {
        return "a node's marks disagree with its parent's";
      }
    }
    if (count != node->count) return absl::StrCat("count is ", node->count, ", not ", count);
    if (count == 0) return "an empty node is linked";
    return "";
  }
};

// Fixture: fails if a test leaks nodes.
template <typename Shift>
class XArrayTestBase : public ::testing::Test {
 protected:
  static constexpr unsigned kShift = Shift::value;
  using Array = BasicXArray<kShift>;
  using Cursor = BasicCursor<kShift>;

  void SetUp() override {
    rcu::Barrier();
    nodes_before_ = internal::LiveNodes();
  }
  void TearDown() override {
    array_.Clear();
    rcu::Barrier();
    EXPECT_EQ(internal::LiveNodes(), nodes_before_) << "nodes leaked";
  }

  Array array_;

 private:
  int64_t nodes_before_ = 0;
};

}  // namespace daxkv::xarray

#endif  // DAXKV_TESTS_XARRAY_XARRAY_TESTING_H_
