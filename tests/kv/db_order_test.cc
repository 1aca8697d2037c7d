// Compaction that orders by key: neighbours by key become neighbours in the pool, under readers,
// writers, pins and snapshots, within its bounds of space; and what is in order stays.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/kv/compaction_testing.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

CompactOptions ByKey() {
  CompactOptions options;
  options.order_by_key = true;
  return options;
}

// In no order of keys.
void PutAtRandom(Db& db, const Model& model) {
  std::vector<KeyValue> all;
  for (const auto& [key, value] : model) all.push_back({key, value});
  std::shuffle(all.begin(), all.end(), std::mt19937(5));
  for (size_t begin = 0; begin < all.size(); begin += 1000) {
    const size_t count = std::min<size_t>(1000, all.size() - begin);
    ASSERT_THAT(db.PutGroup(absl::MakeConstSpan(all).subspan(begin, count)).status(), IsOk());
  }
}

// Of the records, how many lie shortly behind the one of the key before theirs, of the same size.
double ShareInOrder(const Db& db) {
  std::map<size_t, const char*> last_of_size;
  size_t records = 0, in_order = 0;
  const std::unique_ptr<Iterator> it = db.NewIterator();
  for (it->SeekToFirst(); it->Valid(); it->Next(), ++records) {
    const char* const at = it->value().data();
    const char*& last = last_of_size[it->value().size()];
    in_order += last != nullptr && at > last &&
                static_cast<size_t>(at - last) < 3 * it->value().size() + 4096;
    last = at;
  }
  EXPECT_THAT(it->status(), IsOk());
  return static_cast<double>(in_order) / static_cast<double>(std::max<size_t>(1, records));
}

class OrderTest : public StoreTest {
 protected:
  // Only what a test asks for is moved.
  OrderTest() { options_.compaction_bytes_per_second = 0; }
};
INSTANTIATE_ON_BOTH_MEDIA(OrderTest);

TEST_P(OrderTest, RecordsFollowTheirNeighboursAndStay) {
  for (const size_t size_bytes : {100, 1000}) {
    Model model = NumberedModel(8'000, size_bytes);
    ASSERT_NO_FATAL_FAILURE(PutAtRandom(db(), model));
    const uint64_t loaded_bytes = RecordExtentsBytes(db());
    EXPECT_LT(ShareInOrder(db()), 0.2);
    absl::StatusOr<CompactionResult> result = db().Compact(ByKey());
    ASSERT_THAT(result.status(), IsOk());
    EXPECT_GT(result->records_ordered, model.size() * 9 / 10);
    EXPECT_LE(result->records_ordered, model.size());
    EXPECT_LE(result->records_moved, model.size() * 2);
    EXPECT_GT(ShareInOrder(db()), 0.95);
    EXPECT_LT(RecordExtentsBytes(db()), loaded_bytes * 11 / 10);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
    // What is in order stays; also in the next session.
    for (const bool reopened : {false, true}) {
      if (reopened) {
        CloseCleanly();
        Open();
      }
      result = db().Compact(ByKey());
      ASSERT_THAT(result.status(), IsOk());
      EXPECT_EQ(result->records_ordered, 0u);
      EXPECT_LT(result->records_moved, model.size() / 50);
    }
    EXPECT_GT(ShareInOrder(db()), 0.95);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
    // And after a crash.
    Crash();
    Open();
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
    EXPECT_GT(ShareInOrder(db()), 0.95);
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : model) keys.push_back(key);
    ASSERT_THAT(db().DeleteGroup(keys).status(), IsOk());
  }
}

TEST_P(OrderTest, EachSizeHasAnOrderOfItsOwn) {
  Model model;
  for (int i = 0; i < 10'000; ++i) {
    const std::string key = NumberedKey(i);
    model[key] = ValueFor(key, 0, i % 400 == 0 ? 40'000 : 100 + i * 37 % 5 * 200);
  }
  ASSERT_NO_FATAL_FAILURE(PutAtRandom(db(), model));
  ASSERT_THAT(db().Compact(ByKey()).status(), IsOk());
  EXPECT_GT(ShareInOrder(db()), 0.95);
  const absl::StatusOr<CompactionResult> again = db().Compact(ByKey());
  ASSERT_THAT(again.status(), IsOk());
  EXPECT_EQ(again->records_ordered, 0u);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
}

// A few new records do not have all of their leaf written anew, many have.
TEST_P(OrderTest, WhatWasReplacedIsOrderedWhenItIsMuch) {
  Model model = NumberedModel(20'000, 300);
  ASSERT_NO_FATAL_FAILURE(PutAtRandom(db(), model));
  ASSERT_THAT(db().Compact(ByKey()).status(), IsOk());
  const auto replace_each = [&](int step, uint64_t version) {
    Model changes;
    for (int i = 0; i < 20'000; i += step) {
      const std::string key = NumberedKey(i);
      model[key] = changes[key] = ValueFor(key, version, 300);
    }
    PutAtRandom(db(), changes);
  };
  replace_each(20, 1);
  absl::StatusOr<CompactionResult> result = db().Compact(ByKey());
  ASSERT_THAT(result.status(), IsOk());
  EXPECT_LT(result->records_ordered, model.size() / 10);
  EXPECT_GT(ShareInOrder(db()), 0.85);
  replace_each(2, 2);
  result = db().Compact(ByKey());
  ASSERT_THAT(result.status(), IsOk());
  EXPECT_GT(result->records_ordered, model.size() / 2);
  EXPECT_GT(ShareInOrder(db()), 0.9);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
}

TEST_P(OrderTest, PinsAndSnapshotsSeeWhatTheySaw) {
  Model model = NumberedModel(20'000, 300);
  ASSERT_NO_FATAL_FAILURE(PutAtRandom(db(), model));
  const Model seen = model;
  {
    std::vector<std::pair<std::string, PinnedValue>> pins;
    for (int i = 0; i < 20'000; i += 700) {
      absl::StatusOr<PinnedValue> pinned = db().Pin(NumberedKey(i));
      ASSERT_THAT(pinned.status(), IsOk());
      pins.emplace_back(model[NumberedKey(i)], *std::move(pinned));
    }
    std::unique_ptr<Iterator> it = db().NewIterator();
    it->Seek(NumberedKey(5000));
    const std::string_view value = it->value();
    ASSERT_THAT(db().Compact(ByKey()).status(), IsOk());
    // New records go where the moved ones were, unless somebody still sees these.
    Model changes;
    for (int i = 0; i < 20'000; i += 3) {
      const std::string key = NumberedKey(i);
      model[key] = changes[key] = ValueFor(key, 1, 300);
    }
    ASSERT_NO_FATAL_FAILURE(PutAtRandom(db(), changes));
    ASSERT_THAT(db().Compact(ByKey()).status(), IsOk());
    EXPECT_TRUE(value == seen.at(NumberedKey(5000)));
    for (const auto& [pinned_value, pin] : pins) ASSERT_TRUE(pin.value() == pinned_value);
    auto expected = seen.begin();
    for (it->SeekToFirst(); it->Valid(); it->Next(), ++expected) {
      ASSERT_TRUE(expected != seen.end());
      ASSERT_EQ(it->key(), expected->first);
      ASSERT_TRUE(it->value() == expected->second) << it->key();
    }
    EXPECT_THAT(it->status(), IsOk());
    EXPECT_TRUE(expected == seen.end());
  }
  ASSERT_THAT(db().Compact(ByKey()).status(), IsOk());
  EXPECT_GT(ShareInOrder(db()), 0.9);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), model));
}

// Writers replace and delete, and so have addresses given to other records while these are being
// moved; readers copy, pin and walk.
TEST_P(OrderTest, UnderReadersAndWriters) {
  constexpr int kWriters = 2, kKeys = 3'000;
  const auto end = absl::Now() + absl::Seconds(3);
  const auto size_of = [](uint64_t version) { return 40 + version % 4 * 300; };
  const auto is_right = [&](std::string_view key, std::string_view value) {
    uint64_t version = 0;
    if (value.size() < sizeof(version)) return false;
    memcpy(&version, value.data(), sizeof(version));
    return value.substr(sizeof(version)) == ValueFor(key, version, size_of(version));
  };
  std::vector<Model> models(kWriters);
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      Model& model = models[writer];
      std::mt19937 random(writer);
      for (uint64_t version = 1; absl::Now() < end; ++version) {
        const std::string key = NumberedKey(random() % kKeys * kWriters + writer);
        if (random() % 3 == 0) {
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
  threads.emplace_back([&] {
    std::mt19937 random(100);
    while (absl::Now() < end) {
      // The same twice, though its records are moved and replaced meanwhile.
      const absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
      ASSERT_THAT(snapshot.status(), IsOk());
      IteratorOptions options;
      options.snapshot = &*snapshot;
      const std::unique_ptr<Iterator> it = db().NewIterator(options);
      Model first;
      for (it->SeekToFirst(); it->Valid(); it->Next()) {
        ASSERT_TRUE(is_right(it->key(), it->value())) << it->key();
        first.emplace_hint(first.end(), it->key(), it->value());
      }
      ASSERT_THAT(it->status(), IsOk());
      auto expected = first.rbegin();
      for (it->SeekToLast(); it->Valid(); it->Prev(), ++expected) {
        ASSERT_TRUE(expected != first.rend() && it->key() == expected->first);
        ASSERT_TRUE(it->value() == expected->second) << it->key();
      }
      ASSERT_TRUE(expected == first.rend());
    }
  });
  threads.emplace_back([&] {
    std::mt19937 random(200);
    std::vector<std::pair<std::string, PinnedValue>> pins;
    while (absl::Now() < end) {
      const std::string key = NumberedKey(random() % (kKeys * kWriters));
      absl::StatusOr<PinnedValue> pinned = db().Pin(key);
      if (pinned.ok()) pins.emplace_back(key, *std::move(pinned));
      if (pins.size() < 30) continue;
      for (const auto& [pinned_key, pin] : pins) {
        ASSERT_TRUE(is_right(pinned_key, pin.value())) << pinned_key;
      }
      pins.clear();
      absl::SleepFor(absl::Milliseconds(5));
    }
  });
  uint64_t records_ordered = 0;
  while (absl::Now() < end) {
    absl::StatusOr<CompactionResult> result = db().Compact(ByKey());
    ASSERT_THAT(result.status(), IsOk());
    records_ordered += result->records_ordered;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(records_ordered, 0u);
  Model all;
  for (Model& model : models) all.merge(model);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(db(), all));
}

// While it runs, the store grows by a part only: what a step took comes back before the next one.
TEST(OrderSpaceTest, GrowsByAPart) {
  TemporaryDirectory directory(Medium::kTmpfs);
  Options options = TestOptions();
  options.compaction_bytes_per_second = 0;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(db.status(), IsOk());
  const Model model = NumberedModel(60'000, 1000);
  ASSERT_NO_FATAL_FAILURE(PutAtRandom(**db, model));
  const uint64_t loaded_bytes = RecordExtentsBytes(**db);
  std::atomic<bool> done{false};
  uint64_t most_bytes = 0;
  std::thread watch([&] {
    while (!done.load()) {
      most_bytes = std::max(most_bytes, RecordExtentsBytes(**db));
      absl::SleepFor(absl::Milliseconds(2));
    }
  });
  const absl::StatusOr<CompactionResult> result = (*db)->Compact(ByKey());
  done.store(true);
  watch.join();
  ASSERT_THAT(result.status(), IsOk());
  EXPECT_GT(ShareInOrder(**db), 0.95);
  // A step, the batch that ends it, and copies of leaves looked at together.
  EXPECT_LT(most_bytes, loaded_bytes + (16 << 20) + (12 << 20));
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
  EXPECT_THAT((*db)->Close(), IsOk());
}

// A snapshot keeps old places: what it may keep is bounded, too.
TEST(OrderSpaceTest, StopsWhenASnapshotKeepsTooMuch) {
  TemporaryDirectory directory(Medium::kTmpfs);
  Options options = TestOptions();
  options.compaction_bytes_per_second = 0;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(db.status(), IsOk());
  const Model model = NumberedModel(60'000, 1000);
  ASSERT_NO_FATAL_FAILURE(PutAtRandom(**db, model));
  const uint64_t loaded_bytes = RecordExtentsBytes(**db);
  {
    const absl::StatusOr<Snapshot> snapshot = (*db)->GetSnapshot();
    ASSERT_THAT(snapshot.status(), IsOk());
    ASSERT_THAT((*db)->Compact(ByKey()).status(), HasCode(absl::StatusCode::kResourceExhausted));
    EXPECT_LT(RecordExtentsBytes(**db), loaded_bytes + (64 << 20));
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
  }
  ASSERT_THAT((*db)->Compact(ByKey()).status(), IsOk());
  EXPECT_GT(ShareInOrder(**db), 0.9);
  EXPECT_LT(RecordExtentsBytes(**db), loaded_bytes * 11 / 10);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
  EXPECT_THAT((*db)->Close(), IsOk());
}

// In a pool that is full but for `free_bytes`.
void OrderInFullPool(uint64_t free_bytes, bool suffices) {
  TemporaryDirectory directory(Medium::kTmpfs);
  Options options = TestOptions();
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 48 << 20;
  options.compaction_bytes_per_second = 0;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(db.status(), IsOk());
  Model model;
  std::mt19937_64 random(3);
  absl::Status put;
  while (put.ok()) {
    const std::string key = NumberedKey(random() % 1'000'000);
    const std::string value = ValueFor(key, 0, 500);
    put = (*db)->Put(key, value);
    if (put.ok()) model[key] = value;
  }
  ASSERT_THAT(put, HasCode(absl::StatusCode::kResourceExhausted));
  for (uint64_t freed = 0; freed < free_bytes; freed += 560) {
    ASSERT_THAT((*db)->Delete(model.begin()->first), IsOk());
    model.erase(model.begin());
  }
  const absl::Status ordered = (*db)->Compact(ByKey()).status();
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
  if (suffices) {
    ASSERT_THAT(ordered, IsOk());
    EXPECT_GT(ShareInOrder(**db), 0.9);
  } else {
    ASSERT_THAT(ordered, HasCode(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(std::string(ordered.message()), testing::HasSubstr("no room to order"));
  }
  // There is as much room as before.
  for (uint64_t used = 0; used + (1 << 20) < free_bytes; used += 560) {
    const std::string key = "more" + NumberedKey(used);
    model[key] = ValueFor(key, 0, 500);
    ASSERT_THAT((*db)->Put(key, model[key]), IsOk());
  }
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
  EXPECT_THAT((*db)->Close(), IsOk());
}

TEST(OrderSpaceTest, NearlyFullPool) { OrderInFullPool(4 << 20, /*suffices=*/true); }
TEST(OrderSpaceTest, FullPool) { OrderInFullPool(0, /*suffices=*/false); }

}  // namespace
}  // namespace daxkv::kv
