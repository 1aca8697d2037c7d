// The test groups of the kernel's XArray (lib/test_xarray.c), restated for this one's promises,
// each with at least as many dynamic checks at 8 and at 64 slots per node:
//
//   bazel test --config=opt --test_output=all //tests/xarray:groups_test
//
// prints the number of checks by group. Other builds run about a hundredth of
// them.
#include <algorithm>
#include <mutex>
#include <vector>

#include "tests/xarray/groups_testing.h"
#include "xarray/entry_range.h"

namespace daxkv::xarray {
namespace {

template <typename Shift>
class GroupsTest : public XArrayTestBase<Shift> {
 protected:
  static constexpr unsigned kSlots = 1u << Shift::value;
};
TYPED_TEST_SUITE(GroupsTest, SlotShifts);

TYPED_TEST(GroupsTest, Load) {
  Group group("load", this->kSlots, 2'100'225);
  auto& array = this->array_;
  const uint64_t n = kScale == 1 ? 1024 : 102;
  const auto check_all = [&](uint64_t filled_from, uint64_t filled_to) {
    for (uint64_t i = 0; i < n; ++i) {
      const bool there = i >= filled_from && i < filled_to;
      group.Check(array.Load(i) == (there ? V(i) : Entry()), "load", i, filled_to);
    }
  };
  for (uint64_t i = 0; i <= n; ++i) {
    check_all(0, i);
    if (i < n) Put(array, i, 0, V(i));
  }
  for (uint64_t i = 0; i <= n; ++i) {
    check_all(i, n);
    if (i < n) group.Check(array.Erase(i) == V(i), "erase", i);
  }
  group.Check(array.empty(), "drained");
}

TYPED_TEST(GroupsTest, Mark) {
  Group group("mark", this->kSlots, 5'484'548);
  auto& array = this->array_;
  group.Check(!array.SetMark(0, Mark::k0), "null takes no mark");
  // Larger entries over marked ones unite the marks, at every index and nowhere else.
  const int rounds = kScale == 1 ? 100 : 1;
  for (int round = 0; round < rounds; ++round) {
    for (unsigned order = 2; order <= 13; ++order) {
      const uint64_t base = uint64_t{1} << (order + 1);
      for (unsigned marks = 0; marks < 8; ++marks) {
        for (uint64_t i = 0; i <= MaskOf(order) + 1; ++i) Put(array, base + i, 0, V(i));
        for (unsigned m = 0; m < kMarks; ++m) {
          if (marks >> m & 1) array.SetMark(base + m % 4, static_cast<Mark>(m));
        }
        Put(array, base, order, V(order));
        const unsigned step = order < 11 ? 1 : 3;
        for (uint64_t i = 0; i <= MaskOf(order); i += step) {
          group.Check(MarksOf(array, base + i) == marks, "united marks", order, i);
        }
        group.Check(MarksOf(array, base + MaskOf(order) + 1) == 0, "next index clean", order);
        uint64_t seen = 0;
        for (const Located at : array.Entries(base)) seen += at.entry ? 1 : 0;
        group.Check(seen == 2, "two entries", order, seen);
        for (unsigned m = 0; m < kMarks; ++m) {
          seen = 0;
          for (const Located at : array.MarkedEntries(static_cast<Mark>(m))) {
            seen += at.order == order ? 1 : 100;
          }
          group.Check(seen == (marks >> m & 1), "marked entries", order, m);
        }
        array.Erase(base + MaskOf(order) / 2);
        array.Erase(base + MaskOf(order) + 1);
        for (Mark mark : kAllMarks) group.Check(!array.AnyMarked(mark), "erase clears", order);
      }
    }
  }
  // A thousand marks.
  for (uint64_t i = 3500; i < 4500; ++i) {
    Put(array, i, 0, V(i));
    array.SetMark(i, Mark::k0);
  }
  uint64_t expected = 3500;
  for (const Located at : array.MarkedEntries(Mark::k0)) {
    group.Check(at.first == expected++ && at.entry == V(at.first), "marked walk", at.first);
  }
  for (uint64_t i = 3500; i < 4500; ++i) {
    array.ClearMark(i, Mark::k0);
    group.Check(!array.GetMark(i, Mark::k0), "cleared", i);
  }
  group.Check(!array.AnyMarked(Mark::k0), "all clear");
}

TYPED_TEST(GroupsTest, ShrinkAndInsert) {
  auto& array = this->array_;
  {
    Group group("shrink", this->kSlots, 164);
    for (unsigned order = 0; order < 15; ++order) {
      Put(array, 0, order, V(order));
      const Entry head = TreeInspector::Head(array);
      for (uint64_t far : {UINT64_MAX, uint64_t{1} << 40, uint64_t{1} << 20}) {
        Put(array, far, 0, V(1));
        group.Check(array.Load(0) == V(order), "index 0 stays", order);
        group.Check(array.Erase(far) == V(1), "far entry", order);
        group.Check(array.Load(0) == V(order) && array.Load(far).is_null(), "far one gone", order);
        if (order > 0) group.Check(TreeInspector::Head(array) == head, "the head is back", order);
      }
      group.Check(array.Erase(0) == V(order) && array.empty(), "empty", order);
    }
  }
  Group group("insert", this->kSlots, 5'666);
  std::vector<uint64_t> indices;
  for (uint64_t i = 0; i < 1024; ++i) indices.push_back(i);
  for (unsigned k = 10; k < 64; ++k) indices.insert(indices.end(), {uint64_t{1} << k, MaskOf(k)});
  indices.insert(indices.end(), {UINT64_MAX - 1, UINT64_MAX});
  for (uint64_t i : indices) {
    group.Check(array.Insert(i, 0, V(7)).ok(), "insert", i);
    group.Check(absl::IsAlreadyExists(array.Insert(i, 0, V(8))), "again", i);
    group.Check(array.Load(i) == V(7), "there", i);
    group.Check(array.Load(i - 1).is_null() && array.Load(i + 1).is_null(), "neighbours", i);
    group.Check(array.Erase(i) == V(7) && array.empty(), "erased", i);
  }
}

TYPED_TEST(GroupsTest, EraseWhileIterating) {
  Group group("erase while iterating", this->kSlots, 23'500);
  auto& array = this->array_;
  for (uint64_t from = 0; from < 40; ++from) {
    for (uint64_t length = 1; length <= 20; ++length) {
      for (uint64_t i = 0; i < 60; ++i) Put(array, i, 0, V(i));
      uint64_t expected = 0;
      for (const Located at : array.Entries()) {
        group.Check(at.first == expected++, "walk", at.first, from);
        if (at.first >= from && at.first < from + length) array.Erase(at.first);
      }
      for (uint64_t i = 0; i < 60; ++i) {
        group.Check(array.Load(i).is_null() == (i >= from && i < from + length), "left", i, from);
      }
      array.Clear();
    }
  }
}

TYPED_TEST(GroupsTest, CompareExchangeAndReserve) {
  auto& array = this->array_;
  {
    Group group("cmpxchg, order", this->kSlots, 83);
    for (uint64_t i : {uint64_t{0}, uint64_t{1}, uint64_t{12345678}, UINT64_MAX}) {
      group.Check(*array.CompareExchange(i, V(1), V(2)) == Entry(), "nothing there", i);
      group.Check(*array.CompareExchange(i, Entry(), V(2)) == Entry(), "null to 2", i);
      group.Check(*array.CompareExchange(i, Entry(), V(3)) == V(2), "not null", i);
      group.Check(*array.CompareExchange(i, V(2), V(4)) == V(2), "2 to 4", i);
      group.Check(*array.CompareExchange(i, V(4), Entry()) == V(4), "4 to null", i);
      group.Check(array.empty(), "empty", i);
    }
    for (unsigned order = 0; order < 20; ++order) {
      Put(array, 0, order, V(1));
      Put(array, MaskOf(order) + 1, order, V(2));
      group.Check(Put(array, MaskOf(order), 0, Entry()) == V(1), "null dissolves one", order);
      group.Check(array.Load(0).is_null(), "all of it", order);
      group.Check(array.Load(MaskOf(order) + 1) == V(2), "not the next", order);
      array.Clear();
    }
  }
  Group group("reserve", this->kSlots, 52);
  for (uint64_t i : {uint64_t{0}, uint64_t{1}, uint64_t{12345678}, uint64_t{1} << 60, UINT64_MAX}) {
    const auto reserved = [&] { group.Check(array.Reserve(i).ok(), "reserve", i); };
    reserved();
    group.Check(!array.empty() && array.Load(i).is_null(), "not empty, loads null", i);
    group.Check(!array.Find(0).has_value() && !array.Lookup(i).has_value(), "not found", i);
    group.Check(array.Entries().begin() == array.Entries().end(), "not iterated", i);
    group.Check(!array.SetMark(i, Mark::k0), "not marked", i);
    array.Release(i);
    group.Check(array.empty(), "released", i);
    reserved();
    group.Check(absl::IsAlreadyExists(array.Insert(i, 0, V(1))), "insert is busy", i);
    group.Check(*array.CompareExchange(i, V(9), V(1)) == Entry(), "cmpxchg sees null", i);
    group.Check(*array.CompareExchange(i, Entry(), V(1)) == Entry(), "and replaces it", i);
    array.Release(i);
    group.Check(array.Load(i) == V(1), "release keeps what was stored", i);
    reserved();
    group.Check(array.Load(i) == V(1), "reserve keeps it, too", i);
    array.Erase(i);
    reserved();
    group.Check(Put(array, i, 0, Entry()).is_null() && array.empty(), "null ends it", i);
    reserved();
    group.Check(array.Erase(i).is_null() && array.empty(), "erase ends it", i);
    group.Check(TreeInspector::Violation(array).empty(), "sound", i);
  }
}

TYPED_TEST(GroupsTest, StoreOrders) {
  Group group("multi_store", this->kSlots, 220'495);
  auto& array = this->array_;
  for (unsigned first = 0; first < 60; ++first) {
    for (unsigned second = 0; second < 60; ++second) {
      Put(array, 0, first, V(1));
      group.Check(Put(array, 0, second, V(2)) == V(1), "old", first, second);
      const unsigned largest = std::max(first, second);
      group.Check(array.GetOrder(0) == largest, "order", first, second);
      for (unsigned k = 0; k <= 60; ++k) {
        const bool in = k == 0 || (uint64_t{1} << k) <= MaskOf(largest);
        group.Check(array.Load(k == 0 ? 0 : uint64_t{1} << k) == (in ? V(2) : Entry()), "span",
                    largest, k);
      }
      Put(array, 0, 63, Entry());
      group.Check(array.empty(), "null at order 63", first, second);
      if (kScale > 1) second += 9;
    }
  }
}

// As a page cache does: larger folios where they fit, holes, and every page looked up.
TYPED_TEST(GroupsTest, PageCache) {
  Group group("multi_store_adv", this->kSlots, 117'451'456);
  auto& array = this->array_;
  const unsigned top = kScale == 1 ? 20 : 14;
  for (unsigned order = 0; order < top; ++order) {
    for (uint64_t base : {uint64_t{0}, uint64_t{1} << 20, uint64_t{3} << 30}) {
      const uint64_t span = std::max(uint64_t{1} << 20, uint64_t{4} << order) / kScale;
      const uint64_t block = uint64_t{1} << order;
      uint64_t stored = 0;
      for (uint64_t at = 0; at < span; at += block) {
        if (at / block % 3 == 2) continue;  // a hole
        Put(array, base + at, order, Tagged(base + at, order));
        ++stored;
      }
      for (uint64_t at = 0, i = 0; at < span; at += block, ++i) {
        const Entry entry = i % 3 == 2 ? Entry() : Tagged(base + at, order);
        for (uint64_t k = 0; k < block; ++k) {
          group.Check(array.Load(base + at + k) == entry, "page", base + at + k, order);
        }
      }
      uint64_t seen = 0;
      for (const Located at : array.Entries(base, base + span - 1)) {
        group.Check(at.order == order && at.entry == Tagged(at.first, order), "walk", at.first);
        ++seen;
      }
      group.Check(seen == stored, "each once", seen, stored);
      array.Clear();
    }
  }
  // The kernel's group looks each page up at two more points of its life.
  const uint64_t pages = (uint64_t{5} << 18) / kScale;
  for (unsigned order = 0; order < 20; ++order) {
    for (uint64_t at = 0; at < pages; at += MaskOf(order) + 1) {
      Put(array, at, order, Tagged(at, order));
    }
    for (uint64_t i = 0; i < pages; ++i) {
      group.Check(array.Load(i) == Tagged(i & ~MaskOf(order), order), "dense", i, order);
    }
    for (uint64_t at = 0; at < pages; at += 2 * (MaskOf(order) + 1)) array.Erase(at);
    for (uint64_t i = 0; i < pages; ++i) {
      const bool gone = (i >> order) % 2 == 0;
      group.Check(array.Load(i) == (gone ? Entry() : Tagged(i & ~MaskOf(order), order)), "punched",
                  i, order);
    }
    array.Clear();
  }
}

TYPED_TEST(GroupsTest, GetOrder) {
  Group group("get_order", this->kSlots, 20'977'773);
  auto& array = this->array_;
  for (unsigned order = 0; order < (kScale == 1 ? 20u : 13u); ++order) {
    const uint64_t block = uint64_t{1} << order;
    const uint64_t span = std::max(uint64_t{1} << 20, block) / kScale;
    for (uint64_t at = 0; at < span; at += block) Put(array, at, order, V(order));
    for (uint64_t i = 0; i < span; ++i) {
      group.Check(array.GetOrder(i) == order, "order", i, order);
    }
    const uint64_t behind = (span + block - 1) / block * block;
    for (uint64_t i = 0; i < 512; ++i) {
      group.Check(!array.GetOrder(behind + i).has_value(), "null has no order", i, order);
    }
    // A conflict search meets a larger entry once, wherever it begins.
    for (unsigned asked = 0; asked < 20; ++asked) {
      typename TestFixture::Cursor cursor(array, 5);
      cursor.SetOrder(asked);
      rcu::ReadGuard guard;
      uint64_t seen = 0;
      for (Entry e = cursor.FindConflict(); e; e = cursor.NextConflict()) ++seen;
      const uint64_t blocks = (span + block - 1) / block;
      const uint64_t expected = asked <= order ? (array.Load(5) ? 1 : 0)
                                               : std::min(uint64_t{1} << (asked - order), blocks);
      group.Check(seen == expected, "conflicts", asked, order);
    }
    array.Clear();
  }
}

}  // namespace
}  // namespace daxkv::xarray
