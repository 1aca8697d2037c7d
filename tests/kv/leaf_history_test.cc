// What histories say of records whose addresses were used before.
#include "kv/leaf_history.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

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
  histories.MoveVersions(kLeft, [](const Version&) { return kRight; });
  {
    rcu::ReadGuard guard;
    EXPECT_EQ(histories.Find(kLeft), nullptr);
    ASSERT_NE(histories.Find(kRight), nullptr);
    EXPECT_TRUE(histories.Find(kRight)->Holds(4096));
  }
  histories.Remove(version);
  histories.Unpin(kRight);
}

// Removed ones stay linked until half of them are: whoever asks must not be told of them, a split
// must not ask for their keys, and with the last one all goes.
TEST(LeafHistoryTest, RemovedVersionsAreForgottenInAnyOrder) {
  constexpr Address kLeft = 4 * kLeafSizeBytes, kRight = 5 * kLeafSizeBytes;
  constexpr uint64_t kVersions = 300;
  const auto record_of = [](uint64_t i) { return Address{4096} + i * 64; };
  LeafHistories histories;
  ASSERT_TRUE(histories.Pin(kLeft).ok());
  std::vector<Version*> versions;
  for (uint64_t i = 0; i < kVersions; ++i) {
    auto* version = new Version;
    version->since = i + 1;
    version->until = i + 2;
    version->record = record_of(i);
    version->tag = static_cast<uint16_t>(i * 7);
    histories.Add(kLeft, version);
    versions.push_back(version);
  }
  histories.Unpin(kLeft);
  std::mt19937 random(3);
  std::vector<uint64_t> order(kVersions);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  ASSERT_TRUE(histories.Pin(kRight).ok());
  for (uint64_t done = 0; done < kVersions; ++done) {
    if (done == kVersions / 4) {
      histories.MoveVersions(kLeft, [&](const Version& version) {
        EXPECT_FALSE(version.removed.load());
        return version.since % 2 == 0 ? kRight : kLeft;
      });
    }
    histories.Remove(versions[order[done]]);
    rcu::ReadGuard guard;
    for (uint64_t i = 0; i < kVersions; ++i) {
      const uint64_t record = order[i];
      const bool on_the_right = done >= kVersions / 4 && (record + 1) % 2 == 0;
      const LeafHistory* const home = histories.Find(on_the_right ? kRight : kLeft);
      const bool held = home != nullptr && home->Holds(record_of(record));
      ASSERT_EQ(held, i > done) << "record " << record << " after " << done + 1;
    }
  }
  histories.Unpin(kRight);
  rcu::ReadGuard guard;
  EXPECT_EQ(histories.Find(kLeft), nullptr);
  EXPECT_EQ(histories.Find(kRight), nullptr);
}

}  // namespace
}  // namespace daxkv::kv
