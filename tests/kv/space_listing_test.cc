// What Space does after an open is bounded in every call: extents of earlier sessions are listed a
// window of the pool at a time. Measured by the descriptor words that are read, in a pool of many
// windows.
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "dax/pool.h"
#include "kv/space.h"
#include "tests/kv/space_testing.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kWindows = 18;
constexpr uint64_t kRecordSizeBytes = 4000;
constexpr size_t kRecordsPerWindow = 100;
// The windows listed, and those in which there may be room for a new extent.
constexpr uint64_t kMostRead = 2 * dax::Pool::kMostWindowsPerRun * dax::kWindowPages;

class SpaceListingTest : public ::testing::Test {
 protected:
  // In each window some records; the rest are runs that are not the space's, and hold no blocks.
  void SetUp() override {
    for (uint64_t window = 0; window < kWindows; ++window) {
      const std::vector<Address> some = store_.PutMany(kRecordsPerWindow, kRecordSizeBytes);
      records_.insert(records_.end(), some.begin(), some.end());
      const absl::StatusOr<dax::Run> filler =
          store_.pool().AllocateRun(dax::kWindowPages, /*kind=*/255, 0, 0);
      ASSERT_TRUE(filler.ok()) << filler.status();
      ASSERT_TRUE(store_.pool().CommitRun(*filler).ok());
    }
    pages_ = store_.pool().Stats()->segment_pages;
    ASSERT_GT(pages_, kMostRead);
  }
  void Reopen(bool crash) {
    crash ? store_.Crash() : store_.Close();
    store_.Open();
    ASSERT_EQ(store_.pool().descriptors_read(), 0u);
  }
  uint64_t read() { return store_.pool().descriptors_read(); }

  TestStore store_;
  std::vector<Address> records_;
  uint64_t pages_ = 0;
};

TEST_F(SpaceListingTest, TheFirstAllocationLooksAtFewWindows) {
  for (const bool crash : {false, true}) {
    Reopen(crash);
    // At once, before the worker thread has gone far.
    ASSERT_NE(store_.NewRecord(kRecordSizeBytes), kNullAddress);
    EXPECT_LE(read(), kMostRead);
    Reopen(crash);
    ASSERT_NE(store_.NewRecord(kMaxSlabSlotSizeBytes + 1), kNullAddress);
    EXPECT_LE(read(), kMostRead);
  }
}

TEST_F(SpaceListingTest, ShortSessionsUseTheExtentsOfThoseBefore) {
  store_.Put(kMaxSlabSlotSizeBytes / 3);  // Of another class.
  const uint64_t extents = store_.stats().slab_extents;
  for (int session = 0; session < 6; ++session) {
    Reopen(/*crash=*/false);
    store_.Put(kRecordSizeBytes);
    store_.Put(kMaxSlabSlotSizeBytes / 3);
  }
  EXPECT_LE(store_.stats().slab_extents, extents + 2);  // One more of each class, if it is full.
}

TEST_F(SpaceListingTest, RetiringAndReadingLookAtNone) {
  for (const bool crash : {false, true}) {
    Reopen(crash);
    const Address address = records_.back();
    records_.pop_back();
    EXPECT_TRUE(store_.Verify(address).ok());
    store_.Remove(address);
    store_.space().Quiesce();
    EXPECT_EQ(read(), 0u);
  }
  EXPECT_EQ(store_.Audit(), std::vector<std::string>());
}

TEST_F(SpaceListingTest, TheWorkerListsTheRest) {
  // Free slots in every window.
  std::set<Address> removed;
  for (size_t i = 0; i < records_.size(); i += 4) {
    removed.insert(records_[i]);
    store_.Remove(records_[i]);
  }
  store_.space().Quiesce();
  Reopen(/*crash=*/false);
  const uint64_t extents = store_.stats().slab_extents;
  const uint64_t read_by_stats = read();
  store_.Put(kRecordSizeBytes);
  // All windows for the space, and all for the pool.
  for (int i = 0; i < 1000 && read() - read_by_stats < 2 * pages_; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(read() - read_by_stats, 2 * pages_);
  // Most of the free slots are found by allocations, by what few of them load each time.
  for (size_t i = 1; i < removed.size() / 2; ++i) store_.Put(kRecordSizeBytes);
  EXPECT_LE(store_.stats().slab_extents, extents + 4);
  EXPECT_EQ(store_.Audit(), std::vector<std::string>());
}

TEST_F(SpaceListingTest, WhoNeedsAllHasAll) {
  for (const Address record : records_) store_.Remove(record);
  store_.space().Quiesce();
  for (const bool crash : {false, true}) {
    if (crash) records_ = store_.PutMany(10, kRecordSizeBytes);
    if (crash) {
      for (const Address record : records_) store_.index().Remove(record);  // And not retired.
    }
    Reopen(crash);
    const absl::StatusOr<ReclaimResult> reclaimed = store_.space().Reclaim(absl::InfinitePast());
    ASSERT_TRUE(reclaimed.ok()) << reclaimed.status();
    EXPECT_EQ(store_.stats().slab_extents, 0u);
    EXPECT_EQ(store_.stats().large_extents, 0u);
  }
}

}  // namespace
}  // namespace daxkv::kv
