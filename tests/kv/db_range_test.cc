// Calls on many keys: MultiGet, DeleteRange, ApproximateRange; and ValueWriter.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/format.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;

class DbRangeTest : public StoreTest {
 protected:
  // Number keys 0, step, ... below `end`.
  void Fill(int end, int step = 1, size_t value_size_bytes = 20) {
    std::vector<std::string> keys;
    std::vector<std::string> values;
    for (int i = 0; i < end; i += step) {
      keys.push_back(NumberedKey(i));
      values.push_back(ValueFor(keys.back(), 0, value_size_bytes));
    }
    std::vector<KeyValue> records;
    for (size_t i = 0; i < keys.size(); ++i) records.push_back({keys[i], values[i]});
    ASSERT_THAT(db().PutGroup(records).status(), IsOk());
  }
  uint64_t CountRecords() { return db().GetInfo()->records; }
};

TEST_P(DbRangeTest, MultiGetAnswersEachKeyByItself) {
  Fill(5000, 2);
  const std::string longest = ValueFor("long", 0, 1 << 20);
  ASSERT_THAT(db().Put("long", longest), IsOk());
  ASSERT_THAT(db().Put("empty", ""), IsOk());
  const std::string too_long(kMaxKeySizeBytes + 1, 'k');
  for (const bool with_invalid : {false, true}) {
    for (const size_t count : {0, 1, 15, 16, 17, 100}) {
      std::mt19937 random(static_cast<unsigned>(count));
      std::vector<std::string> names;
      for (size_t i = 0; i < count; ++i) names.push_back(NumberedKey(random() % 5000));
      if (count > 20) {
        names[7] = "long";
        names[16] = "empty";
        names[17] = names[18];
        if (with_invalid) names[3] = "", names[33] = too_long;
      }
      const std::vector<std::string_view> keys(names.begin(), names.end());
      std::vector<std::string> values(count);
      std::vector<absl::Status> statuses(count, absl::UnknownError("never answered"));
      ASSERT_THAT(db().MultiGet(keys, absl::MakeSpan(values), absl::MakeSpan(statuses)), IsOk());
      for (size_t i = 0; i < count; ++i) {
        const absl::StatusOr<std::string> alone = db().Get(keys[i]);
        EXPECT_EQ(statuses[i].code(), alone.status().code()) << keys[i];
        if (alone.ok()) {
          EXPECT_TRUE(values[i] == *alone) << keys[i];
        }
      }
    }
  }
  std::vector<std::string_view> keys(3, "k");
  std::vector<std::string> values(2);
  std::vector<absl::Status> statuses(3);
  EXPECT_THAT(db().MultiGet(keys, absl::MakeSpan(values), absl::MakeSpan(statuses)),
              HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_P(DbRangeTest, MultiGetBesideWritersSeesOnlyWhatWasStored) {
  Fill(3000, 1, 100);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    std::mt19937 random(1);
    for (uint64_t version = 1; !stop.load(); ++version) {
      const std::string key = NumberedKey(random() % 3000);
      const absl::Status status = random() % 3 == 0
                                      ? db().Delete(key)
                                      : db().Put(key, ValueFor(key, version, random() % 2000));
      EXPECT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
    }
  });
  std::mt19937 random(2);
  for (int round = 0; round < 400; ++round) {
    std::vector<std::string> names;
    for (int i = 0; i < 40; ++i) names.push_back(NumberedKey(random() % 3000));
    const std::vector<std::string_view> keys(names.begin(), names.end());
    std::vector<std::string> values(keys.size());
    std::vector<absl::Status> statuses(keys.size());
    ASSERT_THAT(db().MultiGet(keys, absl::MakeSpan(values), absl::MakeSpan(statuses)), IsOk());
    for (size_t i = 0; i < keys.size(); ++i) {
      EXPECT_TRUE(statuses[i].ok() || absl::IsNotFound(statuses[i])) << statuses[i];
    }
  }
  stop.store(true);
  writer.join();
}

TEST_P(DbRangeTest, DeleteRangeTakesWhatLiesInItAndNoMore) {
  Fill(3000);
  EXPECT_EQ(*db().DeleteRange(NumberedKey(100), NumberedKey(100)), 0u);
  EXPECT_EQ(*db().DeleteRange(NumberedKey(100), NumberedKey(101)), 1u);
  EXPECT_EQ(*db().DeleteRange(NumberedKey(100), NumberedKey(200)), 99u);
  EXPECT_EQ(*db().DeleteRange(NumberedKey(100), NumberedKey(200)), 0u);
  EXPECT_THAT(db().DeleteRange("b", "a").status(), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(*db().DeleteRange("z", ""), 0u);
  EXPECT_EQ(*db().DeleteRange("", NumberedKey(50)), 50u);
  EXPECT_EQ(*db().DeleteRange(NumberedKey(2000), ""), 1000u);
  EXPECT_EQ(CountRecords(), 1850u);
  Crash();
  Open();
  EXPECT_EQ(CountRecords(), 1850u);
  EXPECT_THAT(db().Contains(NumberedKey(50)), IsOk());
  EXPECT_THAT(db().Contains(NumberedKey(99)), IsOk());
  EXPECT_THAT(db().Contains(NumberedKey(200)), IsOk());
  EXPECT_THAT(db().Contains(NumberedKey(1999)), IsOk());
  const std::string above_every_key(kMaxKeySizeBytes + 10, '\xff');
  EXPECT_EQ(*db().DeleteRange("", above_every_key), 1850u);
  EXPECT_EQ(*db().DeleteRange("", ""), 0u);
}

TEST_P(DbRangeTest, DeleteRangeOfMoreThanARoundGivesSpaceBack) {
  if (GetParam() == Medium::kDisk) GTEST_SKIP() << "the same, slower";
  Fill(40000, 1, 400);
  const uint64_t full = DiskUsageBytes(path());
  EXPECT_EQ(*db().DeleteRange(NumberedKey(10), NumberedKey(39990)), 39980u);
  ASSERT_THAT(db().Compact().status(), IsOk());
  EXPECT_EQ(CountRecords(), 20u);
  EXPECT_LT(DiskUsageBytes(path()), full / 2);
}

TEST_P(DbRangeTest, DeleteRangeBesideWriters) {
  Fill(4000);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    std::mt19937 random(1);
    while (!stop.load()) {
      // Odd ones inside the range, which may or may not survive; and ones beside it.
      const std::string key = NumberedKey(4000 + random() % 4000);
      EXPECT_THAT(db().Put(key, "new"), IsOk());
      EXPECT_THAT(db().Put(absl::StrCat(NumberedKey(random() % 4000), "x"), "new"), IsOk());
    }
  });
  EXPECT_GE(*db().DeleteRange("", NumberedKey(4000)), 4000u);
  stop.store(true);
  writer.join();
  for (int i = 0; i < 4000; ++i) {
    EXPECT_THAT(db().Contains(NumberedKey(i)), HasCode(absl::StatusCode::kNotFound));
  }
}

TEST_P(DbRangeTest, ApproximateRangeCountsLittleExactly) {
  EXPECT_EQ(db().ApproximateRange("", "")->records, 0u);
  Fill(2000, 1, 33);
  const absl::StatusOr<RangeEstimate> all = db().ApproximateRange("", "");
  ASSERT_THAT(all.status(), IsOk());
  EXPECT_EQ(all->records, 2000u);
  EXPECT_EQ(all->records_error, 0u);
  EXPECT_EQ(all->size_bytes, 2000 * (33 + NumberedKey(0).size()));
  EXPECT_EQ(db().ApproximateRange(NumberedKey(10), NumberedKey(11))->records, 1u);
  EXPECT_EQ(db().ApproximateRange(NumberedKey(10), NumberedKey(1000))->records, 990u);
  EXPECT_EQ(db().ApproximateRange(NumberedKey(10), NumberedKey(10))->records, 0u);
  EXPECT_EQ(db().ApproximateRange("z", "")->records, 0u);
  EXPECT_THAT(db().ApproximateRange("b", "a").status(),
              HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_P(DbRangeTest, ApproximateRangeOfMuchIsWithinItsError) {
  if (GetParam() == Medium::kDisk) GTEST_SKIP() << "the same, slower";
  Fill(120000);
  // Unevenly filled leaves: every other third of the keys loses most of itself.
  for (int i = 0; i < 120000; i += 60) {
    ASSERT_THAT(db().DeleteRange(NumberedKey(i), NumberedKey(i + 40)).status(), IsOk());
  }
  std::mt19937 random(5);
  int outside = 0;
  constexpr int kRanges = 60;
  for (int round = 0; round < kRanges; ++round) {
    int from = static_cast<int>(random() % 120000), to = static_cast<int>(random() % 120000);
    if (from > to) std::swap(from, to);
    uint64_t records = 0;
    for (int i = from; i < to; ++i) records += i % 60 >= 40;
    const absl::StatusOr<RangeEstimate> got =
        db().ApproximateRange(NumberedKey(from), NumberedKey(to));
    ASSERT_THAT(got.status(), IsOk());
    const double off = std::abs(static_cast<double>(got->records) - static_cast<double>(records));
    if (off > static_cast<double>(got->records_error) + 1) ++outside;
    EXPECT_LE(off, static_cast<double>(records) * 0.3 + 200) << from << ".." << to;
  }
  EXPECT_LE(outside, kRanges / 5);  // Two standard errors: one of twenty expected.
}

TEST_P(DbRangeTest, ValueWriterCommitsWhatWasFilledIn) {
  for (const size_t size : {0, 1, 100, 5000, 32 << 10, 3 << 20}) {
    const std::string key = absl::StrCat("size", size);
    ASSERT_THAT(db().Put(key, "before"), IsOk());
    absl::StatusOr<ValueWriter> writer = db().NewValueWriter(key, size);
    ASSERT_THAT(writer.status(), IsOk());
    ASSERT_EQ(writer->bytes().size(), size);
    const std::string value = ValueFor(key, 3, size);
    // Backwards, to show that the order does not matter.
    for (size_t i = size; i-- > 0;) writer->bytes()[i] = value[i];
    EXPECT_EQ(GetOrDie(key), "before");
    ASSERT_THAT(writer->Commit(), IsOk());
    EXPECT_TRUE(GetOrDie(key) == value);
    EXPECT_TRUE(writer->bytes().empty());
    EXPECT_THAT(writer->Commit(), HasCode(absl::StatusCode::kFailedPrecondition));
  }
  Crash();
  Open();
  for (const size_t size : {0, 1, 100, 5000, 32 << 10, 3 << 20}) {
    const std::string key = absl::StrCat("size", size);
    EXPECT_TRUE(GetOrDie(key) == ValueFor(key, 3, size));
  }
}

TEST_P(DbRangeTest, ValueWriterAbandonedLeavesNothing) {
  {
    absl::StatusOr<ValueWriter> large = db().NewValueWriter("large", 4 << 20);
    absl::StatusOr<ValueWriter> small = db().NewValueWriter("small", 10);
    ASSERT_THAT(large.status(), IsOk());
    ASSERT_THAT(small.status(), IsOk());
    memset(large->bytes().data(), 'x', large->bytes().size());
    EXPECT_THAT(db().Close(), HasCode(absl::StatusCode::kFailedPrecondition));
    ValueWriter moved = *std::move(large);
    EXPECT_EQ(moved.bytes().size(), 4u << 20);
    EXPECT_TRUE(large->bytes().empty());
    EXPECT_THAT(large->Commit(), HasCode(absl::StatusCode::kFailedPrecondition));
  }
  EXPECT_THAT(db().Contains("large"), HasCode(absl::StatusCode::kNotFound));
  ASSERT_THAT(db().Compact().status(), IsOk());
  ExpectClean();
  EXPECT_LT(DiskUsageBytes(path()), 8u << 20);
  EXPECT_THAT(db().NewValueWriter("", 1).status(), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(db().NewValueWriter("k", kMaxValueSizeBytes + 1).status(),
              HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(db().NewValueWriter("k", UINT64_MAX).status(),
              HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_P(DbRangeTest, ClosedStoreRefusesTheseCalls) {
  CloseCleanly();
  Options options = TestOptions();
  absl::StatusOr<std::unique_ptr<Db>> other = Db::Open(path(), options);
  ASSERT_THAT(other.status(), IsOk());
  Db& closed = **other;
  ASSERT_THAT(closed.Close(), IsOk());
  const auto refused = HasCode(absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(closed.MultiGet({}, {}, {}), refused);
  EXPECT_THAT(closed.Insert("k", "v"), refused);
  EXPECT_THAT(closed.CompareAndSwap("k", std::nullopt, "v"), refused);
  EXPECT_THAT(closed.DeleteRange("", "").status(), refused);
  EXPECT_THAT(closed.ApproximateRange("", "").status(), refused);
  EXPECT_THAT(closed.NewValueWriter("k", 1).status(), refused);
  other->reset();
  Open();
}

INSTANTIATE_ON_BOTH_MEDIA(DbRangeTest);

}  // namespace
}  // namespace daxkv::kv
