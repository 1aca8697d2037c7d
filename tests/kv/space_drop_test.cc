// The end of a keyspace's space: its extents go whatever they hold, pinned ones last, and frame
// locks arrive for a mapping that dies (the case of the thread of 2018 about
// dax_lock_mapping_entry).
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dax/mapping.h"
#include "tests/kv/space_testing.h"

namespace daxkv::kv {
namespace {

constexpr KeyspaceId kOther = 5;

class SpaceDropTest : public testing::Test {
 protected:
  SpaceDropTest() { OpenOther(); }

  void OpenOther() {
    absl::StatusOr<std::unique_ptr<Space>> space = Space::Open(&store_.pool(), kOther);
    ASSERT_TRUE(space.ok()) << space.status();
    other_ = *std::move(space);
  }
  Address Put(Space& space, uint64_t size_bytes, char filling) {
    const absl::StatusOr<Address> address = space.Allocate(SlotKind::kRecord, size_bytes);
    EXPECT_TRUE(address.ok()) << address.status();
    WriteRecord(space, *address, kValueRecord, 1, "k",
                std::string(size_bytes - RecordSizeBytes(1, 0), filling));
    EXPECT_TRUE(space.Drain().ok());
    return *address;
  }
  // Extents of the other keyspace that the pool has.
  uint64_t CountExtents() {
    const absl::StatusOr<SpaceStats> stats = other_->stats();
    EXPECT_TRUE(stats.ok());
    return stats->slab_extents + stats->large_extents;
  }
  // `locked`: somebody may have an extent locked, now and then.
  void DropAll(bool locked = false) {
    absl::StatusOr<Space::DropResult> result;
    do {
      result = other_->Drop(8);
      ASSERT_TRUE(result.ok()) << result.status();
      if (!locked) {
        ASSERT_EQ(result->extents_pinned, 0u);
      }
    } while (result->extents_left > 0);
  }

  TestStore store_;
  std::unique_ptr<Space> other_;
};

TEST_F(SpaceDropTest, SpacesOfAPoolKeepToTheirOwn) {
  const Address mine = store_.Put(100);
  const Address others = Put(*other_, 100, 'o');
  const Address large = Put(*other_, 100000, 'o');
  EXPECT_TRUE(absl::IsDataLoss(store_.space().FaultIn(others)));
  EXPECT_TRUE(absl::IsDataLoss(store_.space().FaultIn(large)));
  EXPECT_TRUE(absl::IsDataLoss(other_->FaultIn(mine)));
  EXPECT_EQ(store_.stats().slab_extents, 1u);
  EXPECT_EQ(CountExtents(), 2u);
  {
    // A wrong address is passed over.
    rcu::ReadGuard guard;
    store_.space().Retire(others, nullptr);
    other_->Retire(mine, nullptr);
  }
  store_.space().Quiesce();
  other_->Quiesce();
  EXPECT_TRUE(store_.Verify(mine).ok());
  EXPECT_TRUE(store_.Audit().empty());
}

TEST_F(SpaceDropTest, GivesEverythingBackAndNothingElse) {
  const std::vector<Address> mine = store_.PutMany(500, 1000);
  const uint64_t blocks_before = store_.file_blocks_bytes();
  for (int i = 0; i < 3000; ++i) Put(*other_, 100 + i, 'o');
  for (int i = 0; i < 5; ++i) Put(*other_, 3 << 20, 'o');
  EXPECT_GT(store_.file_blocks_bytes(), blocks_before + (18 << 20));
  DropAll();
  EXPECT_EQ(CountExtents(), 0u);
  // But for what grew with the pool.
  EXPECT_LE(store_.file_blocks_bytes(), blocks_before + (512 << 10));
  for (const Address address : mine) ASSERT_TRUE(store_.Verify(address).ok());
  EXPECT_TRUE(store_.Audit().empty());
}

// Extents that no session has looked at, and ones that are not committed yet.
TEST_F(SpaceDropTest, GivesBackWhatItNeverTouched) {
  for (int i = 0; i < 300; ++i) Put(*other_, 1000 + i, 'o');
  other_.reset();
  OpenOther();
  ASSERT_TRUE(other_->Allocate(SlotKind::kRecord, 20000).ok());
  DropAll();
  EXPECT_EQ(CountExtents(), 0u);
}

TEST_F(SpaceDropTest, LeavesPinnedExtents) {
  const Address pinned_record = Put(*other_, 50000, 'p');
  for (int i = 0; i < 10; ++i) Put(*other_, 50000, 'o');
  const std::string bytes(other_->At(pinned_record), 50000);
  {
    const absl::StatusOr<dax::Pinned> pin =
        other_->mapping().Pin(pinned_record >> dax::kPageShift, dax::Access::kRead);
    ASSERT_TRUE(pin.ok()) << pin.status();
    for (int i = 0; i < 3; ++i) {
      const absl::StatusOr<Space::DropResult> result = other_->Drop(1000);
      ASSERT_TRUE(result.ok());
      EXPECT_EQ(result->extents_left, 1u);
      EXPECT_EQ(result->extents_pinned, 1u);
    }
    store_.PutMany(300, 50000);  // Takes free pages, but not these.
    EXPECT_TRUE(std::string(other_->At(pinned_record), 50000) == bytes);
  }
  DropAll();
  EXPECT_EQ(CountExtents(), 0u);
}

// Frame locks come as media errors do: from anywhere, by frame, at any time. They find the extent
// locked, or gone, or a mapping that is being destroyed; and they hold the truncation up, no more.
TEST_F(SpaceDropTest, FrameLocksArriveWhileTheMappingDies) {
  constexpr int kRounds = 8;
  std::vector<std::atomic<uint64_t>> frames(64);
  std::atomic<uint64_t> locked{0}, not_found{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = t; !stop; ++i) {
        const uint64_t frame = frames[i % frames.size()].load(std::memory_order_relaxed);
        if (frame == 0) continue;
        absl::StatusOr<dax::EntryLock> lock = dax::Mapping::LockFrame(&store_.pool(), frame);
        if (!lock.ok()) {
          EXPECT_TRUE(absl::IsNotFound(lock.status())) << lock.status();
          ++not_found;
          continue;
        }
        const dax::Extent& extent = lock->extent();
        EXPECT_LE(extent.first_frame, frame);
        EXPECT_LT(frame, extent.first_frame + extent.pages());
        if (i % 7 == 0) std::this_thread::yield();
        ++locked;
      }
    });
  }
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < frames.size(); ++i) {
      const Address address = Put(*other_, i % 2 == 0 ? 40000 : 500 * i + 100, 'o');
      frames[i].store(address >> dax::kPageShift, std::memory_order_relaxed);
    }
    const uint64_t seen = locked.load();
    while (locked.load() < seen + 10) std::this_thread::yield();
    if (round % 2 == 0) DropAll(/*locked=*/true);
    // In the other rounds frames still lead to the mapping when it dies.
    other_.reset();
    OpenOther();
    DropAll(/*locked=*/true);
    other_.reset();
    OpenOther();
    EXPECT_EQ(CountExtents(), 0u);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(locked.load(), 0u);
  EXPECT_GT(not_found.load(), 0u);
  EXPECT_EQ(CountExtents(), 0u);
}

}  // namespace
}  // namespace daxkv::kv
