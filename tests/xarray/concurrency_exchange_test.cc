// Exchanges in place against each other and against writers, and the writers' lock.
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <random>

#include "tests/xarray/concurrency_testing.h"

namespace daxkv::xarray {
namespace {

TYPED_TEST_SUITE(ConcurrencyTest, SlotShifts);

// Counts exchanges in place and what erasers and storers got back: none may be lost. Index 0 also
// moves between the head and a node.
TYPED_TEST(ConcurrencyTest, NoExchangeInPlaceIsLost) {
  auto& array = this->array_;
  constexpr uint64_t kIndices[] = {0, 1, 70, 512};
  constexpr unsigned kOrders[] = {0, 0, 0, 9};
  std::atomic<uint64_t> exchanged{0};
  uint64_t returned = 0;
  for (int i = 0; i < 4; ++i) Put(array, kIndices[i], kOrders[i], V(0));
  std::mt19937_64 random(6);
  std::mt19937_64 other_random(7);
  const auto increment = [&](std::mt19937_64& rng) {
    const uint64_t index = kIndices[rng() % 4];
    rcu::ReadGuard guard;
    typename TestFixture::Cursor cursor(array, index);
    const Entry entry = cursor.Load();
    if (entry && cursor.CompareExchangeInPlace(entry, V(entry.value() + 1))) {
      exchanged.fetch_add(1, std::memory_order_relaxed);
    }
  };
  std::mt19937_64 write_random(8);
  RunFor(kDuration, {
                        [&] { increment(random); },
                        [&] { increment(other_random); },
                        [&] {
                          const unsigned which = write_random() % 4;
                          Entry old;
                          switch (write_random() % 3) {
                            case 0:
                              old = array.Erase(kIndices[which]);
                              Put(array, kIndices[which], kOrders[which], V(0));
                              break;
                            case 1:
                              old = Put(array, kIndices[which], kOrders[which], V(0));
                              break;
                            default: {
                              const Entry expected = array.Load(kIndices[which]);
                              const Entry found =
                                  *array.CompareExchange(kIndices[which], expected, V(0));
                              if (found == expected) old = found;
                            }
                          }
                          if (old) returned += old.value();
                          // Alone at index 0 and back.
                          if (write_random() % 8 == 0) {
                            array.ForEach(1, kMax, [&](const Located& at) {
                              returned += array.Erase(at.first).value();
                              return true;
                            });
                            returned += array.Erase(0).value();
                            Put(array, 0, 0, V(0));
                            for (int i = 1; i < 4; ++i) Put(array, kIndices[i], kOrders[i], V(0));
                          }
                        },
                    });
  array.ForEach(0, kMax, [&](const Located& at) {
    returned += at.entry.value();
    return true;
  });
  EXPECT_GT(exchanged, 1000u);
  EXPECT_EQ(returned, exchanged);
}

// The entry lock of dax: a bit in the value, taken in place. It excludes others although the
// holder erases, stores and splits.
TYPED_TEST(ConcurrencyTest, LockBitInTheValueExcludes) {
  auto& array = this->array_;
  constexpr uint64_t kLocked = uint64_t{1} << 62;
  constexpr unsigned kOrder = 9;
  Put(array, 512, kOrder, V(kOrder));
  uint64_t guarded = 0;  // plain: ThreadSanitizer watches
  std::atomic<uint64_t> rounds{0};
  const auto body = [&](std::mt19937_64& rng) {
    const uint64_t index = 512;
    Entry held;
    {
      rcu::ReadGuard guard;
      typename TestFixture::Cursor cursor(array, index);
      const Entry entry = cursor.Load();
      if (!entry || (entry.value() & kLocked) != 0) return;
      ASSERT_EQ(entry.value(), cursor.order());
      held = V(entry.value() | kLocked);
      if (!cursor.CompareExchangeInPlace(entry, held)) return;
    }
    ++guarded;
    const unsigned order = static_cast<unsigned>(held.value() & 63);
    ASSERT_EQ(array.Load(index), held);
    switch (rng() % 4) {
      case 0:  // down to order 3
        if (order == kOrder) {
          typename TestFixture::Cursor cursor(array, index);
          do {
            ASSERT_TRUE(cursor.Reserve().ok());
            std::lock_guard<typename TestFixture::Array> lock(array);
            cursor.Reset();
            cursor.Split(3, [&](uint64_t) { return V(3 | kLocked); }).IgnoreError();
          } while (cursor.NeedsReserve());
          ++guarded;
          ASSERT_EQ(*array.CompareExchange(index, V(3 | kLocked), V(3)), V(3 | kLocked));
          break;
        }
        [[fallthrough]];
      case 1:  // up again
        if (order != kOrder) {
          ASSERT_EQ(Put(array, index, kOrder, V(kOrder)), held);
          break;
        }
        [[fallthrough]];
      case 2:  // gone and back
        ASSERT_EQ(array.Erase(index), held);
        Put(array, index, order, V(order));
        break;
      default: {  // unlocked in place
        rcu::ReadGuard guard;
        typename TestFixture::Cursor cursor(array, index);
        ASSERT_EQ(cursor.Load(), held);
        ASSERT_TRUE(cursor.CompareExchangeInPlace(held, V(order)));
      }
    }
    rounds.fetch_add(1, std::memory_order_relaxed);
  };
  std::mt19937_64 random[] = {std::mt19937_64(9), std::mt19937_64(10), std::mt19937_64(11)};
  RunFor(kDuration, {[&] { body(random[0]); }, [&] { body(random[1]); }, [&] { body(random[2]); }});
  EXPECT_GT(rounds, 100u);
  EXPECT_GE(guarded, rounds);
}

TYPED_TEST(ConcurrencyTest, WriterLockExcludes) {
  auto& array = this->array_;
  uint64_t guarded = 0;
  std::atomic<uint64_t> taken{0};
  const auto body = [&] {
    std::lock_guard<typename TestFixture::Array> lock(array);
    ++guarded;
    taken.fetch_add(1, std::memory_order_relaxed);
  };
  RunFor(kDuration / 2, {body, body, body});
  EXPECT_EQ(guarded, taken);
}

}  // namespace
}  // namespace daxkv::xarray
