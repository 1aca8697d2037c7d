// The plain calls, and the semantics X1..X7 of xarray.h.
#include "xarray/xarray.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/xarray/xarray_testing.h"

namespace daxkv::xarray {
namespace {

template <typename Shift>
class XArrayTest : public XArrayTestBase<Shift> {};
TYPED_TEST_SUITE(XArrayTest, SlotShifts);

constexpr uint64_t kMax = UINT64_MAX;

TYPED_TEST(XArrayTest, EmptyArrayHasNothing) {
  auto& array = this->array_;
  EXPECT_TRUE(array.empty());
  for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 40, kMax}) {
    EXPECT_TRUE(array.Load(index).is_null());
    EXPECT_FALSE(array.Lookup(index).has_value());
    EXPECT_FALSE(array.GetOrder(index).has_value());
    EXPECT_TRUE(array.Erase(index).is_null());
    EXPECT_FALSE(array.SetMark(index, Mark::k1));
    EXPECT_FALSE(array.GetMark(index, Mark::k1));
  }
  EXPECT_FALSE(array.Find(0).has_value());
  EXPECT_FALSE(array.FindMarked(0, kMax, Mark::k0).has_value());
  EXPECT_EQ(array.EraseRange(0, kMax), 0u);
}

TYPED_TEST(XArrayTest, StoreAndLoadAloneAtEveryPowerOfTwo) {
  for (unsigned bit = 0; bit < 64; ++bit) {
    for (uint64_t index : {(uint64_t{1} << bit) - 1, uint64_t{1} << bit, kMax - bit}) {
      typename TestFixture::Array array;
      EXPECT_TRUE(Put(array, index, 0, V(7)).is_null());
      EXPECT_EQ(array.Load(index), V(7));
      if (index > 0) {
        EXPECT_TRUE(array.Load(index - 1).is_null());
      }
      if (index < kMax) {
        EXPECT_TRUE(array.Load(index + 1).is_null());
      }
      const std::optional<Located> found = array.Find(0);
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(found->first, index);
      EXPECT_EQ(found->last, index);
      EXPECT_EQ(found->order, 0u);
      EXPECT_EQ(TreeInspector::Violation(array), "");
      EXPECT_EQ(array.Erase(index), V(7));
      EXPECT_TRUE(array.empty());
    }
  }
}

TYPED_TEST(XArrayTest, IndexZeroAloneNeedsNoNode) {
  Put(this->array_, 0, 0, V(1));
  EXPECT_EQ(TreeInspector::CountNodes(this->array_), 0u);
  Put(this->array_, 1, 0, V(2));
  EXPECT_EQ(TreeInspector::CountNodes(this->array_), 1u);
}

TYPED_TEST(XArrayTest, FillAndDrain) {
  auto& array = this->array_;
  constexpr uint64_t kCount = 1024;
  for (uint64_t i = 0; i < kCount; ++i) {
    EXPECT_TRUE(Put(array, i, 0, V(i)).is_null());
    for (uint64_t j = 0; j < kCount; j += 7) {
      ASSERT_EQ(array.Load(j), j <= i ? V(j) : Entry());
    }
  }
  EXPECT_EQ(TreeInspector::Violation(array), "");
  for (uint64_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(array.Erase(i), V(i));
    for (uint64_t j = 0; j < kCount; j += 7) {
      ASSERT_EQ(array.Load(j), j > i ? V(j) : Entry());
    }
  }
  EXPECT_TRUE(array.empty());
}

TYPED_TEST(XArrayTest, PointersAndValuesOfOneArray) {
  static int object;
  auto& array = this->array_;
  Put(array, 3, 0, Entry::Pointer(&object));
  EXPECT_EQ(Put(array, 3, 0, V(5)).template pointer<int>(), &object);
  EXPECT_EQ(array.Load(3), V(5));
}

TYPED_TEST(XArrayTest, TreeShrinksToWhatIsLeft) {
  static int object;
  auto& array = this->array_;
  Put(array, 0, 0, Entry::Pointer(&object));
  Put(array, kMax, 0, V(1));
  EXPECT_GT(TreeInspector::CountNodes(array), 10u);
  array.Erase(kMax);
  EXPECT_EQ(TreeInspector::CountNodes(array), 0u);
  EXPECT_EQ(array.Load(0).template pointer<int>(), &object);
  // A value could be exchanged in place at any time, so it is not moved (T5).
  Put(array, 0, 0, V(9));
  Put(array, kMax, 0, V(1));
  array.Erase(kMax);
  EXPECT_EQ(TreeInspector::CountNodes(array), 1u);
  EXPECT_EQ(array.Load(0), V(9));
}

TYPED_TEST(XArrayTest, RefusesWhatCannotBeStored) {
  auto& array = this->array_;
  Put(array, 8, 1, V(1));
  const auto before = Dump(array);
  EXPECT_EQ(array.Store(8, 64, V(2)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(array.Store(8, 0, Entry::Retry()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(array.CompareExchange(8, V(1), Entry::Retry()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(array.Insert(100, 0, Entry()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(array.Insert(100, 64, V(1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Dump(array), before);
}

TYPED_TEST(XArrayTest, EveryOrderIsFoundEverywhereAndNowhereElse) {
  for (unsigned order = 0; order <= kMaxOrder; ++order) {
    for (uint64_t block : {uint64_t{0}, uint64_t{1}, uint64_t{5}, kMax}) {
      const uint64_t mask = (uint64_t{1} << order) - 1;
      const uint64_t first = block == kMax ? kMax & ~mask : block << order;
      if (block != kMax && first >> order != block) continue;  // beyond the last index
      const uint64_t last = first | mask;
      typename TestFixture::Array array;
      Put(array, first + mask / 3, order, V(order));  // any index of the block will do
      std::vector<uint64_t> inside = {first, last, first + mask / 2};
      for (unsigned bit = 0; bit < order; ++bit) inside.push_back(first | uint64_t{1} << bit);
      for (uint64_t index : inside) {
        ASSERT_EQ(array.Load(index), V(order)) << order << " " << index;
        const std::optional<Located> at = array.Lookup(index);
        ASSERT_TRUE(at.has_value());
        ASSERT_EQ(at->first, first);
        ASSERT_EQ(at->last, last);
        ASSERT_EQ(at->order, order);
        ASSERT_EQ(array.GetOrder(index), order);
      }
      if (first > 0) {
        ASSERT_TRUE(array.Load(first - 1).is_null());
        ASSERT_FALSE(array.GetOrder(first - 1).has_value());
      }
      if (last < kMax) {
        ASSERT_TRUE(array.Load(last + 1).is_null());
        ASSERT_FALSE(array.GetOrder(last + 1).has_value());
      }
      ASSERT_EQ(TreeInspector::Violation(array), "");
      ASSERT_EQ(array.Erase(last), V(order));
      ASSERT_TRUE(array.empty());
    }
  }
}

TYPED_TEST(XArrayTest, OrderOverOrder) {
  // Every order stored over every other, at the same place: X2.
  for (unsigned before = 0; before < 20; ++before) {
    for (unsigned after = 0; after < 20; ++after) {
      typename TestFixture::Array array;
      const uint64_t index = uint64_t{3} << 20;
      Put(array, index, before, V(1));
      Put(array, index - 1, 0, V(8));
      Put(array, index + (uint64_t{1} << 20), 0, V(9));
      EXPECT_EQ(Put(array, index, after, V(2)), V(1));
      EXPECT_EQ(array.GetOrder(index), std::max(before, after));
      const uint64_t last = index + (uint64_t{1} << std::max(before, after)) - 1;
      EXPECT_EQ(array.Load(last), V(2));
      if (last + 1 < index + (uint64_t{1} << 20)) {
        EXPECT_TRUE(array.Load(last + 1).is_null());
      }
      EXPECT_EQ(array.Load(index - 1), V(8));
      EXPECT_EQ(array.Load(index + (uint64_t{1} << 20)), V(9));
      ASSERT_EQ(TreeInspector::Violation(array), "");
    }
  }
}

TYPED_TEST(XArrayTest, LargerStoreSweepsManySmallerEntriesAway) {
  auto& array = this->array_;
  for (uint64_t i = 1024; i < 2048; ++i) Put(array, i, 0, V(i));
  Put(array, 512, 6, V(1));
  Put(array, 2048, 0, V(2048));
  EXPECT_EQ(Put(array, 1500, 10, V(3)), V(1500));
  for (uint64_t i = 1024; i < 2048; ++i) ASSERT_EQ(array.Load(i), V(3));
  EXPECT_EQ(Dump(array).size(), 3u);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

TYPED_TEST(XArrayTest, SmallerStoreInsideAnEntryReplacesItAsAWhole) {
  auto& array = this->array_;
  Put(array, 512, 9, V(1));
  ASSERT_TRUE(array.SetMark(600, Mark::k2));
  EXPECT_EQ(Put(array, 529, 0, V(2)), V(1));
  EXPECT_EQ(Put(array, 700, 3, V(3)), V(2));
  EXPECT_EQ(array.Load(512), V(3));
  EXPECT_EQ(array.Load(1023), V(3));
  EXPECT_EQ(array.GetOrder(1023), 9u);
  EXPECT_TRUE(array.GetMark(1023, Mark::k2));
}

TYPED_TEST(XArrayTest, NullIsNoConflict) {
  auto& array = this->array_;
  for (uint64_t index : {0, 63, 64, 300, 511}) {
    typename TestFixture::Array small;
    EXPECT_FALSE(small.FindConflict(0, 9).has_value());
    EXPECT_TRUE(small.Insert(0, 9, V(1)).ok());
    small.Clear();
    Put(small, index, 0, V(5));
    Put(small, 512, 0, V(6));
    const std::optional<Located> conflict = small.FindConflict(17, 9);
    ASSERT_TRUE(conflict.has_value());
    EXPECT_EQ(conflict->first, index);
    EXPECT_EQ(conflict->order, 0u);
    EXPECT_EQ(small.Insert(17, 9, V(1)).code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(small.Load(index), V(5));
  }
  Put(array, 512, 9, V(1));
  EXPECT_FALSE(array.FindConflict(511, 9).has_value());
  EXPECT_FALSE(array.FindConflict(1024, 9).has_value());
  ASSERT_TRUE(array.FindConflict(700, 0).has_value());
  EXPECT_EQ(array.FindConflict(700, 0)->order, 9u);
  EXPECT_EQ(array.FindConflict(700, 63)->first, 512u);
  EXPECT_EQ(array.Insert(700, 2, V(1)).code(), absl::StatusCode::kAlreadyExists);
}

TYPED_TEST(XArrayTest, EraseTakesTheWholeEntryAndNothingElse) {
  auto& array = this->array_;
  for (uint64_t block = 0; block < 8; ++block) Put(array, block << 9, 9, V(block));
  EXPECT_EQ(array.Erase((3 << 9) + 17), V(3));
  for (uint64_t i = 0; i < 8 << 9; ++i) {
    ASSERT_EQ(array.Load(i), i >> 9 == 3 ? Entry() : V(i >> 9));
  }
  // Storing null erases what overlaps, also what reaches out.
  EXPECT_EQ(Put(array, (4 << 9) + 5, 0, Entry()), V(4));
  EXPECT_EQ(Put(array, 5 << 9, 10, Entry()), V(5));  // 4 is gone, 5 is here
  EXPECT_EQ(Dump(array).size(), 5u);
  EXPECT_EQ(array.EraseRange(511, 512), 2u);
  EXPECT_EQ(Dump(array).size(), 3u);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

TYPED_TEST(XArrayTest, RangesThatEndAtTheLastIndexEnd) {
  auto& array = this->array_;
  for (unsigned order : {0u, 1u, 9u, 63u}) {
    array.Clear();
    Put(array, kMax, order, V(order));
    for (uint64_t first : {uint64_t{0}, uint64_t{5}, kMax - 15, kMax}) {
      int seen = 0;
      array.ForEach(first, kMax, [&](const Located& at) {
        EXPECT_EQ(at.last, kMax);
        return ++seen < 3;
      });
      EXPECT_EQ(seen, 1);
    }
    EXPECT_EQ(array.EraseRange(kMax, kMax), 1u);
    EXPECT_TRUE(array.empty());
  }
}

TYPED_TEST(XArrayTest, FindGivesEachEntryOnceFromAnyStart) {
  auto& array = this->array_;
  Put(array, 64, 4, V(1));  // 64..79
  Put(array, 80, 0, V(2));
  Put(array, 512, 9, V(3));  // 512..1023
  EXPECT_EQ(array.Find(0)->entry, V(1));
  EXPECT_EQ(array.Find(70)->entry, V(1));
  EXPECT_EQ(array.Find(70)->first, 64u);
  EXPECT_EQ(array.Find(80)->entry, V(2));
  EXPECT_EQ(array.Find(81)->entry, V(3));
  EXPECT_FALSE(array.Find(81, 511).has_value());
  EXPECT_EQ(array.Find(81, 512)->entry, V(3));
  EXPECT_EQ(array.Find(1023)->entry, V(3));
  EXPECT_FALSE(array.Find(1024).has_value());
  EXPECT_FALSE(array.Find(80, 79).has_value());  // an empty range
  std::vector<uint64_t> order;
  array.ForEach(66, 600, [&](const Located& at) {
    order.push_back(at.entry.value());
    return true;
  });
  EXPECT_EQ(order, (std::vector<uint64_t>{1, 2, 3}));
}

TYPED_TEST(XArrayTest, ForEachMayErase) {
  auto& array = this->array_;
  for (uint64_t i = 0; i < 500; ++i) Put(array, i * 3, 0, V(i));
  uint64_t seen = 0;
  array.ForEach(0, kMax, [&](const Located& at) {
    EXPECT_FALSE(rcu::InReadSection());
    EXPECT_EQ(array.Erase(at.first), V(seen));
    ++seen;
    return true;
  });
  EXPECT_EQ(seen, 500u);
  EXPECT_TRUE(array.empty());
}

TYPED_TEST(XArrayTest, CompareExchange) {
  auto& array = this->array_;
  EXPECT_EQ(*array.CompareExchange(9, V(1), V(2)), Entry());  // not there
  EXPECT_TRUE(array.empty());
  EXPECT_EQ(*array.CompareExchange(9, Entry(), V(2)), Entry());
  EXPECT_EQ(*array.CompareExchange(9, Entry(), V(3)), V(2));
  EXPECT_EQ(*array.CompareExchange(9, V(2), V(4)), V(2));
  EXPECT_EQ(array.Load(9), V(4));
  array.SetMark(9, Mark::k0);
  EXPECT_EQ(*array.CompareExchange(9, V(5), Entry()), V(4));
  EXPECT_TRUE(array.GetMark(9, Mark::k0));
  EXPECT_EQ(*array.CompareExchange(9, V(4), Entry()), V(4));
  EXPECT_TRUE(array.empty());
  Put(array, 512, 9, V(1));
  EXPECT_EQ(*array.CompareExchange(777, V(1), V(2)), V(1));
  EXPECT_EQ(array.Load(512), V(2));
  EXPECT_EQ(array.GetOrder(777), 9u);
  EXPECT_EQ(*array.CompareExchange(777, V(2), Entry()), V(2));
  EXPECT_TRUE(array.empty());
}

TYPED_TEST(XArrayTest, MarksBelongToTheEntry) {
  auto& array = this->array_;
  Put(array, 512, 9, V(1));
  EXPECT_TRUE(array.SetMark(900, Mark::k1));  // through an index in the middle
  for (uint64_t index : {512, 513, 900, 1023}) {
    EXPECT_TRUE(array.GetMark(index, Mark::k1));
    EXPECT_FALSE(array.GetMark(index, Mark::k0));
  }
  EXPECT_FALSE(array.GetMark(511, Mark::k1));
  EXPECT_FALSE(array.GetMark(1024, Mark::k1));
  EXPECT_TRUE(array.AnyMarked(Mark::k1));
  EXPECT_FALSE(array.AnyMarked(Mark::k2));
  Put(array, 600, 9, V(2));  // replacing keeps
  EXPECT_TRUE(array.GetMark(512, Mark::k1));
  EXPECT_TRUE(array.ClearMark(1023, Mark::k1));
  EXPECT_FALSE(array.GetMark(512, Mark::k1));
  EXPECT_FALSE(array.AnyMarked(Mark::k1));
  array.SetMark(512, Mark::k1);
  array.Erase(700);  // erasing clears
  EXPECT_FALSE(array.AnyMarked(Mark::k1));
  Put(array, 512, 9, V(3));
  EXPECT_FALSE(array.GetMark(700, Mark::k1));
}

TYPED_TEST(XArrayTest, LargerStoreUnitesMarks) {
  for (unsigned order = 2; order < 16; ++order) {
    for (uint64_t marked : {uint64_t{0}, uint64_t{1}, (uint64_t{1} << order) - 1}) {
      typename TestFixture::Array array;
      const uint64_t first = uint64_t{1} << 16;
      const uint64_t next = first + (uint64_t{1} << order);
      Put(array, first + marked, 0, V(1));
      Put(array, first + 2, 0, V(2));
      Put(array, next, 0, V(3));
      array.SetMark(first + marked, Mark::k1);
      array.SetMark(first + 2, Mark::k2);
      Put(array, first, order, V(4));
      EXPECT_EQ(MarksOf(array, first), 6u);
      EXPECT_EQ(MarksOf(array, next - 1), 6u);
      EXPECT_EQ(MarksOf(array, next), 0u);
      EXPECT_EQ(TreeInspector::Violation(array), "");
      int seen = 0;
      array.ForEachMarked(0, kMax, Mark::k2, [&](const Located& at) {
        EXPECT_EQ(at.entry, V(4));
        return ++seen < 5;
      });
      EXPECT_EQ(seen, 1);
    }
  }
}

TYPED_TEST(XArrayTest, MarkOfTheHeadEntryFollowsItIntoTheTreeAndBack) {
  static int object;
  auto& array = this->array_;
  Put(array, 0, 0, Entry::Pointer(&object));
  array.SetMark(0, Mark::k2);
  Put(array, 1 << 20, 0, V(1));
  EXPECT_TRUE(array.GetMark(0, Mark::k2));
  EXPECT_FALSE(array.GetMark(1 << 20, Mark::k2));
  EXPECT_EQ(TreeInspector::Violation(array), "");
  array.Erase(1 << 20);
  EXPECT_EQ(TreeInspector::CountNodes(array), 0u);
  EXPECT_TRUE(array.GetMark(0, Mark::k2));
  Put(array, 0, 4, V(2));  // now as part of a larger entry
  EXPECT_TRUE(array.GetMark(15, Mark::k2));
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

TYPED_TEST(XArrayTest, MarkedSearchSeesExactlyTheMarked) {
  auto& array = this->array_;
  for (uint64_t i = 0; i < 5000; ++i) Put(array, i, 0, V(i));
  for (uint64_t i = 3500; i < 4500; ++i) array.SetMark(i, Mark::k0);
  Put(array, 1 << 20, 10, V(9999));
  array.SetMark((1 << 20) + 700, Mark::k0);
  std::vector<uint64_t> seen;
  array.ForEachMarked(0, kMax, Mark::k0, [&](const Located& at) {
    seen.push_back(at.first);
    return true;
  });
  ASSERT_EQ(seen.size(), 1001u);
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(seen[i], 3500 + i);
  EXPECT_EQ(seen.back(), uint64_t{1} << 20);
  // From the middle of a marked entry, and of a range.
  EXPECT_EQ(array.FindMarked((1 << 20) + 1000, kMax, Mark::k0)->first, uint64_t{1} << 20);
  EXPECT_EQ(array.FindMarked(4000, kMax, Mark::k0)->first, 4000u);
  EXPECT_FALSE(array.FindMarked(4500, (1 << 20) - 1, Mark::k0).has_value());
  EXPECT_FALSE(array.FindMarked(0, kMax, Mark::k1).has_value());
}

TYPED_TEST(XArrayTest, ClearFreesEverything) {
  auto& array = this->array_;
  for (unsigned order = 0; order < 30; ++order) Put(array, uint64_t{1} << (order + 5), order, V(1));
  array.SetMark(32, Mark::k0);
  array.Clear();
  EXPECT_TRUE(array.empty());
  EXPECT_FALSE(array.AnyMarked(Mark::k0));
  EXPECT_EQ(TreeInspector::Violation(array), "");
  Put(array, 32, 0, V(1));
  EXPECT_FALSE(array.GetMark(32, Mark::k0));
}

TYPED_TEST(XArrayTest, HeldLockKeepsWritersOutAndLetsReadersIn) {
  auto& array = this->array_;
  Put(array, 5, 0, V(1));
  ASSERT_TRUE(array.try_lock());
  EXPECT_FALSE(array.try_lock());
  EXPECT_EQ(array.Load(5), V(1));
  EXPECT_EQ(array.GetOrder(5), 0u);
  array.unlock();
}

}  // namespace
}  // namespace daxkv::xarray
