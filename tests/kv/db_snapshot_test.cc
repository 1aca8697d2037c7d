// Snapshots: what they show, what they keep, and that all of it comes back.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

class SnapshotTest : public StoreTest {
 protected:
  Snapshot Take() {
    absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
    EXPECT_THAT(snapshot.status(), IsOk());
    return *std::move(snapshot);
  }
  void PutAll(int count, uint64_t version, size_t size_bytes = 40) {
    std::vector<std::pair<std::string, std::string>> records;
    for (int i = 0; i < count; ++i) {
      const std::string key = NumberedKey(i);
      records.emplace_back(key, ValueFor(key, version, size_bytes));
    }
    std::vector<KeyValue> group;
    for (const auto& [key, value] : records) group.push_back({key, value});
    ASSERT_THAT(db().PutGroup(group).status(), IsOk());
  }
  static std::string Line(const Iterator& it) {
    return std::string(it.key()) + std::string(it.value()) + ";";
  }
  std::unique_ptr<Iterator> IteratorAt(const Snapshot& snapshot) {
    IteratorOptions options;
    options.snapshot = &snapshot;
    return db().NewIterator(options);
  }
};
INSTANTIATE_ON_BOTH_MEDIA(SnapshotTest);

TEST_P(SnapshotTest, ShowsTheStoreAsItWas) {
  ASSERT_THAT(db().Put("changed", "1"), IsOk());
  ASSERT_THAT(db().Put("deleted", "1"), IsOk());
  ASSERT_THAT(db().Put("put again", "1"), IsOk());
  const Snapshot snapshot = Take();
  ASSERT_THAT(db().Put("changed", "2"), IsOk());
  ASSERT_THAT(db().Put("changed", "3"), IsOk());
  ASSERT_THAT(db().Delete("deleted"), IsOk());
  ASSERT_THAT(db().Delete("put again"), IsOk());
  ASSERT_THAT(db().Put("put again", "2"), IsOk());
  ASSERT_THAT(db().Put("new", "1"), IsOk());

  EXPECT_EQ(*db().Get("changed", snapshot), "1");
  EXPECT_EQ(*db().Get("deleted", snapshot), "1");
  EXPECT_EQ(db().Pin("put again", snapshot)->value(), "1");
  EXPECT_THAT(db().Contains("deleted", snapshot), IsOk());
  EXPECT_THAT(db().Get("new", snapshot).status(), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(db().Get("", snapshot).status(), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(*db().Get("changed"), "3");
  EXPECT_EQ(*db().Get("put again"), "2");

  const std::unique_ptr<Iterator> it = IteratorAt(snapshot);
  std::string seen;
  for (it->SeekToFirst(); it->Valid(); it->Next()) seen += Line(*it);
  EXPECT_EQ(seen, "changed1;deleted1;put again1;");
  it->Refresh();
  seen.clear();
  for (it->SeekToLast(); it->Valid(); it->Prev()) seen += Line(*it);
  EXPECT_EQ(seen, "put again2;new1;changed3;");
}

TEST_P(SnapshotTest, EachOfManyShowsItsOwn) {
  std::vector<Snapshot> snapshots;
  for (int i = 0; i < 20; ++i) {
    ASSERT_THAT(db().Put("key", absl::StrCat(i)), IsOk());
    snapshots.push_back(Take());
  }
  ASSERT_THAT(db().Delete("key"), IsOk());
  for (int i = 19; i >= 0; i -= 2) snapshots.erase(snapshots.begin() + i);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(*db().Get("key", snapshots[static_cast<size_t>(i)]), absl::StrCat(2 * i));
  }
  const absl::StatusOr<Info> info = db().GetInfo();
  EXPECT_EQ(info->snapshot_versions, 10u);
  const absl::StatusOr<Stats> stats = db().GetStats();
  ASSERT_THAT(stats.status(), IsOk());
  EXPECT_EQ(stats->snapshots, 10u);
  EXPECT_EQ(stats->snapshot_versions, 10u);
  EXPECT_EQ(stats->snapshot_version_size_bytes, info->snapshot_version_size_bytes);
  EXPECT_GT(stats->oldest_snapshot_age, absl::ZeroDuration());
}

TEST_P(SnapshotTest, IsOfNoUseToAnotherStoreNorMovedFrom) {
  ASSERT_THAT(db().Put("key", "value"), IsOk());
  const TemporaryDirectory directory(GetParam());
  absl::StatusOr<std::unique_ptr<Db>> other = Db::Open(directory.Path("other"), Options());
  ASSERT_THAT(other.status(), IsOk());
  ASSERT_THAT((*other)->Put("key", "another"), IsOk());
  {
    Snapshot snapshot = *(*other)->GetSnapshot();
    const auto expect_refused = [&] {
      IteratorOptions options;
      options.snapshot = &snapshot;
      const auto is_refused = HasCode(absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(db().Get("key", snapshot).status(), is_refused);
      EXPECT_THAT(db().Pin("key", snapshot).status(), is_refused);
      EXPECT_THAT(db().Contains("key", snapshot), is_refused);
      const std::unique_ptr<Iterator> it = db().NewIterator(options);
      it->SeekToFirst();
      EXPECT_FALSE(it->Valid());
      EXPECT_THAT(it->status(), is_refused);
    };
    expect_refused();
    const Snapshot moved = std::move(snapshot);
    expect_refused();
    EXPECT_EQ(*(*other)->Get("key", moved), "another");
  }
  ASSERT_THAT((*other)->Close(), IsOk());
}

TEST_P(SnapshotTest, SurvivesSplitsOfItsLeaves) {
  PutAll(100, 0);
  const Snapshot snapshot = Take();
  // Between each two of the keys come many more, and then the keys themselves change.
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> keys;
    std::vector<KeyValue> group;
    for (int i = 0; i < 100; ++i) keys.push_back(absl::StrCat(NumberedKey(i), "+", round));
    for (const std::string& key : keys) group.push_back({key, key});
    ASSERT_THAT(db().PutGroup(group).status(), IsOk());
    if (round == 10) PutAll(100, 1);
  }
  ASSERT_GT(db().GetInfo()->leaves, 10u);
  int next = 0;
  const std::unique_ptr<Iterator> it = IteratorAt(snapshot);
  for (it->SeekToFirst(); it->Valid(); it->Next(), ++next) {
    ASSERT_EQ(it->key(), NumberedKey(next));
    ASSERT_EQ(it->value(), ValueFor(NumberedKey(next), 0, 40));
  }
  EXPECT_EQ(next, 100);
  for (it->SeekToLast(); it->Valid(); it->Prev()) {
    ASSERT_EQ(it->key(), NumberedKey(--next));
    ASSERT_EQ(*db().Get(it->key(), snapshot), it->value());
  }
  EXPECT_EQ(next, 0);
}

TEST_P(SnapshotTest, ViewsStayGoodWhileTheIteratorLives) {
  for (const size_t size_bytes : {size_t{30}, size_t{3000}, size_t{3} << 20}) {
    ASSERT_THAT(db().Put("key", ValueFor("key", 0, size_bytes)), IsOk());
    std::unique_ptr<Iterator> it = db().NewIterator();
    it->Seek("key");
    ASSERT_TRUE(it->Valid()) << it->status();
    const std::string_view key = it->key(), value = it->value();
    ASSERT_THAT(db().Delete("key"), IsOk());
    for (int i = 0; i < 20; ++i) {
      ASSERT_THAT(db().Put("other", ValueFor("other", i, size_bytes)), IsOk());
    }
    ASSERT_THAT(db().Compact(absl::Now() + absl::Seconds(1)).status(), IsOk());
    it->Next();
    EXPECT_EQ(key, "key");
    EXPECT_TRUE(value == ValueFor("key", 0, size_bytes));
  }
}

TEST_P(SnapshotTest, KeepsOneVersionOfEachKeyAndGivesAllBack) {
  constexpr int kKeys = 2000;
  PutAll(kKeys, 0, 1000);
  ASSERT_THAT(db().Compact().status(), IsOk());
  {
    const Snapshot first = Take();
    for (uint64_t version = 1; version <= 5; ++version) PutAll(kKeys, version, 1000);
    Info info = *db().GetInfo();
    EXPECT_EQ(info.snapshots, 1u);
    EXPECT_EQ(info.snapshot_versions, uint64_t{kKeys});
    EXPECT_GT(info.snapshot_version_size_bytes, uint64_t{kKeys} * 1000);
    EXPECT_GT(info.oldest_snapshot_age, absl::ZeroDuration());
    {
      const Snapshot second = Take();
      PutAll(kKeys, 6, 1000);
      EXPECT_EQ(db().GetInfo()->snapshot_versions, uint64_t{2 * kKeys});
    }
    // What the second one alone needed went with it.
    info = *db().GetInfo();
    EXPECT_EQ(info.snapshots, 1u);
    EXPECT_EQ(info.snapshot_versions, uint64_t{kKeys});
    ExpectClean();  // What a snapshot keeps is no leak.
    EXPECT_EQ(*db().Get(NumberedKey(7), first), ValueFor(NumberedKey(7), 0, 1000));
  }
  EXPECT_EQ(db().GetInfo()->snapshot_versions, 0u);
  for (int i = 0; i < kKeys; ++i) ASSERT_THAT(db().Delete(NumberedKey(i)), IsOk());
  const uint64_t before = DiskUsageBytes(path());
  ASSERT_THAT(db().Compact(absl::Now() + absl::Seconds(10)).status(), IsOk());
  EXPECT_LT(DiskUsageBytes(path()), before - uint64_t{kKeys} * 1000);
}

// Extents whose free slots are not known yet are looked through while a snapshot is held: what only
// the snapshot needs must not be taken for free.
TEST_P(SnapshotTest, KeepsItsRecordsWhileExtentsAreDerived) {
  constexpr int kKeys = 3000;
  PutAll(kKeys, 0, 500);
  Crash();
  Open();
  const Snapshot snapshot = Take();
  PutAll(kKeys, 1, 500);
  for (int i = 0; i < kKeys; i += 3) ASSERT_THAT(db().Delete(NumberedKey(i)), IsOk());
  ASSERT_THAT(db().Compact(absl::Now() + absl::Seconds(1)).status(), IsOk());
  ExpectClean();
  PutAll(kKeys, 2, 500);
  for (int i = 0; i < kKeys; ++i) {
    ASSERT_TRUE(*db().Get(NumberedKey(i), snapshot) == ValueFor(NumberedKey(i), 0, 500)) << i;
  }
}

TEST_P(SnapshotTest, EndsWithTheProcess) {
  PutAll(500, 0);
  auto snapshot = std::make_optional(Take());
  PutAll(500, 1);
  ASSERT_THAT(db().Close(), HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(*db().Get(NumberedKey(1), *snapshot), ValueFor(NumberedKey(1), 0, 40));
  std::unique_ptr<Iterator> it = IteratorAt(*snapshot);
  snapshot.reset();
  it->SeekToFirst();  // It has its own hold.
  EXPECT_EQ(it->value(), ValueFor(NumberedKey(0), 0, 40));
  ASSERT_THAT(db().Close(), HasCode(absl::StatusCode::kFailedPrecondition));
  it.reset();
  CloseCleanly();
  Open();
  EXPECT_EQ(GetOrDie(NumberedKey(1)), ValueFor(NumberedKey(1), 1, 40));
  ExpectClean();
}

TEST_P(SnapshotTest, IteratorsKeepToTheirBoundsBothWays) {
  PutAll(1000, 0);
  IteratorOptions options;
  options.lower_bound = NumberedKey(200);
  options.upper_bound = NumberedKey(700);
  std::unique_ptr<Iterator> it = db().NewIterator(options);
  it->SeekToLast();
  EXPECT_EQ(it->key(), NumberedKey(699));
  it->Next();
  EXPECT_FALSE(it->Valid());
  it->SeekToFirst();
  EXPECT_EQ(it->key(), NumberedKey(200));
  it->Prev();
  EXPECT_FALSE(it->Valid());
  it->SeekForPrev(NumberedKey(900));
  EXPECT_EQ(it->key(), NumberedKey(699));
  it->SeekForPrev(NumberedKey(300) + "x");
  EXPECT_EQ(it->key(), NumberedKey(300));
  it->Prev();
  EXPECT_EQ(it->key(), NumberedKey(299));
  it->SeekForPrev(NumberedKey(100));
  EXPECT_FALSE(it->Valid());
  EXPECT_THAT(it->status(), IsOk());
}

}  // namespace
}  // namespace daxkv::kv
