// What db.h promises, call by call.
#include <algorithm>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;

class DbTest : public StoreTest {};
INSTANTIATE_ON_BOTH_MEDIA(DbTest);

TEST_P(DbTest, GetsWhatWasPut) {
  EXPECT_THAT(db().Put("planet", "Saturn"), IsOk());
  EXPECT_EQ(GetOrDie("planet"), "Saturn");
  EXPECT_THAT(db().Contains("planet"), IsOk());
  EXPECT_THAT(db().Put("planet", "Uranus"), IsOk());
  EXPECT_EQ(GetOrDie("planet"), "Uranus");
}

TEST_P(DbTest, TellsAnAbsentKey) {
  EXPECT_THAT(db().Get("planet").status(), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(db().Contains("planet"), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(db().Pin("planet").status(), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(db().Delete("planet"), HasCode(absl::StatusCode::kNotFound));
}

TEST_P(DbTest, DeletesAndPutsAgain) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  ASSERT_THAT(db().Put("b", "2"), IsOk());
  EXPECT_THAT(db().Delete("a"), IsOk());
  EXPECT_THAT(db().Contains("a"), HasCode(absl::StatusCode::kNotFound));
  EXPECT_EQ(GetOrDie("b"), "2");
  EXPECT_THAT(db().Put("a", "3"), IsOk());
  EXPECT_EQ(GetOrDie("a"), "3");
}

TEST_P(DbTest, TakesKeysOfAnyBytes) {
  std::set<std::string> keys;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    keys.insert({one, one + std::string(1, '\0'), one + one, "prefix" + one});
  }
  for (const std::string& key : keys) ASSERT_THAT(db().Put(key, "v" + key), IsOk());
  for (const std::string& key : keys) ASSERT_EQ(GetOrDie(key), "v" + key);
  // Unsigned bytes, a prefix first: the order of std::string.
  std::unique_ptr<Iterator> it = db().NewIterator();
  it->SeekToFirst();
  for (const std::string& key : keys) {
    ASSERT_TRUE(it->Valid());
    EXPECT_EQ(it->key(), key);
    it->Next();
  }
  EXPECT_FALSE(it->Valid());
}

TEST_P(DbTest, RefusesKeysOutOfRange) {
  const std::string longest(kMaxKeySizeBytes, 'k');
  const std::string too_long(kMaxKeySizeBytes + 1, 'k');
  EXPECT_THAT(db().Put(longest, "v"), IsOk());
  EXPECT_EQ(GetOrDie(longest), "v");
  for (const std::string& key : {std::string(), too_long}) {
    const absl::Status put = db().Put(key, "v");
    EXPECT_THAT(put, HasCode(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(put.message(), HasSubstr(absl::StrCat("the key has ", key.size(), " bytes")));
    EXPECT_THAT(put.message(), HasSubstr("65536"));
    EXPECT_THAT(db().Get(key).status(), HasCode(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(db().Pin(key).status(), HasCode(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(db().Contains(key), HasCode(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(db().Delete(key), HasCode(absl::StatusCode::kInvalidArgument));
  }
}

TEST_P(DbTest, StoresValuesOfEverySize) {
  std::vector<size_t> sizes = {0, 1, 7, 8, 63, 64, 65, 1000, 65536, 1 << 20, (2 << 20) + 1};
  // Around each boundary the record's header and key matter too.
  for (size_t edge : {4096, 32 << 10, 64 << 10, 256 << 10, 2 << 20}) {
    for (size_t off : {0, 1, 16, 24, 25, 40, 64, 100}) {
      sizes.push_back(edge - off);
      sizes.push_back(edge + off);
    }
  }
  for (size_t size : sizes) {
    const std::string key = absl::StrCat("size", size);
    ASSERT_THAT(db().Put(key, ValueFor(key, 0, size)), IsOk()) << size;
  }
  for (int pass = 0; pass < 2; ++pass) {
    for (size_t size : sizes) {
      const std::string key = absl::StrCat("size", size);
      ASSERT_TRUE(GetOrDie(key) == ValueFor(key, 0, size)) << size;
      absl::StatusOr<PinnedValue> pinned = db().Pin(key);
      ASSERT_THAT(pinned.status(), IsOk());
      ASSERT_TRUE(pinned->value() == ValueFor(key, 0, size)) << size;
    }
    CloseCleanly();
    Open();
  }
}

// The very largest is db_large_test's.
TEST_P(DbTest, StoresLargeValuesAndNoneAboveTheLimit) {
  const std::string largest = ValueFor("largest", 0, 64 << 20);
  ASSERT_THAT(db().Put("largest", largest), IsOk());
  EXPECT_TRUE(GetOrDie("largest") == largest);
  // Refused for its size alone: no byte of it is read.
  const std::string_view too_large(largest.data(), kMaxValueSizeBytes + 1);
  const absl::Status refused = db().Put("largest", too_large);
  EXPECT_THAT(refused, HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(refused.message(), HasSubstr(absl::StrCat(kMaxValueSizeBytes)));
  Crash();
  Open();
  EXPECT_TRUE(GetOrDie("largest") == largest);
  ASSERT_THAT(db().Delete("largest"), IsOk());
  EXPECT_THAT(db().Compact().status(), IsOk());
  EXPECT_LT(DiskUsageBytes(path()), 32u << 20);
}

TEST_P(DbTest, KeepsEverythingOverReopening) {
  const int count = GetParam() == Medium::kTmpfs ? 2000 : 300;
  for (int i = 0; i < count; ++i) {
    ASSERT_THAT(db().Put(NumberedKey(i), ValueFor(NumberedKey(i), i, i % 300)), IsOk());
  }
  for (bool clean : {true, false, true}) {
    if (clean) {
      CloseCleanly();
    } else {
      Crash();
    }
    Open();
    absl::StatusOr<Info> info = db().GetInfo();
    ASSERT_THAT(info.status(), IsOk());
    EXPECT_EQ(info->was_clean, clean);
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(GetOrDie(NumberedKey(i)), ValueFor(NumberedKey(i), i, i % 300));
    }
    ExpectClean();
  }
}

TEST_P(DbTest, ReusesTheCallersCapacity) {
  ASSERT_THAT(db().Put("key", std::string(1000, 'v')), IsOk());
  std::string value;
  value.reserve(5000);
  const char* bytes = value.data();
  ASSERT_THAT(db().Get("key", &value), IsOk());
  EXPECT_EQ(value, std::string(1000, 'v'));
  EXPECT_EQ(value.data(), bytes);
}

TEST_P(DbTest, TellsTheSameAtOnce) {
  for (uint64_t i = 0; i < 50; ++i) {
    ASSERT_THAT(db().Put(NumberedKey(i), std::string(50'000, 'v')), IsOk());
  }
  ASSERT_THAT(db().Compact().status(), IsOk());
  const absl::StatusOr<Info> info = db().GetInfo();
  const absl::StatusOr<Stats> stats = db().GetStats();
  ASSERT_THAT(stats.status(), IsOk());
  EXPECT_EQ(stats->file_size_bytes, info->dax.pool.file_size_bytes);
  EXPECT_EQ(stats->file_blocks_bytes, info->dax.pool.file_blocks_bytes);
  EXPECT_GT(stats->file_blocks_bytes, 50u * 50'000);
  EXPECT_EQ(stats->snapshots, 0u);
  EXPECT_EQ(stats->lost_pages, 0u);
  EXPECT_FALSE(stats->writeback.has_value());
}

TEST_P(DbTest, TellsWhatItHolds) {
  ASSERT_THAT(db().Put("small", std::string(10, 's')), IsOk());
  ASSERT_THAT(db().Put("large", std::string(3 << 20, 'l')), IsOk());
  absl::StatusOr<Info> info = db().GetInfo(/*count_bytes=*/true);
  ASSERT_THAT(info.status(), IsOk());
  EXPECT_EQ(info->path, path());
  EXPECT_EQ(info->records, 2u);
  EXPECT_EQ(info->key_value_size_bytes, 10u + (uint64_t{3} << 20) + 10u);
  EXPECT_EQ(info->format_version, kFormatVersion);
  EXPECT_EQ(info->open_epoch, 1u);
  EXPECT_TRUE(info->was_clean);
  EXPECT_EQ(info->leaves, 1u);
  EXPECT_EQ(info->index_height, 1u);
  EXPECT_GE(info->large_size_bytes, 3u << 20);
  EXPECT_GE(info->slab_size_bytes, 64u << 10);
  EXPECT_GE(info->live_extents_by_order[dax::kHugeOrder], 2u);
  EXPECT_EQ(info->media.media_class, GetParam() == Medium::kTmpfs ? dax::MediaClass::kVolatile
                                                                  : dax::MediaClass::kPageCache);
  EXPECT_GT(info->dax.pool.file_blocks_bytes, 3u << 20);
}

TEST_P(DbTest, CheckCountsWhatIsThere) {
  for (int i = 0; i < 500; ++i) ASSERT_THAT(db().Put(NumberedKey(i), "12345"), IsOk());
  for (uint64_t i = 0; i < 100; ++i) ASSERT_THAT(db().Delete(NumberedKey(i * 3)), IsOk());
  absl::StatusOr<CheckReport> report = db().Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_THAT(report->faults, testing::IsEmpty());
  EXPECT_EQ(report->records, 400u);
  EXPECT_EQ(report->record_size_bytes, 400 * (NumberedKey(0).size() + 5));
  EXPECT_GT(report->nodes, 2u);
  EXPECT_GE(report->fences, 2u);
  EXPECT_GT(report->extents, 1u);
  EXPECT_GE(report->slots, report->records + report->nodes + report->fences);
  EXPECT_FALSE(report->recovered_after_crash);
  Crash();
  Open();
  report = db().Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_THAT(report->faults, testing::IsEmpty());
  EXPECT_EQ(report->records, 400u);
  EXPECT_TRUE(report->recovered_after_crash);
}

TEST_P(DbTest, SyncSucceeds) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  EXPECT_THAT(db().Sync(), IsOk());
}

TEST_P(DbTest, ASecondOpenIsRefused) {
  const absl::Status second = Db::Open(path(), TestOptions()).status();
  EXPECT_THAT(second, HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(second.message(), HasSubstr(absl::StrCat(getpid())));
}

TEST_P(DbTest, ObeysTheCreationOptions) {
  CloseCleanly();
  options_.error_if_exists = true;
  EXPECT_THAT(Db::Open(path(), options_).status(), HasCode(absl::StatusCode::kAlreadyExists));
  options_ = TestOptions();
  options_.create_if_missing = false;
  EXPECT_THAT(Db::Open(path() + "-none", options_).status(), HasCode(absl::StatusCode::kNotFound));
  Open();
}

TEST_P(DbTest, ClosesOnceAndNotUnderPins) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  {
    absl::StatusOr<PinnedValue> pinned = db().Pin("a");
    ASSERT_THAT(pinned.status(), IsOk());
    EXPECT_THAT(db().Close(), HasCode(absl::StatusCode::kFailedPrecondition));
    EXPECT_EQ(pinned->value(), "1");
  }
  EXPECT_THAT(db().Close(), IsOk());
  const auto closed = HasCode(absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(db().Close(), closed);
  EXPECT_THAT(db().Put("a", "1"), closed);
  EXPECT_THAT(db().Get("a").status(), closed);
  EXPECT_THAT(db().Check().status(), closed);
  std::unique_ptr<Iterator> it = db().NewIterator();
  it->SeekToFirst();
  EXPECT_FALSE(it->Valid());
  EXPECT_THAT(it->status(), closed);
  Open();
  EXPECT_EQ(GetOrDie("a"), "1");
}

TEST_P(DbTest, CompactGivesEmptyExtentsBack) {
  constexpr int kRecords = 3000;
  std::vector<std::string> keys, values;
  std::vector<KeyValue> group;
  group.reserve(kRecords);
  for (int i = 0; i < kRecords; ++i) {
    keys.push_back(NumberedKey(i));
    values.push_back(ValueFor(keys.back(), 0, 8000));
  }
  for (int i = 0; i < kRecords; ++i) group.push_back({keys[i], values[i]});
  ASSERT_THAT(db().PutGroup(group).status(), IsOk());
  const uint64_t full = DiskUsageBytes(path());
  ASSERT_GT(full, kRecords * 8000u);
  for (int i = 0; i < kRecords - 10; ++i) ASSERT_THAT(db().Delete(keys[i]), IsOk());
  absl::StatusOr<CompactionResult> compacted = db().Compact();
  ASSERT_THAT(compacted.status(), IsOk());
  EXPECT_GT(compacted->extents_freed, 0u);
  EXPECT_EQ(compacted->extents_pinned, 0u);
  EXPECT_LT(DiskUsageBytes(path()), full / 3);
  for (int i = kRecords - 10; i < kRecords; ++i) EXPECT_EQ(GetOrDie(keys[i]), values[i]);
}

// A fixed file has another shape, and otherwise the same contract.
TEST_P(DbTest, AFixedFileIsAStoreToo) {
  const std::string file = path() + "-file";
  Options options = TestOptions();
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 64 << 20;
  {
    absl::StatusOr<std::unique_ptr<Db>> fixed = Db::Open(file, options);
    ASSERT_THAT(fixed.status(), IsOk());
    ASSERT_THAT((*fixed)->Put("a", std::string(5 << 20, 'a')), IsOk());
    ASSERT_THAT((*fixed)->Close(), IsOk());
  }
  absl::StatusOr<std::unique_ptr<Db>> fixed = Db::Open(file, TestOptions());
  ASSERT_THAT(fixed.status(), IsOk());
  EXPECT_EQ((*fixed)->GetInfo()->shape, dax::PoolShape::kFixed);
  EXPECT_EQ((*fixed)->Get("a")->size(), 5u << 20);
  EXPECT_EQ(std::filesystem::file_size(file), 64u << 20);
}

}  // namespace
}  // namespace daxkv::kv
