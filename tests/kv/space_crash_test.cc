// Space after crashes and clean closes: nothing leaks, nothing live is given away.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <random>
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

// A child puts and removes from several threads and is killed; the "index" lies in shared memory.
struct SharedIndex {
  static constexpr size_t kEntries = 1 << 18;
  std::atomic<uint64_t> count;
  std::atomic<Address> entries[kEntries];  // Address, or its complement once removed.
};

void ChildThread(Space& space, SharedIndex& shared, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint64_t> mine;
  for (;;) {
    if (mine.size() > 300 || (!mine.empty() && random() % 3 == 0)) {
      const size_t i = random() % mine.size();
      rcu::ReadGuard guard;
      const Address address = shared.entries[mine[i]].load();
      shared.entries[mine[i]].store(~address);
      space.Retire(address);
      mine[i] = mine.back();
      mine.pop_back();
      continue;
    }
    const uint64_t size_bytes =
        random() % 20 == 0 ? 40000 + random() % 100000 : 30 + random() % 3000;
    const absl::StatusOr<Address> address = space.Allocate(SlotKind::kRecord, size_bytes);
    if (!address.ok()) _exit(2);
    WriteRecord(space, *address, kValueRecord, 1, "key", std::string(size_bytes - 27, 'v'));
    const uint64_t entry = shared.count.fetch_add(1);
    if (entry >= SharedIndex::kEntries) pause();
    shared.entries[entry].store(*address);
    mine.push_back(entry);
  }
}

TEST(SpaceCrashTest, KilledProcessesLeakNothing) {
  void* memory =
      mmap(nullptr, sizeof(SharedIndex), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* shared = new (memory) SharedIndex();
  TestStore store;
  store.Close();
  std::mt19937 random(7);
  for (int round = 0; round < 10; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      store.Open();
      // Some children start with an audit, others meet underived extents while they work.
      if (round % 2 == 0 && !store.Audit().empty()) _exit(3);
      std::thread other([&] { ChildThread(store.space(), *shared, 2 * round); });
      ChildThread(store.space(), *shared, 2 * round + 1);
    }
    usleep(30000 + random() % 100000);
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit status " << WEXITSTATUS(status);
    // What the next session's index holds. A word stored before the kill counts, whole.
    for (const Address address : store.index().All()) store.index().Remove(address);
    const uint64_t count = std::min<uint64_t>(shared->count, SharedIndex::kEntries);
    for (uint64_t i = 0; i < count; ++i) {
      const Address address = shared->entries[i].load();
      if (address != 0 && address <= kAddressMask) {
        ASSERT_TRUE(store.index().Add(address)) << "two live records in slot " << address;
      }
    }
    store.Open();
    ASSERT_EQ(store.Audit(), std::vector<std::string>());
    ASSERT_EQ(store.stats().used_slots, store.index().All().size());
    for (const Address address : store.index().All()) {
      ASSERT_TRUE(store.Verify(address).ok()) << store.Verify(address);
    }
    if (round % 3 == 0) {
      store.Close();
    } else {
      store.Crash();
    }
  }
  munmap(memory, sizeof(SharedIndex));
}

}  // namespace
}  // namespace daxkv::kv
