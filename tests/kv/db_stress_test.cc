// Several writers and readers at once. Meant for the sanitizers as much as for itself.
#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

class StressTest : public StoreTest {};
INSTANTIATE_ON_BOTH_MEDIA(StressTest);

// Each key has one writer, which counts it up; a reader must never see a number go back.
TEST_P(StressTest, CountersNeverGoBack) {
  constexpr int kWriters = 3, kReaders = 2, kKeysEach = 150;
  const int rounds = GetParam() == Medium::kTmpfs ? 60 : 3;
  std::atomic<int> writing = kWriters;
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      for (int round = 1; round <= rounds; ++round) {
        for (int i = 0; i < kKeysEach; ++i) {
          const std::string key = NumberedKey(i * kWriters + writer);
          const std::string value = absl::StrCat(round, std::string(round * i % 700, ' '));
          EXPECT_THAT(db().Put(key, value), IsOk());
        }
      }
      --writing;
    });
  }
  for (int reader = 0; reader < kReaders; ++reader) {
    threads.emplace_back([&, reader] {
      std::mt19937_64 random(reader);
      std::vector<int> seen(kWriters * kKeysEach, 0);
      std::string value;
      while (writing.load() > 0) {
        const int i = random() % seen.size();
        const absl::Status got = db().Get(NumberedKey(i), &value);
        if (seen[i] == 0 && absl::IsNotFound(got)) continue;
        ASSERT_THAT(got, IsOk());
        int number = 0;
        ASSERT_TRUE(absl::SimpleAtoi(value, &number));
        ASSERT_GE(number, seen[i]);
        seen[i] = number;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < kWriters * kKeysEach; ++i) {
    int number = 0;
    ASSERT_TRUE(absl::SimpleAtoi(GetOrDie(NumberedKey(i)), &number));
    EXPECT_EQ(number, rounds);
  }
}

// All calls from all threads on few keys.
TEST_P(StressTest, EverythingAtOnce) {
  constexpr int kThreads = 4;
  const int steps = GetParam() == Medium::kTmpfs ? 4000 : 100;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (int step = 0; step < steps; ++step) {
        const std::string key = NumberedKey(random() % 500);
        const size_t size = random() % 100 == 0 ? 70000 : random() % 400;
        const std::string value = absl::StrCat(key, ":", std::string(size, key.back()));
        absl::Status status;
        switch (random() % 8) {
          case 0:
          case 1:
          case 2:
            status = db().Put(key, value);
            break;
          case 3:
            status = db().Delete(key);
            break;
          case 4:
            status = db().PutGroup({{key, value}, {key + "a", value}, {key + "b", value}}).status();
            break;
          case 5: {
            absl::StatusOr<PinnedValue> pinned = db().Pin(key);
            status = pinned.status();
            if (pinned.ok()) {
              EXPECT_EQ(pinned->value().substr(0, key.size()), key);
            }
            break;
          }
          case 6: {
            std::unique_ptr<Iterator> it = db().NewIterator();
            it->Seek(key);
            for (int i = 0; i < 20 && it->Valid(); ++i, it->Next()) {
              EXPECT_EQ(it->value().substr(0, key.size()), it->key().substr(0, key.size()));
            }
            status = it->status();
            break;
          }
          default: {
            absl::StatusOr<std::string> got = db().Get(key);
            status = got.status();
            if (got.ok()) {
              EXPECT_EQ(got->substr(0, key.size()), key);
            }
            if (random() % 50 == 0) {
              EXPECT_THAT(db().Compact().status(), IsOk());
            }
          }
        }
        EXPECT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectClean();
}

}  // namespace
}  // namespace daxkv::kv
