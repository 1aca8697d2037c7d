// Orders of leaves: the bounded cache, and that what is read by them is what is read without.
#include "kv/leaf_orders.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kv/node.h"
#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

std::unique_ptr<LeafOrder> OrderOf(Address leaf, uint64_t version) {
  auto order = std::make_unique<LeafOrder>();
  order->leaf = leaf;
  order->version = version;
  return order;
}

TEST(LeafOrdersTest, KeepsSoManyAndReplaces) {
  LeafOrders orders(10);
  for (uint64_t i = 1; i <= 10; ++i) orders.Insert(OrderOf(i * kLeafSizeBytes, i));
  EXPECT_EQ(orders.size(), 10u);
  {
    rcu::ReadGuard guard;
    for (uint64_t i = 1; i <= 10; ++i) {
      ASSERT_NE(orders.Find(i * kLeafSizeBytes), nullptr);
      EXPECT_EQ(orders.Find(i * kLeafSizeBytes)->version, i);
    }
    EXPECT_EQ(orders.Find(11 * kLeafSizeBytes), nullptr);
  }
  orders.Insert(OrderOf(3 * kLeafSizeBytes, 33));
  EXPECT_EQ(orders.size(), 10u);
  // Each further one takes the place of another, round and round.
  for (uint64_t i = 11; i <= 1000; ++i) {
    orders.Insert(OrderOf(i * kLeafSizeBytes, i));
    EXPECT_EQ(orders.size(), 10u);
  }
  rcu::ReadGuard guard;
  size_t found = 0;
  for (uint64_t i = 1; i <= 1000; ++i) found += orders.Find(i * kLeafSizeBytes) != nullptr;
  EXPECT_EQ(found, 10u);
}

TEST(LeafOrdersTest, TheChangeCountGoesRoundAndTouchesNothingElse) {
  LeafNode leaf = {};
  const uint64_t split_count = 6;
  leaf.header.volatile_version = split_count << kSplitCountShift | kChangeCountMask;
  EXPECT_TRUE(IsAtRest(leaf.header.volatile_version));
  LockLeaf(leaf);
  EXPECT_FALSE(IsAtRest(leaf.header.volatile_version));
  UnlockLeaf(leaf);
  EXPECT_EQ(leaf.header.volatile_version, split_count << kSplitCountShift);
  LockLeaf(leaf);
  UnlockLeaf(leaf);
  EXPECT_EQ(leaf.header.volatile_version,
            split_count << kSplitCountShift | uint64_t{1} << kChangeCountShift);
}

std::string NameOf(uint64_t n) { return "user" + std::to_string(n * 0x9e37'79b9'7f4a'7c15); }

// With the numbers that the engine gives to records.
absl::Status Put(IndexHarness& store, const std::string& key, const std::string& value) {
  absl::StatusOr<Address> slot =
      store.memory().Allocate(SlotKind::kRecord, RecordSizeBytes(key.size(), value.size()));
  if (!slot.ok()) return slot.status();
  for (;;) {
    WriteRecord(store.memory(), *slot, kValueRecord, store.snapshots().NextNumber(), key, value);
    absl::Status status = store.index().Upsert(key, *slot).status();
    if (!absl::IsAborted(status)) return status;
  }
}

struct Walk {
  std::vector<std::pair<std::string, std::string>> records;
  size_t leaves = 0;
  size_t by_order = 0;  // Of the leaves.
};

Walk WalkAt(IndexHarness& store, const SnapshotEntry& snapshot) {
  Walk walk;
  LeafContents contents;
  std::string from;
  for (bool end = false; !end; from = contents.upper) {
    absl::Status status = store.index().ReadLeafAt(snapshot, std::string_view(from), &contents);
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) break;
    ++walk.leaves;
    walk.by_order += contents.head_mask != UINT64_MAX;
    size_t position = contents.LowerBound(store.memory(), from);
    for (; position < contents.entries.size(); ++position) {
      const RecordView record = RecordAt(store.memory(), contents.entries[position].record);
      EXPECT_TRUE(IsIntact(record, kDefaultKeyspace));
      EXPECT_GE(record.key, from);
      EXPECT_TRUE(walk.records.empty() || walk.records.back().first < record.key);
      EXPECT_EQ(contents.LowerBound(store.memory(), record.key), position);
      walk.records.emplace_back(record.key, record.value);
    }
    end = !contents.has_upper;
  }
  return walk;
}

Walk WalkNow(IndexHarness& store) {
  SnapshotEntry* const snapshot = store.snapshots().Acquire();
  Walk walk = WalkAt(store, *snapshot);
  store.snapshots().Release(snapshot);
  return walk;
}

bool Holds(const Walk& walk, const Model& model) {
  return std::equal(
      walk.records.begin(), walk.records.end(), model.begin(), model.end(),
      [](const auto& a, const auto& b) { return a.first == b.first && a.second == b.second; });
}

TEST(LeafOrdersTest, LeavesThatDidNotChangeAreReadByTheirOrders) {
  IndexHarness store;
  Model model;
  for (uint64_t n = 0; n < 5000; ++n) {
    ASSERT_TRUE(Put(store, NameOf(n), "v").ok());
    model[NameOf(n)] = "v";
  }
  Walk walk = WalkNow(store);
  EXPECT_TRUE(Holds(walk, model));
  EXPECT_EQ(walk.by_order, 0u);
  walk = WalkNow(store);
  EXPECT_TRUE(Holds(walk, model));
  EXPECT_GT(walk.leaves, 40u);
  EXPECT_EQ(walk.by_order, walk.leaves - 2);  // The leftmost and the rightmost have one bound.
  EXPECT_EQ(store.index().CountLeafOrders(), walk.by_order);
  // A leaf that was changed is read anew, once.
  ASSERT_TRUE(store.Remove(NameOf(77)).ok());
  model.erase(NameOf(77));
  const size_t before = walk.by_order;
  walk = WalkNow(store);
  EXPECT_TRUE(Holds(walk, model));
  EXPECT_EQ(walk.by_order, before - 1);
  EXPECT_EQ(WalkNow(store).by_order, before);
}

// What a snapshot sees is not what an order says, where something came after it.
TEST(LeafOrdersTest, ASnapshotSeesNothingThatCameLater) {
  IndexHarness store;
  Model model;
  for (uint64_t n = 0; n < 2000; ++n) {
    ASSERT_TRUE(Put(store, NameOf(n), "v").ok());
    model[NameOf(n)] = "v";
  }
  SnapshotEntry* const then = store.snapshots().Acquire();
  for (uint64_t n = 2000; n < 2100; ++n) ASSERT_TRUE(Put(store, NameOf(n), "v").ok());
  EXPECT_EQ(WalkNow(store).records.size(), 2100u);  // Leaves orders.
  EXPECT_TRUE(Holds(WalkAt(store, *then), model));
  EXPECT_TRUE(Holds(WalkAt(store, *then), model));
  store.snapshots().Release(then);
}

TEST(LeafOrdersTest, SurviveAllChangesOfLeaves) {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    IndexHarness store;
    Model model;
    std::mt19937_64 random(seed);
    size_t by_order = 0;
    for (int round = 0; round < 60; ++round) {
      for (int i = 0; i < 100; ++i) {
        const std::string key = NameOf(random() % 4000);
        if (random() % 3 == 0) {
          const absl::Status removed = store.Remove(key);
          ASSERT_TRUE(removed.ok() || absl::IsNotFound(removed)) << removed;
          model.erase(key);
        } else {
          const std::string value = std::to_string(random() % 100);
          ASSERT_TRUE(Put(store, key, value).ok());
          model[key] = value;
        }
      }
      if (round % 20 == 19) {
        for (uint64_t n = 0; n < 4000; ++n) {
          if (n % 10 != 0 && model.erase(NameOf(n)) > 0) {
            ASSERT_TRUE(store.Remove(NameOf(n)).ok());
          }
        }
        // Leaves come to lie where others were.
        ASSERT_TRUE(store.Rewrite([](Address) { return true; }).ok());
        rcu::Barrier();
      }
      EXPECT_TRUE(Holds(WalkNow(store), model));
      Walk walk = WalkNow(store);
      EXPECT_TRUE(Holds(walk, model));
      by_order += walk.by_order;
    }
    EXPECT_GT(by_order, 100u);
  }
}

// Beside writers and merges two walks at one snapshot see the same, and point reads agree.
TEST(LeafOrdersTest, WalksBesideWritersSeeOneState) {
  constexpr uint64_t kKeys = 1500;
  IndexHarness store(256 << 20, /*track=*/false);
  for (uint64_t n = 0; n < kKeys; n += 2) ASSERT_TRUE(Put(store, NameOf(n), "v").ok());
  std::atomic<bool> done{false};
  std::vector<std::thread> writers;
  for (uint32_t seed = 1; seed <= 2; ++seed) {
    writers.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      while (!done.load()) {
        const std::string key = NameOf(random() % kKeys);
        if (random() % 2 == 0) {
          const absl::Status removed = store.Remove(key);
          EXPECT_TRUE(removed.ok() || absl::IsNotFound(removed)) << removed;
        } else {
          EXPECT_TRUE(Put(store, key, std::to_string(random() % 1000)).ok());
        }
        if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
        if (seed != 1 || random() % 500 != 0) continue;
        EXPECT_TRUE(store.Rewrite().ok());
      }
    });
  }
  size_t by_order = 0;
  std::mt19937_64 random(99);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  for (int round = 0; std::chrono::steady_clock::now() < end || round < 10; ++round) {
    SnapshotEntry* const snapshot = store.snapshots().Acquire();
    const Walk first = WalkAt(store, *snapshot);
    const Walk second = WalkAt(store, *snapshot);
    EXPECT_EQ(first.records, second.records);
    by_order += first.by_order + second.by_order;
    for (int i = 0; i < 20; ++i) {
      const std::string key = NameOf(random() % kKeys);
      std::string value;
      const absl::Status found =
          store.index().FindAt(*snapshot, key, [&](const RecordView& record) {
            value = record.value;
            return absl::OkStatus();
          });
      const auto at = std::lower_bound(
          first.records.begin(), first.records.end(), key,
          [](const auto& record, const std::string& wanted) { return record.first < wanted; });
      const bool walked = at != first.records.end() && at->first == key;
      EXPECT_EQ(found.ok(), walked) << found;
      if (!found.ok() || !walked) continue;
      EXPECT_EQ(at->second, value);
    }
    store.snapshots().Release(snapshot);
    if (HasFailure()) break;
  }
  done.store(true);
  for (std::thread& writer : writers) writer.join();
  EXPECT_GT(by_order, 0u);
}

}  // namespace
}  // namespace daxkv::kv
