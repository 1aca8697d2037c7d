// Iterators: bounds, refills, long values, and writers at work meanwhile.
#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

class IteratorTest : public StoreTest {
 protected:
  void Load(int count, size_t value_size) {
    std::vector<std::pair<std::string, std::string>> records;
    for (int i = 0; i < count; ++i) {
      records.emplace_back(NumberedKey(i), ValueFor(NumberedKey(i), 0, value_size));
    }
    std::vector<KeyValue> group;
    for (const auto& [key, value] : records) group.push_back({key, value});
    ASSERT_THAT(db().PutGroup(group).status(), IsOk());
  }
};
INSTANTIATE_ON_BOTH_MEDIA(IteratorTest);

TEST_P(IteratorTest, AnEmptyStoreHasNothing) {
  std::unique_ptr<Iterator> it = db().NewIterator();
  EXPECT_FALSE(it->Valid());
  it->SeekToFirst();
  EXPECT_FALSE(it->Valid());
  EXPECT_THAT(it->status(), IsOk());
}

TEST_P(IteratorTest, WalksEverythingInOrder) {
  Load(20000, 20);
  std::unique_ptr<Iterator> it = db().NewIterator();
  int i = 0;
  for (it->SeekToFirst(); it->Valid(); it->Next(), ++i) {
    ASSERT_EQ(it->key(), NumberedKey(i));
    ASSERT_EQ(it->value(), ValueFor(NumberedKey(i), 0, 20));
  }
  EXPECT_THAT(it->status(), IsOk());
  EXPECT_EQ(i, 20000);
}

TEST_P(IteratorTest, SeeksInsideItsBounds) {
  Load(1000, 5);
  IteratorOptions options;
  options.lower_bound = NumberedKey(100);
  options.upper_bound = NumberedKey(900);
  std::unique_ptr<Iterator> it = db().NewIterator(options);
  it->SeekToFirst();
  EXPECT_EQ(it->key(), NumberedKey(100));
  it->Seek(NumberedKey(50));
  EXPECT_EQ(it->key(), NumberedKey(100));
  it->Seek(NumberedKey(500) + "x");
  EXPECT_EQ(it->key(), NumberedKey(501));
  int count = 0;
  for (; it->Valid(); it->Next()) ++count;
  EXPECT_EQ(count, 399);
  it->Seek(NumberedKey(899));
  ASSERT_TRUE(it->Valid());
  it->Next();
  EXPECT_FALSE(it->Valid());
  it->Seek(NumberedKey(900));
  EXPECT_FALSE(it->Valid());
  // From the end it can be moved again.
  it->Seek(NumberedKey(899));
  EXPECT_TRUE(it->Valid());
}

TEST_P(IteratorTest, ReadsNoValuesIfNotAskedTo) {
  Load(300, 3000);
  IteratorOptions options;
  options.keys_only = true;
  std::unique_ptr<Iterator> it = db().NewIterator(options);
  int count = 0;
  for (it->SeekToFirst(); it->Valid(); it->Next(), ++count) EXPECT_EQ(it->value(), "");
  EXPECT_EQ(count, 300);
}

// Values of all sizes: buffered, beyond the buffer, pinned.
TEST_P(IteratorTest, HandsOutLongValues) {
  const size_t sizes[] = {0, 60 << 10, 65 << 10, 300 << 10, 3 << 20, 10, 64 << 10, 63 << 10};
  std::map<std::string, size_t> expected;
  for (int i = 0; i < 40; ++i) {
    const size_t size = sizes[i % 8] + i;
    const std::string key = NumberedKey(i);
    ASSERT_THAT(db().Put(key, ValueFor(key, 1, size)), IsOk());
    expected[key] = size;
  }
  std::unique_ptr<Iterator> it = db().NewIterator();
  it->SeekToFirst();
  for (const auto& [key, size] : expected) {
    ASSERT_TRUE(it->Valid()) << it->status();
    EXPECT_EQ(it->key(), key);
    EXPECT_TRUE(it->value() == ValueFor(key, 1, size));
    it->Next();
  }
  EXPECT_FALSE(it->Valid());
}

TEST_P(IteratorTest, SeesALongValueDeletedAhead) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_THAT(db().Put(NumberedKey(i), std::string(1 << 20, 'v')), IsOk());
  }
  std::unique_ptr<Iterator> it = db().NewIterator();
  it->SeekToFirst();
  ASSERT_THAT(db().Delete(NumberedKey(1)), IsOk());
  ASSERT_THAT(db().Delete(NumberedKey(0)), IsOk());
  EXPECT_EQ(it->value(), std::string(1 << 20, 'v'));  // Held where it was.
  it->Next();
  ASSERT_TRUE(it->Valid());
  EXPECT_EQ(it->key(), NumberedKey(1));
  EXPECT_EQ(it->value(), std::string(1 << 20, 'v'));
  it->Refresh();
  it->SeekToFirst();
  EXPECT_EQ(it->key(), NumberedKey(2));
}

// Keys that stay are seen once each and in order, whatever comes and goes between them.
TEST_P(IteratorTest, WritersDoNotDisturbIt) {
  constexpr int kStaying = 3000;
  Load(kStaying, 30);
  std::atomic<bool> stop = false;
  auto write = [&](int writer) {
    std::mt19937_64 random(writer);
    while (!stop.load()) {
      const std::string staying = NumberedKey(random() % kStaying);
      const std::string passing = absl::StrCat(staying, "+", random() % 5);
      EXPECT_THAT(db().Put(passing, passing), IsOk());
      EXPECT_THAT(db().Put(staying, ValueFor(staying, 0, 30)), IsOk());
      const absl::Status deleted = db().Delete(absl::StrCat(staying, "+", random() % 5));
      EXPECT_TRUE(deleted.ok() || absl::IsNotFound(deleted)) << deleted;
    }
  };
  std::thread writers[] = {std::thread(write, 1), std::thread(write, 2)};
  for (int scan = 0; scan < 10; ++scan) {
    std::unique_ptr<Iterator> it = db().NewIterator();
    int next_staying = 0;
    std::string last;
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      ASSERT_LT(last, it->key());
      last = it->key();
      if (last.find('+') != std::string::npos) {
        ASSERT_EQ(it->value(), last);
        continue;
      }
      ASSERT_EQ(last, NumberedKey(next_staying));
      ASSERT_EQ(it->value(), ValueFor(last, 0, 30));
      ++next_staying;
    }
    ASSERT_THAT(it->status(), IsOk());
    ASSERT_EQ(next_staying, kStaying);
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
}

}  // namespace
}  // namespace daxkv::kv
