// The cursor: position, search, change, split, reservation.
#include "xarray/cursor.h"

#include <gtest/gtest.h>

#include <mutex>
#include <vector>

#include "tests/xarray/xarray_testing.h"

namespace daxkv::xarray {
namespace {

constexpr uint64_t kMax = UINT64_MAX;

template <typename Shift>
class CursorTest : public XArrayTestBase<Shift> {
 protected:
  using Cursor = typename XArrayTestBase<Shift>::Cursor;

  // Runs `change` under the lock, reserving nodes as cursor.h says.
  template <typename Change>
  auto Retry(Cursor& cursor, Change change) -> decltype(change()) {
    for (;;) {
      this->array_.lock();
      cursor.Reset();
      auto result = change();
      this->array_.unlock();
      if (!cursor.NeedsReserve()) return result;
      EXPECT_TRUE(cursor.Reserve().ok());
    }
  }
};
TYPED_TEST_SUITE(CursorTest, SlotShifts);

TYPED_TEST(CursorTest, LoadTellsEntryRangeAndOrder) {
  auto& array = this->array_;
  Put(array, 512, 9, V(1));
  rcu::ReadGuard guard;
  typename TestFixture::Cursor cursor(array, 700);
  EXPECT_EQ(cursor.Load(), V(1));
  EXPECT_EQ(cursor.current(), V(1));
  EXPECT_EQ(cursor.index(), 700u);
  EXPECT_EQ(cursor.first(), 512u);
  EXPECT_EQ(cursor.last(), 1023u);
  EXPECT_EQ(cursor.order(), 9u);
  cursor.Set(1024);
  EXPECT_TRUE(cursor.Load().is_null());
  EXPECT_TRUE(cursor.current().is_null());
  EXPECT_EQ(cursor.first(), 1024u);
  EXPECT_EQ(cursor.last(), 1024u);
}

TYPED_TEST(CursorTest, SearchesKeepTheIndexInsideTheRange) {
  auto& array = this->array_;
  Put(array, 64, 5, V(1));  // 64..95
  array.SetMark(64, Mark::k0);
  rcu::ReadGuard guard;
  typename TestFixture::Cursor cursor(array, 70);
  EXPECT_EQ(cursor.Find(), V(1));
  EXPECT_EQ(cursor.index(), 70u);
  EXPECT_EQ(cursor.first(), 64u);
  cursor.Set(70);
  EXPECT_EQ(cursor.FindMarked(kMax, Mark::k0), V(1));
  EXPECT_EQ(cursor.index(), 70u);
  cursor.Set(5);
  EXPECT_EQ(cursor.FindMarked(kMax, Mark::k0), V(1));
  EXPECT_EQ(cursor.index(), 64u);
  // Nothing found: the index stays, and the search goes on behind what it covered.
  cursor.Set(5);
  EXPECT_TRUE(cursor.Find(63).is_null());
  EXPECT_EQ(cursor.index(), 5u);
  EXPECT_EQ(cursor.FindNext(), V(1));
}

TYPED_TEST(CursorTest, IteratesOnceOverEachWithPauseAndReset) {
  auto& array = this->array_;
  std::vector<uint64_t> expected;
  for (unsigned order = 0; order < 40; ++order) {
    Put(array, uint64_t{1} << order, order, V(order));
    expected.push_back(order);
  }
  for (unsigned pause_every : {1u, 2u, 4u, 100u}) {
    std::vector<uint64_t> seen;
    typename TestFixture::Cursor cursor(array);
    bool more = true;
    while (more) {
      rcu::ReadGuard guard;
      more = false;
      for (unsigned i = 0; i < pause_every; ++i) {
        const Entry entry = cursor.FindNext();
        if (!entry) break;
        seen.push_back(entry.value());
        more = i + 1 == pause_every;
      }
      if (more) cursor.Pause();
    }
    EXPECT_EQ(seen, expected);
  }
  rcu::ReadGuard guard;
  typename TestFixture::Cursor cursor(array);
  EXPECT_EQ(cursor.FindNext(), V(0));
  EXPECT_EQ(cursor.FindNext(), V(1));
  cursor.Reset();  // looks at the same again
  EXPECT_EQ(cursor.FindNext(), V(1));
  EXPECT_EQ(cursor.FindNext(), V(2));
}

TYPED_TEST(CursorTest, EndsAtTheLastIndex) {
  auto& array = this->array_;
  for (unsigned order : {0u, 3u, 63u}) {
    array.Clear();
    Put(array, kMax, order, V(1));
    rcu::ReadGuard guard;
    typename TestFixture::Cursor cursor(array);
    EXPECT_EQ(cursor.FindNext(), V(1));
    EXPECT_TRUE(cursor.FindNext().is_null());
    EXPECT_TRUE(cursor.FindNext().is_null());
    cursor.Set(kMax);
    EXPECT_EQ(cursor.FindNext(), V(1));
    cursor.Pause();
    EXPECT_TRUE(cursor.FindNext().is_null());
    cursor.SetOrder(order);
    cursor.Set(kMax);
    EXPECT_EQ(cursor.FindConflict(), V(1));
    EXPECT_TRUE(cursor.NextConflict().is_null());
    EXPECT_TRUE(cursor.NextConflict().is_null());
  }
}

TYPED_TEST(CursorTest, NextAndPrevVisitEveryIndex) {
  auto& array = this->array_;
  Put(array, 3, 0, V(3));
  Put(array, 8, 3, V(8));
  rcu::ReadGuard guard;
  typename TestFixture::Cursor cursor(array, 0);
  for (uint64_t i = 1; i < 300; ++i) {
    EXPECT_EQ(cursor.Next(), array.Load(i));
    EXPECT_EQ(cursor.index(), i);
  }
  for (uint64_t i = 298; i > 0; --i) {
    EXPECT_EQ(cursor.Prev(), array.Load(i));
    EXPECT_EQ(cursor.index(), i);
  }
  EXPECT_TRUE(cursor.Prev().is_null());
  EXPECT_TRUE(cursor.Prev().is_null());  // there is no index before 0
  EXPECT_EQ(cursor.index(), 0u);
  cursor.Set(kMax);
  EXPECT_TRUE(cursor.Next().is_null());
  EXPECT_EQ(cursor.index(), kMax);
}

TYPED_TEST(CursorTest, ConflictWalkSeesExactlyTheOverlaps) {
  auto& array = this->array_;
  Put(array, 0, 4, V(0));
  Put(array, 16, 0, V(1));
  Put(array, 30, 1, V(2));
  Put(array, 32, 5, V(3));
  typename TestFixture::Cursor cursor(array, 21);
  std::lock_guard<typename TestFixture::Array> lock(array);
  cursor.SetOrder(4);  // 16..31
  EXPECT_EQ(cursor.FindConflict(), V(1));
  EXPECT_EQ(cursor.index(), 16u);
  EXPECT_EQ(cursor.NextConflict(), V(2));
  EXPECT_EQ(cursor.index(), 30u);
  EXPECT_TRUE(cursor.NextConflict().is_null());
  // The cursor still means the same block.
  EXPECT_TRUE(cursor.Store(V(9)).ok());
  EXPECT_EQ(cursor.first(), 16u);
  EXPECT_EQ(cursor.last(), 31u);
  cursor.Set(40);
  cursor.SetOrder(0);
  EXPECT_EQ(cursor.FindConflict(), V(3));  // larger than the block
  EXPECT_EQ(cursor.index(), 40u);
  EXPECT_TRUE(cursor.NextConflict().is_null());
}

TYPED_TEST(CursorTest, StoreWithoutNodesChangesNothingAndSaysSo) {
  auto& array = this->array_;
  Put(array, 5, 0, V(5));
  const auto before = Dump(array);
  typename TestFixture::Cursor cursor(array, uint64_t{1} << 40);
  array.lock();
  EXPECT_EQ(cursor.Store(V(1)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(cursor.NeedsReserve());
  array.unlock();
  EXPECT_EQ(Dump(array), before);
  EXPECT_TRUE(cursor.Reserve().ok());
  array.lock();
  ASSERT_TRUE(cursor.Store(V(1)).ok());
  EXPECT_FALSE(cursor.NeedsReserve());
  array.unlock();
  EXPECT_EQ(array.Load(uint64_t{1} << 40), V(1));
  // Overwriting, also through another index, and erasing need no node.
  array.lock();
  EXPECT_EQ(*cursor.Store(V(2)), V(1));
  EXPECT_EQ(cursor.Erase(), V(2));
  array.unlock();
  EXPECT_EQ(Dump(array), before);
}

TYPED_TEST(CursorTest, EraseWhileIterating) {
  auto& array = this->array_;
  for (uint64_t i = 0; i < 1000; ++i) Put(array, i * 8, i % 4, V(i));
  typename TestFixture::Cursor cursor(array);
  array.lock();
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(cursor.FindNext(), V(i));
    if (i % 3 != 0) {
      EXPECT_EQ(cursor.Erase(), V(i));
      EXPECT_TRUE(cursor.current().is_null());
    }
  }
  EXPECT_TRUE(cursor.FindNext().is_null());
  array.unlock();
  EXPECT_EQ(Dump(array).size(), 334u);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

TYPED_TEST(CursorTest, MarksAtTheCursor) {
  auto& array = this->array_;
  for (uint64_t i = 0; i < 300; ++i) Put(array, i << 3, 3, V(i));
  typename TestFixture::Cursor cursor(array, 5);
  array.lock();
  uint64_t count = 0;
  while (cursor.FindNext()) {
    if (count++ % 5 == 0) {
      EXPECT_TRUE(cursor.SetMark(Mark::k0));
    }
  }
  // Copy mark 0 to mark 1 and clear it, as a writeback scan does.
  cursor.Set(0);
  uint64_t marked = 0;
  while (cursor.FindNextMarked(kMax, Mark::k0)) {
    EXPECT_EQ(cursor.current().value() % 5, 0u);
    EXPECT_TRUE(cursor.GetMark(Mark::k0));
    EXPECT_TRUE(cursor.SetMark(Mark::k1));
    EXPECT_TRUE(cursor.ClearMark(Mark::k0));
    ++marked;
  }
  EXPECT_EQ(marked, 60u);
  cursor.Set(1 << 20);
  EXPECT_FALSE(cursor.SetMark(Mark::k0));
  EXPECT_FALSE(cursor.GetMark(Mark::k0));
  array.unlock();
  EXPECT_FALSE(array.AnyMarked(Mark::k0));
  EXPECT_TRUE(array.AnyMarked(Mark::k1));
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

TYPED_TEST(CursorTest, SplitEveryOrderIntoEverySmallerOne) {
  auto& array = this->array_;
  for (unsigned order = 1; order < 12; ++order) {
    for (unsigned new_order = 0; new_order < order; ++new_order) {
      array.Clear();
      const uint64_t first = uint64_t{5} << 12;
      const uint64_t last = first + (uint64_t{1} << order) - 1;
      Put(array, first, order, V(1));
      Put(array, last + 1, 0, V(2));
      array.SetMark(first, Mark::k0);
      array.SetMark(first, Mark::k2);
      typename TestFixture::Cursor cursor(array, first + (last - first) / 2);
      ASSERT_TRUE(
          this->Retry(cursor,
                      [&] { return cursor.Split(new_order, [](uint64_t at) { return V(at); }); })
              .ok());
      EXPECT_EQ(cursor.order(), new_order);
      for (uint64_t i = first; i <= last; ++i) {
        const uint64_t piece = i & ~((uint64_t{1} << new_order) - 1);
        ASSERT_EQ(array.Load(i), V(piece));
        ASSERT_EQ(array.GetOrder(i), new_order);
        ASSERT_EQ(MarksOf(array, i), 5u);
      }
      EXPECT_EQ(MarksOf(array, last + 1), 0u);
      ASSERT_EQ(TreeInspector::Violation(array), "");
    }
  }
}

TYPED_TEST(CursorTest, SplitRefuses) {
  auto& array = this->array_;
  Put(array, 512, 9, V(1));
  const auto before = Dump(array);
  typename TestFixture::Cursor cursor(array, 511);
  const auto piece = [](uint64_t at) { return V(at); };
  const auto split = [&](uint64_t index, unsigned new_order, auto&& fn) {
    return this->Retry(cursor, [&] {
      cursor.Set(index);
      return cursor.Split(new_order, fn);
    });
  };
  EXPECT_EQ(split(511, 0, piece).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(split(512, 9, piece).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(split(512, 63, piece).code(), absl::StatusCode::kInvalidArgument);
  for (unsigned new_order : {0u, 3u, 6u, 8u}) {
    for (uint64_t bad : {512u, 512u + 256u}) {
      const auto null_piece = [bad](uint64_t at) { return at == bad ? Entry() : V(at); };
      EXPECT_EQ(split(700, new_order, null_piece).code(), absl::StatusCode::kInvalidArgument);
      const auto internal = [bad](uint64_t at) { return at == bad ? Entry::Retry() : V(at); };
      EXPECT_EQ(split(700, new_order, internal).code(), absl::StatusCode::kInvalidArgument);
    }
  }
  // More nodes than any machine holds: a clean refusal.
  Put(array, uint64_t{1} << 63, 63, V(2));
  cursor.Set(uint64_t{1} << 63);
  array.lock();
  EXPECT_EQ(cursor.Split(0, piece).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(cursor.NeedsReserve());
  array.unlock();
  array.Erase(kMax);
  EXPECT_EQ(Dump(array), before);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

TYPED_TEST(CursorTest, ExchangeInPlace) {
  auto& array = this->array_;
  static int object;
  Put(array, 512, 9, V(2));
  array.SetMark(512, Mark::k1);
  rcu::ReadGuard guard;
  typename TestFixture::Cursor cursor(array, 700);
  EXPECT_FALSE(cursor.CompareExchangeInPlace(V(1), V(3)));
  EXPECT_TRUE(cursor.CompareExchangeInPlace(V(2), V(3)));
  EXPECT_EQ(cursor.current(), V(3));
  EXPECT_EQ(array.Load(1023), V(3));
  EXPECT_EQ(array.GetOrder(1023), 9u);
  EXPECT_TRUE(array.GetMark(1023, Mark::k1));
  // Values only.
  EXPECT_FALSE(cursor.CompareExchangeInPlace(V(3), Entry()));
  EXPECT_FALSE(cursor.CompareExchangeInPlace(V(3), Entry::Pointer(&object)));
  EXPECT_EQ(array.Load(1023), V(3));
  // A cursor that stands on an erased entry fails, wherever its node went.
  array.Erase(512);
  EXPECT_FALSE(cursor.CompareExchangeInPlace(V(3), V(4)));
  EXPECT_TRUE(array.empty());
  // In the head, and after the entry moved from there into a node.
  Put(array, 0, 0, V(1));
  typename TestFixture::Cursor zero(array, 0);
  EXPECT_TRUE(zero.CompareExchangeInPlace(V(1), V(2)));
  EXPECT_EQ(array.Load(0), V(2));
  Put(array, 1, 0, V(1));
  EXPECT_FALSE(zero.CompareExchangeInPlace(V(2), V(3)));
  zero.Reset();
  EXPECT_TRUE(zero.CompareExchangeInPlace(V(2), V(3)));
  EXPECT_EQ(array.Load(0), V(3));
}

TYPED_TEST(CursorTest, CursorInADeadNodeFindsItsWayBack) {
  auto& array = this->array_;
  for (uint64_t i = 0; i < 4; ++i) Put(array, (uint64_t{1} << 20) + i, 0, V(i));
  Put(array, uint64_t{1} << 21, 0, V(99));
  {
    rcu::ReadGuard guard;
    typename TestFixture::Cursor cursor(array, uint64_t{1} << 20);
    EXPECT_EQ(cursor.FindNext(), V(0));
    // The node under the cursor goes, and another takes its place.
    EXPECT_EQ(array.EraseRange(uint64_t{1} << 20, (uint64_t{1} << 20) + 10), 4u);
    Put(array, (uint64_t{1} << 20) + 2, 0, V(7));
    EXPECT_EQ(cursor.FindNext(), V(7));
    EXPECT_EQ(cursor.FindNext(), V(99));
  }
}

}  // namespace
}  // namespace daxkv::xarray
