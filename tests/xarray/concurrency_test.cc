// Readers against writers, exchanges in place against both, and nodes that leave the tree (S19).
// Bounded by time; each test also runs under ThreadSanitizer and AddressSanitizer.
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
namespace {

constexpr uint64_t kMax = UINT64_MAX;
constexpr auto kDuration = std::chrono::milliseconds(400);

// Runs each body again and again in a thread of its own, until the time is up.
void RunFor(std::chrono::milliseconds duration, const std::vector<std::function<void()>>& bodies) {
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
Entry Named(uint64_t index, unsigned order) {
  return V((index & ~((uint64_t{1} << order) - 1)) << 6 | order);
}
uint64_t FirstOf(Entry entry) { return entry.value() >> 6; }
unsigned OrderOf(Entry entry) { return entry.value() & 63; }
bool Covers(Entry entry, uint64_t index) {
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
TYPED_TEST_SUITE(ConcurrencyTest, SlotShifts);

// Whatever writers do to ties, a reader finds at an index only entries that cover it, and entry,
// range and order belong together.
TYPED_TEST(ConcurrencyTest, ReadersNeverMeetAnEntryOfOtherIndices) {
  constexpr uint64_t kSpan = 512;
  auto& array = this->array_;
  std::mt19937_64 write_random(1);
  std::mt19937_64 read_random(2);
  std::mt19937_64 lookup_random(3);
  std::atomic<uint64_t> found{0};
  RunFor(kDuration, {
                        [&] { this->WriteAtRandom(write_random, kSpan, 8); },
                        [&] {
                          const uint64_t index = read_random() % kSpan;
                          const Entry entry = array.Load(index);
                          if (!entry) return;
                          ASSERT_TRUE(entry.is_value());
                          ASSERT_TRUE(Covers(entry, index)) << index;
                          found.fetch_add(1, std::memory_order_relaxed);
                        },
                        [&] {
                          const uint64_t index = lookup_random() % kSpan;
                          const std::optional<Located> at = array.Lookup(index);
                          if (!at.has_value()) return;
                          ASSERT_EQ(at->entry, Named(index, at->order));
                          ASSERT_EQ(at->first, FirstOf(at->entry));
                        },
                        [&] {
                          uint64_t next = 0;
                          rcu::ReadGuard guard;
                          typename TestFixture::Cursor cursor(array);
                          while (const Entry entry = cursor.FindNext()) {
                            ASSERT_TRUE(entry.is_value());
                            ASSERT_EQ(entry, Named(cursor.index(), cursor.order()));
                            ASSERT_GE(cursor.index(), next);
                            next = cursor.last() + 1;
                          }
                        },
                    });
  EXPECT_GT(found, 1000u);
  EXPECT_EQ(TreeInspector::Violation(array), "");
}

// One tie comes and goes as fast as can be, and its canonical slot gets entries that never covered
// the last index: the reader of that index must notice between its two loads.
TYPED_TEST(ConcurrencyTest, ReaderOfASiblingNoticesThatTheTieIsGone) {
  auto& array = this->array_;
  constexpr unsigned kOrder = 3;
  constexpr uint64_t kLast = 7;
  Put(array, 100, 0, Named(100, 0));  // keeps the node
  const auto store = [&](unsigned order) { Put(array, 0, order, Named(0, order)); };
  store(kOrder);
  uint64_t reads = 0;
  const auto read = [&] {
    rcu::ReadGuard guard;
    for (int i = 0; i < 1000; ++i) {
      const Entry entry = array.LoadUnderRcu(kLast);
      ASSERT_TRUE(!entry || Covers(entry, kLast));
      ++reads;
    }
  };
  const auto erase = [&] {
    array.Erase(0);
    store(0);
    array.Erase(0);
    store(kOrder);
  };
  RunFor(kDuration, {erase, read});
  const auto split = [&] {
    this->Split(0, 0);
    store(kOrder);
  };
  RunFor(kDuration, {split, read});
  EXPECT_GT(reads, 1000u);
}

// The same race, forced: a writer gets in exactly between the loads of sibling and canonical slot.
TYPED_TEST(ConcurrencyTest, WriterBetweenTheTwoLoadsOfATie) {
  auto& array = this->array_;
  using Node = internal::Node<TestFixture::kShift>;
  constexpr unsigned kOrder = 2;
  const std::vector<std::function<void()>> writers = {
      [&] {  // another entry in the canonical slot
        array.Erase(0);
        Put(array, 0, 0, Named(0, 0));
      },
      [&] {  // and the tie back again, so that the sibling looks unchanged
        array.Erase(0);
        Put(array, 0, 0, Named(0, 0));
        array.Erase(0);
        Put(array, 0, kOrder, Named(0, kOrder));
      },
      [&] { this->Split(0, 1); },
      [&] { Put(array, 0, TestFixture::kShift, Named(0, TestFixture::kShift)); },
  };
  for (const auto& writer : writers) {
    array.Clear();
    Put(array, 200, 0, Named(200, 0));
    Put(array, 0, kOrder, Named(0, kOrder));
    rcu::ReadGuard guard;
    const Node* node = TreeInspector::Head(array).template node<Node>();
    while (node->shift > 0) node = node->Load(0).template node<Node>();
    bool first_time = true;
    const Entry entry = node->LoadTie(3, [&] {
      if (first_time) writer();
      first_time = false;
    });
    EXPECT_FALSE(first_time);
    if (!entry.is_retry()) {  // the node may have left the tree
      EXPECT_EQ(entry, array.Load(3));
    }
  }
}

// The tree grows, shrinks and loses nodes all the time; what stays is seen exactly once.
TYPED_TEST(ConcurrencyTest, WalkersSeeWhatStaysExactlyOnce) {
  auto& array = this->array_;
  const auto stays = [](uint64_t index) { return index % 50 == 7; };
  constexpr uint64_t kSpan = 3000;
  uint64_t staying = 0;
  for (uint64_t i = 0; i < kSpan; ++i) {
    if (!stays(i)) continue;
    Put(array, i, 0, V(i));
    array.SetMark(i, Mark::k1);
    ++staying;
  }
  std::mt19937_64 random(4);
  const auto walk = [&](bool marked, unsigned pause_every) {
    typename TestFixture::Cursor cursor(array);
    uint64_t seen = 0;
    uint64_t next = 0;
    bool more = true;
    while (more) {
      rcu::ReadGuard guard;
      for (unsigned i = 0; more && i < pause_every; ++i) {
        more = bool(marked ? cursor.FindNextMarked(kMax, Mark::k1) : cursor.FindNext());
        if (!more) break;
        ASSERT_EQ(cursor.current(), V(cursor.index()));
        ASSERT_GE(cursor.index(), next);
        next = cursor.index() + 1;
        if (stays(cursor.index())) ++seen;
      }
      cursor.Pause();
    }
    ASSERT_EQ(seen, staying);
  };
  RunFor(kDuration, {
                        [&] {
                          const uint64_t index = random() % (2 * kSpan)
                                                 << (random() % 8 == 0 ? 40 : 0);
                          if (stays(index)) return;
                          if (random() % 2 != 0) {
                            Put(array, index, 0, V(index));
                            if (random() % 4 == 0) array.SetMark(index, Mark::k1);
                          } else {
                            array.Erase(index);
                          }
                        },
                        [&] { walk(false, 3); },
                        [&] { walk(false, 1000); },
                        [&] { walk(true, 5); },
                    });
}

// Regressions of the model: the mark at 100 is reached while 0..99 thrash, and index 0 is found
// while 1 makes the tree grow and shrink.
TYPED_TEST(ConcurrencyTest, NeighboursDoNotDisturb) {
  auto& array = this->array_;
  Put(array, 0, 0, V(1));
  Put(array, 100, 0, V(100));
  array.SetMark(100, Mark::k0);
  std::mt19937_64 random(5);
  std::mt19937_64 far_random(12);
  RunFor(kDuration, {
                        [&] {
                          const uint64_t index = 1 + random() % 99;
                          Put(array, index, 0, V(index));
                          array.SetMark(index, Mark::k0);
                          array.EraseRange(1, 99);
                        },
                        [&] {
                          const uint64_t index = uint64_t{1} << (8 + far_random() % 50);
                          Put(array, index, 0, V(index));
                          array.Erase(index);
                        },
                        [&] { ASSERT_EQ(array.Load(0), V(1)); },
                        [&] {
                          bool reached = false;
                          array.ForEachMarked(1, kMax, Mark::k0, [&](const Located& at) {
                            reached = at.first == 100;
                            return !reached;
                          });
                          ASSERT_TRUE(reached);
                        },
                    });
}

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

// ---- S19: a writer that stalls between unlinking a node and giving it to RCU ----

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
