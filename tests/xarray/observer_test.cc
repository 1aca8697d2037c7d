// The observer of nodes knows exactly the nodes that there are, whatever changes them.
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "tests/xarray/xarray_testing.h"
#include "xarray/node_observer.h"

namespace daxkv::xarray {
namespace {

// Plain, unsynchronized: the array's lock is all that guards it.
class Book : public NodeObserver {
 public:
  void NodeChanged(const NodeState& state) override {
    EXPECT_LE(state.values, state.taken);
    if (state.gone()) {
      EXPECT_EQ(nodes.erase(state.node), 1u) << "a node that was never told went";
    } else {
      nodes[state.node] = state;
    }
  }
  std::map<const void*, NodeState> nodes;
};

template <typename Shift>
class ObserverTest : public XArrayTestBase<Shift> {
 protected:
  using Array = typename XArrayTestBase<Shift>::Array;
  using Cursor = typename XArrayTestBase<Shift>::Cursor;
  using Node = internal::Node<XArrayTestBase<Shift>::kShift>;

  // Compares what the book says with the tree below `entry`; returns the number of nodes.
  uint64_t Compare(const Book& book, Entry entry, uint64_t first) {
    if (!entry.is_node()) return 0;
    const auto* node = entry.template node<Node>();
    uint64_t nodes = 1;
    unsigned values = 0;
    Entry last;
    for (unsigned i = 0; i < Node::kSlots; ++i) {
      const Entry at = node->Load(i);
      nodes += Compare(book, at, first + (uint64_t{i} << node->shift));
      if (!at.is_sibling()) last = at;
      if (last.is_value()) ++values;
    }
    const auto it = book.nodes.find(node);
    EXPECT_TRUE(it != book.nodes.end()) << "an untold node";
    if (it == book.nodes.end()) return nodes;
    EXPECT_EQ(it->second.first, first);
    EXPECT_EQ(it->second.last, node->LastIndex(first));
    EXPECT_EQ(it->second.taken, node->count);
    EXPECT_EQ(it->second.values, values);
    return nodes;
  }
  void ExpectExact(const Book& book, const Array& array) {
    ASSERT_EQ(Compare(book, TreeInspector::Head(array), 0), book.nodes.size());
  }

  Entry AnyEntry() {
    static uint64_t objects[16];
    return random_() % 2 == 0 ? V(random_() % 100) : Entry::Pointer(&objects[random_() % 16]);
  }
  // One change of any kind.
  void Change(Array& array) {
    const uint64_t index = random_() % 8 == 0 ? random_() >> (random_() % 64) : random_() % 800;
    const unsigned order = static_cast<unsigned>(random_() % 11);
    switch (random_() % 12) {
      case 0:
        array.Erase(index);
        break;
      case 1:
        array.EraseRange(index, index + random_() % 500 > index ? index + 500 : index);
        break;
      case 2:
        array.Insert(index, order, AnyEntry()).IgnoreError();
        break;
      case 3:
        array.CompareExchange(index, array.Load(index), AnyEntry()).status().IgnoreError();
        break;
      case 4:
        array.CompareExchange(index, array.Load(index), Entry()).status().IgnoreError();
        break;
      case 5:
        array.Reserve(index).IgnoreError();
        break;
      case 6:
        array.Release(index);
        break;
      case 7:
        array.Alloc(AnyEntry(), index).status().IgnoreError();
        break;
      case 8:
        array.StoreRange(index, index + order * 50 > index ? index + order * 50 : index, AnyEntry())
            .IgnoreError();
        break;
      case 9:
        SplitAt(array, index, order);
        break;
      default:
        Put(array, index, order, AnyEntry());
    }
  }
  void SplitAt(Array& array, uint64_t index, unsigned new_order) {
    Cursor cursor(array, index);
    const bool path = random_() % 2 == 0;
    do {
      ASSERT_TRUE(cursor.Reserve().ok());
      std::lock_guard<Array> lock(array);
      cursor.Set(index);
      if (!cursor.Load() || cursor.order() > 12) return;
      const absl::Status status =
          path ? cursor.SplitPath(new_order, [&](uint64_t, unsigned) { return AnyEntry(); })
               : cursor.Split(new_order, [&](uint64_t) { return AnyEntry(); });
      status.IgnoreError();
    } while (cursor.NeedsReserve());
  }

  std::mt19937_64 random_{1};
};
TYPED_TEST_SUITE(ObserverTest, SlotShifts);

TYPED_TEST(ObserverTest, KnowsEveryNodeExactly) {
  Book book;
  for (InPlaceExchange in_place : {InPlaceExchange::kAllowed, InPlaceExchange::kNever}) {
    for (int round = 0; round < 20; ++round) {
      typename TestFixture::Array array(in_place, &book);
      for (int i = 0; i < 400; ++i) {
        this->Change(array);
        ASSERT_NO_FATAL_FAILURE(this->ExpectExact(book, array)) << "change " << i;
      }
      ASSERT_EQ(TreeInspector::Violation(array), "");
    }
    EXPECT_TRUE(book.nodes.empty());
  }
}

TYPED_TEST(ObserverTest, IsCalledUnderTheLock) {
  Book book;
  typename TestFixture::Array array(InPlaceExchange::kAllowed, &book);
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      for (int i = 0; i < 3000; ++i) {
        const uint64_t index = random() % 500;
        if (random() % 3 == 0) {
          array.EraseRange(index, index + 30);
        } else {
          Put(array, index, static_cast<unsigned>(random() % 7), V(i));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_NO_FATAL_FAILURE(this->ExpectExact(book, array));
}

}  // namespace
}  // namespace daxkv::xarray
