// What the files cost beyond keys and values: after a load, overwritten, and after deletes, with
// readers running. `bazel run --config=opt //benchmarks:space_amplification` measures the same on
// more records.
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

uint64_t Mix(uint64_t x) {  // The finalizer of SplitMix64.
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// 24 bytes, in no order.
std::string Key(uint64_t number) {
  const std::string digits = absl::StrCat(Mix(number + 1));
  return absl::StrCat("user", std::string(20 - digits.size(), '0'), digits);
}

bool IsKept(uint64_t number) { return Mix(number ^ 0x5bd1e995) % 10 == 0; }

uint64_t BlocksBytes(const Db& db) { return db.GetInfo()->dax.pool.file_blocks_bytes; }

struct Load {
  uint64_t records;
  size_t value_size_bytes;
  double most_blocks;  // For each byte of keys and values.
};

void PutAll(Db& db, const Load& load, uint64_t version) {
  constexpr uint64_t kGroupRecords = 1000;
  for (uint64_t begin = 0; begin < load.records; begin += kGroupRecords) {
    std::vector<std::pair<std::string, std::string>> texts;
    for (uint64_t i = begin; i < std::min(load.records, begin + kGroupRecords); ++i) {
      std::string key = Key(i);
      std::string value = ValueFor(key, version, load.value_size_bytes);
      texts.emplace_back(std::move(key), std::move(value));
    }
    std::vector<KeyValue> group;
    for (const auto& [key, value] : texts) group.push_back({key, value});
    ASSERT_THAT(db.PutGroup(group).status(), IsOk());
  }
}

void DeleteMost(Db& db, uint64_t records) {
  std::vector<std::string> keys;
  for (uint64_t i = 0; i < records; ++i) {
    if (!IsKept(i)) keys.push_back(Key(i));
  }
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  ASSERT_THAT(db.DeleteGroup(views).status(), IsOk());
}

class SpaceGoalsTest : public testing::Test {
 protected:
  SpaceGoalsTest() {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory_.Path("store"), TestOptions());
    if (db.ok()) db_ = *std::move(db);
  }
  void SetUp() override { ASSERT_NE(db_, nullptr); }
  void TearDown() override {
    EXPECT_THAT(db_->Check()->faults, testing::IsEmpty());
    EXPECT_THAT(db_->Close(), IsOk());
  }

  void Meets(const Load& load);

  TemporaryDirectory directory_{Medium::kTmpfs};
  std::unique_ptr<Db> db_;
};

// An empty store's blocks are left out: they are a small part only of larger stores.
void SpaceGoalsTest::Meets(const Load& load) {
  ASSERT_THAT(db_->Compact().status(), IsOk());
  const uint64_t empty_bytes = BlocksBytes(*db_);
  ASSERT_NO_FATAL_FAILURE(PutAll(*db_, load, 0));
  ASSERT_THAT(db_->Compact().status(), IsOk());
  const uint64_t loaded_bytes = BlocksBytes(*db_) - empty_bytes;
  const uint64_t payload_bytes = load.records * (Key(0).size() + load.value_size_bytes);
  EXPECT_LE(static_cast<double>(loaded_bytes) / static_cast<double>(payload_bytes),
            load.most_blocks);
  constexpr uint64_t kOverwrites = 3;
  for (uint64_t version = 1; version <= kOverwrites; ++version) {
    ASSERT_NO_FATAL_FAILURE(PutAll(*db_, load, version));
    EXPECT_LE(BlocksBytes(*db_) - empty_bytes, loaded_bytes * 13 / 10) << version;
  }

  std::atomic<bool> stop{false};
  std::atomic<uint64_t> reads{0}, wrong{0};
  std::vector<std::thread> readers;
  for (uint64_t i = 0; i < 2; ++i) {
    readers.emplace_back([&, i] {
      for (uint64_t n = i; !stop; ++n) {
        const uint64_t number = Mix(n) % load.records;
        if (!IsKept(number)) continue;
        const std::string key = Key(number);
        const absl::StatusOr<PinnedValue> pinned = db_->Pin(key);
        wrong +=
            !pinned.ok() || pinned->value() != ValueFor(key, kOverwrites, load.value_size_bytes);
        ++reads;
      }
    });
  }
  std::vector<std::pair<uint64_t, PinnedValue>> pins;
  for (uint64_t number = 0; number < 3; ++number) {
    absl::StatusOr<PinnedValue> pinned = db_->Pin(Key(number));
    EXPECT_THAT(pinned.status(), IsOk());
    if (pinned.ok()) pins.emplace_back(number, *std::move(pinned));
  }
  DeleteMost(*db_, load.records);
  EXPECT_THAT(db_->Compact().status(), IsOk());
  const uint64_t left_bytes = BlocksBytes(*db_);
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_LE(left_bytes - empty_bytes, loaded_bytes * 15 / 100);
  EXPECT_GT(reads, 0u);
  EXPECT_EQ(wrong, 0u);
  for (const auto& [number, pin] : pins) {
    EXPECT_TRUE(pin.value() == ValueFor(Key(number), kOverwrites, load.value_size_bytes));
  }
  RecordProperty("loaded_bytes", std::to_string(loaded_bytes));
  RecordProperty("payload_bytes", std::to_string(payload_bytes));
  RecordProperty("left_bytes", std::to_string(left_bytes - empty_bytes));
}

TEST_F(SpaceGoalsTest, ValuesOf1000Bytes) { ASSERT_NO_FATAL_FAILURE(Meets({40'000, 1000, 1.10})); }

TEST_F(SpaceGoalsTest, ValuesOf100Bytes) { ASSERT_NO_FATAL_FAILURE(Meets({120'000, 100, 1.35})); }

// A step of growth is a hole; what is reserved ahead of the writers is a small part of the store,
// and goes back soon after the last put (a loaded machine takes its time).
TEST_F(SpaceGoalsTest, TheFilesHoldLittleMoreThanIsUsed) {
  const std::string large(160 * kMiB, 'l');
  ASSERT_THAT(db_->Put("large", large), IsOk());
  for (int i = 0; i < 200; ++i) {
    ASSERT_THAT(db_->Put(absl::StrCat(i), std::string(100'000, 's')), IsOk());
  }
  const auto info = db_->GetInfo();
  ASSERT_THAT(info.status(), IsOk());
  const uint64_t live_bytes = info->dax.pool.live_pages * dax::kPageSizeBytes;
  EXPECT_GE(info->dax.pool.file_size_bytes, 210 * kMiB);
  EXPECT_LE(info->dax.pool.file_blocks_bytes, live_bytes + 12 * kMiB);
  for (int tries = 0; BlocksBytes(*db_) > live_bytes + 8 * kMiB; ++tries) {
    ASSERT_LT(tries, 600) << "nothing came back";
    absl::SleepFor(absl::Milliseconds(50));
  }
  // They are there again when they are wanted.
  ASSERT_THAT(db_->Put("more", std::string(20 * kMiB, 'm')), IsOk());
  EXPECT_TRUE(*db_->Get("large") == large);
  EXPECT_EQ(db_->Get("more")->size(), 20 * kMiB);
}

}  // namespace
}  // namespace daxkv::kv
