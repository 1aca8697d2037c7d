// Walks whose own body changes the array: each step finds what a fresh search would find, although
// nodes come and go under the walker.
#include <gtest/gtest.h>

#include <optional>
#include <random>

#include "tests/xarray/xarray_testing.h"
#include "xarray/entry_range.h"

namespace daxkv::xarray {
namespace {

template <typename Shift>
class WalkTest : public XArrayTestBase<Shift> {
 protected:
  // Dense, sparse and far indices in one.
  uint64_t AnyIndex() {
    switch (random_() % 8) {
      case 0:
        return uint64_t{1} << (10 + random_() % 54);
      case 1:
        return UINT64_MAX - random_() % 100;
      default:
        return random_() % 700;
    }
  }

  void ChangeSomething(uint64_t near) {
    auto& array = this->array_;
    const uint64_t index = random_() % 2 == 0 ? near + random_() % 20 : AnyIndex();
    switch (random_() % 8) {
      case 0:
        array.EraseRange(index, index + random_() % 200);
        break;
      case 1:
        array.Erase(near);
        break;
      case 2:
        array.Reserve(index).IgnoreError();
        break;
      case 3:
        array.ClearMark(index, Mark::k1);
        break;
      default:
        Put(array, index, static_cast<unsigned>(random_() % 8), V(random_() % 1000));
        if (random_() % 2 == 0) array.SetMark(index, Mark::k1);
    }
  }

  void Fill() {
    this->array_.Clear();
    for (int i = 0; i < 150; ++i) ChangeSomething(AnyIndex());
  }

  // What a step from behind `at` must find.
  std::optional<Located> Behind(const std::optional<Located>& at, uint64_t last, bool marked) {
    if (at.has_value() && at->last >= last) return std::nullopt;
    const uint64_t from = at.has_value() ? at->last + 1 : 0;
    return marked ? this->array_.FindMarked(from, last, Mark::k1) : this->array_.Find(from, last);
  }

  void ExpectSame(const std::optional<Located>& expected, const Located& at) {
    ASSERT_TRUE(expected.has_value()) << at.first;
    ASSERT_EQ(at.first, expected->first);
    ASSERT_EQ(at.last, expected->last);
    ASSERT_EQ(at.order, expected->order);
    ASSERT_EQ(at.entry, expected->entry);
  }

  std::mt19937_64 random_{1};
};
TYPED_TEST_SUITE(WalkTest, SlotShifts);

TYPED_TEST(WalkTest, RangesFollowTheirBody) {
  auto& array = this->array_;
  uint64_t steps = 0;
  for (int round = 0; round < 300; ++round) {
    this->Fill();
    const uint64_t last = round % 3 == 0 ? UINT64_MAX : this->AnyIndex();
    std::optional<Located> expected = this->Behind(std::nullopt, last, false);
    for (const Located at : array.Entries(0, last)) {
      ASSERT_NO_FATAL_FAILURE(this->ExpectSame(expected, at));
      if (round % 2 == 0) this->ChangeSomething(at.first);
      expected = this->Behind(at, last, false);
      if (++steps % 5000 == 0) break;  // bodies that store ahead could go on for ever
    }
    expected = this->Behind(std::nullopt, last, true);
    for (const Located at : array.MarkedEntries(Mark::k1, 0, last)) {
      ASSERT_NO_FATAL_FAILURE(this->ExpectSame(expected, at));
      if (round % 2 == 0) this->ChangeSomething(at.first);
      expected = this->Behind(at, last, true);
      ++steps;
    }
  }
  EXPECT_GT(steps, 4000u);
}

TYPED_TEST(WalkTest, CursorsFollowChangesInTheirReadSection) {
  auto& array = this->array_;
  for (int round = 0; round < 300; ++round) {
    this->Fill();
    const bool marked = round % 2 != 0;
    rcu::ReadGuard guard;
    typename TestFixture::Cursor cursor(array);
    std::optional<Located> expected = this->Behind(std::nullopt, UINT64_MAX, marked);
    while (marked ? cursor.FindNextMarked(UINT64_MAX, Mark::k1) : cursor.FindNext()) {
      const Located at = cursor.located();
      ASSERT_NO_FATAL_FAILURE(this->ExpectSame(expected, at));
      this->ChangeSomething(at.first);
      expected = this->Behind(at, UINT64_MAX, marked);
    }
    ASSERT_FALSE(expected.has_value());
  }
}

// Under the lock the cursor changes the array itself, and goes on.
TYPED_TEST(WalkTest, CursorsFollowTheirOwnChanges) {
  auto& array = this->array_;
  for (int round = 0; round < 200; ++round) {
    this->Fill();
    typename TestFixture::Cursor cursor(array);
    std::lock_guard<typename TestFixture::Array> lock(array);
    std::optional<Located> expected = this->Behind(std::nullopt, UINT64_MAX, false);
    while (cursor.FindNext()) {
      Located at = cursor.located();
      ASSERT_NO_FATAL_FAILURE(this->ExpectSame(expected, at));
      switch (this->random_() % 4) {
        case 0:
          cursor.Erase();
          break;
        case 1:  // a larger one, which is stored if that needs no memory
          cursor.SetOrder(at.order + 1);
          if (cursor.Store(V(5)).ok()) at = cursor.located();
          break;
        case 2:
          cursor.SetMark(Mark::k1);
          break;
        default:
          break;
      }
      expected = this->Behind(at, UINT64_MAX, false);
    }
    ASSERT_FALSE(expected.has_value());
    ASSERT_EQ(TreeInspector::Violation(array), "");
  }
}

}  // namespace
}  // namespace daxkv::xarray
