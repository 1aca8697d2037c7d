// In which order process durability stamps slots (kv/stamps.h, V8), whatever writebacks are done by
// whomever: a batch's delete after what it deleted, and none of a batch's records below the
// horizon.
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "dax/pool.h"
#include "kv/record.h"
#include "kv/space.h"
#include "kv/stamps.h"
#include "kv/writeback.h"
#include "tests/kv/space_testing.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

class SpaceStampTest : public testing::Test {
 protected:
  void SetUp() override { Open(/*all_stamped=*/true); }
  void TearDown() override { Crash(); }

  void Open(bool all_stamped) {
    dax::PoolOptions options;
    options.max_size_bytes = uint64_t{1} << 30;
    absl::StatusOr<std::unique_ptr<dax::Pool>> pool =
        dax::Pool::Open(directory_.path() + "/store", options);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    if (pool_->media().media_class != dax::MediaClass::kPageCache) GTEST_SKIP() << "no disk here";
    ASSERT_TRUE(pool_->SetDurability(dax::Durability::kProcess).ok());
    writeback_ = std::make_unique<Writeback>(
        pool_.get(), absl::Hours(1), Writeback::Hooks{[this] { return horizon_; }, [] {}, [] {}});
    absl::StatusOr<std::unique_ptr<Space>> space = Space::Open(pool_.get());
    ASSERT_TRUE(space.ok()) << space.status();
    space_ = *std::move(space);
    space_->SetLivenessOracle(&index_);
    space_->BeginProcessDurability(writeback_.get(), all_stamped);
  }
  void Crash() {
    if (writeback_ != nullptr) writeback_->Stop();
    space_.reset();
    writeback_.reset();
    pool_.reset();
  }

  Address Put(RecordKind kind, uint64_t sequence) {
    const absl::StatusOr<Address> address = space_->Allocate(SlotKind::kRecord, 100);
    EXPECT_TRUE(address.ok()) << address.status();
    WriteRecord(*space_, *address, kind, sequence, "key", "", kOfBatchFlag);
    EXPECT_TRUE(space_->Drain().ok());
    return *address;
  }
  // Of a record that was linked, as when its key was deleted.
  void Retire(Address address, bool was_linked) {
    rcu::ReadGuard guard;
    if (was_linked) space_->NoteRemoved();
    space_->Retire(address,
                   was_linked ? reinterpret_cast<uint64_t*>(pool_->root_area() + 512) : nullptr);
  }
  void Replace(Address address) {
    rcu::ReadGuard guard;
    space_->Retire(address, reinterpret_cast<uint64_t*>(pool_->root_area() + 512));
  }
  uint64_t UsedSlots() const {
    const absl::StatusOr<SpaceStats> stats = space_->stats();
    EXPECT_TRUE(stats.ok()) << stats.status();
    return stats->used_slots;
  }
  // A writeback of which the space is not told.
  void WriteBack() { ASSERT_TRUE(writeback_->Now().ok()); }
  bool IsStamped(Address address) const { return IsStampedDead(*pool_, address); }

  ScratchDirectory directory_{DiskDirectory()};
  ToyIndex index_;  // Nothing lives.
  uint64_t horizon_ = 1000;
  std::unique_ptr<dax::Pool> pool_;
  std::unique_ptr<Writeback> writeback_;
  std::unique_ptr<Space> space_;
};

TEST_F(SpaceStampTest, ADeleteGoesOnceTheStampOfWhatItDeletedIsDurable) {
  const Address value = Put(kValueRecord, 1);
  const Address deleted = Put(kDeleteRecord, 2);
  Retire(value, /*was_linked=*/true);
  Retire(deleted, /*was_linked=*/false);
  absl::SleepFor(absl::Milliseconds(50));  // The worker comes once, for the retires.
  space_->BeforeWriteback();
  for (int i = 0; i < 4; ++i) WriteBack();
  space_->BeforeWriteback();
  EXPECT_TRUE(IsStamped(value));
  EXPECT_FALSE(IsStamped(deleted));
  space_->BeforeWriteback();
  EXPECT_FALSE(IsStamped(deleted));
  WriteBack();
  space_->BeforeWriteback();
  EXPECT_TRUE(IsStamped(deleted));
}

// A process that dies takes its lists with it: extents are looked through for what it left.
TEST_F(SpaceStampTest, ADeleteOfASessionBeforeGoesLast) {
  const Address deleted = Put(kDeleteRecord, 2);
  const Address value = Put(kValueRecord, 1);
  WriteBack();
  Crash();
  ASSERT_NO_FATAL_FAILURE(Open(/*all_stamped=*/false));
  for (int i = 0; i < 2000 && !IsStamped(value); ++i) absl::SleepFor(absl::Milliseconds(5));
  ASSERT_TRUE(IsStamped(value));
  EXPECT_FALSE(IsStamped(deleted));
  // The worker may not have noticed yet that these were all.
  for (int i = 0; i < 2000 && !IsStamped(deleted); ++i) {
    absl::SleepFor(absl::Milliseconds(5));
    WriteBack();
    space_->BeforeWriteback();
  }
  EXPECT_TRUE(IsStamped(deleted));
}

TEST_F(SpaceStampTest, NothingOfABatchGoesBelowTheHorizon) {
  horizon_ = 4;
  const Address value = Put(kValueRecord, 5);
  const Address batch = Put(kBatchRecord, 5);
  Retire(value, /*was_linked=*/true);
  Retire(batch, /*was_linked=*/false);
  const auto go_on = [&] {
    for (int i = 0; i < 4; ++i) {
      space_->BeforeWriteback();
      WriteBack();
    }
    space_->BeforeWriteback();
  };
  go_on();
  EXPECT_FALSE(IsStamped(value));
  EXPECT_FALSE(IsStamped(batch));
  horizon_ = 5;
  go_on();
  EXPECT_TRUE(IsStamped(value));
  EXPECT_TRUE(IsStamped(batch));
}

TEST_F(SpaceStampTest, WhatWasReplacedIsFreeAfterOneWritebackAsItIs) {
  const Address value = Put(kValueRecord, 1);
  Replace(value);
  space_->BeforeWriteback();
  EXPECT_EQ(UsedSlots(), 1u);
  WriteBack();
  space_->BeforeWriteback();
  EXPECT_EQ(UsedSlots(), 0u);
  EXPECT_FALSE(IsStamped(value));
}

// Were its stamp not durable before the deleted version's, a cut would bring it back (V2).
TEST_F(SpaceStampTest, WhatWasReplacedLongAgoIsStampedBeforeAWritebackThatADeleteWaitsFor) {
  const Address first = Put(kValueRecord, 1), second = Put(kValueRecord, 2);
  Replace(first);
  space_->BeforeWriteback();
  WriteBack();
  space_->BeforeWriteback();
  ASSERT_FALSE(IsStamped(first));
  Retire(second, /*was_linked=*/true);
  space_->BeforeWriteback();
  EXPECT_TRUE(IsStamped(first));
  EXPECT_FALSE(IsStamped(second));
  WriteBack();
  space_->BeforeWriteback();
  EXPECT_TRUE(IsStamped(second));
}

TEST_F(SpaceStampTest, WhatWasReplacedAMomentBeforeADeleteIsStampedNoLaterThanWhatThatDeleted) {
  const Address first = Put(kValueRecord, 1), second = Put(kValueRecord, 2);
  Replace(first);
  space_->BeforeWriteback();
  Retire(second, /*was_linked=*/true);
  space_->BeforeWriteback();
  WriteBack();
  space_->BeforeWriteback();
  EXPECT_TRUE(IsStamped(first));
  EXPECT_TRUE(IsStamped(second));
  // That was all: what is replaced from now on is none of the delete's business.
  const Address third = Put(kValueRecord, 3);
  Replace(third);
  space_->BeforeWriteback();
  WriteBack();
  space_->BeforeWriteback();
  EXPECT_FALSE(IsStamped(third));
}

// Who gets it may take long to fill it, and a delete meanwhile does not look at used slots.
TEST_F(SpaceStampTest, ASlotThatIsHandedOutIsStamped) {
  const Address value = Put(kValueRecord, 1);
  Replace(value);
  space_->BeforeWriteback();
  WriteBack();
  space_->BeforeWriteback();
  // The extent's other free slots come first.
  for (int i = 0; i < 10000; ++i) {
    const absl::StatusOr<Address> address = space_->Allocate(SlotKind::kRecord, 100);
    ASSERT_TRUE(address.ok()) << address.status();
    ASSERT_TRUE(IsStamped(*address));
    if (*address == value) return;
  }
  FAIL() << "the slot was not handed out again";
}

TEST_F(SpaceStampTest, ACloseLeavesNothingWithoutAStamp) {
  const Address value = Put(kValueRecord, 1), kept = Put(kValueRecord, 2);
  Replace(value);
  space_->BeforeWriteback();
  WriteBack();
  space_->BeforeWriteback();
  ASSERT_FALSE(IsStamped(value));
  EXPECT_TRUE(space_->Close().ok());
  EXPECT_TRUE(IsStamped(value));
  EXPECT_FALSE(IsStamped(kept));
}

TEST_F(SpaceStampTest, TheHorizonNeverGoesBack) {
  WriteBack();
  EXPECT_EQ(writeback_->horizon(), 1000u);
  horizon_ = 10;
  WriteBack();
  EXPECT_EQ(writeback_->horizon(), 1000u);
  uint64_t stored;
  std::memcpy(&stored, pool_->root_area() + offsetof(Superblock, horizon), sizeof(stored));
  EXPECT_EQ(stored, 1000u);
}

}  // namespace
}  // namespace daxkv::kv
