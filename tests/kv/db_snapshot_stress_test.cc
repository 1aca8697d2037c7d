// Snapshots and iterators while many threads write.
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

constexpr absl::Duration kRunTime = absl::Seconds(2);

class SnapshotStressTest : public StoreTest {
 protected:
  std::unique_ptr<Iterator> IteratorAt(const Snapshot& snapshot) {
    IteratorOptions options;
    options.snapshot = &snapshot;
    return db().NewIterator(options);
  }
  static bool Done(absl::Time end) { return absl::Now() >= end; }
};
INSTANTIATE_ON_BOTH_MEDIA(SnapshotStressTest);

// Each writer has a chain of keys, far from each other, and writes generation after generation down
// the chain, the next key only when the put of the one before has returned. A snapshot must see
// generations that never rise along a chain, and fall once at most: no later link without its
// earlier one.
TEST_P(SnapshotStressTest, NoEffectIsSeenWithoutItsCause) {
  constexpr int kWriters = 3, kLinks = 40;
  const auto key = [](int writer, int link) { return absl::StrCat(link * 37 % 101, "-", writer); };
  for (int writer = 0; writer < kWriters; ++writer) {
    for (int link = 0; link < kLinks; ++link) {
      ASSERT_THAT(db().Put(key(writer, link), "0"), IsOk());
    }
  }
  const absl::Time end = absl::Now() + kRunTime;
  std::atomic<uint64_t> generations{0}, looks{0};
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      for (uint64_t generation = 1; !Done(end); ++generation, ++generations) {
        for (int link = 0; link < kLinks && !Done(end); ++link) {
          ASSERT_THAT(db().Put(key(writer, link), absl::StrCat(generation)), IsOk());
        }
      }
    });
  }
  // Others split the leaves and fill them anew.
  threads.emplace_back([&] {
    for (uint64_t round = 0; !Done(end); ++round) {
      std::vector<std::string> keys;
      for (uint64_t i = 0; i < 300; ++i)
        keys.push_back(absl::StrCat((round * 300 + i) % 101, "-z", i));
      std::vector<KeyValue> group;
      std::vector<std::string_view> views(keys.begin(), keys.end());
      for (const std::string& name : keys) group.push_back({name, name});
      ASSERT_THAT(db().PutGroup(group).status(), IsOk());
      ASSERT_THAT(db().DeleteGroup(views).status(), IsOk());
    }
  });
  for (int reader = 0; reader < 2; ++reader) {
    threads.emplace_back([&, reader] {
      for (; !Done(end); ++looks) {
        absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
        ASSERT_THAT(snapshot.status(), IsOk());
        for (int writer = 0; writer < kWriters; ++writer) {
          uint64_t first = 0, last = 0;
          for (int i = 0; i < kLinks; ++i) {
            // From the end too: what is read late must not show more.
            const int link = reader == 0 ? i : kLinks - 1 - i;
            absl::StatusOr<std::string> value = db().Get(key(writer, link), *snapshot);
            ASSERT_THAT(value.status(), IsOk());
            uint64_t generation;
            ASSERT_TRUE(absl::SimpleAtoi(*value, &generation));
            if (i == 0) first = last = generation;
            if (reader == 0) {
              ASSERT_LE(generation, last) << "link " << link;
              ASSERT_LE(first, generation + 1);
            } else {
              ASSERT_GE(generation, last) << "link " << link;
              ASSERT_LE(generation, first + 1);
            }
            last = generation;
          }
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(generations.load(), 0u);
  EXPECT_GT(looks.load(), 0u);
}

// A batch is seen whole or not at all: its keys, some of them deleted and put in turn, lie in many
// leaves, which split meanwhile.
TEST_P(SnapshotStressTest, BatchesAreSeenWhole) {
  constexpr int kKeys = 60;
  const auto key = [](int i) { return absl::StrCat(i * 37 % 101, "-batch"); };
  const absl::Time end = absl::Now() + kRunTime;
  std::atomic<uint64_t> generations{0}, looks{0};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (uint64_t generation = 1; !Done(end); ++generation, ++generations) {
      WriteBatch batch;
      for (int i = 0; i < kKeys; ++i) {
        // Of each pair one is there.
        if ((generation + static_cast<uint64_t>(i)) % 2 == 0) {
          ASSERT_THAT(batch.Put(key(i), absl::StrCat(generation)), IsOk());
        } else {
          ASSERT_THAT(batch.Delete(key(i)), IsOk());
        }
      }
      ASSERT_THAT(db().Write(batch), IsOk());
    }
  });
  threads.emplace_back([&] {
    for (uint64_t round = 0; !Done(end); ++round) {
      const std::string other = absl::StrCat(round % 101, "-z", round);
      ASSERT_THAT(db().Put(other, other), IsOk());
    }
  });
  for (int reader = 0; reader < 2; ++reader) {
    threads.emplace_back([&] {
      for (; !Done(end); ++looks) {
        absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
        ASSERT_THAT(snapshot.status(), IsOk());
        std::string seen;
        int count = 0;
        for (int i = 0; i < kKeys; ++i) {
          absl::StatusOr<std::string> value = db().Get(key(i), *snapshot);
          if (absl::IsNotFound(value.status())) continue;
          ASSERT_THAT(value.status(), IsOk());
          if (count++ == 0) seen = *value;
          ASSERT_EQ(*value, seen) << "key " << i;
        }
        ASSERT_TRUE(count == 0 || count == kKeys / 2) << count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(generations.load(), 0u);
  EXPECT_GT(looks.load(), 0u);
}

// Two walks of one snapshot, forwards and backwards, give the same bytes, whatever is written
// between and beside them; and the views of the first walk still show them.
TEST_P(SnapshotStressTest, WalksOfOneSnapshotAgree) {
  constexpr int kKeys = 2000;
  std::vector<KeyValue> group;
  std::vector<std::string> keys;
  for (int i = 0; i < kKeys; ++i) keys.push_back(NumberedKey(i));
  for (const std::string& key : keys) group.push_back({key, "first"});
  ASSERT_THAT(db().PutGroup(group).status(), IsOk());

  const absl::Time end = absl::Now() + kRunTime;
  std::atomic<uint64_t> walks{0};
  std::vector<std::thread> threads;
  for (int writer = 0; writer < 2; ++writer) {
    threads.emplace_back([&, writer] {
      std::mt19937_64 random(static_cast<uint64_t>(writer));
      for (uint64_t version = 0; !Done(end); ++version) {
        const std::string key =
            absl::StrCat(NumberedKey(random() % kKeys), random() % 3 == 0 ? "+" : "");
        if (random() % 4 == 0) {
          const absl::Status deleted = db().Delete(key);
          ASSERT_TRUE(deleted.ok() || absl::IsNotFound(deleted)) << deleted;
        } else {
          ASSERT_THAT(db().Put(key, ValueFor(key, version, random() % 200)), IsOk());
        }
      }
    });
  }
  threads.emplace_back([&] {
    while (!Done(end)) {
      ASSERT_THAT(db().PutGroup(group).status(), IsOk());
      ASSERT_THAT(db().Compact().status(), IsOk());
    }
  });
  for (int reader = 0; reader < 2; ++reader) {
    threads.emplace_back([&] {
      for (; !Done(end); ++walks) {
        absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
        ASSERT_THAT(snapshot.status(), IsOk());
        const std::unique_ptr<Iterator> it = IteratorAt(*snapshot);
        std::vector<std::pair<std::string, std::string>> copies;
        std::vector<std::pair<std::string_view, std::string_view>> views;
        for (it->SeekToFirst(); it->Valid(); it->Next()) {
          // Also when compaction moves a record while its leaf is read: each key once.
          if (!copies.empty()) {
            ASSERT_LT(copies.back().first, it->key());
          }
          copies.emplace_back(it->key(), it->value());
          views.emplace_back(it->key(), it->value());
        }
        ASSERT_THAT(it->status(), IsOk());
        size_t left = copies.size();
        const std::unique_ptr<Iterator> back = IteratorAt(*snapshot);
        for (back->SeekToLast(); back->Valid(); back->Prev()) {
          ASSERT_GT(left, 0u);
          --left;
          ASSERT_EQ(back->key(), copies[left].first);
          ASSERT_TRUE(back->value() == copies[left].second) << copies[left].first;
        }
        ASSERT_THAT(back->status(), IsOk());
        ASSERT_EQ(left, 0u);
        for (size_t i = 0; i < copies.size(); i += 7) {
          ASSERT_TRUE(views[i].first == copies[i].first && views[i].second == copies[i].second);
          absl::StatusOr<std::string> got = db().Get(copies[i].first, *snapshot);
          ASSERT_THAT(got.status(), IsOk());
          ASSERT_TRUE(*got == copies[i].second);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(walks.load(), 0u);
  EXPECT_EQ(db().GetInfo()->snapshots, 0u);
  EXPECT_EQ(db().GetInfo()->snapshot_versions, 0u);
}

}  // namespace
}  // namespace daxkv::kv
