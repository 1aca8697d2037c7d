// PutGroup.
#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;

class GroupTest : public StoreTest {
 protected:
  std::map<std::string, std::string> Contents() {
    std::map<std::string, std::string> contents;
    std::unique_ptr<Iterator> it = db().NewIterator();
    for (it->SeekToFirst(); it->Valid(); it->Next()) contents.emplace(it->key(), it->value());
    EXPECT_THAT(it->status(), IsOk());
    return contents;
  }
};
INSTANTIATE_ON_BOTH_MEDIA(GroupTest);

TEST_P(GroupTest, AnEmptyGroupIsNothing) {
  absl::StatusOr<GroupResult> result = db().PutGroup({});
  ASSERT_THAT(result.status(), IsOk());
  EXPECT_EQ(result->stored, 0u);
}

TEST_P(GroupTest, TheLastOfEqualKeysWins) {
  ASSERT_THAT(db().Put("b", "old"), IsOk());
  absl::StatusOr<GroupResult> result =
      db().PutGroup({{"c", "1"}, {"a", "2"}, {"c", "3"}, {"b", "4"}, {"c", "5"}, {"a", "6"}});
  ASSERT_THAT(result.status(), IsOk());
  EXPECT_EQ(result->stored, 3u);
  EXPECT_EQ(result->superseded, 3u);
  EXPECT_EQ(result->replaced, 1u);
  EXPECT_THAT(Contents(), testing::ElementsAre(testing::Pair("a", "6"), testing::Pair("b", "4"),
                                               testing::Pair("c", "5")));
}

TEST_P(GroupTest, ABadRecordStopsTheGroupBeforeItBegins) {
  const std::string long_key(kMaxKeySizeBytes + 1, 'k');
  const absl::Status refused = db().PutGroup({{"a", "1"}, {long_key, "2"}}).status();
  EXPECT_THAT(refused, HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(refused.message(), HasSubstr("record 1 of the group"));
  EXPECT_THAT(db().Contains("a"), HasCode(absl::StatusCode::kNotFound));
}

TEST_P(GroupTest, EqualsSinglePuts) {
  std::mt19937_64 random(7);
  std::map<std::string, std::string> model;
  for (int round = 0; round < 6; ++round) {
    std::vector<std::pair<std::string, std::string>> records;
    const int count = round == 5 ? 40000 : 3000;
    for (int i = 0; i < count; ++i) {
      std::string key = absl::StrCat("k", random() % 20000);
      const size_t size = random() % 1000 == 0 ? random() % 100000 : random() % 200;
      records.emplace_back(key, ValueFor(key, random(), size));
    }
    std::vector<KeyValue> group;
    for (const auto& [key, value] : records) group.push_back({key, value});
    std::map<std::string, std::string> fresh(records.rbegin(), records.rend());
    uint64_t replaced = 0;
    for (const auto& [key, value] : fresh) {
      replaced += model.count(key);
      model[key] = value;
    }
    absl::StatusOr<GroupResult> result = db().PutGroup(group);
    ASSERT_THAT(result.status(), IsOk());
    EXPECT_EQ(result->stored, fresh.size());
    EXPECT_EQ(result->superseded, records.size() - fresh.size());
    EXPECT_EQ(result->replaced, replaced);
  }
  ASSERT_TRUE(Contents() == model);
  Crash();
  Open();
  ASSERT_TRUE(Contents() == model);
}

TEST_P(GroupTest, DeletesManyAtOnce) {
  std::vector<std::string> keys;
  for (int i = 0; i < 30000; ++i) keys.push_back(NumberedKey(i));
  std::vector<KeyValue> group;
  for (const std::string& key : keys) group.push_back({key, "value"});
  ASSERT_THAT(db().PutGroup(group).status(), IsOk());

  std::vector<std::string_view> victims = {"absent", keys[7], keys[7]};
  for (int i = 0; i < 29990; ++i) victims.push_back(keys[i]);
  std::shuffle(victims.begin(), victims.end(), std::mt19937_64(1));
  absl::StatusOr<GroupResult> result = db().DeleteGroup(victims);
  ASSERT_THAT(result.status(), IsOk());
  EXPECT_EQ(result->stored, 0u);
  EXPECT_EQ(result->superseded, 2u);
  EXPECT_EQ(result->replaced, 29990u);
  Crash();
  Open();
  EXPECT_EQ(Contents().size(), 10u);
  EXPECT_EQ(Contents().begin()->first, keys[29990]);
}

TEST_P(GroupTest, ABadKeyStopsTheDeletesBeforeTheyBegin) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  EXPECT_THAT(db().DeleteGroup({"a", ""}).status(), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(db().Contains("a"), IsOk());
}

// K2: whoever wins, the winner's number is the higher one; nothing is lost or doubled.
TEST_P(GroupTest, GroupsAndPutsOverlap) {
  constexpr int kKeys = 300;
  auto write = [&](int writer) {
    std::mt19937_64 random(writer);
    for (int round = 0; round < 20; ++round) {
      std::vector<std::pair<std::string, std::string>> records;
      for (int i = 0; i < kKeys; i += 1 + random() % 3) {
        std::string key = NumberedKey(i);
        std::string value = absl::StrCat(key, "/", writer, "/", round);
        records.emplace_back(std::move(key), std::move(value));
      }
      if (writer % 2 == 0) {
        std::vector<KeyValue> group;
        for (const auto& [key, value] : records) group.push_back({key, value});
        EXPECT_THAT(db().PutGroup(group).status(), IsOk());
      } else {
        for (size_t i = 0; i < records.size(); i += GetParam() == Medium::kDisk ? 10 : 1) {
          EXPECT_THAT(db().Put(records[i].first, records[i].second), IsOk());
        }
      }
    }
  };
  std::vector<std::thread> writers;
  for (int writer = 0; writer < 4; ++writer) writers.emplace_back(write, writer);
  for (std::thread& writer : writers) writer.join();
  for (const auto& [key, value] : Contents()) {
    EXPECT_THAT(value, testing::StartsWith(key + "/"));
  }
  ExpectClean();
}

}  // namespace
}  // namespace daxkv::kv
