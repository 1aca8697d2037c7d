// Leaves that are merged and moved: what is there stays, readers and writers go on, nothing leaks,
// and a power cut at any moment leaves the old leaves or the fresh ones.
#include <atomic>
#include <thread>

#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

std::string Key(uint64_t n) { return "key" + std::to_string(100000000 + n); }
// In no order.
std::string Hashed(uint64_t n) { return "user" + std::to_string((n + 1) * 0x9e3779b97f4a7c15); }

// `count` hashed keys, of which each `keep`-th stays.
Model FillSparse(IndexHarness& store, uint64_t count, uint64_t keep) {
  Model model;
  for (uint64_t n = 0; n < count; ++n) EXPECT_TRUE(store.Put(Hashed(n), std::to_string(n)).ok());
  for (uint64_t n = 0; n < count; ++n) {
    if (n % keep == 0) {
      model[Hashed(n)] = std::to_string(n);
    } else {
      EXPECT_TRUE(store.Remove(Hashed(n)).ok());
    }
  }
  return model;
}

// Some at a snapshot, by a walk over leaves.
Model ReadAt(IndexHarness& store, const SnapshotEntry& snapshot) {
  Model found;
  std::string from;
  for (bool end = false; !end;) {
    LeafContents contents;
    absl::Status status = store.index().ReadLeafAt(snapshot, std::string_view(from), &contents);
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) break;
    for (const LeafContents::Entry& entry : contents.entries) {
      const RecordView record = RecordAt(store.memory(), entry.record);
      if (record.key < from) continue;  // Seen before its leaf was merged with the next one.
      EXPECT_TRUE(found.emplace(record.key, record.value).second) << record.key;
    }
    end = !contents.has_upper;
    from = contents.upper;
  }
  return found;
}

// A slot may come to hold the same word again: its key was removed, the address given to another
// record of the same tag, and that put into the same place. It is no record that was copied.
TEST(IndexRelocateTest, OnlyTheRecordThatWasCopiedMoves) {
  IndexHarness store;
  ASSERT_TRUE(store.Put("key", "value").ok());
  std::vector<Index::SlotPosition> found;
  std::string next_from;
  bool end = false;
  const auto any = [](Address) { return true; };
  ASSERT_TRUE(store.index().FindSlots("", 1, any, &found, &next_from, &end).ok());
  ASSERT_EQ(found.size(), 1u);
  const uint64_t sequence = RecordAt(store.memory(), found[0].record()).sequence;
  const absl::StatusOr<Address> copy =
      store.memory().Allocate(SlotKind::kRecord, RecordSizeBytes(3, 4));
  ASSERT_TRUE(copy.ok());
  WriteRecord(store.memory(), *copy, kValueRecord, sequence, "key", "copy");
  ASSERT_TRUE(store.memory().Drain().ok());

  const auto holds = [&] {
    rcu::ReadGuard guard;
    return store.index().Holds(found[0]);
  };
  EXPECT_TRUE(holds());
  std::vector<bool> moved(1, false);
  uint64_t kept = 0;
  ASSERT_TRUE(store.index().Relocate({{{found[0], *copy, sequence - 1}}}, &moved, &kept).ok());
  EXPECT_FALSE(moved[0]);
  EXPECT_EQ(*store.Get("key"), "value");
  // The record of another key, to which the slot of a damaged one was given.
  WriteRecord(store.memory(), found[0].record(), kValueRecord, sequence, "yek", "value");
  ASSERT_TRUE(store.index().Relocate({{{found[0], *copy, sequence}}}, &moved, &kept).ok());
  EXPECT_FALSE(moved[0]);
  WriteRecord(store.memory(), found[0].record(), kValueRecord, sequence, "key", "value");
  ASSERT_TRUE(store.index().Relocate({{{found[0], *copy, sequence}}}, &moved, &kept).ok());
  EXPECT_TRUE(moved[0]);
  EXPECT_EQ(kept, 0u);
  EXPECT_FALSE(holds());
  EXPECT_EQ(*store.Get("key"), "copy");
}

TEST(IndexMergeTest, SparseLeavesBecomeFew) {
  IndexHarness store;
  const Model model = FillSparse(store, 20000, 10);
  const uint64_t leaves = store.index().stats().leaves;
  absl::StatusOr<Index::RewriteResult> result = store.Rewrite();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->leaves_seen, leaves);
  const uint64_t left = store.index().stats().leaves;
  EXPECT_EQ(left, leaves - result->leaves_freed + result->leaves_written);
  EXPECT_LT(left * 6, leaves);
  EXPECT_GE(left * 80 + 120, model.size());
  ExpectEqual(store, model);
  rcu::Barrier();
  EXPECT_TRUE(store.Faults(/*expect_no_leak=*/true).empty());
  // There is nothing left to do.
  result = store.Rewrite();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LE(result->leaves_written, 1u);
  store.Reopen();
  ExpectEqual(store, model);
}

TEST(IndexMergeTest, EmptyLeavesGoAndKeysComeBack) {
  IndexHarness store;
  Model model = FillSparse(store, 20000, 1000000);
  ASSERT_EQ(model.size(), 1u);
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(store.Rewrite().ok());
    EXPECT_LE(store.index().stats().leaves, 8 + model.size() / 40);
    ExpectEqual(store, model);
    model = FillSparse(store, 5000, round + 2);
    ExpectEqual(store, model);
  }
}

TEST(IndexMergeTest, LeavesMoveThoughTheyAreFull) {
  IndexHarness store;
  Model model;
  for (uint64_t n = 0; n < 20000; ++n) {
    ASSERT_TRUE(store.Put(Key(n), "v").ok());
    model[Key(n)] = "v";
  }
  const std::set<Address> before = store.memory().LiveSlots();
  absl::StatusOr<Index::RewriteResult> result = store.Rewrite([&](Address) { return true; });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->leaves_freed, result->leaves_seen - 1);  // The leftmost stays.
  ExpectEqual(store, model);
  rcu::Barrier();
  EXPECT_TRUE(store.Faults(/*expect_no_leak=*/true).empty());
  // Splits, and another move of what moved, work as before.
  for (uint64_t n = 0; n < 20000; n += 3) {
    ASSERT_TRUE(store.Put(Key(n) + "x", "w").ok());
    model[Key(n) + "x"] = "w";
  }
  ASSERT_TRUE(store.Rewrite([](Address leaf) { return leaf / 1024 % 3 == 0; }).ok());
  ExpectEqual(store, model);
  store.Reopen();
  ASSERT_TRUE(store.Rewrite([](Address leaf) { return leaf / 1024 % 2 == 0; }).ok());
  ExpectEqual(store, model);
}

TEST(IndexMergeTest, NoRoomForFreshLeaves) {
  IndexHarness store;
  const Model model = FillSparse(store, 5000, 10);
  for (int64_t room = 0; room < 8; ++room) {
    store.memory().allocations_left = room;
    absl::StatusOr<Index::RewriteResult> result = store.Rewrite();
    ASSERT_TRUE(result.ok() || absl::IsResourceExhausted(result.status())) << result.status();
    store.memory().allocations_left = -1;
    ExpectEqual(store, model);
    EXPECT_TRUE(store.Faults(/*expect_no_leak=*/true).empty()) << room;
  }
}

TEST(IndexMergeTest, ASnapshotSeesWhatItSaw) {
  IndexHarness store;
  Model then = FillSparse(store, 10000, 8);
  SnapshotEntry* snapshot = store.snapshots().Acquire();
  Model now = then;
  for (uint64_t n = 0; n < 10000; n += 16) {
    ASSERT_TRUE(store.Remove(Hashed(n)).ok());
    now.erase(Hashed(n));
  }
  for (uint64_t n = 0; n < 40; ++n) {
    ASSERT_TRUE(store.Put(Hashed(n * 8), "new").ok());
    now[Hashed(n * 8)] = "new";
  }
  ASSERT_TRUE(store.Rewrite().ok());
  EXPECT_TRUE(ReadAt(store, *snapshot) == then);
  ExpectEqual(store, now);
  ASSERT_TRUE(store.Put(Hashed(1), "later").ok());
  now[Hashed(1)] = "later";
  EXPECT_TRUE(ReadAt(store, *snapshot) == then);
  store.snapshots().Release(snapshot);
  absl::StatusOr<Index::RewriteResult> result = store.Rewrite();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->leaves_freed, 0u);  // No leaf has a history any more.
  ExpectEqual(store, now);
}

TEST(IndexMergeTest, AFailedMediumLeavesReadersAlone) {
  for (int drain = 1; drain <= 4; ++drain) {
    IndexHarness store;
    const Model model = FillSparse(store, 3000, 10);
    int seen = 0;
    store.memory().before_drain = [&] {
      if (++seen == drain) store.memory().fail_drains = true;
    };
    EXPECT_TRUE(absl::IsInternal(store.Rewrite().status()));
    EXPECT_TRUE(absl::IsInternal(store.Put(Hashed(0), "v").status()));
    // Once the fresh leaves are the tree's there is nothing more to do.
    EXPECT_EQ(absl::IsInternal(store.Rewrite().status()), drain <= 2);
    absl::StatusOr<Model> found = store.Scan();
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_TRUE(*found == model);
  }
}

// Images before and after each drain of a rewrite, opened again.
TEST(IndexMergeTest, PowerCutsAtEveryDrain) {
  for (const bool move_all : {false, true}) {
    IndexHarness store(32 << 20);
    const Model model = FillSparse(store, 12000, 10);
    ASSERT_GT(store.index().stats().inner_nodes, 0u);
    uint32_t seed = 0;
    int images = 0, redone = 0;
    const auto check = [&](unsigned chance) {
      std::unique_ptr<ArenaMemory> image = store.memory().CrashImage(chance, ++seed);
      image->reuse = false;
      redone += *image->stores_word() != 0;
      absl::StatusOr<std::unique_ptr<IndexHarness>> opened = IndexHarness::Open(std::move(image));
      ASSERT_TRUE(opened.ok()) << opened.status();
      ExpectEqual(**opened, model);
      for (uint64_t n = 0; n < 20; ++n) {
        ASSERT_TRUE((*opened)->Put(Hashed(n + 1), "later").ok());
      }
      ASSERT_TRUE((*opened)->Rewrite().ok());
      EXPECT_TRUE((*opened)->Faults().empty());
      ++images;
    };
    store.memory().before_drain = [&] {
      if (HasFatalFailure()) return;
      for (const unsigned chance : {0u, 60u, 128u, 200u, 256u}) check(chance);
    };
    ASSERT_TRUE(store.Rewrite([&](Address) { return move_all; }).ok());
    store.memory().before_drain = nullptr;
    EXPECT_GE(images, 20);
    EXPECT_GE(redone, 6);
    ExpectEqual(store, model);
  }
}

// A power cut during the redo.
TEST(IndexMergeTest, PowerCutsInTheRedo) {
  IndexHarness store(8 << 20);
  const Model model = FillSparse(store, 3000, 10);
  std::unique_ptr<ArenaMemory> cut;
  int drain = 0;
  store.memory().before_drain = [&] {
    if (++drain == 3) cut = store.memory().CrashImage(100, 7);
  };
  ASSERT_TRUE(store.Rewrite().ok());
  ASSERT_NE(cut, nullptr);
  ASSERT_NE(*cut->stores_word(), 0u);
  ArenaMemory* memory = cut.get();
  uint32_t seed = 0;
  bool nested = false;
  memory->before_drain = [&] {
    if (nested) return;
    nested = true;
    for (const unsigned chance : {0u, 128u, 256u}) {
      absl::StatusOr<std::unique_ptr<IndexHarness>> again =
          IndexHarness::Open(memory->CrashImage(chance, ++seed));
      ASSERT_TRUE(again.ok()) << again.status();
      ExpectEqual(**again, model);
    }
    nested = false;
  };
  absl::StatusOr<std::unique_ptr<IndexHarness>> opened = IndexHarness::Open(std::move(cut));
  ASSERT_TRUE(opened.ok()) << opened.status();
  ExpectEqual(**opened, model);
  EXPECT_GE(seed, 6u);
}

// Readers, writers, scans and snapshots beside merging that never stops. Each writer has keys of
// its own; readers see its values grow.
TEST(IndexMergeTest, ReadersAndWritersGoOn) {
  IndexHarness store(256 << 20, /*track=*/false);
  constexpr uint64_t kKeys = 6000;
  constexpr int kWriters = 2;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> progress[kWriters] = {};
  std::vector<std::thread> threads;
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      std::mt19937 random(static_cast<unsigned>(w));
      const auto key = [&](uint64_t n) { return Hashed(n * kWriters + static_cast<uint64_t>(w)); };
      for (uint64_t round = 1; round <= 3; ++round) {
        // Key 0 of each writer is never removed: its value only grows.
        for (uint64_t n = 0; n < kKeys; ++n) {
          ASSERT_TRUE(store.Put(key(n), std::to_string(round * kKeys + n)).ok());
          if (n % 64 != 0) continue;
          ASSERT_TRUE(store.Put(key(0), std::to_string(round * kKeys + n)).ok());
          progress[w].store(round * kKeys + n / 64 * 64, std::memory_order_release);
        }
        for (uint64_t n = 1; n < kKeys; ++n) {
          if (random() % 10 == 0 && round == 3) continue;
          absl::Status removed = store.Remove(key(n));
          ASSERT_TRUE(removed.ok()) << removed;
        }
      }
    });
  }
  std::vector<std::thread> others;
  others.emplace_back([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      for (int w = 0; w < kWriters; ++w) {
        const uint64_t least = progress[w].load(std::memory_order_acquire);
        if (least == 0) continue;
        absl::StatusOr<std::string> got = store.Get(Hashed(static_cast<uint64_t>(w)));
        ASSERT_TRUE(got.ok()) << got.status();
        ASSERT_GE(std::stoull(*got), least);
      }
    }
  });
  others.emplace_back([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      ASSERT_TRUE(store.Scan().ok());
      SnapshotEntry* snapshot = store.snapshots().Acquire();
      const Model first = ReadAt(store, *snapshot);
      EXPECT_TRUE(ReadAt(store, *snapshot) == first);
      store.snapshots().Release(snapshot);
    }
  });
  uint64_t freed = 0;
  others.emplace_back([&] {
    std::mt19937 random(5);
    while (!stop.load(std::memory_order_relaxed)) {
      const uint64_t part = random() % 7;
      absl::StatusOr<Index::RewriteResult> result =
          store.Rewrite([part](Address leaf) { return leaf / 1024 % 7 == part; });
      ASSERT_TRUE(result.ok()) << result.status();
      freed += result->leaves_freed;
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  for (std::thread& thread : others) thread.join();
  EXPECT_GT(freed, 100u);
  EXPECT_TRUE(store.Faults().empty());
}

}  // namespace
}  // namespace daxkv::kv
