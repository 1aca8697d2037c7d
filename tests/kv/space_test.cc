// Space on real pools: slots come and go, and never too early.
#include "kv/space.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/kv/space_testing.h"

namespace daxkv::kv {
namespace {

// On both kinds of file system that a machine surely has.
class SpaceTest : public testing::TestWithParam<const char*> {
 protected:
  static std::string Parent() {
    return std::string(GetParam()) == "memory" ? kMemoryFileSystem : DiskDirectory();
  }
  TestStore store_{Parent()};
};

INSTANTIATE_TEST_SUITE_P(Media, SpaceTest, testing::Values("memory", "disk"),
                         [](const auto& info) { return std::string(info.param); });

uint64_t PageOf(Address address) { return address >> dax::kPageShift; }

bool WaitUntil(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// The first extent of a record class, filled up: its slots in the order handed out.
std::vector<Address> FillFirstExtent(TestStore& store, uint64_t size_bytes) {
  std::vector<Address> slots = {store.Put(size_bytes)};
  const uint16_t size_class = RecordClass(size_bytes);
  const uint32_t count = SlabLayout(size_class, SmallRunPages(size_class)).slot_count;
  while (slots.size() < count) slots.push_back(store.Put(size_bytes));
  return slots;
}

TEST_P(SpaceTest, SlotsAreAlignedPresentAndApart) {
  Address end_of_last = 0;
  for (const uint64_t size_bytes : {24, 33, 100, 1000, 1024, 5000, 32768}) {
    const Address address = store_.Put(size_bytes);
    EXPECT_EQ(address % 16, 0u);
    const SlotLayout layout =
        SlabLayout(RecordClass(size_bytes), SmallRunPages(RecordClass(size_bytes)));
    rcu::ReadGuard guard;
    EXPECT_GE(store_.space().PresentUntil(address), address + layout.slot_size_bytes);
    EXPECT_NE(address, end_of_last);
    end_of_last = address;
  }
  const absl::StatusOr<Address> leaf = store_.space().Allocate(SlotKind::kLeaf, 0);
  ASSERT_TRUE(leaf.ok()) << leaf.status();
  EXPECT_EQ(*leaf % kLeafSizeBytes, 0u);
  const absl::StatusOr<Address> inner = store_.space().Allocate(SlotKind::kInner, 0);
  ASSERT_TRUE(inner.ok()) << inner.status();
  EXPECT_EQ(*inner % kInnerSizeBytes, 0u);
  EXPECT_EQ(store_.stats().used_slots, 9u);
}

TEST_P(SpaceTest, SizesOutOfRangeAreRefused) {
  for (const uint64_t size_bytes : {uint64_t{0}, sizeof(RecordHeader) - 1,
                                    RecordSizeBytes(kMaxKeySizeBytes, kMaxValueSizeBytes) + 1}) {
    EXPECT_EQ(store_.space().Allocate(SlotKind::kRecord, size_bytes).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_P(SpaceTest, AFewRecordsNeedAFewSmallExtents) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 10; ++i) threads.emplace_back([this] { store_.Put(100); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_.stats().slab_extents, 1u);
  EXPECT_EQ(store_.stats().slab_size_bytes, 64u << 10);
}

TEST_P(SpaceTest, ExtentsGrowWithTheirClass) {
  // Each extent is at most an eighth of what the class has then, and more than a sixteenth.
  uint64_t records = 0;
  SpaceStats before = store_.stats();
  while (before.slab_size_bytes < 4 * kMiB) {
    for (int i = 0; i < 8; ++i, ++records) store_.Put(4000);
    const SpaceStats after = store_.stats();
    const uint64_t grown_bytes = after.slab_size_bytes - before.slab_size_bytes;
    EXPECT_LE(after.slab_extents - before.slab_extents, 1u);
    if (grown_bytes > 0) {
      EXPECT_GT(grown_bytes * 16, before.slab_size_bytes);
      EXPECT_LE(grown_bytes, std::max<uint64_t>(64 << 10, before.slab_size_bytes / 8));
    }
    before = after;
  }
  EXPECT_EQ(store_.stats().used_slots, records);
}

TEST_P(SpaceTest, ARetiredSlotWaitsForReaders) {
  const std::vector<Address> slots = FillFirstExtent(store_, 4000);
  const Address dead = slots[3];
  std::atomic<bool> quiet{false};
  std::thread quiescer;
  {
    rcu::ReadGuard guard;
    store_.Remove(dead);
    quiescer = std::thread([this, &quiet] {
      store_.space().Quiesce();
      quiet = true;
    });
    std::thread allocator([this, dead] {
      for (int i = 0; i < 40; ++i) EXPECT_NE(store_.Put(4000), dead);
    });
    allocator.join();
    EXPECT_FALSE(quiet);
    EXPECT_EQ(store_.stats().retired_slots, 1u);
  }
  quiescer.join();
  EXPECT_EQ(store_.stats().retired_slots, 0u);
  // Nearly full extents are taken up again only when all else fails; so free the rest, too.
  for (const Address slot : slots) {
    if (slot != dead) store_.Remove(slot);
  }
  store_.space().Quiesce();
  bool came_back = false;
  for (int i = 0; i < 100 && !came_back; ++i) came_back = store_.Put(4000) == dead;
  EXPECT_TRUE(came_back);
}

TEST_P(SpaceTest, ARetiredSlotWaitsForPins) {
  const std::vector<Address> slots = FillFirstExtent(store_, 4000);
  absl::StatusOr<dax::Pinned> pinned =
      store_.space().mapping().Pin(PageOf(slots[0]), dax::Access::kRead);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  const std::string before(pinned->data(), pinned->size_bytes());
  for (const Address slot : slots) store_.Remove(slot);
  store_.space().Quiesce();
  EXPECT_EQ(store_.stats().retired_slots, slots.size());
  const absl::StatusOr<ReclaimResult> reclaimed = store_.space().Reclaim(absl::InfinitePast());
  ASSERT_TRUE(reclaimed.ok()) << reclaimed.status();
  EXPECT_EQ(reclaimed->extents_pinned, 1u);
  EXPECT_EQ(reclaimed->extents_freed, 0u);
  for (size_t i = 0; i < slots.size(); ++i) store_.Put(4000);
  EXPECT_TRUE(std::string(pinned->data(), pinned->size_bytes()) == before);
  pinned->Release();
  store_.space().Quiesce();
  EXPECT_EQ(store_.stats().retired_slots, 0u);
  EXPECT_TRUE(store_.Audit().empty());
}

TEST_P(SpaceTest, SlotsBehindAPinComeBackByThemselves) {
  const std::vector<Address> slots = FillFirstExtent(store_, 4000);
  absl::StatusOr<dax::Pinned> pinned =
      store_.space().mapping().Pin(PageOf(slots[0]), dax::Access::kRead);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  store_.Remove(slots[0]);
  store_.space().Quiesce();
  EXPECT_EQ(store_.stats().retired_slots, 1u);
  pinned->Release();
  EXPECT_TRUE(WaitUntil([this] { return store_.stats().retired_slots == 0; }));
}

TEST_P(SpaceTest, AnAbandonedSlotIsFreeAtOnce) {
  const Address address = store_.NewRecord(100);
  EXPECT_EQ(store_.stats().used_slots, 1u);
  store_.space().Abandon(address);
  EXPECT_EQ(store_.stats().used_slots, 0u);
  const Address large = store_.NewRecord(kMiB);
  store_.space().Abandon(large);
  store_.space().Quiesce();
  EXPECT_EQ(store_.stats().large_extents, 0u);
}

TEST_P(SpaceTest, ReclaimGivesBlocksBack) {
  const uint64_t empty_bytes = store_.file_blocks_bytes();
  const std::vector<Address> slots = store_.PutMany(8000, 1000);
  const uint64_t full_bytes = store_.file_blocks_bytes();
  EXPECT_GT(full_bytes, empty_bytes + 7 * kMiB);
  for (const Address slot : slots) store_.Remove(slot);
  const absl::StatusOr<ReclaimResult> reclaimed = store_.space().Reclaim(absl::InfinitePast());
  ASSERT_TRUE(reclaimed.ok()) << reclaimed.status();
  EXPECT_GE(reclaimed->size_bytes_freed, 7 * kMiB);
  EXPECT_EQ(store_.stats().slab_extents, 0u);
  ASSERT_TRUE(store_.pool().Trim().ok());
  EXPECT_LT(store_.file_blocks_bytes(), empty_bytes + kMiB);
  store_.Put(1000);
  EXPECT_TRUE(store_.Audit().empty());
}

TEST_P(SpaceTest, APinnedExtentAloneStays) {
  const std::vector<Address> slots = store_.PutMany(8000, 1000);
  const Address kept = slots[4000];
  absl::StatusOr<dax::Pinned> pinned =
      store_.space().mapping().Pin(PageOf(kept), dax::Access::kRead);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  const std::string before(pinned->data(), pinned->size_bytes());
  for (const Address slot : slots) store_.Remove(slot);
  absl::StatusOr<ReclaimResult> reclaimed =
      store_.space().Reclaim(absl::Now() + absl::Milliseconds(20));
  ASSERT_TRUE(reclaimed.ok()) << reclaimed.status();
  EXPECT_EQ(reclaimed->extents_pinned, 1u);
  EXPECT_EQ(store_.stats().slab_extents, 1u);
  EXPECT_TRUE(std::string(pinned->data(), pinned->size_bytes()) == before);
  pinned->Release();
  reclaimed = store_.space().Reclaim(absl::InfinitePast());
  ASSERT_TRUE(reclaimed.ok()) << reclaimed.status();
  EXPECT_EQ(store_.stats().slab_extents, 0u);
}

TEST_P(SpaceTest, LargeRecordsArePresentAsAWholeAndComeBackByThemselves) {
  const uint64_t empty_bytes = store_.file_blocks_bytes();
  for (const uint64_t size_bytes : {uint64_t{32769}, uint64_t{100000}, 2 * kMiB, 2 * kMiB + 1,
                                    RecordSizeBytes(kMaxKeySizeBytes, 64 * kMiB)}) {
    const Address address = store_.Put(size_bytes);
    {
      rcu::ReadGuard guard;
      EXPECT_EQ(store_.space().PresentUntil(address), address + size_bytes);
    }
    EXPECT_TRUE(store_.Verify(address).ok()) << store_.Verify(address);
    EXPECT_EQ(store_.stats().large_extents, 1u);
    store_.Close();
    store_.Open();
    {
      rcu::ReadGuard guard;
      EXPECT_EQ(store_.space().PresentUntil(address), kNullAddress);
    }
    EXPECT_TRUE(store_.Verify(address).ok()) << store_.Verify(address);
    store_.Remove(address);
    EXPECT_TRUE(WaitUntil([this] { return store_.stats().large_extents == 0; }));
    EXPECT_EQ(store_.space().FaultIn(address).code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_TRUE(WaitUntil([&] { return store_.file_blocks_bytes() < empty_bytes + kMiB; }));
}

TEST_P(SpaceTest, TheRestOfALargeRunStaysAHole) {
  store_.Put(100);
  ASSERT_TRUE(store_.pool().Trim().ok());
  const uint64_t before = store_.file_blocks_bytes();
  store_.Put(kMiB + 1);  // A run of 2 MiB.
  ASSERT_TRUE(store_.pool().Trim().ok());
  EXPECT_LT(store_.file_blocks_bytes(), before + kMiB + (128 << 10));
}

TEST_P(SpaceTest, APinnedLargeRecordKeepsItsBytes) {
  const Address address = store_.Put(5 * kMiB);
  absl::StatusOr<dax::Pinned> pinned =
      store_.space().mapping().Pin(PageOf(address) + dax::kHugePages, dax::Access::kRead);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  const std::string before(pinned->data(), pinned->size_bytes());
  store_.Remove(address);
  store_.space().Quiesce();
  for (int i = 0; i < 4; ++i) store_.Put(5 * kMiB);
  EXPECT_EQ(store_.stats().large_extents, 5u);
  EXPECT_TRUE(std::string(pinned->data(), pinned->size_bytes()) == before);
  pinned->Release();
  EXPECT_TRUE(WaitUntil([this] { return store_.stats().large_extents == 4; }));
}

TEST_P(SpaceTest, WrongAddressesHarmNothing) {
  const Address address = store_.Put(100);
  const Address large = store_.Put(3 * kMiB);
  for (const Address wrong :
       {kNullAddress, Address{64}, address + 1, address + 16, address & ~Address{4095}, large + 64,
        (large & ~Address{4095}) + 2 * kMiB + 64, kAddressMask, kAddressMask + 1, ~Address{0},
        uint64_t{1} << 40}) {
    {
      rcu::ReadGuard guard;
      const Address until = store_.space().PresentUntil(wrong);
      EXPECT_TRUE(until == kNullAddress || until > wrong) << wrong;
    }
    store_.space().Retire(wrong, nullptr);
    store_.space().Abandon(wrong);
  }
  store_.space().Quiesce();
  for (const Address nowhere : {kNullAddress, kAddressMask, kAddressMask + 1, ~Address{0}}) {
    EXPECT_EQ(store_.space().FaultIn(nowhere).code(), absl::StatusCode::kDataLoss) << nowhere;
    rcu::ReadGuard guard;
    EXPECT_EQ(store_.space().PresentUntil(nowhere), kNullAddress) << nowhere;
  }
  EXPECT_TRUE(store_.Audit().empty());
  EXPECT_EQ(store_.stats().used_slots, 2u);
}

// A value may hold anything, also what looks like the header of a large extent.
TEST_P(SpaceTest, AValueThatLooksLikeAHeaderIsNoHeader) {
  const Address large = store_.Put(5 * kMiB);
  const Address second_block = (large & ~Address{4095}) + 2 * kMiB;
  ExtentHeader forged = {};
  forged.magic = kLargeMagic;
  forged.self = second_block;
  forged.slot_size_bytes = 1 << 30;
  std::memcpy(store_.space().At(second_block), &forged, sizeof(forged));
  rcu::ReadGuard guard;
  EXPECT_EQ(store_.space().PresentUntil(second_block + kLargeRecordOffset),
            second_block + 2 * kMiB);
}

// Puts until the pool is full, also after making room.
std::vector<Address> FillPool(TestStore& store, uint64_t size_bytes) {
  std::vector<Address> slots;
  for (;;) {
    Address address = store.NewRecord(size_bytes);
    if (address == kNullAddress) {
      EXPECT_TRUE(store.space().MakeRoom().ok());
      address = store.NewRecord(size_bytes);
      if (address == kNullAddress) return slots;
    }
    slots.push_back(address);
  }
}

TEST(SpaceFullTest, AFullPoolSaysSoAndRecovers) {
  TestStore store(kMemoryFileSystem, 32 * kMiB);
  std::vector<Address> slots = FillPool(store, 1000);
  EXPECT_GT(slots.size(), 10000u);
  for (const Address slot : slots) {
    ASSERT_TRUE(store.index().Add(slot)) << "handed out twice";
    ASSERT_TRUE(store.Verify(slot).ok()) << store.Verify(slot);
  }
  for (const uint64_t size_bytes : {uint64_t{50}, 2 * kMiB}) {
    EXPECT_EQ(store.space().Allocate(SlotKind::kRecord, size_bytes).status().code(),
              absl::StatusCode::kResourceExhausted);
  }
  // One dead slot is room for one record, and dead extents are room for other sizes.
  store.Remove(slots.back());
  slots.pop_back();
  ASSERT_TRUE(store.space().MakeRoom().ok());
  slots.push_back(store.Put(1000));
  EXPECT_EQ(store.NewRecord(1000), kNullAddress);
  for (const Address slot : slots) store.Remove(slot);
  ASSERT_TRUE(store.space().MakeRoom().ok());
  store.Put(2 * kMiB);
  store.Put(50);
  EXPECT_TRUE(store.space().Allocate(SlotKind::kLeaf, 0).ok());
}

TEST(SpaceFullTest, TheWorkerMakesRoomWithoutBeingAsked) {
  TestStore store(kMemoryFileSystem, 32 * kMiB);
  for (const Address slot : FillPool(store, 1000)) {
    store.index().Add(slot);
    store.Remove(slot);
  }
  EXPECT_TRUE(WaitUntil([&] { return store.NewRecord(2 * kMiB) != kNullAddress; }));
}

TEST(SpaceFullTest, AfterACrashAFullPoolFindsWhatLeaked) {
  TestStore store(kMemoryFileSystem, 32 * kMiB);
  const size_t slots = FillPool(store, 1000).size();
  store.Crash();
  store.Open();
  const size_t again = FillPool(store, 1000).size();
  EXPECT_GE(again, slots);
}

}  // namespace
}  // namespace daxkv::kv
