// Power cuts: before each drain of a scripted run, images of what the medium may hold are built and
// opened again. Every acknowledged change must be there, the one in flight wholly or not at all.
#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

std::string Hashed(uint64_t n) { return "user" + std::to_string((n + 1) * 0x9e3779b97f4a7c15); }
std::string Ascending(uint64_t n) { return "row" + std::to_string(1000000000 + n); }

// What may be there for a key that is being changed: the value before or after; nullopt: absent.
using InFlight = std::map<std::string, std::optional<std::string>>;

std::optional<std::string> ValueIn(const Model& model, const std::string& key) {
  const auto it = model.find(key);
  return it == model.end() ? std::nullopt : std::optional<std::string>(it->second);
}

// What an opened image holds, if that is allowed.
void CheckImage(IndexHarness& store, const Model& acknowledged, const InFlight& in_flight,
                Model* found) {
  const std::vector<std::string> faults = store.Faults();
  ASSERT_TRUE(faults.empty()) << faults.size() << " faults, first: " << faults.front();
  absl::StatusOr<Model> scanned = store.Scan();
  ASSERT_TRUE(scanned.ok()) << scanned.status();
  *found = *scanned;
  Model expected = acknowledged;
  for (const auto& [key, after] : in_flight) {
    const std::optional<std::string> seen = ValueIn(*scanned, key);
    ASSERT_TRUE(seen == after || seen == ValueIn(acknowledged, key)) << key;
    if (seen.has_value()) {
      expected[key] = *seen;
    } else {
      expected.erase(key);
    }
  }
  ASSERT_TRUE(*scanned == expected) << scanned->size() << " records, expected " << expected.size();
  for (const auto& [key, value] : expected) {
    absl::StatusOr<std::string> got = store.Get(key);
    ASSERT_TRUE(got.ok()) << key << ": " << got.status();
    ASSERT_EQ(*got, value);
  }
  absl::StatusOr<uint64_t> count = store.index().Count();
  ASSERT_TRUE(count.ok()) << count.status();
  ASSERT_EQ(*count, expected.size());
}

// A store under a script, with images before its drains.
class CrashRun {
 public:
  explicit CrashRun(uint64_t size_bytes) : store_(size_bytes) {}

  // Images are made at drain number `first_drain` (from 1) of an operation and after it.
  void set_first_drain(int first_drain) { first_drain_ = first_drain; }
  void set_chances(std::vector<unsigned> chances) { chances_ = std::move(chances); }

  void Apply(const InFlight& group) {
    in_flight_ = group;
    drain_ = 0;
    store_.memory().before_drain = [this] {
      if (++drain_ >= first_drain_) CheckImages(store_.memory());
    };
    if (group.size() == 1) {
      const auto& [key, value] = *group.begin();
      if (value.has_value()) {
        ASSERT_TRUE(store_.Put(key, *value).ok());
      } else {
        const absl::Status status = store_.Remove(key);
        ASSERT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
      }
    } else {
      size_t done = 0;
      ASSERT_TRUE(store_.PutGroup({group.begin(), group.end()}, &done, nullptr).ok());
      ASSERT_EQ(done, group.size());
    }
    store_.memory().before_drain = nullptr;
    for (const auto& [key, value] : group) {
      if (value.has_value()) {
        acknowledged_[key] = *value;
      } else {
        acknowledged_.erase(key);
      }
    }
    in_flight_.clear();
  }

  void CheckImages(ArenaMemory& memory) {
    if (::testing::Test::HasFatalFailure()) return;
    for (const unsigned chance : chances_) {
      SCOPED_TRACE("chance " + std::to_string(chance) + " seed " + std::to_string(seed_ + 1));
      CheckOneImage(memory.CrashImage(chance, ++seed_));
    }
  }
  // The image itself, images of its recovery, and that it takes changes.
  void CheckOneImage(std::unique_ptr<ArenaMemory> memory) {
    ++images_;
    memory->reuse = false;  // Saves the wait for a grace period.
    if (recover_again_) {
      memory->before_drain = [this, arena = memory.get()] {
        ++recovery_images_;
        recover_again_ = false;
        CheckOneImage(arena->CrashImage(128, ++seed_));
        recover_again_ = true;
      };
    }
    absl::StatusOr<std::unique_ptr<IndexHarness>> opened = IndexHarness::Open(std::move(memory));
    ASSERT_TRUE(opened.ok()) << opened.status();
    IndexHarness& store = **opened;
    Model found;
    CheckImage(store, acknowledged_, in_flight_, &found);
    store.memory().before_drain = nullptr;
    if (::testing::Test::HasFatalFailure()) return;
    for (int i = 0; i < 12; ++i) {
      const std::string key =
          i % 2 == 0 ? Hashed(1000000 + seed_ + i) : Ascending(seed_ % 5000 + i);
      ASSERT_TRUE(store.Put(key, "later").ok());
      found[key] = "later";
    }
    Model ignored;
    CheckImage(store, found, {}, &ignored);
  }

  IndexHarness& store() { return store_; }
  const Model& acknowledged() const { return acknowledged_; }
  uint64_t images() const { return images_; }
  uint64_t recovery_images() const { return recovery_images_; }

 private:
  IndexHarness store_;
  Model acknowledged_;
  InFlight in_flight_;
  int first_drain_ = 1;
  int drain_ = 0;
  std::vector<unsigned> chances_ = {0, 128, 256};
  uint32_t seed_ = 0;
  uint64_t images_ = 0, recovery_images_ = 0;
  bool recover_again_ = true;
};

TEST(IndexCrashTest, EveryDrainOfPutsAndRemoves) {
  CrashRun run(8 << 20);
  std::mt19937 random(1);
  for (uint64_t i = 0; i < 900 && !HasFatalFailure(); ++i) {
    const uint64_t choice = random() % 10;
    const std::string key = Hashed(random() % 600);
    run.Apply(
        {{key, choice < 8 ? std::optional<std::string>("v" + std::to_string(i)) : std::nullopt}});
  }
  ExpectEqual(run.store(), run.acknowledged());
  EXPECT_GT(run.store().index().stats().leaves, 2u);
  EXPECT_GT(run.recovery_images(), 0u);
}

TEST(IndexCrashTest, EveryDrainOfAscendingPuts) {
  CrashRun run(8 << 20);
  for (uint64_t i = 0; i < 400 && !HasFatalFailure(); ++i) {
    run.Apply({{Ascending(i), std::to_string(i)}});
  }
  ExpectEqual(run.store(), run.acknowledged());
}

TEST(IndexCrashTest, EveryDrainOfGroups) {
  CrashRun run(16 << 20);
  run.set_chances({0, 40, 128, 128, 220, 256});
  std::mt19937 random(2);
  for (uint64_t i = 0; i < 40 && !HasFatalFailure(); ++i) {
    InFlight group;
    const uint64_t size = 2 + random() % 150;
    for (uint64_t j = 0; j < size; ++j) {
      const std::string key = i % 3 == 0 ? Ascending(i * 200 + j) : Hashed(random() % 2500);
      group[key] = random() % 5 == 0 ? std::nullopt
                                     : std::optional<std::string>(std::to_string(i * 1000 + j));
    }
    run.Apply(group);
  }
  ExpectEqual(run.store(), run.acknowledged());
  EXPECT_GT(run.store().index().stats().leaves, 20u);
}

// A process dies between the store that unlinks a record and its flush, then the power fails. Who
// has been told in between that the record is dead may have reused its slot, so the store must have
// become durable (with the next drain).
TEST(IndexCrashTest, WhatADeadProcessUnlinkedStaysUnlinked) {
  IndexHarness store(4 << 20);
  ASSERT_TRUE(store.Put("key", "value").ok());
  Address record = kNullAddress;
  ASSERT_TRUE(store.index()
                  .Find("key",
                        [&](const RecordView& found) {
                          record = found.address;
                          return absl::OkStatus();
                        })
                  .ok());
  std::unique_ptr<ArenaMemory> killed;
  store.memory().before_drain = [&] { killed = store.memory().KilledImage(); };
  ASSERT_TRUE(store.Remove("key").ok());

  absl::StatusOr<std::unique_ptr<IndexHarness>> second = IndexHarness::Open(std::move(killed));
  ASSERT_TRUE(second.ok()) << second.status();
  RecordView dead;
  dead.address = record;
  dead.key = "key";
  absl::StatusOr<bool> refers = (*second)->index().RefersToRecord(dead);
  ASSERT_TRUE(refers.ok() && !*refers) << refers.status();
  ASSERT_TRUE((*second)->memory().Drain().ok());

  absl::StatusOr<std::unique_ptr<IndexHarness>> third =
      IndexHarness::Open((*second)->memory().CrashImage(0, 1));
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_TRUE(absl::IsNotFound((*third)->Get("key").status()));
}

// Splits of inner nodes and the growth of a third level: only drains that such splits bring.
TEST(IndexCrashTest, InnerSplits) {
  CrashRun run(64 << 20);
  run.set_first_drain(1000);
  uint64_t n = 0;
  while (run.store().index().stats().leaves < 246) {
    InFlight group;
    for (int j = 0; j < 64; ++j) group[Hashed(n++)] = "v";
    run.Apply(group);
    ASSERT_FALSE(HasFatalFailure());
  }
  run.set_chances({0, 128});
  // A put drains once for its record, three times for a leaf's split, and then for what is above.
  run.set_first_drain(5);
  while (run.store().index().stats().leaves < 254 && !HasFatalFailure()) {
    run.Apply({{Hashed(n++), "v"}});
  }
  EXPECT_EQ(run.store().index().stats().height, 3u);
  EXPECT_GE(run.images(), 8u);
  ExpectEqual(run.store(), run.acknowledged());
}

}  // namespace
}  // namespace daxkv::kv
