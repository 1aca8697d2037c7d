// Atomic batches: the call's contract, what others see meanwhile, full pools, and redo at open of
// tables that tell of a crash or are damaged. Crashes at every fence are //tests/crash's.
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/record.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;
using Model = std::map<std::string, std::string>;

class DbBatchTest : public StoreTest {
 protected:
  void ExpectModel(const Model& model) {
    std::unique_ptr<Iterator> it = db().NewIterator();
    it->SeekToFirst();
    for (const auto& [key, value] : model) {
      ASSERT_TRUE(it->Valid()) << key << " is missing; " << it->status();
      ASSERT_EQ(it->key(), key);
      ASSERT_TRUE(it->value() == value) << key;
      it->Next();
    }
    EXPECT_FALSE(it->Valid()) << it->key();
  }
  int64_t NumberAt(std::string_view key) {
    int64_t number = 0;
    EXPECT_TRUE(absl::SimpleAtoi(GetOrDie(key), &number)) << key;
    return number;
  }
};

TEST_P(DbBatchTest, DoesAllOperationsAndTheLastOfAKeyWins) {
  ASSERT_THAT(db().Put("old", "1"), IsOk());
  ASSERT_THAT(db().Put("gone", "2"), IsOk());
  WriteBatch batch;
  EXPECT_THAT(db().Write(batch), IsOk());  // Empty.
  EXPECT_THAT(batch.Put("new", "first"), IsOk());
  EXPECT_THAT(batch.Put("old", "replaced"), IsOk());
  EXPECT_THAT(batch.Delete("gone"), IsOk());
  EXPECT_THAT(batch.Delete("never there"), IsOk());
  EXPECT_THAT(batch.Put("new", "last"), IsOk());
  EXPECT_THAT(batch.Put("put then deleted", "x"), IsOk());
  EXPECT_THAT(batch.Delete("put then deleted"), IsOk());
  EXPECT_THAT(batch.Delete("deleted then put"), IsOk());
  EXPECT_THAT(batch.Put("deleted then put", ""), IsOk());
  EXPECT_EQ(batch.Count(), 9u);
  ASSERT_THAT(db().Write(batch), IsOk());
  const Model model = {{"deleted then put", ""}, {"new", "last"}, {"old", "replaced"}};
  ExpectModel(model);
  // Again, and as one operation only.
  ASSERT_THAT(db().Write(batch), IsOk());
  ExpectModel(model);
  ExpectClean();
  batch.Clear();
  EXPECT_EQ(batch.Count(), 0u);
  EXPECT_EQ(batch.size_bytes(), 0u);
  EXPECT_THAT(batch.Delete("never there"), IsOk());
  EXPECT_THAT(db().Write(batch), IsOk());
  Crash();
  Open();
  ExpectModel(model);
}

TEST_P(DbBatchTest, RefusesKeysAndValuesOutOfRange) {
  WriteBatch batch;
  const std::string too_long(kMaxKeySizeBytes + 1, 'k');
  const std::string_view too_large("x", kMaxValueSizeBytes + 1);
  EXPECT_THAT(batch.Put("", "v"), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(batch.Put(too_long, "v"), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(batch.Put("k", too_large), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(batch.Delete(""), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(batch.Delete(too_long), HasCode(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(batch.Count(), 0u);
  EXPECT_EQ(batch.size_bytes(), 0u);
}

TEST_P(DbBatchTest, ManyLeavesSplitsAndLargeValues) {
  Model model;
  std::mt19937 random(3);
  for (int round = 0; round < 6; ++round) {
    WriteBatch batch;
    const size_t count = round == 0 ? 20000 : 1 + random() % 3000;
    for (size_t i = 0; i < count; ++i) {
      const std::string key = NumberedKey(random() % 30000);
      if (random() % 4 == 0) {
        ASSERT_THAT(batch.Delete(key), IsOk());
        model.erase(key);
      } else {
        const size_t size = i % 1000 == 999 ? 100000 : random() % 100;
        const std::string value = ValueFor(key, round * 100000 + i, size);
        ASSERT_THAT(batch.Put(key, value), IsOk());
        model[key] = value;
      }
    }
    ASSERT_THAT(db().Write(batch), IsOk());
    ExpectModel(model);
    if (round % 2 == 1) {
      Crash();
      Open();
      ExpectModel(model);
    }
  }
}

TEST_P(DbBatchTest, LongKeys) {
  WriteBatch batch;
  Model model;
  for (int i = 0; i < 300; ++i) {
    const std::string key = std::string(kMaxKeySizeBytes - 10, 'k') + NumberedKey(i).substr(0, 10);
    const std::string longer = absl::StrCat(key.substr(10), i);
    ASSERT_THAT(batch.Put(longer, "v"), IsOk());
    model[longer] = "v";
  }
  ASSERT_THAT(db().Write(batch), IsOk());
  ExpectModel(model);
  Crash();
  Open();
  ExpectModel(model);
}

// Money moves between accounts, in batches of two and more, beside other writers of the same
// leaves. No batch is half done, whoever wins.
TEST_P(DbBatchTest, ConcurrentBatchesKeepTheSum) {
  constexpr int kThreads = 3, kAccounts = 40, kStart = 1000;
  const int rounds = GetParam() == Medium::kTmpfs ? 1500 : 20;
  for (int i = 0; i < kAccounts; ++i) {
    ASSERT_THAT(db().Put(absl::StrCat("account", i), absl::StrCat(kStart)), IsOk());
  }
  // Each thread owns accounts of its own: what it reads stays. They lie in the same leaves.
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      const auto mine = [&] {
        return absl::StrCat("account",
                            t + kThreads * (random() % ((kAccounts - t - 1) / kThreads + 1)));
      };
      for (int i = 0; i < rounds; ++i) {
        const std::string from = mine(), to = mine();
        if (from == to) continue;
        const int64_t amount = 1 + random() % 9;
        WriteBatch batch;
        EXPECT_THAT(batch.Put(from, absl::StrCat(NumberAt(from) - amount)), IsOk());
        EXPECT_THAT(batch.Put(to, absl::StrCat(NumberAt(to) + amount)), IsOk());
        // Filler that splits the accounts' leaves.
        EXPECT_THAT(batch.Put(absl::StrCat(from, "/", t, "/", i), "moved"), IsOk());
        EXPECT_THAT(batch.Delete(absl::StrCat(from, "/", t, "/", i - 50)), IsOk());
        EXPECT_THAT(db().Write(batch), IsOk());
        if (i % 7 != 0) continue;
        EXPECT_THAT(db().Put(absl::StrCat(to, "/x", t), "beside"), IsOk());
      }
    });
  }
  // Every snapshot sees the sum, taken beside batches, and with another snapshot held or not.
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    std::optional<Snapshot> held;
    for (int round = 0; !stop.load(); ++round) {
      absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
      ASSERT_THAT(snapshot.status(), IsOk());
      int64_t all = 0;
      for (int i = 0; i < kAccounts; ++i) {
        const absl::StatusOr<std::string> text = db().Get(absl::StrCat("account", i), *snapshot);
        ASSERT_THAT(text.status(), IsOk());
        int64_t number = 0;
        ASSERT_TRUE(absl::SimpleAtoi(*text, &number));
        all += number;
      }
      ASSERT_EQ(all, kAccounts * kStart) << "snapshot " << round;
      held.reset();
      if (round % 3 == 0) held.emplace(*std::move(snapshot));
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop.store(true);
  reader.join();
  const auto sum = [&] {
    int64_t all = 0;
    for (int i = 0; i < kAccounts; ++i) all += NumberAt(absl::StrCat("account", i));
    return all;
  };
  EXPECT_EQ(sum(), kAccounts * kStart);
  ExpectClean();
  Crash();
  Open();
  EXPECT_EQ(sum(), kAccounts * kStart);
}

// Batches and single puts of the same two keys: in the end both keys are of one batch, or put later
// than it. Batches write both, puts only the second, with a number from one counter each; a batch's
// pair is never torn by an older put.
TEST_P(DbBatchTest, OverlappingPutsNeverUndoABatch) {
  const int rounds = GetParam() == Medium::kTmpfs ? 2000 : 15;
  for (int round = 0; round < rounds; ++round) {
    std::thread other([&] {
      WriteBatch batch;
      EXPECT_THAT(batch.Put("a", "other"), IsOk());
      EXPECT_THAT(batch.Put("b", "other"), IsOk());
      EXPECT_THAT(db().Write(batch), IsOk());
    });
    WriteBatch batch;
    EXPECT_THAT(batch.Put("a", "mine"), IsOk());
    EXPECT_THAT(batch.Put("b", "mine"), IsOk());
    EXPECT_THAT(db().Write(batch), IsOk());
    other.join();
    ASSERT_EQ(GetOrDie("a"), GetOrDie("b"));
  }
}

// More batches at once than the table has words.
TEST_P(DbBatchTest, MoreBatchesThanWords) {
  const int rounds = GetParam() == Medium::kTmpfs ? 20 : 2;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kBatchTableWords + 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < rounds; ++i) {
        WriteBatch batch;
        for (int k = 0; k < 4; ++k) {
          EXPECT_THAT(batch.Put(absl::StrCat("key", (t * 7 + k) % 50), absl::StrCat(t)), IsOk());
        }
        EXPECT_THAT(db().Write(batch), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Crash();
  Open();
  EXPECT_EQ(db().GetInfo()->records, 50u);
}

INSTANTIATE_ON_BOTH_MEDIA(DbBatchTest);

// ---- A pool of a fixed size --------------------------------------------------------------------

TEST(DbFullBatchTest, ABatchThatDoesNotFitChangesNothing) {
  TemporaryDirectory directory(Medium::kTmpfs);
  Options options;
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 24 << 20;
  absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(opened.status(), IsOk());
  Db& db = **opened;
  Model model;
  for (int i = 0; i < 200; ++i) {
    model[NumberedKey(i)] = ValueFor(NumberedKey(i), 0, 100);
    ASSERT_THAT(db.Put(NumberedKey(i), model[NumberedKey(i)]), IsOk());
  }
  const auto expect_model = [&] {
    EXPECT_EQ(db.GetInfo()->records, model.size());
    for (const auto& [key, value] : model) EXPECT_EQ(*db.Get(key), value);
    const absl::StatusOr<CheckReport> report = db.Check();
    ASSERT_THAT(report.status(), IsOk());
    EXPECT_THAT(report->faults, testing::IsEmpty());
  };
  // Sizes from far too large down to what fits: allocation fails at every place there is.
  int refused = 0, done = 0;
  for (size_t records = 60000; records > 100; records = records * 4 / 5) {
    WriteBatch batch;
    for (size_t i = 0; i < records; ++i) {
      ASSERT_THAT(batch.Put(absl::StrCat(NumberedKey(i % 200), "/", i), std::string(400, 'v')),
                  IsOk());
    }
    for (int i = 0; i < 200; i += 2) ASSERT_THAT(batch.Delete(NumberedKey(i)), IsOk());
    const absl::Status written = db.Write(batch);
    if (written.ok()) {
      ++done;
      break;
    }
    ++refused;
    ASSERT_THAT(written, HasCode(absl::StatusCode::kResourceExhausted));
    expect_model();
  }
  EXPECT_GT(refused, 0);
  EXPECT_EQ(done, 1);
  ASSERT_THAT(db.DeleteRange("", "").status(), IsOk());
  model.clear();
  expect_model();
  ASSERT_THAT(db.Put("and", "goes on"), IsOk());
  ASSERT_THAT(db.Close(), IsOk());
}

// ---- Tables that a crash left, or that are damaged ---------------------------------------------

class DbBatchTableTest : public testing::Test {
 protected:
  DbBatchTableTest() : directory_(Medium::kTmpfs), path_(directory_.Path("store")) {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path_, TestOptions());
    EXPECT_THAT(db.status(), IsOk());
    for (int i = 0; i < 500; ++i) {
      EXPECT_THAT((*db)->Put(NumberedKey(i), ValueFor(NumberedKey(i), 0, 50)), IsOk());
    }
    EXPECT_THAT((*db)->Close(), IsOk());
  }

  // Changes the pool of the closed store; clean or not afterwards.
  void Edit(const std::function<void(dax::Pool&, uint64_t* words)>& edit, bool clean) {
    absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path_, dax::PoolOptions());
    ASSERT_THAT(pool.status(), IsOk());
    edit(**pool, reinterpret_cast<uint64_t*>((*pool)->root_area() + kBatchTableOffset));
    if (!clean) return;
    ASSERT_THAT((*pool)->Close(), IsOk());
  }
  absl::Status TryOpen() { return Db::Open(path_, TestOptions()).status(); }
  // A word as format.h describes it, put together here.
  static uint64_t Sealed(unsigned word, Address address) {
    return address | uint64_t{Crc32c(word + 1, &address, 6) & 0xffff} << 48;
  }

  TemporaryDirectory directory_;
  const std::string path_;
};

TEST_F(DbBatchTableTest, DamagedWordsAreRefusedByName) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20; ++round) {
    const unsigned word = random() % kBatchTableWords;
    const bool clean = round % 2 == 0;
    // A flipped bit, or garbage.
    const uint64_t damage = round < 10 ? uint64_t{1} << random() % 64 : random() | 1;
    Edit([&](dax::Pool&, uint64_t* words) { words[word] = damage; }, clean);
    const absl::Status opened = TryOpen();
    EXPECT_THAT(opened, HasCode(absl::StatusCode::kDataLoss));
    EXPECT_THAT(opened.message(), HasSubstr(absl::StrCat("word ", word)));
    Edit([&](dax::Pool&, uint64_t* words) { words[word] = 0; }, clean);
    EXPECT_THAT(TryOpen(), IsOk());
  }
}

// Well sealed words that lead anywhere: into headers, values, holes, beyond the pool, to a record
// that is no batch.
TEST_F(DbBatchTableTest, WordsThatLeadAstrayAreRefused) {
  std::mt19937_64 random(2);
  std::vector<uint64_t> starts;
  Edit(
      [&](dax::Pool& pool, uint64_t*) {
        ASSERT_THAT(pool.ForEachRun([&](const dax::Run& run) {
          starts.push_back(run.offset());
          return absl::OkStatus();
        }),
                    IsOk());
      },
      true);
  ASSERT_FALSE(starts.empty());
  for (int round = 0; round < 40; ++round) {
    Address address = starts[random() % starts.size()];
    if (round % 4 < 3) address += random() % 4096 / 8 * 8;
    if (round % 4 == 3) address = random() & kAddressMask;
    const unsigned word = random() % kBatchTableWords;
    Edit([&](dax::Pool&, uint64_t* words) { words[word] = Sealed(word, address); }, round % 2 == 0);
    EXPECT_THAT(TryOpen(), HasCode(absl::StatusCode::kDataLoss)) << address;
    Edit([&](dax::Pool&, uint64_t* words) { words[word] = 0; }, true);
  }
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path_, TestOptions());
  ASSERT_THAT(db.status(), IsOk());
  EXPECT_THAT((*db)->Check()->faults, testing::IsEmpty());
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(*(*db)->Get(NumberedKey(i)), ValueFor(NumberedKey(i), 0, 50));
  }
  ASSERT_THAT((*db)->Close(), IsOk());
}

}  // namespace
}  // namespace daxkv::kv
