// The calls for free indices, ranges and paths against each other, and against range-for loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <random>
#include <vector>

#include "tests/xarray/concurrency_testing.h"
#include "xarray/entry_range.h"

namespace daxkv::xarray {
namespace {

TYPED_TEST_SUITE(ConcurrencyTest, SlotShifts);

// Each index belongs to the one thread that got it, until that thread gives it back.
TYPED_TEST(ConcurrencyTest, AllocatedIndicesBelongToOneThread) {
  auto& array = this->array_;
  constexpr uint64_t kFirst = 3;
  constexpr uint64_t kLast = 202;
  uint64_t next = 0;  // of the cyclic ones, under the array's lock
  std::atomic<uint64_t> allocated{0};
  std::atomic<uint64_t> refused{0};
  struct Thread {
    explicit Thread(unsigned number) : number(number), random(number) {}
    unsigned number;
    std::mt19937_64 random;
    std::vector<uint64_t> held;
  };
  std::vector<Thread> owners = {Thread(1), Thread(2), Thread(3)};
  const auto body = [&](Thread& me) {
    if (me.held.size() < 90 && me.random() % 8 != 0) {
      const unsigned how = static_cast<unsigned>(me.random() % 3);
      const Entry mine = V(me.number);
      uint64_t index = 0;
      absl::Status status;
      if (how == 0) {
        const absl::StatusOr<CyclicIndex> found = array.AllocCyclic(mine, kFirst, kLast, &next);
        status = found.status();
        if (found.ok()) index = found->index;
      } else {
        const absl::StatusOr<uint64_t> found =
            array.Alloc(how == 1 ? mine : Entry(), kFirst, kLast);  // null: a reservation
        status = found.status();
        if (found.ok()) index = *found;
      }
      if (!status.ok()) {
        ASSERT_TRUE(absl::IsOutOfRange(status)) << status;
        refused.fetch_add(1, std::memory_order_relaxed);
        return;
      }
      ASSERT_GE(index, kFirst);
      ASSERT_LE(index, kLast);
      if (how == 2) {
        ASSERT_TRUE(array.Load(index).is_null());
        ASSERT_TRUE(Put(array, index, 0, mine).is_null());
      }
      me.held.push_back(index);
      allocated.fetch_add(1, std::memory_order_relaxed);
    } else if (!me.held.empty()) {
      std::swap(me.held[me.random() % me.held.size()], me.held.back());
      ASSERT_EQ(array.Erase(me.held.back()), V(me.number));
      me.held.pop_back();
    }
  };
  RunFor(kDuration, {[&] { body(owners[0]); }, [&] { body(owners[1]); }, [&] { body(owners[2]); },
                     [&] {
                       uint64_t entries = 0;
                       for (const Located at : array.Entries()) {
                         ASSERT_GE(at.first, kFirst);
                         ASSERT_LE(at.last, kLast);
                         ++entries;
                       }
                       ASSERT_LE(entries, kLast - kFirst + 1);
                     }});
  uint64_t held = 0;
  for (const Thread& thread : owners) {
    held += thread.held.size();
    for (uint64_t index : thread.held) EXPECT_EQ(array.Load(index), V(thread.number));
  }
  EXPECT_EQ(Dump(array).size(), held);
  EXPECT_GT(allocated, 1000u);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

// A value that says which range it was stored for.
Entry OfRange(uint64_t first, uint64_t last) { return V(first << 20 | last); }

TYPED_TEST(ConcurrencyTest, RangesAndPathsAgainstRangeLoops) {
  using Array = typename TestFixture::Array;
  using Cursor = typename TestFixture::Cursor;
  auto& array = this->array_;
  constexpr uint64_t kSpan = 1500;
  // These stay, among what comes and goes.
  const auto anchor = [](uint64_t i) { return 2000 + 97 * i; };
  constexpr uint64_t kAnchors = 60;
  for (uint64_t i = 0; i < kAnchors; ++i) {
    Put(array, anchor(i), 0, OfRange(anchor(i), anchor(i)));
    array.SetMark(anchor(i), Mark::k2);
  }
  const auto store = [&](std::mt19937_64& random) {
    const uint64_t first = random() % kSpan;
    const uint64_t last = std::min(first + random() % 300, kSpan - 1);
    ASSERT_TRUE(array.StoreRange(first, last, OfRange(first, last)).ok());
    if (random() % 4 == 0) array.SetMark(first, Mark::k2);
    if (random() % 4 == 0) array.EraseRange(first, first + random() % 200);
  };
  const auto split = [&](std::mt19937_64& random) {
    const uint64_t index = random() % kSpan;
    const unsigned new_order = static_cast<unsigned>(random() % 4);
    Cursor cursor(array, index);
    do {
      ASSERT_TRUE(cursor.Reserve().ok());
      std::lock_guard<Array> lock(array);
      cursor.Set(index);
      const Entry whole = cursor.Load();
      if (!whole) return;
      cursor.SplitPath(new_order, [&](uint64_t, unsigned) { return whole; }).IgnoreError();
    } while (cursor.NeedsReserve());
  };
  // Between the anchors: nodes come and go in the walkers' way.
  const auto disturb = [&](std::mt19937_64& random) {
    const uint64_t index = anchor(random() % kAnchors) + 1 + random() % 90;
    Put(array, index, 0, OfRange(index, index));
    array.Erase(anchor(random() % kAnchors) + 1 + random() % 90);
  };
  std::atomic<uint64_t> walks{0};
  const auto walk = [&](auto&& range) {
    uint64_t anchors = 0;
    uint64_t next = 0;
    for (const Located at : range) {
      const uint64_t first = at.entry.value() >> 20;
      const uint64_t last = at.entry.value() & 0xfffff;
      ASSERT_EQ(at.first & ((uint64_t{1} << at.order) - 1), 0u);
      ASSERT_EQ(at.last - at.first, (uint64_t{1} << at.order) - 1);
      ASSERT_GE(at.first, first);
      ASSERT_LE(at.last, last) << at.first;
      ASSERT_GE(at.last, next);
      next = at.last + 1;
      if (at.first >= anchor(0) && (at.first - anchor(0)) % 97 == 0) ++anchors;
    }
    ASSERT_EQ(anchors, kAnchors);
    walks.fetch_add(1, std::memory_order_relaxed);
  };
  std::mt19937_64 random[] = {std::mt19937_64(1), std::mt19937_64(2), std::mt19937_64(3)};
  RunFor(kDuration,
         {[&] { store(random[0]); }, [&] { split(random[1]); }, [&] { disturb(random[2]); },
          [&] { walk(array.Entries()); }, [&] { walk(array.MarkedEntries(Mark::k2)); }});
  EXPECT_GT(walks, 100u);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

// A range that was created is stored without a failure, although others take nodes away until then.
TYPED_TEST(ConcurrencyTest, CreatedRangesAreStoredWhole) {
  using Array = typename TestFixture::Array;
  using Cursor = typename TestFixture::Cursor;
  auto& array = this->array_;
  constexpr uint64_t kSpan = 4000;
  std::atomic<uint64_t> created{0};
  const auto create = [&](std::mt19937_64& random) {
    const uint64_t first = random() % kSpan << (random() % 16 == 0 ? 30 : 0);
    const uint64_t last = first + random() % 300;
    Cursor cursor(array);
    for (;;) {
      std::unique_lock<Array> lock(array);
      cursor.Set(first);
      if (cursor.CreateRange(last).ok()) {
        for (uint64_t at = first; at <= last; ++at) {
          cursor.Set(at);
          ASSERT_TRUE(cursor.Store(V(at)).ok());
        }
        created.fetch_add(1, std::memory_order_relaxed);
        return;
      }
      lock.unlock();
      ASSERT_TRUE(cursor.Reserve().ok());
    }
  };
  std::mt19937_64 random[] = {std::mt19937_64(4), std::mt19937_64(5), std::mt19937_64(6)};
  RunFor(kDuration, {[&] { create(random[0]); }, [&] { create(random[1]); },
                     [&] {
                       const uint64_t first = random[2]() % kSpan;
                       array.EraseRange(first, random[2]() % 8 == 0 ? kMax : first + 500);
                     },
                     [&] {
                       for (const Located at : array.Entries()) {
                         ASSERT_EQ(at.entry, V(at.first));
                         ASSERT_EQ(at.order, 0u);
                       }
                     }});
  EXPECT_GT(created, 50u);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

}  // namespace
}  // namespace daxkv::xarray
