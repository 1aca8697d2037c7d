// Random calls against std::map, with reopening after clean closes and crashes.
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Model = std::map<std::string, std::string>;

class ModelTest : public StoreTest {
 protected:
  ModelTest() : random_(std::random_device()()) {
    const uint64_t seed = random_();
    RecordProperty("seed", absl::StrCat(seed));
    std::cout << "seed " << seed << "\n";
    random_.seed(seed);
  }

  uint64_t Below(uint64_t limit) { return random_() % limit; }

  // Few enough keys that they meet often; some share long prefixes, some have odd bytes.
  std::string RandomKey() {
    switch (Below(4)) {
      case 0:
        return std::string(1 + Below(4), static_cast<char>(Below(256)));
      case 1:
        return std::string(200, 'p') + absl::StrCat(Below(300));
      case 2:
        return absl::StrCat("user", Below(3000));
      default:
        return std::string(absl::StrCat(Below(300))) + std::string(Below(3), '\0');
    }
  }

  std::string RandomValue(const std::string& key) {
    const uint64_t kind = Below(200);
    const uint64_t limit = kind == 0 ? 600 << 10 : kind < 10 ? 40 << 10 : 300;
    return ValueFor(key, random_(), Below(limit + 1));
  }

  void Step(Model& model) {
    const std::string key = RandomKey();
    switch (Below(10)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const std::string value = RandomValue(key);
        ASSERT_THAT(db().Put(key, value), IsOk());
        model[key] = value;
        break;
      }
      case 4:
      case 5:
        ASSERT_THAT(db().Delete(key), HasCode(model.erase(key) == 1 ? absl::StatusCode::kOk
                                                                    : absl::StatusCode::kNotFound));
        break;
      case 6:
        StepGroup(model);
        break;
      case 7:
        StepScan(model, key);
        break;
      default: {
        const auto expected = model.find(key);
        absl::StatusOr<std::string> got = db().Get(key);
        absl::StatusOr<PinnedValue> pinned = db().Pin(key);
        if (expected == model.end()) {
          ASSERT_THAT(got.status(), HasCode(absl::StatusCode::kNotFound));
          ASSERT_THAT(pinned.status(), HasCode(absl::StatusCode::kNotFound));
        } else {
          ASSERT_THAT(got.status(), IsOk());
          ASSERT_TRUE(*got == expected->second);
          ASSERT_THAT(pinned.status(), IsOk());
          ASSERT_TRUE(pinned->value() == expected->second);
        }
      }
    }
  }

  void StepGroup(Model& model) {
    std::vector<std::pair<std::string, std::string>> records;
    for (uint64_t i = Below(60); i > 0; --i) {
      std::string key = RandomKey();
      std::string value = RandomValue(key);
      records.emplace_back(std::move(key), std::move(value));
    }
    if (Below(4) == 0) {
      std::vector<std::string_view> keys;
      for (const auto& [key, value] : records) {
        keys.push_back(key);
        model.erase(key);
      }
      ASSERT_THAT(db().DeleteGroup(keys).status(), IsOk());
      return;
    }
    std::vector<KeyValue> group;
    for (const auto& [key, value] : records) {
      group.push_back({key, value});
      model[key] = value;
    }
    ASSERT_THAT(db().PutGroup(group).status(), IsOk());
  }

  void StepScan(const Model& model, const std::string& from) {
    IteratorOptions options;
    if (Below(2) == 0) options.upper_bound = RandomKey();
    if (Below(2) == 0) options.lower_bound = RandomKey();
    options.keys_only = Below(2) == 0;
    std::unique_ptr<Iterator> it = db().NewIterator(options);
    auto expected = model.lower_bound(std::max(from, options.lower_bound));
    const auto in_range = [&] {
      return expected != model.end() &&
             (options.upper_bound.empty() || expected->first < options.upper_bound);
    };
    it->Seek(from);
    for (uint64_t left = Below(500); left > 0 && in_range(); --left) {
      ASSERT_TRUE(it->Valid()) << it->status();
      ASSERT_EQ(it->key(), expected->first);
      ASSERT_TRUE(it->value() == (options.keys_only ? "" : expected->second));
      it->Next();
      ++expected;
    }
    ASSERT_EQ(it->Valid(), in_range());
    ASSERT_THAT(it->status(), IsOk());
  }

  void ExpectEqual(const Model& model) {
    auto expected = model.begin();
    std::unique_ptr<Iterator> it = db().NewIterator();
    for (it->SeekToFirst(); it->Valid(); it->Next(), ++expected) {
      ASSERT_TRUE(expected != model.end());
      ASSERT_EQ(it->key(), expected->first);
      ASSERT_TRUE(it->value() == expected->second);
    }
    ASSERT_THAT(it->status(), IsOk());
    ASSERT_TRUE(expected == model.end());
    EXPECT_EQ(db().GetInfo()->records, model.size());
  }

 private:
  std::mt19937_64 random_;
};
INSTANTIATE_ON_BOTH_MEDIA(ModelTest);

TEST_P(ModelTest, BehavesAsAMap) {
  const int steps_per_life = GetParam() == Medium::kTmpfs ? 3000 : 150;
  Model model;
  for (int life = 0; life < 8; ++life) {
    for (int i = 0; i < steps_per_life; ++i) ASSERT_NO_FATAL_FAILURE(Step(model));
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(model));
    if (Below(2) == 0) {
      ASSERT_THAT(db().Compact().status(), IsOk());
    }
    if (Below(2) == 0) {
      ASSERT_NO_FATAL_FAILURE(ExpectClean());
    }
    if (Below(2) == 0) {
      CloseCleanly();
    } else {
      Crash();
    }
    ASSERT_NO_FATAL_FAILURE(Open());
  }
  ExpectEqual(model);
}

}  // namespace
}  // namespace daxkv::kv
