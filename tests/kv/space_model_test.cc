// Space against a model, and under many threads: no slot is ever somebody else's.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/kv/space_testing.h"

namespace daxkv::kv {
namespace {

uint64_t RandomSize(std::mt19937& random) {
  switch (random() % 40) {
    case 0:
      return 33000 + random() % 3000000;
    case 1:
    case 2:
    case 3:
      return 24 + random() % 32000;
    default:
      return 24 + random() % 2000;
  }
}

// Random calls; the model is the set of slots that we own, with their sizes.
class SpaceModelTest : public testing::TestWithParam<unsigned> {};

TEST_P(SpaceModelTest, RandomCalls) {
  std::mt19937 random(GetParam());
  TestStore store;
  std::vector<std::pair<Address, uint64_t>> live;
  const auto overlaps = [&](Address address, uint64_t size_bytes) {
    return std::any_of(live.begin(), live.end(), [&](const auto& other) {
      return address < other.first + other.second && other.first < address + size_bytes;
    });
  };
  const auto audit = [&] {
    ASSERT_EQ(store.Audit(), std::vector<std::string>());
    ASSERT_EQ(store.stats().used_slots, live.size());
    for (const auto& [address, size_bytes] : live) {
      ASSERT_TRUE(store.Verify(address).ok()) << store.Verify(address);
    }
  };
  for (int step = 0; step < 2000; ++step) {
    const unsigned dice = random() % 1000;
    if (dice < 560) {
      const uint64_t size_bytes = RandomSize(random);
      const Address address = store.Put(size_bytes);
      ASSERT_FALSE(overlaps(address, size_bytes));
      live.emplace_back(address, size_bytes);
    } else if (dice < 960 && !live.empty()) {
      const size_t i = random() % live.size();
      store.Remove(live[i].first);
      live[i] = live.back();
      live.pop_back();
    } else if (dice < 970) {
      store.space().Abandon(store.NewRecord(RandomSize(random)));
    } else if (dice < 980) {
      store.space().Quiesce();
    } else if (dice < 984) {
      ASSERT_TRUE(store.space().Reclaim(absl::InfinitePast()).ok());
    } else if (dice < 987) {
      store.NewRecord(RandomSize(random));  // Leaks, unless...
      store.Crash();
      store.Open();
      if (random() % 2 == 0) audit();
    } else if (dice < 990) {
      store.Close();
      store.Open();
      if (random() % 2 == 0) audit();
    }
  }
  store.Crash();
  store.Open();
  audit();
}

INSTANTIATE_TEST_SUITE_P(Seeds, SpaceModelTest, testing::Range(0u, 4u));

// Threads put, verify and remove records with patterns of their own; readers look at slots that are
// just being removed; somebody reclaims all the time.
TEST(SpaceStressTest, NobodyGetsASlotTwice) {
  constexpr int kWriters = 3;
  TestStore store;
  // Published slots: readers find them here, as they would in an index.
  constexpr size_t kPlaces = 64;
  std::vector<std::atomic<Address>> places(kPlaces);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      std::mt19937 random(writer);
      while (!stop) {
        const uint64_t size_bytes =
            random() % 200 == 0 ? 40000 + random() % 100000 : 1000 + random() % 2 * 3000;
        const Address address = store.NewRecord(size_bytes);
        ASSERT_NE(address, kNullAddress);
        ASSERT_TRUE(store.index().Add(address)) << "slot " << address << " handed out twice";
        rcu::ReadGuard guard;
        const Address old = places[random() % kPlaces].exchange(address);
        if (old == kNullAddress) continue;
        ASSERT_TRUE(store.index().Remove(old));
        store.space().Retire(old, nullptr);
      }
    });
  }
  std::atomic<uint64_t> verified{0};
  threads.emplace_back([&] {
    std::mt19937 random(99);
    while (!stop) {
      dax::Pinned pinned;
      std::string_view value;
      {
        rcu::ReadGuard guard;
        const Address address = places[random() % kPlaces].load();
        if (address == kNullAddress) continue;
        ASSERT_NE(store.space().PresentUntil(address), kNullAddress);
        const absl::StatusOr<RecordView> record = ViewRecord(store.space(), address);
        ASSERT_TRUE(record.ok()) << record.status();
        ASSERT_TRUE(VerifyRecord(store.space(), *record).ok());
        // By now it may be unlinked and retired; while we are in the guard, it stays.
        for (unsigned i = random() % 32; i > 0; --i) std::this_thread::yield();
        const absl::StatusOr<RecordView> again = ViewRecord(store.space(), address);
        ASSERT_TRUE(again.ok()) << again.status();
        ASSERT_EQ(again->sequence, record->sequence);
        ASSERT_TRUE(VerifyRecord(store.space(), *again).ok());
        ++verified;
        if (random() % 8 != 0) continue;
        absl::StatusOr<dax::Pinned> taken =
            store.space().mapping().TryPin(address >> dax::kPageShift);
        if (!taken.ok()) continue;  // Just being truncated.
        pinned = *std::move(taken);
        value = record->value;
      }
      // The record may be dead by now; its extent is pinned, so its bytes stay.
      const std::string before(value);
      absl::SleepFor(absl::Milliseconds(random() % 20));
      ASSERT_TRUE(value == before);
    }
  });
  threads.emplace_back([&] {
    while (!stop) {
      ASSERT_TRUE(store.space().Reclaim(absl::InfinitePast()).ok());
      ASSERT_TRUE(store.space().stats().ok());
      absl::SleepFor(absl::Milliseconds(50));  // Seldom: slots shall be reused, too.
    }
  });
  absl::SleepFor(absl::Seconds(2));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(verified, 0u);
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  EXPECT_EQ(store.stats().used_slots, store.index().All().size());
}

}  // namespace
}  // namespace daxkv::kv
