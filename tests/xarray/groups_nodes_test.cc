// The test groups of groups_test.cc about memory, dead nodes and the observer of nodes.
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "tests/xarray/groups_testing.h"
#include "xarray/entry_range.h"

namespace daxkv::xarray {
namespace {

// While it lives, no node can be allocated.
class NoMemory {
 public:
  NoMemory() {
    internal::SetAllocationHook([] { return false; });
  }
  ~NoMemory() { internal::SetAllocationHook(nullptr); }
  NoMemory(const NoMemory&) = delete;
  NoMemory& operator=(const NoMemory&) = delete;
};

template <typename Shift>
class GroupsTest : public XArrayTestBase<Shift> {
 protected:
  static constexpr unsigned kSlots = 1u << Shift::value;
};
TYPED_TEST_SUITE(GroupsTest, SlotShifts);

TYPED_TEST(GroupsTest, Err) {
  Group group("err", this->kSlots, 7);
  auto& array = this->array_;
  NoMemory no_memory;
  group.Check(array.Store(0, 0, V(1)).ok(), "index 0 needs no memory");
  group.Check(array.Load(0) == V(1) && array.Erase(0) == V(1), "stored");
  for (int round = 0; round < 3; ++round) {
    group.Check(absl::IsResourceExhausted(array.Store(1, 0, V(1)).status()), "index 1 needs some");
    group.Check(absl::IsResourceExhausted(array.Insert(0, 1, V(1))), "so does order 1");
    group.Check(absl::IsResourceExhausted(array.Reserve(0)), "so does a reservation");
    group.Check(array.empty() && array.Load(1).is_null(), "nothing changed");
  }
  typename TestFixture::Cursor cursor(array, 1);
  for (int round = 0; round < 3; ++round) {
    std::lock_guard<typename TestFixture::Array> lock(array);
    group.Check(absl::IsResourceExhausted(cursor.Store(V(1)).status()), "so does a cursor");
    group.Check(cursor.NeedsReserve(), "and tells");
    group.Check(absl::IsResourceExhausted(cursor.Reserve()), "again and again");
  }
  cursor.Set(0);
  std::lock_guard<typename TestFixture::Array> lock(array);
  group.Check(cursor.Store(V(1)).ok() && !cursor.NeedsReserve(), "the error does not stick");
}

TYPED_TEST(GroupsTest, Retry) {
  Group group("retry", this->kSlots, 16);
  auto& array = this->array_;
  static int object;
  const Entry zero = Entry::Pointer(&object);  // may move to the head
  for (uint64_t far : {uint64_t{1}, uint64_t{100}, uint64_t{5000}, uint64_t{1} << 40, UINT64_MAX}) {
    Put(array, 0, 0, zero);
    Put(array, far, 0, V(7));
    array.SetMark(far, Mark::k0);
    rcu::ReadGuard guard;
    typename TestFixture::Cursor cursor(array, far);
    typename TestFixture::Cursor walker(array);
    typename TestFixture::Cursor marked(array);
    group.Check(cursor.Load() == V(7), "there", far);
    group.Check(walker.FindNext() == zero, "the walker stands at 0", far);
    group.Check(marked.FindNextMarked(far, Mark::k0) == V(7), "this one at the mark", far);
    group.Check(array.Erase(far) == V(7), "erased", far);
    group.Check(TreeInspector::CountNodes(array) == 0, "and shrunk", far);
    // The cursors stand in dead nodes.
    group.Check(!cursor.GetMark(Mark::k0) && !cursor.FindNext(), "nothing behind", far);
    group.Check(!cursor.CompareExchangeInPlace(V(7), V(8)), "nothing to exchange", far);
    cursor.Set(far);
    group.Check(cursor.Load().is_null(), "reloaded", far);
    // What comes into their place is found all the same.
    Put(array, far, 0, V(8));
    array.SetMark(far, Mark::k0);
    group.Check(walker.FindNext() == V(8) && walker.index() == far, "passed on", far);
    marked.Set(far);
    group.Check(marked.FindNextMarked(far, Mark::k0) == V(8), "the mark, too", far);
    cursor.Reset();
    group.Check(cursor.Load() == V(8), "started anew", far);
    group.Check(TreeInspector::Violation(array).empty(), "sound", far);
    array.Clear();
    cursor.Reset();
    group.Check(cursor.Load().is_null() && !walker.FindNext(), "and all gone", far);
  }
}

// Keeps what it is told, and which nodes hold nothing but values.
class Shadows : public NodeObserver {
 public:
  void NodeChanged(const NodeState& state) override {
    ++calls;
    if (state.gone()) {
      nodes.erase(state.node);
      listed.erase(state.node);
      return;
    }
    nodes[state.node] = state;
    if (state.values == state.taken) {
      listed.insert(state.node);
    } else {
      listed.erase(state.node);
    }
  }

  std::map<const void*, NodeState> nodes;
  std::set<const void*> listed;
  uint64_t calls = 0;
};

// The observer whose list must not know a node that goes to RCU.
const Shadows* g_shadows = nullptr;
uint64_t g_retired_while_known = 0;

TYPED_TEST(GroupsTest, WorkingSet) {
  Group group("workingset", this->kSlots, 18);
  using Array = typename TestFixture::Array;
  static int object;
  const Entry page = Entry::Pointer(&object);
  constexpr uint64_t kBase = 1 << 14;  // a leaf of its own
  Shadows shadows;
  g_shadows = &shadows;
  g_retired_while_known = 0;
  internal::SetRetireHook([](const void* node) {
    g_retired_while_known += g_shadows->nodes.count(node) + g_shadows->listed.count(node);
  });
  {
    Array array(InPlaceExchange::kAllowed, &shadows);
    const auto listed = [&](uint64_t expected, const char* what) {
      group.Check(shadows.listed.size() == expected, what, shadows.listed.size(), expected);
      group.Check(shadows.nodes.size() == TreeInspector::CountNodes(array), "all known");
    };
    listed(0, "empty");
    Put(array, kBase, 0, page);
    listed(0, "a page is no shadow");
    Put(array, kBase, 0, V(1));
    listed(1, "a shadow in its place");
    Put(array, kBase + 1, 0, V(2));
    listed(1, "two");
    Put(array, kBase + 1, 0, page);
    listed(0, "a page among them");
    group.Check(*array.CompareExchange(kBase + 1, page, V(3)) == page, "exchanged");
    listed(1, "which left a shadow");
    const uint64_t calls = shadows.calls;
    Put(array, kBase, 0, V(4));
    group.Check(shadows.calls == calls, "a value for a value goes untold");
    group.Check(array.Reserve(kBase + 2).ok(), "reserved");
    listed(0, "a reservation is no shadow");
    array.Release(kBase + 2);
    listed(1, "and went");
    Put(array, kBase, 1, V(5));
    listed(1, "a tie of shadows");
    group.Check(shadows.nodes[*shadows.listed.begin()].values == 2, "counts its slots");
    Put(array, UINT64_MAX, 0, V(6));
    listed(2, "two leaves");
    // Deletion of a node from outside, by what the list tells.
    const NodeState state = shadows.nodes[*shadows.listed.begin()];
    const uint64_t inside = array.Load(kBase) && state.first <= kBase ? UINT64_MAX : kBase;
    group.Check(array.EraseRange(state.first, state.last) == 1, "one node's entries");
    listed(1, "one left");
    group.Check(array.Load(inside).is_value(), "the other one");
    array.EraseRange(0, UINT64_MAX);
    listed(0, "none");
    group.Check(array.empty() && shadows.nodes.empty(), "all gone");
    // A split makes many at once, a larger store sweeps them away.
    Put(array, kBase, 12, V(1));
    typename TestFixture::Cursor cursor(array, kBase);
    for (bool done = false; !done;) {
      array.lock();
      done = cursor.Split(0, [](uint64_t at) { return V(at); }).ok();
      array.unlock();
      group.Check(done || cursor.Reserve().ok(), "split");
    }
    listed((1 << 12) / this->kSlots, "all leaves");
    Put(array, kBase + 77, 12, page);
    listed(0, "swept away");
    array.Clear();
    group.Check(shadows.nodes.empty(), "cleared");
    Put(array, kBase, 0, V(1));
  }
  group.Check(shadows.nodes.empty() && shadows.listed.empty(), "the destructor tells, too");
  internal::SetRetireHook(nullptr);
  group.Check(g_retired_while_known == 0, "off the list before they are freed");
}

// Ranges whose nodes were brought beforehand take every store without memory.
TYPED_TEST(GroupsTest, CreateRange) {
  Group group("create_range", this->kSlots, 1'265'917);
  using Array = typename TestFixture::Array;
  using Cursor = typename TestFixture::Cursor;
  enum State { kEmpty, kHead, kNeighbour, kInside, kTie };
  const auto prepare = [](Array& array, State state, uint64_t first, uint64_t last) {
    if (state == kHead) Put(array, 0, 0, V(1));
    if (state == kNeighbour) Put(array, 1000, 0, V(1));
    if (state == kInside) Put(array, first + (last - first) / 2, 0, V(1));
    if (state == kTie) Put(array, last, 3, V(1));
  };
  const std::vector<uint64_t> lengths = kScale == 1
                                            ? std::vector<uint64_t>{1, 7, 64, 500, 4097, 20000}
                                            : std::vector<uint64_t>{1, 7, 64, 500};
  for (State state : {kEmpty, kHead, kNeighbour, kInside, kTie}) {
    for (uint64_t base : {uint64_t{0}, uint64_t{1}, uint64_t{61}, uint64_t{4096}, uint64_t{70001},
                          (uint64_t{1} << 40) - 3, UINT64_MAX - 20000}) {
      for (uint64_t length : lengths) {
        const uint64_t last = base + length - 1;
        for (unsigned order : {0u, 2u, 9u}) {
          Array array;
          prepare(array, state, base, last);
          const std::vector<Row> before = Dump(array);
          const bool exact = state == kEmpty && order == 0;  // not one node too many then
          if (exact) rcu::Barrier();
          const int64_t live_before = internal::LiveNodes();
          Cursor cursor(array, base);
          cursor.SetOrder(order);
          std::unique_lock<Array> lock(array);
          absl::Status status = cursor.CreateRange(last);
          if (!status.ok()) {
            NoMemory no_memory;
            group.Check(absl::IsResourceExhausted(status) && cursor.NeedsReserve(), "needs memory");
            group.Check(!cursor.Reserve().ok() && !cursor.CreateRange(last).ok(), "the error stays",
                        base, length);
            lock.unlock();
            group.Check(Dump(array) == before, "nothing changed", base, length);
            lock.lock();
          }
          while (!status.ok()) {
            lock.unlock();
            if (!cursor.Reserve().ok()) break;
            lock.lock();
            status = cursor.CreateRange(last);
          }
          group.Check(status.ok(), "created", base, length);
          NoMemory no_memory;
          const uint64_t step = MaskOf(order) + 1;
          std::vector<uint64_t> blocks = {last};
          for (uint64_t at = 0; at < length; at += step) blocks.push_back(base + at);
          for (size_t i = 0; i < blocks.size(); ++i) {  // from both ends by turns
            cursor.Set(blocks[i % 2 == 0 ? i / 2 : blocks.size() - 1 - i / 2]);
            group.Check(cursor.Store(V(7)).ok(), "stored", base, cursor.index());
          }
          lock.unlock();
          for (uint64_t at : blocks) group.Check(array.Load(at) == V(7), "there", base, at);
          group.Check(TreeInspector::Violation(array).empty(), "sound", base, length);
          const int64_t linked = static_cast<int64_t>(TreeInspector::CountNodes(array));
          group.Check(!exact || internal::LiveNodes() - live_before == linked, "exact", base,
                      length);
        }
      }
    }
  }
  Cursor cursor(this->array_, 5);
  std::lock_guard<Array> lock(this->array_);
  group.Check(absl::IsInvalidArgument(cursor.CreateRange(4)), "swapped");
  cursor.SetOrder(64);
  group.Check(absl::IsInvalidArgument(cursor.CreateRange(6)), "order");
  cursor.SetOrder(0);
  cursor.Set(0);
  group.Check(absl::IsResourceExhausted(cursor.CreateRange(UINT64_MAX)), "too much");
  group.Check(!cursor.NeedsReserve(), "for ever");
}

}  // namespace
}  // namespace daxkv::xarray
