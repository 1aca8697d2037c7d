// Space after crashes and clean closes: nothing leaks, nothing live is given away.
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "kv/extent_header.h"
#include "tests/kv/space_testing.h"

namespace daxkv::kv {
namespace {

// Every slot that the store hands out from now on, up to `count`, is none that lives.
void ExpectNoLiveSlotGivenAway(TestStore& store, uint64_t size_bytes, int count) {
  for (int i = 0; i < count; ++i) store.Put(size_bytes);  // Put checks.
}

TEST(SpaceCrashTest, DerivingFindsExactlyWhatLeaked) {
  TestStore store;
  std::set<Address> leaked;
  for (int i = 0; i < 3000; ++i) {
    const uint64_t size_bytes = 100 + i % 5 * 700;
    if (i % 3 == 0) {
      leaked.insert(store.NewRecord(size_bytes));
    } else {
      store.Put(size_bytes);
    }
  }
  leaked.insert(store.NewRecord(3 * kMiB));
  store.Put(kMiB);
  store.Crash();
  store.Open();
  EXPECT_EQ(store.stats().extents_not_derived,
            store.stats().slab_extents + store.stats().large_extents);
  EXPECT_EQ(store.index().questions(), 0u) << "open must not derive";
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  EXPECT_EQ(store.stats().used_slots, store.index().All().size());
  EXPECT_EQ(store.stats().extents_not_derived, 0u);
  EXPECT_EQ(store.stats().large_extents, 1u);
  EXPECT_GE(store.index().questions(), leaked.size() - 1);
  for (const Address address : store.index().All()) {
    ASSERT_TRUE(store.Verify(address).ok()) << store.Verify(address);
  }
  // The leaked slots come to use again, and no others.
  size_t reused = 0;
  for (int i = 0; i < 3000; ++i) reused += leaked.count(store.Put(100 + i % 5 * 700));
  EXPECT_GT(reused, leaked.size() / 2);
}

TEST(SpaceCrashTest, ACleanCloseKeepsTheMaps) {
  TestStore store;
  std::vector<Address> records;
  for (int i = 0; i < 3000; ++i) records.push_back(store.Put(100 + i % 5 * 700));
  records.push_back(store.Put(3 * kMiB));
  for (size_t i = 0; i < records.size(); i += 2) store.Remove(records[i]);
  const uint64_t extents = store.stats().slab_extents;
  store.Close();
  store.Open();
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  EXPECT_EQ(store.index().questions(), 0u);
  EXPECT_EQ(store.stats().used_slots, store.index().All().size());
  // Half is free and is used before any new extent.
  ExpectNoLiveSlotGivenAway(store, 100, 200);
  EXPECT_EQ(store.stats().slab_extents, extents);
}

TEST(SpaceCrashTest, ManyShortSessionsDoNotGrowTheStore) {
  TestStore store;
  store.Put(100);
  for (int session = 0; session < 20; ++session) {
    store.Close();
    store.Open();
    store.Put(100);
  }
  EXPECT_EQ(store.stats().slab_extents, 1u);
  EXPECT_EQ(store.index().questions(), 0u);
}

// E3: a map saved earlier must not hide what a session changed before it crashed.
TEST(SpaceCrashTest, MapsFromBeforeACrashDoNotCount) {
  TestStore store;
  std::vector<Address> records;
  for (int i = 0; i < 100; ++i) records.push_back(store.Put(1000));
  store.Close();

  store.Open();
  store.index().Remove(records[0]);  // Unlinked, and the crash comes before Retire.
  store.Crash();
  store.Open();
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  store.Close();

  store.Open();
  store.Remove(records[1]);  // Retired, but never processed or saved.
  store.Crash();
  store.Open();
  store.Close();  // A clean session that looks at nothing does not make old maps count again.
  store.Open();
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  store.Close();

  store.Open();
  const Address fresh = store.Put(1000);
  store.Crash();
  store.Open();
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  ExpectNoLiveSlotGivenAway(store, 1000, 100);
  EXPECT_TRUE(store.Verify(fresh).ok());
}

TEST(SpaceCrashTest, ATornMapIsDerivedAnew) {
  TestStore store;
  std::vector<Address> records;
  for (int i = 0; i < 50; ++i) records.push_back(store.Put(1000));
  store.Close();
  store.Open();
  const Address extent = records[0] & ~Address{0xffff};
  store.pool().At(extent + kMapOffset)[1] ^= 0x10;
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  EXPECT_GT(store.index().questions(), 0u);
}

TEST(SpaceCrashTest, RetiresWhileAnExtentIsUnderivedAreNotCountedTwice) {
  TestStore store;
  std::vector<Address> records;
  for (int i = 0; i < 2000; ++i) records.push_back(store.Put(500));
  const Address large = store.Put(kMiB);
  store.Crash();
  store.Open();
  std::atomic<bool> stop{false};
  std::thread remover([&] {
    for (size_t i = 0; i < records.size(); i += 2) store.Remove(records[i]);
    stop = true;
  });
  while (!stop) EXPECT_EQ(store.space().MakeRoom(), absl::OkStatus());
  remover.join();
  store.Remove(large);  // An underived large extent goes by its Retire alone.
  store.space().Quiesce();
  EXPECT_EQ(store.stats().large_extents, 0u);
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  ExpectNoLiveSlotGivenAway(store, 500, 2000);
  EXPECT_EQ(store.stats().used_slots, store.index().All().size());
}

TEST(SpaceCrashTest, DerivingSparesWhatAPinMayShow) {
  TestStore store;
  std::vector<Address> records;
  for (int i = 0; i < 10; ++i) records.push_back(store.Put(1000));
  store.Crash();
  store.Open();
  absl::StatusOr<dax::Pinned> pinned =
      store.space().mapping().Pin(records[0] >> dax::kPageShift, dax::Access::kRead);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  for (const Address record : records) store.Remove(record);
  store.space().Quiesce();
  const std::string before(pinned->data(), pinned->size_bytes());
  ASSERT_TRUE(store.space().MakeRoom().ok());
  for (int i = 0; i < 200; ++i) store.Put(1000);
  EXPECT_TRUE(before == std::string(pinned->data(), pinned->size_bytes()));
  pinned->Release();
  store.space().Quiesce();
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
}

TEST(SpaceCrashTest, WithoutAnOracleUnderivedExtentsStayAsTheyAre) {
  TestStore store;
  const Address record = store.Put(1000);
  store.Crash();
  store.Open();
  store.space().SetLivenessOracle(nullptr);
  EXPECT_EQ(store.space().Reclaim(absl::InfinitePast()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(store.Verify(record).ok());
  EXPECT_NE(store.Put(1000), record);
  store.space().SetLivenessOracle(&store.index());
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
}

// Each header field that is wrong is found at the first touch, and other extents go on.
TEST(SpaceCrashTest, DamagedHeadersAreDataLoss) {
  TestStore store;
  const Address slab = store.Put(1000);
  const Address large = store.Put(kMiB);
  const Address good = store.Put(5000);
  store.Close();
  for (const Address victim : {slab & ~Address{0xffff}, large - kLargeRecordOffset}) {
    for (unsigned offset = 0; offset < 32; ++offset) {
      store.Open();
      char* byte = store.pool().At(victim + offset);
      *byte ^= 0x41;
      const Address address = victim + (victim + kLargeRecordOffset == large ? 64 : 1024);
      const absl::Status status = store.space().FaultIn(address);
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << offset;
      EXPECT_NE(status.message().find(std::to_string(victim)), std::string::npos) << status;
      {
        rcu::ReadGuard guard;
        EXPECT_EQ(store.space().PresentUntil(address), kNullAddress);
      }
      EXPECT_EQ(store.Audit().size(), 1u) << offset;
      EXPECT_TRUE(store.Verify(good).ok());
      *byte ^= 0x41;
      store.Close();
    }
  }
  store.Open();
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
}

}  // namespace
}  // namespace daxkv::kv
