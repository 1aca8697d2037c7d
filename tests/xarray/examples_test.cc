// The examples of the public headers, compiled and run.
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "xarray/cursor.h"
#include "xarray/entry_range.h"
#include "xarray/node_observer.h"
#include "xarray/typed_xarray.h"
#include "xarray/xarray.h"

namespace daxkv::xarray {
namespace {

// The example of xarray.h.
TEST(ExamplesTest, Orders) {
  XArray pages;
  ASSERT_TRUE(pages.Store(512, /*order=*/9, Entry::Value(7)).ok());
  EXPECT_EQ(pages.Load(700), Entry::Value(7));
  EXPECT_EQ(pages.GetOrder(700), 9u);
  EXPECT_EQ(pages.Erase(700), Entry::Value(7));
  EXPECT_TRUE(pages.empty());
}

TEST(ExamplesTest, RangesMarksAndLoops) {
  XArray array;
  ASSERT_TRUE(array.StoreRange(1, 5, Entry::Value(1)).ok());
  array.SetMark(4, Mark::k0);
  std::vector<uint64_t> firsts;
  for (const Located at : array.Entries(0, 899)) firsts.push_back(at.first);
  EXPECT_EQ(firsts, (std::vector<uint64_t>{1, 2, 4}));
  for (const Located at : array.MarkedEntries(Mark::k0)) {
    EXPECT_EQ(at.first, 4u);
    EXPECT_EQ(at.last, 5u);
    array.Erase(at.first);  // the entry at hand may go
  }
  EXPECT_FALSE(array.Load(5));
}

// The examples of cursor.h: a conflict-free store, with the nodes that it lacks.
TEST(ExamplesTest, CursorStoresWhatHasNoConflict) {
  XArray array;
  Cursor cursor(array, 1000);
  cursor.SetOrder(9);
  for (;;) {
    std::unique_lock<XArray> lock(array);
    cursor.Reset();
    ASSERT_FALSE(cursor.FindConflict());
    const absl::StatusOr<Entry> old = cursor.Store(Entry::Value(3));
    lock.unlock();
    if (!cursor.NeedsReserve()) {
      ASSERT_TRUE(old.ok());
      break;
    }
    ASSERT_TRUE(cursor.Reserve().ok());
  }
  EXPECT_EQ(array.Lookup(1000)->first, 512u);
}

// A range stored under one lock: all of it, or, without memory, nothing.
TEST(ExamplesTest, CursorCreatesARangeAndStoresIt) {
  XArray array;
  Cursor cursor(array);
  for (;;) {
    std::unique_lock<XArray> lock(array);
    cursor.Set(1000);
    if (cursor.CreateRange(1999).ok()) {
      for (uint64_t index = 1000; index < 2000; ++index) {
        cursor.Set(index);
        ASSERT_TRUE(cursor.Store(Entry::Value(index)).ok());
      }
      break;
    }
    lock.unlock();
    ASSERT_TRUE(cursor.Reserve().ok());
  }
  EXPECT_EQ(array.Load(1999), Entry::Value(1999));
}

// The example of node_observer.h.
class Shadows : public NodeObserver {
 public:
  void NodeChanged(const NodeState& node) override {
    if (node.taken > 0 && node.values == node.taken) {
      only_notes_[node.node] = {node.first, node.last};
    } else {
      only_notes_.erase(node.node);
    }
  }
  // The indices of one node that holds only notes; nobody may be changing the array.
  std::pair<uint64_t, uint64_t> Oldest() const { return only_notes_.begin()->second; }
  bool empty() const { return only_notes_.empty(); }

 private:
  std::map<const void*, std::pair<uint64_t, uint64_t>> only_notes_;
};

TEST(ExamplesTest, ObserverFindsNodesToFree) {
  Shadows shadows;
  XArray pages(InPlaceExchange::kAllowed, &shadows);
  alignas(8) static char page[8];
  ASSERT_TRUE(pages.Store(5000, 0, Entry::Pointer(page)).ok());
  EXPECT_TRUE(shadows.empty());
  ASSERT_TRUE(pages.Store(5000, 0, Entry::Value(1)).ok());  // the page is gone, its note stays
  const auto [first, last] = shadows.Oldest();
  EXPECT_EQ(pages.EraseRange(first, last), 1u);
  EXPECT_TRUE(pages.empty());
  EXPECT_TRUE(shadows.empty());
}

TEST(ExamplesTest, ReservedAndFreeIndices) {
  XArray ids;
  ASSERT_TRUE(ids.Reserve(0).ok());
  EXPECT_EQ(*ids.Alloc(Entry::Value(1)), 1u);
  EXPECT_TRUE(absl::IsAlreadyExists(ids.Insert(0, 0, Entry::Value(2))));
  ids.Release(0);
  EXPECT_EQ(*ids.Alloc(Entry::Value(2)), 0u);
  uint64_t next = 5;
  EXPECT_EQ(ids.AllocCyclic(Entry::Value(3), 0, 5, &next)->index, 5u);
  EXPECT_EQ(next, 0u);
}

// The examples of typed_xarray.h.
TEST(ExamplesTest, Typed) {
  struct Page {
    int number;
  };
  Page page = {7};
  TypedXArray<Page*> pages;
  EXPECT_EQ(*pages.Store(7, &page), nullptr);
  EXPECT_EQ(pages.Load(7)->number, 7);
  EXPECT_EQ(pages.Load(8), nullptr);
  EXPECT_EQ(pages.Erase(7), &page);

  TypedXArray<uint64_t> sizes;
  EXPECT_EQ(*sizes.Store(7, 0), std::nullopt);
  EXPECT_EQ(sizes.Load(7), 0u);
  EXPECT_TRUE(absl::IsAlreadyExists(sizes.Insert(7, 1)));
  EXPECT_EQ(*sizes.Alloc(5, 7), 8u);
  EXPECT_TRUE(absl::IsInvalidArgument(sizes.Store(7, UINT64_MAX).status()));
}

}  // namespace
}  // namespace daxkv::xarray
