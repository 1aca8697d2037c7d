// The examples of the public headers, compiled and run.
#include <gtest/gtest.h>

#include <cstdint>
#include <mutex>
#include <vector>

#include "xarray/cursor.h"
#include "xarray/entry_range.h"
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
