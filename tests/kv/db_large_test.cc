// The largest keys and values: through splits, scans, crashes and the way back of their space.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kv/format.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

class DbLargeTest : public StoreTest {
 protected:
  void ExpectModel(const std::map<std::string, std::string>& model) {
    std::unique_ptr<Iterator> it = db().NewIterator();
    it->SeekToFirst();
    for (const auto& [key, value] : model) {
      ASSERT_TRUE(it->Valid()) << it->status();
      ASSERT_TRUE(it->key() == key) << it->key().size() << " bytes, not " << key.size();
      ASSERT_TRUE(it->value() == value);
      it->Next();
    }
    EXPECT_FALSE(it->Valid());
    EXPECT_TRUE(it->status().ok()) << it->status();
    for (const auto& [key, value] : model) ASSERT_TRUE(GetOrDie(key) == value);
  }
};

// Keys that differ in their last bytes only: separators are as long as keys, and fences, too long
// for any slab, have runs of their own.
TEST_P(DbLargeTest, TheLongestKeysSplitScanAndSurvive) {
  const int count = GetParam() == Medium::kTmpfs ? 700 : 160;
  std::mt19937 random(7);
  std::map<std::string, std::string> model;
  std::vector<std::string> keys;
  for (int i = 0; i < count; ++i) {
    std::string key(kMaxKeySizeBytes - i % 3, 'k');
    const std::string number = NumberedKey(random() % 100000);
    key.replace(key.size() - number.size(), number.size(), number);
    const std::string value = ValueFor(number, i, i % 200);
    ASSERT_THAT(db().Put(key, value), IsOk());
    model[key] = value;
  }
  ExpectModel(model);
  Crash();
  Open();
  ExpectModel(model);
  ExpectClean();
  std::vector<std::string_view> deleted;
  for (const auto& [key, value] : model) {
    if (random() % 4 != 0) deleted.push_back(key);
  }
  ASSERT_THAT(db().DeleteGroup(deleted).status(), IsOk());
  // The views are into the model's keys.
  for (const std::string_view key : deleted) model.erase(model.find(std::string(key)));
  ASSERT_THAT(db().Compact().status(), IsOk());
  CloseCleanly();
  Open();
  ExpectModel(model);
}

// 1 GiB, and what leads to it: written, read, pinned, replaced, crashed over, given back.
TEST_P(DbLargeTest, TheLargestValueComesBackWholeAndItsSpaceToo) {
  if (GetParam() == Medium::kDisk) GTEST_SKIP() << "a gigabyte of msync says no more than 64 MiB";
  std::string value(kMaxValueSizeBytes, '\0');
  std::mt19937_64 random(1);
  for (size_t i = 0; i < value.size(); i += 4096) {
    const uint64_t word = random();
    value.replace(i, sizeof(word), reinterpret_cast<const char*>(&word), sizeof(word));
  }
  value.back() = 'z';
  ASSERT_THAT(db().Put("largest", value), IsOk());
  Crash();
  Open();
  {
    absl::StatusOr<PinnedValue> pinned = db().Pin("largest");
    ASSERT_THAT(pinned.status(), IsOk());
    EXPECT_TRUE(pinned->value() == value);
  }
  EXPECT_TRUE(GetOrDie("largest") == value);
  ASSERT_THAT(db().Put("largest", "small"), IsOk());
  ASSERT_THAT(db().Compact().status(), IsOk());
  EXPECT_LT(DiskUsageBytes(path()), 32u << 20);
}

INSTANTIATE_ON_BOTH_MEDIA(DbLargeTest);

}  // namespace
}  // namespace daxkv::kv
