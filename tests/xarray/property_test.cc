// RapidCheck: random command sequences on an array and on a map, shrunk to the shortest that
// differ. Each command may also have its n-th node allocation fail; then the array must be as
// before.
//
// RC_PARAMS="max_success=2000 seed=..." in the environment runs more, or one again; else 300 each.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <ostream>
#include <utility>
#include <vector>

#include "tests/xarray/xarray_testing.h"
#include "xarray/entry_range.h"

namespace daxkv::xarray {
namespace {

enum class Op {
  kStore,
  kInsert,
  kErase,
  kStoreRange,
  kEraseRange,
  kReserve,
  kRelease,
  kAlloc,
  kSetMark,
  kClearMark,
  kSplit,
  kSplitPath,
};

struct Command {
  Op op;
  uint64_t index;
  uint64_t length;
  unsigned order;
  int allocations;  // how many succeed

  Mark mark() const { return static_cast<Mark>(length % kMarks); }

  friend std::ostream& operator<<(std::ostream& out, const Command& c) {
    static constexpr const char* kNames[] = {"Store",      "Insert",    "Erase",   "StoreRange",
                                             "EraseRange", "Reserve",   "Release", "Alloc",
                                             "SetMark",    "ClearMark", "Split",   "SplitPath"};
    return out << kNames[static_cast<int>(c.op)] << "(index " << c.index << ", length " << c.length
               << ", order " << c.order << ", allocations " << c.allocations << ")";
  }
};

rc::Gen<Command> AnyCommand() {
  const auto index = rc::gen::weightedOneOf<uint64_t>(
      {{4, rc::gen::inRange<uint64_t>(0, 600)},
       {1, rc::gen::inRange<uint64_t>(UINT64_MAX - 600, UINT64_MAX)},
       {1, rc::gen::inRange<uint64_t>((uint64_t{1} << 32) - 300, (uint64_t{1} << 32) + 300)}});
  return rc::gen::construct<Command>(
      rc::gen::element(Op::kStore, Op::kInsert, Op::kErase, Op::kStoreRange, Op::kEraseRange,
                       Op::kReserve, Op::kRelease, Op::kAlloc, Op::kSetMark, Op::kClearMark,
                       Op::kSplit, Op::kSplitPath),
      index, rc::gen::inRange<uint64_t>(0, 200), rc::gen::inRange(0u, 10u),
      rc::gen::weightedOneOf<int>({{3, rc::gen::just(1000)}, {1, rc::gen::inRange(0, 6)}}));
}

// Values number the commands; 0 is a reservation.
class Model {
 public:
  struct Item {
    uint64_t last;
    uint64_t value;
    unsigned marks = 0;
  };
  using Items = std::map<uint64_t, Item>;

  // What covers `index`, or comes next.
  Items::iterator From(uint64_t index) {
    auto it = items_.upper_bound(index);
    if (it != items_.begin() && std::prev(it)->second.last >= index) --it;
    return it;
  }
  bool Taken(uint64_t first, uint64_t last) {
    const auto it = From(first);
    return it != items_.end() && it->first <= last;
  }
  void EraseRange(uint64_t first, uint64_t last) {
    for (auto it = From(first); it != items_.end() && it->first <= last;) it = items_.erase(it);
  }
  void Store(uint64_t index, unsigned order, uint64_t value) {
    const uint64_t mask = (uint64_t{1} << order) - 1;
    const auto it = From(index);
    if (Taken(index, index) && it->second.last - it->first >= mask) {
      it->second.value = value;
      return;
    }
    unsigned marks = 0;  // those of the entries inside unite
    for (auto in = From(index & ~mask); in != items_.end() && in->first <= (index | mask); ++in) {
      marks |= in->second.marks;
    }
    EraseRange(index & ~mask, index | mask);
    items_[index & ~mask] = {index | mask, value, marks};
  }
  // The entry at `index`, not a reservation.
  Items::iterator At(uint64_t index) {
    const auto it = From(index);
    return Taken(index, index) && it->second.value != 0 ? it : items_.end();
  }
  // Into pieces of `new_order`; with `path`, only around `index`, and as large as may be elsewhere.
  absl::StatusCode Split(uint64_t index, unsigned new_order, uint64_t value, bool path) {
    const auto it = At(index);
    if (it == items_.end()) return absl::StatusCode::kNotFound;
    const auto [last, before, marks] = it->second;
    const uint64_t first = it->first;
    const uint64_t piece = uint64_t{1} << new_order;
    if (last - first < piece) return absl::StatusCode::kInvalidArgument;
    items_.erase(it);
    for (uint64_t at = first;;) {
      uint64_t size = piece;
      while (path && (at & size) == 0 && !(at <= index && index - at < 2 * size) &&
             at + (2 * size - 1) <= last) {
        size *= 2;
      }
      items_[at] = {at + (size - 1), value, marks};
      if (at + (size - 1) == last) return absl::StatusCode::kOk;
      at += size;
    }
  }
  void StoreRange(uint64_t first, uint64_t last, uint64_t value) {
    EraseRange(first, last);
    for (uint64_t at = first;;) {
      unsigned order = 0;
      while ((at >> order & 1) == 0 && (at | ((uint64_t{2} << order) - 1)) <= last) ++order;
      const uint64_t block_last = at | ((uint64_t{1} << order) - 1);
      items_[at] = {block_last, value};
      if (block_last == last) return;
      at = block_last + 1;
    }
  }
  Items& items() { return items_; }

 private:
  Items items_;
};

int g_allocations = 0;
bool Allow() { return g_allocations-- > 0; }

template <typename Array>
absl::Status Split(Array& array, const Command& c, uint64_t value) {
  typename Array::Cursor cursor(array, c.index);
  for (;;) {
    std::unique_lock<Array> lock(array);
    const absl::Status status =
        c.op == Op::kSplit
            ? cursor.Split(c.order, [&](uint64_t) { return V(value); })
            : cursor.SplitPath(c.order, [&](uint64_t, unsigned) { return V(value); });
    lock.unlock();
    if (!cursor.NeedsReserve()) return status;
    if (absl::Status reserved = cursor.Reserve(); !reserved.ok()) return reserved;
    cursor.Reset();
  }
}

template <typename Array>
absl::Status Apply(Array& array, const Command& c, uint64_t value, uint64_t last) {
  switch (c.op) {
    case Op::kStore:
      return array.Store(c.index, c.order, V(value)).status();
    case Op::kInsert:
      return array.Insert(c.index, c.order, V(value));
    case Op::kErase:
      array.Erase(c.index);
      return absl::OkStatus();
    case Op::kStoreRange:
      return array.StoreRange(c.index, last, V(value));
    case Op::kEraseRange:
      array.EraseRange(c.index, last);
      return absl::OkStatus();
    case Op::kReserve:
      return array.Reserve(c.index);
    case Op::kRelease:
      array.Release(c.index);
      return absl::OkStatus();
    case Op::kAlloc:
      return array.Alloc(V(value), c.index, last).status();
    case Op::kSetMark:
      array.SetMark(c.index, c.mark());
      return absl::OkStatus();
    case Op::kClearMark:
      array.ClearMark(c.index, c.mark());
      return absl::OkStatus();
    case Op::kSplit:
    case Op::kSplitPath:
      return Split(array, c, value);
  }
  return absl::InternalError("no such command");
}

// The status that the array must give, unless memory fails.
absl::StatusCode ApplyToModel(Model& model, const Command& c, uint64_t value, uint64_t last) {
  const uint64_t mask = (uint64_t{1} << c.order) - 1;
  switch (c.op) {
    case Op::kStore:
      model.Store(c.index, c.order, value);
      break;
    case Op::kInsert:
      if (model.Taken(c.index & ~mask, c.index | mask)) return absl::StatusCode::kAlreadyExists;
      model.Store(c.index, c.order, value);
      break;
    case Op::kErase:
      model.EraseRange(c.index, c.index);
      break;
    case Op::kStoreRange:
      model.StoreRange(c.index, last, value);
      break;
    case Op::kEraseRange:
      model.EraseRange(c.index, last);
      break;
    case Op::kReserve:
      if (!model.Taken(c.index, c.index)) model.Store(c.index, 0, 0);
      break;
    case Op::kRelease:
      if (model.Taken(c.index, c.index) && model.From(c.index)->second.value == 0) {
        model.EraseRange(c.index, c.index);
      }
      break;
    case Op::kAlloc:
      for (uint64_t at = c.index;; ++at) {
        if (!model.Taken(at, at)) {
          model.Store(at, 0, value);
          break;
        }
        if (at == last) return absl::StatusCode::kOutOfRange;
      }
      break;
    case Op::kSetMark:
      if (const auto it = model.At(c.index); it != model.items().end()) {
        it->second.marks |= 1u << static_cast<unsigned>(c.mark());
      }
      break;
    case Op::kClearMark:
      if (const auto it = model.At(c.index); it != model.items().end()) {
        it->second.marks &= ~(1u << static_cast<unsigned>(c.mark()));
      }
      break;
    case Op::kSplit:
    case Op::kSplitPath:
      return model.Split(c.index, c.order, value, c.op == Op::kSplitPath);
  }
  return absl::StatusCode::kOk;
}

template <typename Array>
void ExpectSame(const Array& array, Model& model) {
  RC_ASSERT(TreeInspector::Violation(array) == "");
  auto it = model.items().begin();
  const auto skip_reservations = [&] {
    for (; it != model.items().end() && it->second.value == 0; ++it) {
      RC_ASSERT(array.Load(it->first).is_null());
    }
  };
  for (const Located at : array.Entries()) {
    skip_reservations();
    RC_ASSERT(it != model.items().end());
    RC_ASSERT(at.first == it->first);
    RC_ASSERT(at.last == it->second.last);
    RC_ASSERT(at.entry == V(it->second.value));
    RC_ASSERT(MarksOf(array, at.last) == it->second.marks);
    ++it;
  }
  skip_reservations();
  RC_ASSERT(it == model.items().end());
  RC_ASSERT(array.empty() == model.items().empty());
  for (Mark mark : kAllMarks) {
    it = model.items().begin();
    const auto skip_unmarked = [&] {
      while (it != model.items().end() &&
             (it->second.marks >> static_cast<unsigned>(mark) & 1) == 0) {
        ++it;
      }
    };
    for (const Located at : array.MarkedEntries(mark)) {
      skip_unmarked();
      RC_ASSERT(it != model.items().end());
      RC_ASSERT(at.first == it->first);
      ++it;
    }
    skip_unmarked();
    RC_ASSERT(it == model.items().end());
  }
}

template <unsigned kSlotShift>
void Run(const std::vector<Command>& commands) {
  BasicXArray<kSlotShift> array;
  Model model;
  uint64_t value = 0;
  for (const Command& command : commands) {
    ++value;
    const uint64_t last =
        command.length > UINT64_MAX - command.index ? UINT64_MAX : command.index + command.length;
    g_allocations = command.allocations;
    internal::SetAllocationHook(&Allow);
    const absl::Status status = Apply(array, command, value, last);
    internal::SetAllocationHook(nullptr);
    if (absl::IsResourceExhausted(status)) {
      RC_ASSERT(command.allocations < 1000);
    } else {
      RC_ASSERT(status.code() == ApplyToModel(model, command, value, last));
    }
    ExpectSame(array, model);
  }
}

template <unsigned kSlotShift>
bool Holds() {
  setenv("RC_PARAMS", "max_success=300", /*overwrite=*/0);
  return rc::check("the array does what the map does", [] {
    Run<kSlotShift>(*rc::gen::container<std::vector<Command>>(AnyCommand()));
  });
}

TEST(PropertyTest, EightSlots) { EXPECT_TRUE(Holds<3>()); }
TEST(PropertyTest, SixtyFourSlots) { EXPECT_TRUE(Holds<6>()); }

}  // namespace
}  // namespace daxkv::xarray
