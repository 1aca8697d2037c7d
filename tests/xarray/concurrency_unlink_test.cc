// S19: nodes that leave the tree, and a writer that stalls before RCU has them.
//
// Mutations, each of which must fail the test named (tests/dax/mutations/run):
//   S19UnlinkedNodesAreUnreachableAndPoisoned: a node is handed to RCU before it is unlinked
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "tests/xarray/concurrency_testing.h"

namespace daxkv::xarray {
namespace {

TYPED_TEST_SUITE(ConcurrencyTest, SlotShifts);

std::function<void(const void*)> g_on_retire;

void OnRetire(const void* node) { g_on_retire(node); }

class RetireHook {
 public:
  explicit RetireHook(std::function<void(const void*)> fn) {
    g_on_retire = std::move(fn);
    internal::SetRetireHook(&OnRetire);
  }
  ~RetireHook() { internal::SetRetireHook(nullptr); }
};

// Every way in which nodes leave the tree.
template <typename Array>
void LoseNodes(Array& array) {
  static int object;
  for (uint64_t i = 0; i < 200; ++i) Put(array, i, 0, V(i));
  Put(array, 128, 6, V(1));  // sweeps nodes or slots
  array.EraseRange(0, 100);  // empties nodes
  Put(array, uint64_t{1} << 40, 0, V(2));
  array.Erase(uint64_t{1} << 40);  // shrinks
  array.Clear();
  Put(array, 0, 0, Entry::Pointer(&object));
  Put(array, 5000, 0, V(3));
  array.Erase(5000);  // shrinks to the head entry
  for (uint64_t i = 0; i < 3000; ++i) Put(array, i, 0, V(i));
  Put(array, 0, 12, V(4));  // sweeps whole subtrees
  array.Clear();
}

TYPED_TEST(ConcurrencyTest, S19UnlinkedNodesAreUnreachableAndPoisoned) {
  auto& array = this->array_;
  using Node = internal::Node<TestFixture::kShift>;
  uint64_t retired = 0;
  RetireHook hook([&](const void* at) {
    ++retired;
    ASSERT_FALSE(TreeInspector::Reachable(array, at));
    const auto* node = static_cast<const Node*>(at);
    for (unsigned i = 0; i < Node::kSlots; ++i) ASSERT_TRUE(node->Load(i).is_retry());
    array.ForEach(0, kMax, [&](const Located& found) { return found.entry.is_null() == false; });
  });
  LoseNodes(array);
  EXPECT_GT(retired, 20u);
}

TYPED_TEST(ConcurrencyTest, S19ReadersThatStartWhileTheWriterStalls) {
  auto& array = this->array_;
  std::atomic<uint64_t> walks{0};
  uint64_t stalls = 0;
  RetireHook hook([&](const void*) {
    // A whole walk begins and ends during the stall, and so may a grace period of other nodes.
    if (++stalls % 8 != 1) return;
    const uint64_t before = walks;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
    while (walks < before + 2 && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::yield();
    }
  });
  RunFor(kDuration, {[&] { LoseNodes(array); },
                     [&] {
                       rcu::ReadGuard guard;
                       typename TestFixture::Cursor cursor(array);
                       while (cursor.FindNext()) ASSERT_FALSE(cursor.current().is_internal());
                     },
                     [&] {
                       rcu::ReadGuard guard;
                       for (uint64_t i = 0; i < 300; ++i)
                         ASSERT_FALSE(array.LoadUnderRcu(i).is_internal());
                       walks.fetch_add(1);
                     }});
  EXPECT_GT(stalls, 20u);
}

}  // namespace
}  // namespace daxkv::xarray
