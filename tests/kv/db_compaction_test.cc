// Compaction: sparse extents are emptied under readers, writers and pins, and the space comes back.
#include <sys/mount.h>

#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/dax/own_tmpfs.h"
#include "tests/kv/compaction_testing.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

void PutAll(Db& db, const Model& model) {
  std::vector<KeyValue> group;
  for (const auto& [key, value] : model) group.push_back({key, value});
  ASSERT_THAT(db.PutGroup(group).status(), IsOk());
}

// Leaves one key of `kept_of`, chosen at random.
void DeleteMost(Db& db, unsigned kept_of, Model* model) {
  std::mt19937 random(7);
  std::vector<std::string> keys;
  for (const auto& [key, value] : *model) {
    if (random() % kept_of != 0) keys.push_back(key);
  }
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  ASSERT_THAT(db.DeleteGroup(views).status(), IsOk());
  for (const std::string& key : keys) model->erase(key);
}

class CompactionTest : public StoreTest {
 protected:
  // Only what a test asks for is moved.
  CompactionTest() { options_.compaction_bytes_per_second = 0; }
};
INSTANTIATE_ON_BOTH_MEDIA(CompactionTest);

// A walk goes from leaf to leaf. When it comes to one, that may be a larger one, which begins
// before.
TEST_P(CompactionTest, IteratorsPassEachKeyOnceThoughLeavesAreMerged) {
  // Of records that are not moved: leaves with versions of their own for a snapshot stay as they
  // are.
  Model model = NumberedModel(1'500, 33'000);
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 20, &model));
  // Each stands somewhere else when the leaves around it are merged.
  std::vector<std::unique_ptr<Iterator>> forwards, backwards;
  std::vector<Model::const_iterator> starts;
  size_t number = 0;
  for (auto at = model.cbegin(); at != model.cend(); ++at) {
    if (++number % 3 != 0) continue;
    starts.push_back(at);
    for (auto* iterators : {&forwards, &backwards}) {
      iterators->push_back(db().NewIterator());
      iterators->back()->Seek(at->first);
      ASSERT_TRUE(iterators->back()->Valid());
    }
  }
  const absl::StatusOr<CompactionResult> compacted = db().Compact();
  ASSERT_THAT(compacted.status(), IsOk());
  EXPECT_GT(compacted->leaves_merged, 5u);
  for (size_t i = 0; i < starts.size(); ++i) {
    auto expected = starts[i];
    for (; forwards[i]->Valid(); forwards[i]->Next(), ++expected) {
      ASSERT_TRUE(expected != model.cend());
      ASSERT_EQ(forwards[i]->key(), expected->first);
    }
    ASSERT_THAT(forwards[i]->status(), IsOk());
    EXPECT_TRUE(expected == model.cend());
    auto before = Model::const_reverse_iterator(std::next(starts[i]));
    for (; backwards[i]->Valid(); backwards[i]->Prev(), ++before) {
      ASSERT_TRUE(before != model.crend());
      ASSERT_EQ(backwards[i]->key(), before->first);
    }
    ASSERT_THAT(backwards[i]->status(), IsOk());
    EXPECT_TRUE(before == model.crend());
  }
}

TEST_P(CompactionTest, SparseExtentsComeBack) {
  for (const size_t size_bytes : {100, 1000}) {
    Model model = NumberedModel(20'000, size_bytes);
    ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
    const uint64_t loaded_bytes = RecordExtentsBytes(db());
    ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 10, &model));
    absl::StatusOr<CompactionResult> result = db().Compact();
    ASSERT_THAT(result.status(), IsOk());
    EXPECT_GT(result->records_moved, model.size() / 2);
    EXPECT_LT(result->records_moved, model.size() * 11 / 10);
    EXPECT_GT(result->moved_size_bytes, result->records_moved * size_bytes);
    EXPECT_LT(RecordExtentsBytes(db()), loaded_bytes / 5);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
    Crash();
    Open();
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
    CloseCleanly();
    Open();
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
    ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), UINT32_MAX, &model));
  }
}

TEST_P(CompactionTest, DenseExtentsStay) {
  const Model model = NumberedModel(5'000, 500);
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
  ASSERT_THAT(db().Compact().status(), IsOk());  // Fills what the load left partly filled.
  absl::StatusOr<CompactionResult> result = db().Compact();
  ASSERT_THAT(result.status(), IsOk());
  EXPECT_EQ(result->records_moved, 0u);
  EXPECT_EQ(result->extents_freed, 0u);
}

TEST_P(CompactionTest, RecordsOfAnEarlierSessionMove) {
  for (const bool clean : {false, true}) {
    Model model = NumberedModel(10'000, 300);
    ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
    const uint64_t loaded_bytes = RecordExtentsBytes(db());
    ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 10, &model));
    if (clean) {
      CloseCleanly();
    } else {
      Crash();
    }
    Open();
    absl::StatusOr<CompactionResult> result = db().Compact();
    ASSERT_THAT(result.status(), IsOk());
    EXPECT_GT(result->records_moved, model.size() / 2);
    EXPECT_LT(RecordExtentsBytes(db()), loaded_bytes / 5);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
    ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), UINT32_MAX, &model));
  }
}

TEST_P(CompactionTest, PinnedBytesStayAndComeBackLater) {
  Model model = NumberedModel(20'000, 1000);
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
  const uint64_t loaded_bytes = RecordExtentsBytes(db());
  std::vector<std::pair<std::string, PinnedValue>> pins;
  for (int i = 0; i < 20'000; i += 5'000) {
    absl::StatusOr<PinnedValue> pinned = db().Pin(NumberedKey(i));
    ASSERT_THAT(pinned.status(), IsOk());
    pins.emplace_back(model[NumberedKey(i)], *std::move(pinned));
  }
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 10, &model));
  ASSERT_THAT(db().Compact().status(), IsOk());
  const uint64_t with_pins_bytes = RecordExtentsBytes(db());
  EXPECT_LT(with_pins_bytes, loaded_bytes);
  // New records go where the moved ones were.
  Model more;
  for (const auto& [key, value] : NumberedModel(3'000, 1000)) more["more" + key] = value;
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), more));
  for (const auto& [value, pin] : pins) ASSERT_TRUE(pin.value() == value);
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), UINT32_MAX, &more));
  pins.clear();
  ASSERT_THAT(db().Compact().status(), IsOk());
  EXPECT_LT(RecordExtentsBytes(db()), with_pins_bytes);
  EXPECT_LT(RecordExtentsBytes(db()), loaded_bytes / 5);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
}

// What a snapshot shows is where it was for its readers, moved or not; iterators hand it out in
// place.
TEST_P(CompactionTest, SnapshotsKeepTheirRecords) {
  Model model = NumberedModel(20'000, 300);
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 5, &model));
  const uint64_t before_bytes = RecordExtentsBytes(db());
  const Model seen = model;
  {
    std::unique_ptr<Iterator> it = db().NewIterator();
    it->SeekToFirst();
    for (int i = 0; i < 20 && it->Valid(); ++i) it->Next();
    ASSERT_TRUE(it->Valid());
    const std::string key(it->key());
    const std::string_view value = it->value();
    ASSERT_THAT(db().Compact().status(), IsOk());
    Model changes;
    for (int i = 0; i < 20'000; i += 7) {
      const std::string changed = NumberedKey(i);
      model[changed] = "new";
      changes[changed] = "new";
    }
    ASSERT_NO_FATAL_FAILURE(PutAll(db(), changes));
    ASSERT_THAT(db().Compact().status(), IsOk());
    EXPECT_TRUE(value == seen.at(key));
    size_t count = 0;
    for (it->SeekToFirst(); it->Valid(); it->Next(), ++count) {
      const auto expected = seen.find(std::string(it->key()));
      ASSERT_TRUE(expected != seen.end()) << it->key();
      ASSERT_TRUE(it->value() == expected->second) << it->key();
    }
    EXPECT_THAT(it->status(), IsOk());
    EXPECT_EQ(count, seen.size());
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
  }
  ASSERT_THAT(db().Compact().status(), IsOk());
  EXPECT_LT(RecordExtentsBytes(db()), before_bytes * 4 / 10);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
}

TEST_P(CompactionTest, AFixedSetThatIsOverwrittenKeepsItsSize) {
  Model model = NumberedModel(30'000, 1000);
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
  ASSERT_THAT(db().Compact().status(), IsOk());
  const uint64_t loaded_bytes = RecordExtentsBytes(db());
  for (uint64_t version = 1; version <= 10; ++version) {
    for (auto& [key, value] : model) value = ValueFor(key, version, 1000);
    std::vector<KeyValue> group;
    for (const auto& [key, value] : model) {
      group.push_back({key, value});
      if (group.size() < 500) continue;
      ASSERT_THAT(db().PutGroup(group).status(), IsOk());
      group.clear();
    }
    EXPECT_LT(RecordExtentsBytes(db()), loaded_bytes * 13 / 10) << version;
  }
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
}

TEST_P(CompactionTest, TheBackgroundMovesRecords) {
  CloseCleanly();
  options_.compaction_bytes_per_second = 64 << 20;
  Open();
  Model model = NumberedModel(20'000, 1000);
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
  const uint64_t loaded_bytes = RecordExtentsBytes(db());
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 10, &model));
  for (int tries = 0; RecordExtentsBytes(db()) > loaded_bytes / 2; ++tries) {
    ASSERT_LT(tries, 600) << "nothing came back";
    absl::SleepFor(absl::Milliseconds(50));
  }
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
}

// The background waits most of the time to keep to its budget, in the middle of a pass; who asks
// for a compaction, a check or room does not wait with it.
TEST_P(CompactionTest, TheBackgroundsBudgetKeepsNobodyWaiting) {
  CloseCleanly();
  options_.compaction_bytes_per_second = 4096;
  Open();
  Model model = NumberedModel(20'000, 1000);
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), model));
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 10, &model));
  absl::SleepFor(absl::Seconds(3));  // Its first pass has begun, and would take some minutes.
  const absl::Time start = absl::Now();
  ASSERT_THAT(db().Compact().status(), IsOk());
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

// Readers compare pinned and copied bytes, writers put and delete, compactions run all the while.
// Each value says which key and version it is.
TEST_P(CompactionTest, UnderReadersAndWriters) {
  constexpr int kWriters = 2, kReaders = 2, kKeys = 1'500;
  const auto end = absl::Now() + absl::Seconds(4);
  const auto size_of = [](uint64_t version) { return 40 + version * 37 % 1200; };
  const auto is_right = [&](const std::string& key, std::string_view value) {
    uint64_t version = 0;
    if (value.size() < sizeof(version)) return false;
    memcpy(&version, value.data(), sizeof(version));
    return value.substr(sizeof(version)) == ValueFor(key, version, size_of(version));
  };
  Model all;
  for (const auto& [key, value] : NumberedModel(8'000, 300)) all["static" + key] = value;
  ASSERT_NO_FATAL_FAILURE(PutAll(db(), all));
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db(), 4, &all));
  std::vector<Model> models(kWriters);
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      Model& model = models[writer];
      std::mt19937 random(writer);
      for (uint64_t version = 1; absl::Now() < end; ++version) {
        const std::string key = NumberedKey(random() % kKeys * kWriters + writer);
        // Phases of growth and of shrinking make extents sparse.
        if (random() % 4 < 1 + version / 2000 % 2 * 2) {
          const absl::Status deleted = db().Delete(key);
          EXPECT_EQ(deleted.ok(), model.erase(key) == 1) << deleted;
          continue;
        }
        std::string value(sizeof(version), '\0');
        memcpy(value.data(), &version, sizeof(version));
        value += ValueFor(key, version, size_of(version));
        ASSERT_THAT(db().Put(key, value), IsOk());
        model[key] = value;
      }
    });
  }
  for (int reader = 0; reader < kReaders; ++reader) {
    threads.emplace_back([&, reader] {
      std::mt19937 random(100 + reader);
      std::vector<std::pair<std::string, PinnedValue>> pins;
      while (absl::Now() < end) {
        const std::string key = NumberedKey(random() % (kKeys * kWriters));
        if (absl::StatusOr<std::string> value = db().Get(key); value.ok()) {
          ASSERT_TRUE(is_right(key, *value)) << key;
        } else {
          ASSERT_TRUE(absl::IsNotFound(value.status())) << value.status();
        }
        absl::StatusOr<PinnedValue> pinned = db().Pin(key);
        if (pinned.ok()) pins.emplace_back(key, *std::move(pinned));
        if (pins.size() < 30) continue;
        for (const auto& [pinned_key, pin] : pins) {
          ASSERT_TRUE(is_right(pinned_key, pin.value())) << pinned_key;
        }
        pins.clear();
        absl::SleepFor(absl::Milliseconds(5));  // Leaves room for extents without a pin.
      }
    });
  }
  uint64_t records_moved = 0;
  while (absl::Now() < end) {
    absl::StatusOr<CompactionResult> result = db().Compact();
    ASSERT_THAT(result.status(), IsOk());
    records_moved += result->records_moved;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(records_moved, 0u);
  for (Model& model : models) all.merge(model);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), all));
}

// Puts until there is no room, deletes three of four, and puts records of other size classes: they
// find room only where records were moved, which the first put sees to itself.
void FillThinOutAndFillAgain(Db& db) {
  Model model;
  absl::Status put;
  for (int i = 0; put.ok(); ++i) {
    const std::string key = NumberedKey(i);
    const std::string value = ValueFor(key, 0, 500);
    put = db.Put(key, value);
    if (put.ok()) model[key] = value;
  }
  ASSERT_THAT(put, HasCode(absl::StatusCode::kResourceExhausted));
  ASSERT_NO_FATAL_FAILURE(DeleteMost(db, 4, &model));
  const std::string large(1 << 20, 'l');
  ASSERT_THAT(db.Put("large", large), IsOk());
  model["large"] = large;
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db, model));
  ASSERT_THAT(db.Compact().status(), IsOk());
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db, model));
  ASSERT_THAT(db.Put("another", large), IsOk());
  model["another"] = large;
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db, model));
}

TEST(FullCompactionTest, AFixedPool) {
  TemporaryDirectory directory(Medium::kTmpfs);
  Options options = TestOptions();
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 20 << 20;
  options.compaction_bytes_per_second = 0;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(db.status(), IsOk());
  FillThinOutAndFillAgain(**db);
  EXPECT_THAT((*db)->Close(), IsOk());
}

TEST(FullCompactionTest, ATmpfsOfItsOwn) {
  TemporaryDirectory directory(Medium::kTmpfs);
  if (!dax::MountOwnTmpfs(directory.Path(""), "size=48m")) {
    GTEST_SKIP() << "can't mount a tmpfs here: " << strerror(errno);
  }
  Options options = TestOptions();
  options.compaction_bytes_per_second = 0;
  {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
    ASSERT_THAT(db.status(), IsOk());
    FillThinOutAndFillAgain(**db);
    EXPECT_THAT((*db)->Close(), IsOk());
  }
  umount2(directory.Path("").c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace daxkv::kv
