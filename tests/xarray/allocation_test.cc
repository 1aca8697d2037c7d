// X7: a change that runs out of memory at any of its allocations leaves the array as it was.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "tests/xarray/xarray_testing.h"

namespace daxkv::xarray {
namespace {

int g_allowed = 0;  // allocations that still succeed

bool Allow() { return g_allowed-- > 0; }

class FailingAllocation {
 public:
  explicit FailingAllocation(int allowed) {
    g_allowed = allowed;
    internal::SetAllocationHook(&Allow);
  }
  ~FailingAllocation() { internal::SetAllocationHook(nullptr); }
};

template <typename Shift>
class AllocationTest : public XArrayTestBase<Shift> {
 protected:
  using Array = typename XArrayTestBase<Shift>::Array;
  using Cursor = typename XArrayTestBase<Shift>::Cursor;
  using Prepare = std::function<void(Array&)>;
  using Change = std::function<absl::Status(Array&)>;

  // Fails the first, second, ... allocation of `change`, until it succeeds. Returns how often it
  // failed.
  int FailEach(const Prepare& prepare, const Change& change) {
    for (int allowed = 0;; ++allowed) {
      Array array;
      prepare(array);
      const std::vector<Row> before = Dump(array);
      const uint64_t nodes = TreeInspector::CountNodes(array);
      absl::Status status;
      {
        FailingAllocation failing(allowed);
        status = change(array);
      }
      EXPECT_EQ(TreeInspector::Violation(array), "");
      if (status.ok()) return allowed;
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
      EXPECT_EQ(Dump(array), before);
      EXPECT_EQ(TreeInspector::CountNodes(array), nodes);
      if (allowed > 1000) return -1;
    }
  }
};
TYPED_TEST_SUITE(AllocationTest, SlotShifts);

TYPED_TEST(AllocationTest, EveryStoreAndInsert) {
  using Array = typename TestFixture::Array;
  const std::vector<typename TestFixture::Prepare> states = {
      [](Array&) {},
      [](Array& array) { Put(array, 0, 0, V(1)); },
      [](Array& array) {
        Put(array, 0, 0, V(1));
        array.SetMark(0, Mark::k1);
      },
      [](Array& array) {
        for (uint64_t i = 0; i < 100; ++i) Put(array, i * 5, 0, V(i));
        array.SetMark(50, Mark::k2);
      },
      [](Array& array) { Put(array, 512, 9, V(1)); },
      [](Array& array) { Put(array, uint64_t{1} << 50, 20, V(1)); },
  };
  int failures = 0;
  for (const auto& state : states) {
    for (uint64_t index :
         {uint64_t{0}, uint64_t{1}, uint64_t{700}, uint64_t{1} << 30, UINT64_MAX}) {
      for (unsigned order : {0u, 2u, 9u, 13u, 40u, 63u}) {
        const int store = this->FailEach(
            state, [&](Array& array) { return array.Store(index, order, V(7)).status(); });
        const int insert = this->FailEach(state, [&](Array& array) {
          const absl::Status status = array.Insert(index, order, V(7));
          return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
        });
        ASSERT_GE(store, 0);
        ASSERT_GE(insert, 0);
        EXPECT_LE(insert, store);
        failures += store + insert;
      }
      failures += this->FailEach(state, [&](Array& array) {
        return array.CompareExchange(index, Entry(), V(7)).status();
      });
    }
  }
  EXPECT_GT(failures, 300);
}

TYPED_TEST(AllocationTest, Split) {
  using Array = typename TestFixture::Array;
  for (unsigned new_order : {0u, 2u, 5u, 8u}) {
    const int failures = this->FailEach(
        [](Array& array) {
          Put(array, 512, 9, V(1));
          array.SetMark(512, Mark::k0);
        },
        [&](Array& array) {
          typename TestFixture::Cursor cursor(array, 600);
          for (;;) {
            array.lock();
            const absl::Status status = cursor.Split(new_order, [](uint64_t at) { return V(at); });
            array.unlock();
            if (!cursor.NeedsReserve()) return status;
            const absl::Status reserved = cursor.Reserve();
            if (!reserved.ok()) return reserved;
          }
        });
    ASSERT_GE(failures, new_order == 8 ? 0 : 1);
  }
}

TYPED_TEST(AllocationTest, WhatIsThereIsOverwrittenMarkedAndErasedWithoutMemory) {
  auto& array = this->array_;
  for (uint64_t i = 0; i < 300; ++i) Put(array, i << 4, i % 5, V(i));
  FailingAllocation failing(0);
  for (uint64_t i = 0; i < 300; ++i) {
    EXPECT_EQ(Put(array, i << 4, 0, V(i + 1)), V(i));
    EXPECT_TRUE(array.SetMark(i << 4, Mark::k0));
    EXPECT_EQ(*array.CompareExchange(i << 4, V(i + 1), V(i)), V(i + 1));
    EXPECT_EQ(array.Erase(i << 4), V(i));
  }
  EXPECT_TRUE(array.empty());
}

}  // namespace
}  // namespace daxkv::xarray
