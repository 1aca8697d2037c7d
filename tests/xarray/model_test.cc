// Random operations on an array and on a plain model of what xarray.h promises (X1..X5).
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <vector>

#include "tests/xarray/xarray_testing.h"

namespace daxkv::xarray {
namespace {

uint64_t Mask(unsigned order) { return (uint64_t{1} << order) - 1; }

// One thread only, so ThreadSanitizer has little to see and much to slow down.
#ifdef DAXKV_RCU_TSAN
constexpr int kShare = 10;
#else
constexpr int kShare = 1;
#endif

// The promises, by the shortest code that keeps them.
class Model {
 public:
  struct Item {
    uint64_t last;
    unsigned order;
    Entry entry;
    unsigned marks;
  };
  using Items = std::map<uint64_t, Item>;

  // The item that covers `index`, or else the next one, or end().
  Items::iterator AtOrAfter(uint64_t index) {
    auto it = items_.upper_bound(index);
    if (it != items_.begin() && std::prev(it)->second.last >= index) --it;
    return it;
  }
  Items::iterator At(uint64_t index) {
    auto it = AtOrAfter(index);
    return it != items_.end() && it->first <= index ? it : items_.end();
  }
  bool Has(Items::iterator it) { return it != items_.end(); }

  Entry Load(uint64_t index) { return Has(At(index)) ? At(index)->second.entry : Entry(); }

  Entry Store(uint64_t index, unsigned order, Entry entry) {
    const Entry old = Load(index);
    const uint64_t first = index & ~Mask(order);
    auto it = At(index);
    if (!entry.is_null() && Has(it) && it->second.order >= order) {
      it->second.entry = entry;
      return old;
    }
    const unsigned marks = EraseRange(first, first | Mask(order)).second;
    if (!entry.is_null()) items_[first] = {first | Mask(order), order, entry, marks};
    return old;
  }

  // How many went, and all their marks.
  std::pair<uint64_t, unsigned> EraseRange(uint64_t first, uint64_t last) {
    uint64_t count = 0;
    unsigned marks = 0;
    for (auto it = AtOrAfter(first); Has(it) && it->first <= last; it = items_.erase(it)) {
      marks |= it->second.marks;
      ++count;
    }
    return {count, marks};
  }

  void Split(uint64_t index, unsigned new_order) {
    const auto [first, item] = *At(index);
    items_.erase(first);
    for (uint64_t at = first;; at += Mask(new_order) + 1) {
      items_[at] = {at | Mask(new_order), new_order, V(at & Entry::kMaxValue), item.marks};
      if ((at | Mask(new_order)) == item.last) break;
    }
  }

  Items& items() { return items_; }

  std::vector<Row> Dump() const {
    std::vector<Row> rows;
    for (const auto& [first, item] : items_) {
      rows.emplace_back(first, item.last, item.entry.raw(), item.marks);
    }
    return rows;
  }

 private:
  Items items_;
};

template <typename Shift>
class ModelTest : public XArrayTestBase<Shift> {
 protected:
  using Base = XArrayTestBase<Shift>;

  void Run(uint64_t seed, int operations, uint64_t base, uint64_t span, unsigned max_order) {
    random_.seed(seed);
    base_ = base;
    span_ = span;
    max_order_ = max_order;
    for (int i = 0; i < operations / kShare; ++i) {
      Step();
      Compare(RandomIndex());
      if (::testing::Test::HasFailure()) {
        FAIL() << "seed " << seed << ", operation " << i;
      }
      if (i % 1000 == 999) CompareAll();
    }
    CompareAll();
  }

 private:
  uint64_t Random(uint64_t below) { return random_() % below; }
  uint64_t RandomIndex() {
    const uint64_t near = base_ + Random(span_);
    if (Random(16) > 0) return near;
    return model_.items().empty() ? random_() >> Random(64)
                                  : (std::prev(model_.items().end()))->first;
  }
  unsigned RandomOrder() {
    return Random(3) > 0 ? 0 : static_cast<unsigned>(Random(max_order_ + 1));
  }

  void Step() {
    auto& array = this->array_;
    const uint64_t index = RandomIndex();
    const unsigned order = RandomOrder();
    const Mark mark = kAllMarks[Random(3)];
    const unsigned mark_bit = 1u << static_cast<unsigned>(mark);
    const Entry entry = V(random_() & Entry::kMaxValue);
    const auto at = model_.At(index);
    switch (Random(14)) {
      default:
        EXPECT_EQ(Put(array, index, order, entry), model_.Store(index, order, entry));
        break;
      case 0:
      case 1:
        EXPECT_EQ(array.Erase(index), model_.Store(index, 0, Entry()));
        break;
      case 2:
        EXPECT_EQ(Put(array, index, order, Entry()), model_.Store(index, order, Entry()));
        break;
      case 3: {
        const uint64_t last = index + std::min(UINT64_MAX - index, Random(span_ / 16 + 1));
        EXPECT_EQ(array.EraseRange(index, last), model_.EraseRange(index, last).first);
        break;
      }
      case 4: {
        const Entry expected = Random(2) ? model_.Load(index) : entry;
        const Entry desired = Random(3) ? entry : Entry();
        const Entry found = model_.Load(index);
        EXPECT_EQ(*array.CompareExchange(index, expected, desired), found);
        if (found == expected) model_.Store(index, 0, desired);
        break;
      }
      case 5: {
        const auto conflict = model_.AtOrAfter(index & ~Mask(order));
        const bool free = !model_.Has(conflict) || conflict->first > (index | Mask(order));
        EXPECT_EQ(array.Insert(index, order, entry).ok(), free);
        if (free) model_.Store(index, order, entry);
        break;
      }
      case 6:
      case 7:
        EXPECT_EQ(array.SetMark(index, mark), model_.Has(at));
        if (model_.Has(at)) at->second.marks |= mark_bit;
        break;
      case 8:
        EXPECT_EQ(array.ClearMark(index, mark), model_.Has(at));
        if (model_.Has(at)) at->second.marks &= ~mark_bit;
        break;
      case 9:
        if (model_.Has(at) && at->second.order > 0) Split(index, at->second.order);
        break;
    }
  }

  void Split(uint64_t index, unsigned order) {
    const unsigned least = order > 9 ? order - 9 : 0;
    const unsigned new_order = least + static_cast<unsigned>(Random(order - least));
    typename Base::Cursor cursor(this->array_, index);
    for (;;) {
      std::unique_lock<typename Base::Array> lock(this->array_);
      const absl::Status status =
          cursor.Split(new_order, [](uint64_t first) { return V(first & Entry::kMaxValue); });
      lock.unlock();
      if (status.ok()) break;
      ASSERT_TRUE(cursor.NeedsReserve()) << status;
      ASSERT_TRUE(cursor.Reserve().ok());
    }
    model_.Split(index, new_order);
  }

  void ExpectSame(const std::optional<Located>& found, Model::Items::iterator it, uint64_t last) {
    if (!model_.Has(it) || it->first > last) {
      EXPECT_FALSE(found.has_value());
      return;
    }
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->first, it->first);
    EXPECT_EQ(found->last, it->second.last);
    EXPECT_EQ(found->order, it->second.order);
    EXPECT_EQ(found->entry, it->second.entry);
  }

  // Everything that can be asked about one index.
  void Compare(uint64_t index) {
    const auto& array = this->array_;
    const auto at = model_.At(index);
    EXPECT_EQ(array.Load(index), model_.Load(index));
    ExpectSame(array.Lookup(index), at, UINT64_MAX);
    EXPECT_EQ(MarksOf(array, index), model_.Has(at) ? at->second.marks : 0);
    const uint64_t last = index + std::min(UINT64_MAX - index, Random(span_));
    ExpectSame(array.Find(index, last), model_.AtOrAfter(index), last);
    auto marked = model_.AtOrAfter(index);
    while (model_.Has(marked) && (marked->second.marks & 2) == 0) ++marked;
    ExpectSame(array.FindMarked(index, last, Mark::k1), marked, last);
    const unsigned order = RandomOrder();
    ExpectSame(array.FindConflict(index, order), model_.AtOrAfter(index & ~Mask(order)),
               index | Mask(order));
  }

  void CompareAll() {
    ASSERT_EQ(Dump(this->array_), model_.Dump());
    ASSERT_EQ(TreeInspector::Violation(this->array_), "");
  }

  std::mt19937_64 random_;
  Model model_;
  uint64_t base_ = 0;
  uint64_t span_ = 1;
  unsigned max_order_ = 0;
};
TYPED_TEST_SUITE(ModelTest, SlotShifts);

TYPED_TEST(ModelTest, FewIndicesFromZero) { this->Run(1, 100'000, 0, 96, 6); }
TYPED_TEST(ModelTest, OrderZeroOnly) { this->Run(2, 60'000, 0, 3000, 0); }
TYPED_TEST(ModelTest, PageCacheOrders) { this->Run(3, 100'000, 0, 1 << 13, 10); }
TYPED_TEST(ModelTest, LastIndices) { this->Run(4, 60'000, UINT64_MAX - 4095, 4096, 12); }
TYPED_TEST(ModelTest, EveryOrderEverywhere) { this->Run(5, 60'000, 0, UINT64_MAX, kMaxOrder); }

}  // namespace
}  // namespace daxkv::xarray
