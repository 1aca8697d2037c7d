// The test groups of groups_test.cc about searches, ranges, allocation and splitting.
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

TYPED_TEST(GroupsTest, Alloc) {
  Group group("alloc", this->kSlots, 21'294);
  auto& array = this->array_;
  for (uint64_t base : {uint64_t{0}, uint64_t{1}}) {
    for (uint64_t i = base; i < 4000; ++i) {
      group.Check(array.Alloc(V(i), base).value_or(0) == i, "the next", i);
    }
    for (uint64_t i = base; i < 4000; i += 7) {
      array.Erase(i);
      group.Check(array.Alloc(V(1), base).value_or(0) == i, "a freed one first", i);
      group.Check(array.Load(i) == V(1), "stored", i);
    }
    for (uint64_t i = base; i < 4000; i += 2) array.Erase(i);
    for (uint64_t i = base; i < 4000; i += 2) {
      group.Check(array.Alloc(Entry(), base).value_or(0) == i, "null reserves", i);
      group.Check(array.Load(i).is_null(), "and loads null", i);
    }
    group.Check(absl::IsOutOfRange(array.Alloc(V(1), base, 3999).status()), "full");
    group.Check(absl::IsInvalidArgument(array.Alloc(V(1), 9, 8).status()), "min > max");
    group.Check(TreeInspector::Violation(array).empty(), "sound");
    array.Clear();
  }
  for (uint64_t limit : {uint64_t{UINT32_MAX}, UINT64_MAX}) {
    uint64_t next = limit - 1;
    for (uint64_t i = 0; i < 500; ++i) {
      const auto found = array.AllocCyclic(V(i), 0, limit, &next);
      const uint64_t expected = i < 2 ? limit - 1 + i : i - 2;
      group.Check(found.ok() && found->index == expected, "cyclic", i);
      group.Check(!found->wrapped, "a next that went round is no wrap", i);
    }
    next = limit;
    const auto wrapped = array.AllocCyclic(V(1), 0, limit, &next);
    group.Check(wrapped->wrapped && wrapped->index == 498, "wraps once");
    group.Check(!array.AllocCyclic(V(1), 0, limit, &next)->wrapped, "and not again");
    array.Clear();
  }
  // Against the plainest model, in a small range.
  std::vector<bool> taken(300);
  uint64_t state = 1;
  for (int i = 0; i < 6000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t k = (state >> 33) % taken.size();
    if (state >> 63) {
      array.Erase(k);
      taken[k] = false;
    } else {
      const auto at = std::find(taken.begin() + static_cast<int64_t>(k), taken.end(), false);
      const auto found = array.Alloc(V(k), k, taken.size() - 1);
      group.Check(found.ok() == (at != taken.end()), "as the model", k);
      if (!found.ok()) continue;
      group.Check(static_cast<int64_t>(*found) == at - taken.begin(), "index", k);
      taken[*found] = true;
    }
  }
}

TYPED_TEST(GroupsTest, Find) {
  Group group("find", this->kSlots, 1'517'691);
  auto& array = this->array_;
  const uint64_t n = kScale == 1 ? 100 : 20;
  for (int round = 0; round < (kScale == 1 ? 2 : 1); ++round) {
    for (uint64_t a = 0; a < n; ++a) {
      for (uint64_t b = a + 1; b < n; ++b) {
        Put(array, a, 0, V(a));
        Put(array, b, 0, V(b));
        array.SetMark(a, Mark::k0);
        for (uint64_t from = 0; from < n; ++from) {
          const auto found = array.Find(from);
          group.Check(found.has_value() == (from <= b), "found", a, from);
          if (found) group.Check(found->first == (from <= a ? a : b), "which", a, from);
          const auto marked = array.FindMarked(from, UINT64_MAX, Mark::k0);
          group.Check(marked.has_value() == (from <= a), "marked", a, from);
        }
        array.Erase(a);
        array.Erase(b);
      }
    }
  }
  Put(array, 64, 6, V(6));
  for (uint64_t from = 0; from < 128; ++from) {
    group.Check(array.Find(from)->first == 64, "mid-tie", from);
    group.Check(!array.Find(128).has_value(), "behind", from);
  }
  Put(array, UINT64_MAX, 0, V(1));
  group.Check(array.Find(128)->first == UINT64_MAX, "the last index");
  group.Check(!array.Find(10, 5).has_value(), "start behind the end");
}

TYPED_TEST(GroupsTest, PauseMoveAndDestroy) {
  auto& array = this->array_;
  {
    Group group("pause", this->kSlots, 10'406 + 194);
    for (uint64_t every = 1; every <= 16; ++every) {
      for (uint64_t i = 0; i < 1000; ++i) Put(array, i, 0, V(i));
      typename TestFixture::Cursor cursor(array);
      uint64_t expected = 0;
      for (;;) {
        rcu::ReadGuard guard;
        if (!cursor.FindNext()) break;
        group.Check(cursor.current() == V(expected), "each once", expected, every);
        ++expected;
        if (expected % every == 0) cursor.Pause();
      }
      group.Check(expected == 1000, "all", every);
    }
    array.Clear();
    for (unsigned order = 0; order < 64; ++order) {
      Put(array, 0, order, V(1));
      if (order < 63) Put(array, MaskOf(order) + 1, order, V(2));
      typename TestFixture::Cursor cursor(array);
      rcu::ReadGuard guard;
      group.Check(cursor.FindNext() == V(1), "first", order);
      cursor.Pause();
      group.Check(cursor.FindNext() == (order < 63 ? V(2) : Entry()), "behind the tie", order);
      cursor.Pause();
      group.Check(cursor.FindNext().is_null(), "end", order);
      array.Clear();
    }
  }
  {
    Group group("move", this->kSlots, 3'014'241);
    const uint64_t n = kScale == 1 ? 65'536 : 2'000;
    for (uint64_t hole : {uint64_t{0}, n / 2, n - 1}) {
      for (uint64_t i = 0; i < n; ++i) {
        if (i != hole) Put(array, i, 0, V(i));
      }
      for (int round = 0; round < 4; ++round) {
        typename TestFixture::Cursor cursor(array, 0);
        rcu::ReadGuard guard;
        const auto check = [&](uint64_t i, Entry entry, const char* what) {
          group.Check(cursor.index() == i, what, i);
          group.Check(entry == (i == hole || i >= n ? Entry() : V(i)), what, i);
        };
        check(0, cursor.Load(), "first");
        for (uint64_t i = 1; i <= n; ++i) check(i, cursor.Next(), "next");
        for (uint64_t i = n; i-- > 0;) check(i, cursor.Prev(), "prev");
        check(0, cursor.Prev().is_null() ? array.Load(0) : V(n), "no wrap at 0");
        cursor.Set(UINT64_MAX);
        group.Check(cursor.Next().is_null() && cursor.index() == UINT64_MAX, "no wrap at the end");
      }
      array.Clear();
    }
  }
  Group group("account, destroy", this->kSlots, 2'072);
  for (unsigned order = 0; order < 64; ++order) {
    for (uint64_t at : {uint64_t{0}, uint64_t{1} << 62, UINT64_MAX}) {
      Put(array, at, order, V(1));
      for (unsigned k = 0; k < 10; ++k) Put(array, at ^ MaskOf(k * 6), 0, V(2));
      group.Check(TreeInspector::Violation(array).empty(), "counts", order, at);
      for (unsigned k = 0; k < 10; ++k) {
        group.Check(array.Load(at ^ MaskOf(k * 6)) == V(2), "there", order, k);
      }
      array.Clear();
      group.Check(array.empty() && !array.Find(0).has_value(), "destroyed", order);
    }
  }
}

TYPED_TEST(GroupsTest, StoreRange) {
  Group group("store_range", this->kSlots, 247'680);
  auto& array = this->array_;
  const uint64_t n = kScale == 1 ? 128 : 24;
  for (uint64_t base : {uint64_t{0}, uint64_t{64}, uint64_t{4096 - 60}, (uint64_t{1} << 32) - 64,
                        uint64_t{1} << 60, UINT64_MAX - 127}) {
    for (uint64_t i = 0; i < n; ++i) {
      for (uint64_t j = i; j < n; ++j) {
        group.Check(array.StoreRange(base + i, base + j, V(5)).ok(), "stored", i, j);
        group.Check(array.Load(base + i) == V(5) && array.Load(base + j) == V(5), "ends", i, j);
        group.Check(array.Load(base + i - 1).is_null() && array.Load(base + j + 1).is_null(),
                    "outside", i, j);
        uint64_t next = base + i;
        uint64_t entries = 0;
        for (const Located at : array.Entries()) {
          group.Check(at.first == next && at.last - at.first == MaskOf(at.order), "truthful", i, j);
          next = at.last + 1;
          ++entries;
        }
        group.Check(next == base + j + 1 && entries <= 14, "whole", i, j);
        group.Check(array.EraseRange(base + i, base + j) == entries && array.empty(), "erased", i);
      }
    }
  }
  for (uint64_t first : {uint64_t{0}, uint64_t{5}, UINT64_MAX - 15, UINT64_MAX}) {
    group.Check(array.StoreRange(first, UINT64_MAX, V(1)).ok(), "ends", first);
    group.Check(array.Load(UINT64_MAX) == V(1) && array.Load(first) == V(1), "to the last", first);
    group.Check(first == 0 || array.Load(first - 1).is_null(), "not before", first);
    array.Clear();
  }
  group.Check(absl::IsInvalidArgument(array.StoreRange(2, 1, V(1))), "swapped");
}

TYPED_TEST(GroupsTest, ConflictWalkThenStore) {
  Group group("store_iter", this->kSlots, 7'091'334);
  auto& array = this->array_;
  const int rounds = kScale == 1 ? 44 : 1;
  for (int round = 0; round < rounds; ++round) {
    for (unsigned small = 0; small < 8; ++small) {
      for (unsigned large = small; large < 14; ++large) {
        const uint64_t base = uint64_t{1} << (20 + round);
        const uint64_t step = uint64_t{1} << small;
        for (uint64_t i = 0; i <= MaskOf(large); i += step) Put(array, base + i, small, V(i));
        typename TestFixture::Cursor cursor(array, base + MaskOf(large) / 2);
        cursor.SetOrder(large);
        uint64_t seen = 0;
        {
          std::lock_guard<typename TestFixture::Array> lock(array);
          for (Entry e = cursor.FindConflict(); e; e = cursor.NextConflict()) {
            group.Check(e == V(seen++ * step), "overlap", small, large);
          }
        }
        group.Check(seen == (uint64_t{1} << (large - small)), "count", small, large);
        Put(array, base, large, V(large));
        for (uint64_t i = 0; i <= MaskOf(large); ++i) {
          group.Check(array.Load(base + i) == V(large), "stored", large, i);
        }
        group.Check(array.Load(base + MaskOf(large) + 1).is_null(), "behind", large);
        array.Clear();
      }
    }
  }
}

TYPED_TEST(GroupsTest, Align) {
  Group group("align", this->kSlots, 122);
  alignas(64) static char memory[512];
  for (unsigned k = 0; k < 128; k += 4) {
    Put(this->array_, k, 0, Entry::Pointer(memory + k));
    group.Check(this->array_.Load(k).template pointer<char>() == memory + k, "pointer", k);
    for (unsigned off : {1u, 2u, 3u}) {
      // Odd ones are values by their bits; those that end in 10 are refused.
      const auto result = this->array_.Store(k, 0, Entry::Pointer(memory + k + off));
      group.Check(result.ok() == (off != 2), "unaligned", k, off);
    }
  }
}

TYPED_TEST(GroupsTest, Split) {
  Group group("split", this->kSlots, 147'781);
  auto& array = this->array_;
  using Cursor = typename TestFixture::Cursor;
  const auto split = [&](uint64_t index, auto&& change) {
    Cursor cursor(array, index);
    for (;;) {
      array.lock();
      const absl::Status status = change(cursor);
      array.unlock();
      if (!cursor.NeedsReserve()) return status;
      if (!cursor.Reserve().ok()) return status;
    }
  };
  for (unsigned order = 1; order <= 12; ++order) {
    const uint64_t index = 4096 + (5 & MaskOf(order));
    for (unsigned to = 0; to < order; ++to) {
      for (unsigned marks = 0; marks < 2; ++marks) {
        Put(array, 4096, order, V(1));
        if (marks != 0) array.SetMark(4096, Mark::k1);
        group.Check(split(index,
                          [&](Cursor& cursor) {
                            return cursor.Split(to, [&](uint64_t at) { return Tagged(at, to); });
                          }).ok() ||
                        order < 3,
                    "split", order, to);
        for (uint64_t i = 4096; i <= 4096 + MaskOf(order); ++i) {
          group.Check(array.Load(i) == Tagged(i & ~MaskOf(to), to), "piece", i, to);
          group.Check(array.GetMark(i, Mark::k1) == (marks != 0), "marks", i, to);
        }
        array.Clear();
        // Of one path only: one node per level at most, and every index still finds its block.
        Put(array, 4096, order, V(1));
        const uint64_t nodes = TreeInspector::CountNodes(array);
        group.Check(split(index,
                          [&](Cursor& cursor) {
                            return cursor.SplitPath(
                                to, [](uint64_t at, unsigned k) { return Tagged(at, k); });
                          })
                        .ok(),
                    "split path", order, to);
        const uint64_t levels = order / TestFixture::kShift - to / TestFixture::kShift;
        group.Check(TreeInspector::CountNodes(array) == nodes + levels, "nodes", order, to);
        group.Check(array.GetOrder(index) == to, "the path's piece", order, to);
        for (uint64_t i = 4096; i <= 4096 + MaskOf(order); ++i) {
          const auto at = array.Lookup(i);
          group.Check(at.has_value() && at->entry == Tagged(at->first, at->order), "block", i, to);
        }
        group.Check(TreeInspector::Violation(array).empty(), "sound", order, to);
        array.Clear();
      }
    }
  }
}

TYPED_TEST(GroupsTest, Extract) {
  Group group("extract", this->kSlots, 1'000);
  auto& array = this->array_;
  for (uint64_t i = 0; i < 500; ++i) {
    Put(array, i * 8, i % 4, V(i));
    if (i % 5 == 0) array.SetMark(i * 8, Mark::k2);
  }
  std::vector<Located> out(64);
  for (uint64_t from = 0; from < 400; ++from) {
    const size_t count = array.Extract(from * 8, UINT64_MAX, absl::MakeSpan(out));
    group.Check(count == std::min<uint64_t>(64, 500 - from), "how many", from, count);
    for (size_t k = 0; k < count; ++k) {
      group.Check(out[k].first == (from + k) * 8 && out[k].order == (from + k) % 4, "which", from);
    }
  }
  group.Check(array.Extract(0, UINT64_MAX, absl::MakeSpan(out), Mark::k2) == 64, "marked");
  group.Check(out[63].first == 63 * 5 * 8, "the last marked one");
}

}  // namespace
}  // namespace daxkv::xarray
