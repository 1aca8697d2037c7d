// Pinned values: what they hold on to, and what may go on around them.
#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

class PinTest : public StoreTest {};
INSTANTIATE_ON_BOTH_MEDIA(PinTest);

TEST_P(PinTest, OutlivesOverwritesAndDeletes) {
  for (size_t size : {10, 40000, 300000, 5 << 20}) {
    const std::string key = absl::StrCat("size", size);
    ASSERT_THAT(db().Put(key, ValueFor(key, 1, size)), IsOk());
    absl::StatusOr<PinnedValue> first = db().Pin(key);
    ASSERT_THAT(db().Put(key, ValueFor(key, 2, size)), IsOk());
    absl::StatusOr<PinnedValue> second = db().Pin(key);
    ASSERT_THAT(db().Delete(key), IsOk());
    for (int i = 0; i < 30; ++i) {
      ASSERT_THAT(db().Put(absl::StrCat("other", i), ValueFor("other", i, size)), IsOk());
    }
    ASSERT_THAT(db().Compact().status(), IsOk());
    EXPECT_TRUE(first->value() == ValueFor(key, 1, size));
    EXPECT_TRUE(second->value() == ValueFor(key, 2, size));
  }
}

TEST_P(PinTest, MovesAndReleases) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  PinnedValue outer;
  EXPECT_EQ(outer.value(), "");
  {
    absl::StatusOr<PinnedValue> pinned = db().Pin("a");
    ASSERT_THAT(pinned.status(), IsOk());
    outer = *std::move(pinned);
  }
  EXPECT_EQ(outer.value(), "1");
  PinnedValue inner = std::move(outer);
  EXPECT_EQ(inner.value(), "1");
  EXPECT_EQ(outer.value(), "");
}

// Must show 6 in small: everything is deleted but a pin is held on one value.
TEST_P(PinTest, KeepsItsExtentAloneWhileTheRestIsGivenBack) {
  constexpr int kRecords = 4000;
  constexpr size_t kSize = 10000;
  std::vector<std::string> keys, values;
  for (int i = 0; i < kRecords; ++i) {
    keys.push_back(NumberedKey(i));
    values.push_back(ValueFor(keys.back(), 0, kSize));
  }
  std::vector<KeyValue> group;
  for (int i = 0; i < kRecords; ++i) group.push_back({keys[i], values[i]});
  ASSERT_THAT(db().PutGroup(group).status(), IsOk());
  const uint64_t full = DiskUsageBytes(path());

  absl::StatusOr<PinnedValue> pinned = db().Pin(keys[kRecords / 2]);
  ASSERT_THAT(pinned.status(), IsOk());
  ASSERT_THAT(db().DeleteGroup(std::vector<std::string_view>(keys.begin(), keys.end())).status(),
              IsOk());
  absl::StatusOr<CompactionResult> compacted = db().Compact();
  ASSERT_THAT(compacted.status(), IsOk());
  EXPECT_EQ(compacted->extents_pinned, 1u);
  EXPECT_GT(compacted->extents_freed, 1u);
  const uint64_t held = DiskUsageBytes(path());
  EXPECT_LT(held, full / 4);
  EXPECT_TRUE(pinned->value() == values[kRecords / 2]);

  *pinned = PinnedValue();
  compacted = db().Compact();
  ASSERT_THAT(compacted.status(), IsOk());
  EXPECT_EQ(compacted->extents_pinned, 0u);
  EXPECT_EQ(compacted->extents_freed, 1u);
  EXPECT_LT(DiskUsageBytes(path()), held);
}

TEST_P(PinTest, CheckKnowsADeletedValueUnderAPin) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  absl::StatusOr<PinnedValue> pinned = db().Pin("a");
  ASSERT_THAT(db().Delete("a"), IsOk());
  ExpectClean();
  EXPECT_EQ(pinned->value(), "1");
}

// Pins are taken and held while writers, deletes and compaction try to take the bytes away.
TEST_P(PinTest, HoldsUnderChurn) {
  constexpr int kKeys = 200;
  const auto size_of = [](uint64_t version) { return version % 7 == 0 ? 50000 : 900; };
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int writer = 0; writer < 2; ++writer) {
    threads.emplace_back([&, writer] {
      std::mt19937_64 random(writer);
      for (uint64_t version = 0; !stop.load(); ++version) {
        const std::string key = NumberedKey(random() % kKeys * 2 + writer);
        if (version % 3 == 0) {
          db().Delete(key).IgnoreError();
        } else {
          const std::string tag = absl::StrCat(version, ";");
          EXPECT_THAT(db().Put(key, tag + ValueFor(key, version, size_of(version))), IsOk());
        }
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop.load()) EXPECT_THAT(db().Compact().status(), IsOk());
  });
  const auto check = [&](const std::string& key, std::string_view value) {
    const size_t tag = value.find(';');
    ASSERT_NE(tag, value.npos);
    const uint64_t version = std::stoull(std::string(value.substr(0, tag)));
    ASSERT_TRUE(value.substr(tag + 1) == ValueFor(key, version, size_of(version)));
  };
  std::mt19937_64 random(99);
  std::vector<std::pair<std::string, PinnedValue>> held(64);
  for (int i = 0; i < 5000; ++i) {
    auto& [held_key, held_value] = held[random() % held.size()];
    if (!held_key.empty()) {
      ASSERT_NO_FATAL_FAILURE(check(held_key, held_value.value()));
    }
    const std::string key = NumberedKey(random() % (kKeys * 2));
    absl::StatusOr<PinnedValue> pinned = db().Pin(key);
    if (absl::IsNotFound(pinned.status())) continue;
    ASSERT_THAT(pinned.status(), IsOk());
    ASSERT_NO_FATAL_FAILURE(check(key, pinned->value()));
    held_key = key;
    held_value = *std::move(pinned);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace daxkv::kv
