// What histories say of records whose addresses were used before.
#include "kv/leaf_history.h"

#include "gtest/gtest.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

RecordView RecordOf(Address address, uint64_t sequence) {
  RecordView record;
  record.address = address;
  record.sequence = sequence;
  return record;
}

// The late record has gone, a snapshot keeps its late version here, and compaction copies an older
// record of the same leaf to its address: that is there as early as ever.
TEST(LeafHistoryTest, LateVersionTellsOnlyOfItsOwnRecord) {
  constexpr Address kLeaf = 4 * kLeafSizeBytes, kRecord = 4096;
  LeafHistories histories;
  ASSERT_TRUE(histories.Pin(kLeaf).ok());
  auto* late = new Version;
  late->kind = Version::Kind::kLate;
  late->since = 20;
  late->until = 30;
  late->record = kRecord;
  histories.Add(kLeaf, late);
  {
    rcu::ReadGuard guard;
    const LeafHistory* history = histories.Find(kLeaf);
    ASSERT_NE(history, nullptr);
    EXPECT_EQ(history->BeginOf(RecordOf(kRecord, 20)), 30u);
    EXPECT_EQ(history->BeginOf(RecordOf(kRecord, 3)), 3u);
    EXPECT_EQ(history->BeginOf(RecordOf(kRecord, 40)), 40u);
    EXPECT_EQ(history->BeginOf(RecordOf(kRecord + 64, 20)), 20u);
  }
  histories.Remove(late);
  histories.Unpin(kLeaf);
}

// A split that saw no snapshot has its left leaf's history pinned by nobody; versions of a snapshot
// that is being released move all the same.
TEST(LeafHistoryTest, GoesWithTheLastVersionThatMovesAway) {
  constexpr Address kLeft = 4 * kLeafSizeBytes, kRight = 5 * kLeafSizeBytes;
  LeafHistories histories;
  ASSERT_TRUE(histories.Pin(kLeft).ok());
  auto* version = new Version;
  version->kind = Version::Kind::kSuperseded;
  version->since = 20;
  version->until = 30;
  version->record = 4096;
  histories.Add(kLeft, version);
  histories.Unpin(kLeft);
  ASSERT_TRUE(histories.Pin(kRight).ok());
  histories.ForEachOf(kLeft, [&](Version* moving) { histories.Move(moving, kRight); });
  {
    rcu::ReadGuard guard;
    EXPECT_EQ(histories.Find(kLeft), nullptr);
    ASSERT_NE(histories.Find(kRight), nullptr);
    EXPECT_TRUE(histories.Find(kRight)->Holds(4096));
  }
  histories.Remove(version);
  histories.Unpin(kRight);
}

}  // namespace
}  // namespace daxkv::kv
