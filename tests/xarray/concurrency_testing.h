// What the concurrent tests share. Each runs for a bounded time, and also under ThreadSanitizer and
// AddressSanitizer.
#ifndef DAXKV_TESTS_XARRAY_CONCURRENCY_TESTING_H_
#define DAXKV_TESTS_XARRAY_CONCURRENCY_TESTING_H_

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "tests/xarray/xarray_testing.h"

namespace daxkv::xarray {

inline constexpr uint64_t kMax = UINT64_MAX;
inline constexpr auto kDuration = std::chrono::milliseconds(400);

// Runs each body again and again in a thread of its own, until the time is up.
inline void RunFor(std::chrono::milliseconds duration,
                   const std::vector<std::function<void()>>& bodies) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (const auto& body : bodies) {
    threads.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) body();
    });
  }
  std::this_thread::sleep_for(duration);
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

// A value that says which entry it is: its first index and its order.
inline Entry Named(uint64_t index, unsigned order) {
  return V((index & ~((uint64_t{1} << order) - 1)) << 6 | order);
}
inline uint64_t FirstOf(Entry entry) { return entry.value() >> 6; }
inline unsigned OrderOf(Entry entry) { return entry.value() & 63; }
inline bool Covers(Entry entry, uint64_t index) {
  return FirstOf(entry) == index >> OrderOf(entry) << OrderOf(entry);
}

template <typename Shift>
class ConcurrencyTest : public XArrayTestBase<Shift> {
 protected:
  using Array = typename XArrayTestBase<Shift>::Array;
  using Cursor = typename XArrayTestBase<Shift>::Cursor;

  // Stores, erases and splits at random in [0, span), each entry named.
  void WriteAtRandom(std::mt19937_64& random, uint64_t span, unsigned max_order) {
    const uint64_t index = random() % span;
    const unsigned order = static_cast<unsigned>(random() % (max_order + 1));
    switch (random() % 4) {
      case 0:
        this->array_.Erase(index);
        break;
      case 1:
        Split(index, order);
        break;
      default:
        StoreNamed(index, order);
    }
  }

  void StoreNamed(uint64_t index, unsigned order) {
    Cursor cursor(this->array_, index);
    cursor.SetOrder(order);
    do {
      ASSERT_TRUE(cursor.Reserve().ok());
      std::lock_guard<Array> lock(this->array_);
      cursor.Set(index);
      const bool inside_larger = cursor.Load() && cursor.order() > order;
      const Entry entry = Named(index, inside_larger ? cursor.order() : order);
      cursor.Store(entry).status().IgnoreError();
    } while (cursor.NeedsReserve());
  }

  void Split(uint64_t index, unsigned new_order) {
    Cursor cursor(this->array_, index);
    do {
      ASSERT_TRUE(cursor.Reserve().ok());
      std::lock_guard<Array> lock(this->array_);
      cursor.Set(index);
      cursor.Split(new_order, [&](uint64_t at) { return Named(at, new_order); }).IgnoreError();
    } while (cursor.NeedsReserve());
  }
};
}  // namespace daxkv::xarray

#endif  // DAXKV_TESTS_XARRAY_CONCURRENCY_TESTING_H_
