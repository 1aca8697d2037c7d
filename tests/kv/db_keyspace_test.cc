// Keyspaces: their contract, batches and snapshots across them, drops under readers and writers,
// and what a thousand of them cost. Crashes at every fence are //tests/crash's.
#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Model = std::map<std::string, std::string>;

constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;

class DbKeyspaceTest : public StoreTest {
 protected:
  Keyspace Create(std::string_view name) {
    absl::StatusOr<Keyspace> made = db().CreateKeyspace(name);
    EXPECT_THAT(made.status(), IsOk()) << name;
    return *std::move(made);
  }
  Keyspace OpenOrDie(std::string_view name) {
    absl::StatusOr<Keyspace> opened = db().OpenKeyspace(name);
    EXPECT_THAT(opened.status(), IsOk()) << name;
    return *std::move(opened);
  }
  std::vector<std::string> List() {
    absl::StatusOr<std::vector<std::string>> names = db().ListKeyspaces();
    EXPECT_THAT(names.status(), IsOk());
    return names.ok() ? *names : std::vector<std::string>();
  }
  Info InfoOrDie(bool count = false) {
    absl::StatusOr<Info> info = db().GetInfo(count);
    EXPECT_THAT(info.status(), IsOk());
    return info.ok() ? *info : Info();
  }
  uint64_t ExtentBytes() {
    const Info info = InfoOrDie();
    return info.slab_size_bytes + info.large_size_bytes;
  }
  // Whether all that was dropped is gone by then.
  bool DropsEnd(absl::Duration patience = absl::Seconds(20)) {
    EXPECT_THAT(db().Compact(absl::Now() + patience).status(), IsOk());
    return InfoOrDie().keyspaces_dropping == 0;
  }
  static Model Read(const Keyspace& keyspace, const Snapshot* snapshot = nullptr) {
    IteratorOptions options;
    options.snapshot = snapshot;
    std::unique_ptr<Iterator> it = keyspace.NewIterator(options);
    Model found;
    for (it->SeekToFirst(); it->Valid(); it->Next()) found.emplace(it->key(), it->value());
    EXPECT_THAT(it->status(), IsOk());
    return found;
  }
  static Model Fill(Keyspace& keyspace, int records, size_t size_bytes, uint64_t version = 0) {
    Model model;
    for (int i = 0; i < records; ++i) {
      const std::string key = NumberedKey(i);
      model[key] = ValueFor(key, version, size_bytes);
      EXPECT_THAT(keyspace.Put(key, model[key]), IsOk());
    }
    return model;
  }
};

INSTANTIATE_ON_BOTH_MEDIA(DbKeyspaceTest);

TEST_P(DbKeyspaceTest, CreatesOpensListsAndDrops) {
  EXPECT_THAT(List(), IsEmpty());
  EXPECT_THAT(db().OpenKeyspace("moons").status(), HasCode(kNotFound));
  EXPECT_THAT(db().DropKeyspace("moons"), HasCode(kNotFound));
  Create("moons");
  Create("comets");
  const std::string odd = std::string("\0\xff/", 3) + std::string(61, 'x');
  Create(odd);
  EXPECT_THAT(List(), ElementsAre(odd, "comets", "moons"));
  EXPECT_THAT(db().CreateKeyspace("moons").status(), HasCode(absl::StatusCode::kAlreadyExists));
  for (const std::string& name : {std::string(), std::string(65, 'x')}) {
    EXPECT_THAT(db().CreateKeyspace(name).status(), HasCode(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(db().OpenKeyspace(name).status(), HasCode(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(db().DropKeyspace(name), HasCode(absl::StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(db().DropKeyspace("comets"), IsOk());
  EXPECT_THAT(List(), ElementsAre(odd, "moons"));
  const absl::Status gone = db().OpenKeyspace("comets").status();
  EXPECT_THAT(gone, HasCode(kNotFound));
  EXPECT_THAT(gone.message(), HasSubstr("comets"));
}

TEST_P(DbKeyspaceTest, LivesOnAfterCloseAndCrash) {
  Keyspace moons = Create("moons");
  const Model first = Fill(moons, 500, 100);
  CloseCleanly();
  EXPECT_THAT(moons.Put("k", "v"), HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(moons.NewIterator()->status(), HasCode(absl::StatusCode::kFailedPrecondition));
  Open();
  moons = OpenOrDie("moons");
  EXPECT_EQ(Read(moons), first);
  EXPECT_THAT(Read(db()), IsEmpty());
  Model second = Fill(moons, 300, 2000, 1);
  second.insert(first.begin(), first.end());
  Crash();
  EXPECT_THAT(moons.Get("k").status(), HasCode(absl::StatusCode::kFailedPrecondition));
  Open();
  moons = OpenOrDie("moons");
  EXPECT_EQ(Read(moons), second);
  ExpectClean();
}

TEST_P(DbKeyspaceTest, EachHasItsOwnKeysInEveryCall) {
  Keyspace a = Create("a"), b = Create("b");
  ASSERT_THAT(db().Put("key", "default"), IsOk());
  ASSERT_THAT(a.Put("key", "of a"), IsOk());
  EXPECT_THAT(b.Get("key").status(), HasCode(kNotFound));
  ASSERT_THAT(b.Insert("key", "of b"), IsOk());
  EXPECT_THAT(b.Insert("key", "again"), HasCode(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(GetOrDie("key"), "default");
  EXPECT_EQ(*a.Get("key"), "of a");
  absl::StatusOr<PinnedValue> pinned = b.Pin("key");
  ASSERT_THAT(pinned.status(), IsOk());
  EXPECT_EQ(pinned->value(), "of b");
  EXPECT_THAT(pinned->CheckMedium(), IsOk());
  EXPECT_THAT(a.CompareAndSwap("key", "of a", "swapped"), IsOk());
  EXPECT_THAT(b.Update("key",
                       [](std::optional<std::string_view> current, std::string* value) {
                         *value = absl::StrCat("more ", std::string(*current));
                         return UpdateAction::kPut;
                       }),
              IsOk());
  const std::vector<KeyValue> group = {{"x", "1"}, {"y", "2"}, {"z", "3"}};
  ASSERT_THAT(a.PutGroup(group).status(), IsOk());
  const std::string_view keys[] = {"key", "x", "none"};
  std::string values[3];
  absl::Status statuses[3];
  ASSERT_THAT(a.MultiGet(keys, absl::MakeSpan(values), absl::MakeSpan(statuses)), IsOk());
  EXPECT_EQ(values[0], "swapped");
  EXPECT_EQ(values[1], "1");
  EXPECT_THAT(statuses[2], HasCode(kNotFound));
  EXPECT_EQ(a.ApproximateRange("", "")->records, 4u);
  EXPECT_EQ(*a.DeleteRange("x", "y"), 1u);
  EXPECT_EQ(a.DeleteGroup({"y"})->replaced, 1u);
  EXPECT_THAT(a.Delete("z"), IsOk());
  EXPECT_THAT(a.Contains("z"), HasCode(kNotFound));
  absl::StatusOr<ValueWriter> writer = b.NewValueWriter("large", 3 << 20);
  ASSERT_THAT(writer.status(), IsOk());
  const std::string large = ValueFor("large", 1, 3 << 20);
  std::copy(large.begin(), large.end(), writer->bytes().begin());
  ASSERT_THAT(writer->Commit(), IsOk());
  EXPECT_EQ(Read(db()), (Model{{"key", "default"}}));
  EXPECT_EQ(Read(a), (Model{{"key", "swapped"}}));
  EXPECT_EQ(Read(b), (Model{{"key", "more of b"}, {"large", large}}));
  const Info info = InfoOrDie(/*count=*/true);
  ASSERT_EQ(info.keyspaces.size(), 2u);
  EXPECT_EQ(info.keyspaces[1].name, "b");
  EXPECT_EQ(info.keyspaces[1].records, 2u);
  EXPECT_GT(info.keyspaces[1].size_bytes, large.size());
}

TEST_P(DbKeyspaceTest, WritesBatchesAcrossKeyspaces) {
  Keyspace a = Create("a"), b = Create("b");
  ASSERT_THAT(b.Put("gone", "x"), IsOk());
  WriteBatch batch;
  EXPECT_THAT(batch.Put("key", "default"), IsOk());
  EXPECT_THAT(batch.Put(b, "key", "of b"), IsOk());
  EXPECT_THAT(batch.Put(a, "key", "first"), IsOk());
  EXPECT_THAT(batch.Put(a, "key", "of a"), IsOk());
  EXPECT_THAT(batch.Delete(b, "gone"), IsOk());
  EXPECT_THAT(batch.Put(db(), "also", "default"), IsOk());
  ASSERT_THAT(db().Write(batch), IsOk());
  EXPECT_EQ(Read(db()), (Model{{"also", "default"}, {"key", "default"}}));
  EXPECT_EQ(Read(a), (Model{{"key", "of a"}}));
  EXPECT_EQ(Read(b), (Model{{"key", "of b"}}));
  // Splits in several at once, without the default one.
  batch.Clear();
  Model many;
  for (int i = 0; i < 2000; ++i) many[NumberedKey(i)] = absl::StrCat(i);
  for (const auto& [key, value] : many) {
    ASSERT_THAT(batch.Put(a, key, value), IsOk());
    ASSERT_THAT(batch.Put(b, key, value), IsOk());
  }
  ASSERT_THAT(batch.Delete(a, "key"), IsOk());
  ASSERT_THAT(batch.Delete(b, "key"), IsOk());
  ASSERT_THAT(db().Write(batch), IsOk());
  EXPECT_EQ(Read(a), many);
  EXPECT_EQ(Read(b), many);
  batch.Clear();
  ASSERT_THAT(batch.Put(b, "one", "operation"), IsOk());
  ASSERT_THAT(db().Write(batch), IsOk());
  EXPECT_EQ(*b.Get("one"), "operation");
  Crash();
  Open();
  EXPECT_EQ(Read(OpenOrDie("a")), many);
}

TEST_P(DbKeyspaceTest, RefusesBatchesForKeyspacesThatAreNotThere) {
  Keyspace a = Create("a"), b = Create("b");
  WriteBatch batch;
  ASSERT_THAT(batch.Put("key", "1"), IsOk());
  ASSERT_THAT(batch.Put(a, "key", "2"), IsOk());
  ASSERT_THAT(batch.Put(b, "key", "3"), IsOk());
  ASSERT_THAT(db().DropKeyspace("b"), IsOk());
  const absl::Status refused = db().Write(batch);
  EXPECT_THAT(refused, HasCode(kNotFound));
  EXPECT_THAT(refused.message(), HasSubstr("\"b\""));
  EXPECT_THAT(Read(db()), IsEmpty());
  EXPECT_THAT(Read(a), IsEmpty());
  TemporaryDirectory elsewhere(GetParam());
  absl::StatusOr<std::unique_ptr<Db>> other = Db::Open(elsewhere.Path("other"), options_);
  ASSERT_THAT(other.status(), IsOk());
  batch.Clear();
  ASSERT_THAT(batch.Put(a, "key", "1"), IsOk());
  EXPECT_THAT((*other)->Write(batch), HasCode(absl::StatusCode::kInvalidArgument));
  ASSERT_THAT((*other)->Close(), IsOk());
}

// Amounts move between keyspaces by batches, in opposite orders; every snapshot has the same sum.
TEST_P(DbKeyspaceTest, ASnapshotShowsAllKeyspacesAtOneMoment) {
  std::vector<Keyspace> keyspaces = {db(), Create("a"), Create("b")};
  for (Keyspace& keyspace : keyspaces) ASSERT_THAT(keyspace.Put("amount", "1000"), IsOk());
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::mutex one_at_a_time;  // Reading and writing are two calls.
  for (unsigned t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; !stop; ++i) {
        std::lock_guard<std::mutex> lock(one_at_a_time);
        Keyspace& from = keyspaces[(t + i) % 3];
        Keyspace& to = keyspaces[(t + 2 * i + 1 + i % 2) % 3];
        int from_amount, to_amount;
        if (&from == &to || !absl::SimpleAtoi(*from.Get("amount"), &from_amount) ||
            !absl::SimpleAtoi(*to.Get("amount"), &to_amount)) {
          continue;
        }
        WriteBatch batch;
        EXPECT_THAT(batch.Put(to, "amount", absl::StrCat(to_amount + 7)), IsOk());
        EXPECT_THAT(batch.Put(from, "amount", absl::StrCat(from_amount - 7)), IsOk());
        EXPECT_THAT(db().Write(batch), IsOk());
      }
    });
  }
  for (int round = 0; round < 100; ++round) {
    const absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
    ASSERT_THAT(snapshot.status(), IsOk());
    int sum = 0;
    for (Keyspace& keyspace : keyspaces) {
      int amount = 0;
      ASSERT_TRUE(absl::SimpleAtoi(*keyspace.Get("amount", *snapshot), &amount));
      sum += amount;
    }
    ASSERT_EQ(sum, 3000);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_P(DbKeyspaceTest, DroppingGivesAllSpaceBack) {
  Keyspace a = Create("a");
  Fill(db(), 100, 100);
  const uint64_t before = ExtentBytes();
  ASSERT_THAT(db().Compact().status(), IsOk());
  const uint64_t blocks_before = DiskUsageBytes(path());
  Keyspace b = Create("b");
  Fill(b, 2000, 1000);
  Fill(b, 5, 3 << 20);
  ASSERT_THAT(b.Put("large", std::string(10 << 20, 'x')), IsOk());
  EXPECT_GT(ExtentBytes(), before + (25 << 20));
  ASSERT_THAT(db().DropKeyspace("b"), IsOk());
  const absl::Status refused = b.Put("k", "v");
  EXPECT_THAT(refused, HasCode(kNotFound));
  EXPECT_THAT(refused.message(), HasSubstr("\"b\""));
  EXPECT_THAT(b.Get("large").status(), HasCode(kNotFound));
  EXPECT_THAT(b.NewIterator()->status(), HasCode(kNotFound));
  EXPECT_THAT(b.NewValueWriter("k", 10).status(), HasCode(kNotFound));
  EXPECT_TRUE(DropsEnd());
  EXPECT_EQ(ExtentBytes(), before);
  EXPECT_LE(DiskUsageBytes(path()), blocks_before + (512 << 10));
  // Of the handle nothing but its message is left.
  EXPECT_THAT(b.Get("large").status(), HasCode(kNotFound));
}

TEST_P(DbKeyspaceTest, ADropWaitsForWhatShowsTheKeyspace) {
  Keyspace a = Create("a");
  const uint64_t before = ExtentBytes();
  const Model model = Fill(a, 300, 1000);
  const std::string large = ValueFor("large", 1, 5 << 20);
  ASSERT_THAT(a.Put("large", large), IsOk());
  {
    std::unique_ptr<Iterator> it = a.NewIterator();
    it->SeekToFirst();
    std::optional<Snapshot> snapshot = *db().GetSnapshot();
    std::optional<PinnedValue> pinned = *a.Pin("large");
    std::optional<ValueWriter> writer = *a.NewValueWriter("unfinished", 1 << 20);
    // What the snapshot sees is overwritten, too.
    ASSERT_THAT(a.Put(NumberedKey(7), "new"), IsOk());
    ASSERT_THAT(db().DropKeyspace("a"), IsOk());
    EXPECT_FALSE(DropsEnd(absl::Milliseconds(50)));
    EXPECT_THAT(a.Get("large").status(), HasCode(kNotFound));
    // A new one of the name has nothing to do with it.
    Keyspace again = Create("a");
    EXPECT_THAT(Read(again), IsEmpty());
    ASSERT_THAT(again.Put("own", "value"), IsOk());

    const absl::StatusOr<Snapshot> later = db().GetSnapshot();
    EXPECT_THAT(a.Get("large", *later).status(), HasCode(kNotFound));
    EXPECT_EQ(*a.Get("large", *snapshot), large);
    EXPECT_EQ(*a.Get(NumberedKey(7), *snapshot), model.at(NumberedKey(7)));
    EXPECT_EQ(Read(a, &*snapshot).size(), 301u);
    EXPECT_EQ(a.Pin("large", *snapshot)->value(), large);
    size_t seen = 0;
    for (; it->Valid(); it->Next()) ++seen;
    EXPECT_EQ(seen, 301u);
    it->SeekToLast();
    EXPECT_EQ(it->key(), "large");
    it->Refresh();
    EXPECT_THAT(it->status(), HasCode(kNotFound));
    snapshot.reset();
    EXPECT_FALSE(DropsEnd(absl::Milliseconds(50)));  // The ValueWriter.
    std::fill(writer->bytes().begin(), writer->bytes().end(), 'x');
    EXPECT_THAT(writer->Commit(), HasCode(kNotFound));
    EXPECT_FALSE(DropsEnd(absl::Milliseconds(50)));  // The pin.
    EXPECT_EQ(pinned->value(), large);
    EXPECT_LT(ExtentBytes(), before + (7 << 20));  // What is not pinned has gone.
    EXPECT_EQ(Read(again), (Model{{"own", "value"}}));
  }
  EXPECT_TRUE(DropsEnd());
  EXPECT_LE(ExtentBytes(), before + (256 << 10));
  ExpectClean();
}

TEST_P(DbKeyspaceTest, DropsUnderReadersAndWriters) {
  Fill(db(), 50, 100);
  for (int round = 0; round < 4; ++round) {
    Keyspace doomed = Create("doomed");
    Fill(doomed, 200, 300);
    std::atomic<int> started{0};
    std::vector<std::thread> threads;
    // Each goes on until it is told that the keyspace was dropped.
    const auto run = [&](auto work) {
      threads.emplace_back([&, work] {
        absl::Status status;
        for (int i = 0; status.ok(); ++i) {
          status = work(i);
          if (i == 5) ++started;
        }
        EXPECT_THAT(status, HasCode(kNotFound));
        EXPECT_THAT(status.message(), HasSubstr("doomed"));
      });
    };
    run([&](int i) { return doomed.Put(NumberedKey(i), ValueFor("k", i, i % 3000)); });
    run([&](int i) { return doomed.Get(NumberedKey(i % 200)).status(); });
    run([&](int i) {
      absl::StatusOr<PinnedValue> pinned = doomed.Pin(NumberedKey(i % 200));
      if (pinned.ok() && pinned->value().size() > 2) {
        const std::string copy(pinned->value());
        std::this_thread::yield();
        EXPECT_EQ(copy, pinned->value());
      }
      return pinned.status();
    });
    run([&](int) {
      std::unique_ptr<Iterator> it = doomed.NewIterator();
      int seen = 0;
      for (it->SeekToFirst(); it->Valid() && seen < 150; it->Next()) ++seen;
      if (it->status().ok()) {
        EXPECT_EQ(seen, 150);
      }
      return it->status();
    });
    run([&](int i) {
      WriteBatch batch;
      EXPECT_THAT(batch.Put(absl::StrCat("both", i % 20), absl::StrCat(round, "/", i)), IsOk());
      EXPECT_THAT(batch.Put(doomed, absl::StrCat("both", i % 20), absl::StrCat(i)), IsOk());
      return db().Write(batch);
    });
    run([&](int i) {
      return doomed.Update(NumberedKey(i % 10), [&](auto current, std::string* value) {
        *value = current.has_value() ? std::string(*current) + "x" : "x";
        if (value->size() > 4000) value->resize(10);
        return UpdateAction::kPut;
      });
    });
    while (started < 6) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_THAT(db().DropKeyspace("doomed"), IsOk());
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(DropsEnd());
  }
  ExpectClean();
}

// A call that is inside while the keyspace is dropped ends well, and what it overwrites then
// belongs to a snapshot from after the drop.
TEST_P(DbKeyspaceTest, ADropWaitsForCallsAndForWhatTheyLeaveToSnapshots) {
  Keyspace a = Create("a");
  ASSERT_THAT(a.Put("key", "old"), IsOk());
  std::atomic<bool> inside{false}, go_on{false};
  std::thread updater([&] {
    EXPECT_THAT(a.Update("key",
                         [&](auto, std::string* value) {
                           inside = true;
                           while (!go_on) std::this_thread::yield();
                           *value = "new";
                           return UpdateAction::kPut;
                         }),
                IsOk());
  });
  while (!inside) std::this_thread::yield();
  ASSERT_THAT(db().DropKeyspace("a"), IsOk());
  std::optional<Snapshot> later = *db().GetSnapshot();
  EXPECT_FALSE(DropsEnd(absl::Milliseconds(30)));
  go_on = true;
  updater.join();
  EXPECT_FALSE(DropsEnd(absl::Milliseconds(30)));
  EXPECT_THAT(a.Get("key", *later).status(), HasCode(kNotFound));
  later.reset();
  EXPECT_TRUE(DropsEnd());
}

TEST_P(DbKeyspaceTest, GoesOnWithADropAfterACrash) {
  Keyspace a = Create("a");
  Create("b");
  const uint64_t before = ExtentBytes();
  Fill(a, 300, 1000);
  CloseCleanly();
  Open();
  a = OpenOrDie("a");
  Fill(a, 10, 100000);
  {
    const absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
    ASSERT_THAT(db().DropKeyspace("a"), IsOk());
    absl::SleepFor(absl::Milliseconds(20));
    // The snapshot still shows it.
    EXPECT_EQ(a.Get(NumberedKey(200), *snapshot)->size(), 1000u);
  }
  Crash();
  Open();
  EXPECT_THAT(List(), ElementsAre("b"));
  EXPECT_TRUE(DropsEnd());
  EXPECT_LE(ExtentBytes(), before);
  ExpectClean();
}

TEST_P(DbKeyspaceTest, CloseFinishesDrops) {
  Keyspace a = Create("a");
  Fill(a, 100, 10000);
  ASSERT_THAT(db().DropKeyspace("a"), IsOk());
  CloseCleanly();
  Open();
  EXPECT_EQ(InfoOrDie().keyspaces_dropping, 0u);
  EXPECT_LE(ExtentBytes(), 256u << 10);
}

TEST_P(DbKeyspaceTest, WillNotCloseWhileOneIsInUse) {
  Keyspace a = Create("a");
  ASSERT_THAT(a.Put("k", "v"), IsOk());
  {
    absl::StatusOr<PinnedValue> pinned = a.Pin("k");
    EXPECT_THAT(db().Close(), HasCode(absl::StatusCode::kFailedPrecondition));
    ASSERT_THAT(db().DropKeyspace("a"), IsOk());
    EXPECT_THAT(db().Close(), HasCode(absl::StatusCode::kFailedPrecondition));
  }
}

TEST_P(DbKeyspaceTest, SurvivesRandomCreatesPutsAndDrops) {
  std::map<std::string, Model> model;
  std::map<std::string, Keyspace> open;
  std::mt19937 random(7);
  const auto pick = [&](int below) { return static_cast<int>(random() % below); };
  for (int step = 0; step < (GetParam() == Medium::kTmpfs ? 4000 : 300); ++step) {
    const std::string name = absl::StrCat("ks", pick(5));
    const int action = pick(100);
    const bool there = model.count(name) != 0;
    if (action < 8 && !there) {
      open.insert_or_assign(name, Create(name));
      model[name];
    } else if (action < 10 && there) {
      ASSERT_THAT(db().DropKeyspace(name), IsOk());
      EXPECT_THAT(open.at(name).Put("k", "v"), HasCode(kNotFound));
      model.erase(name);
      open.erase(name);
    } else if (action == 10) {
      if (pick(2) == 0) {
        CloseCleanly();
      } else {
        Crash();
      }
      Open();
      for (auto& [opened, keyspace] : open) keyspace = OpenOrDie(opened);
      std::vector<std::string> names;
      for (const auto& [opened, records] : model) names.push_back(opened);
      ASSERT_EQ(List(), names);
    } else if (there && action < 70) {
      const std::string key = NumberedKey(pick(300));
      const std::string value = ValueFor(key, step, pick(10) == 0 ? pick(50000) : pick(300));
      ASSERT_THAT(open.at(name).Put(key, value), IsOk());
      model[name][key] = value;
    } else if (there && action < 85) {
      const std::string key = NumberedKey(pick(300));
      const bool had = model[name].erase(key) != 0;
      ASSERT_EQ(open.at(name).Delete(key).ok(), had);
    } else if (!model.empty() && action < 95) {
      WriteBatch batch;
      const std::string key = NumberedKey(pick(300));
      for (auto& [opened, records] : model) {
        records[key] = absl::StrCat(step);
        ASSERT_THAT(batch.Put(open.at(opened), key, absl::StrCat(step)), IsOk());
      }
      ASSERT_THAT(db().Write(batch), IsOk());
    }
  }
  for (const auto& [name, records] : model) EXPECT_EQ(Read(open.at(name)), records) << name;
  EXPECT_TRUE(DropsEnd());
}

class ManyKeyspacesTest : public DbKeyspaceTest {};
INSTANTIATE_TEST_SUITE_P(Media, ManyKeyspacesTest, testing::Values(Medium::kTmpfs), MediumName);

TEST_P(ManyKeyspacesTest, HoldsAThousand) {
  constexpr int kCount = 1000;
  const auto name = [](int i) { return absl::StrCat("keyspace ", i); };
  for (int i = 0; i < kCount; ++i) {
    Keyspace keyspace = Create(name(i));
    ASSERT_THAT(keyspace.Put("number", absl::StrCat(i)), IsOk());
  }
  CloseCleanly();
  const absl::Time begin = absl::Now();
  Open();
  RecordProperty("open_us", absl::StrCat(absl::ToInt64Microseconds(absl::Now() - begin)));
  EXPECT_EQ(List().size(), static_cast<size_t>(kCount));
  for (int i = 0; i < kCount; i += 7) {
    ASSERT_EQ(*OpenOrDie(name(i)).Get("number"), absl::StrCat(i));
  }
  ExpectClean();  // Opens all.
  for (int i = 0; i < kCount; ++i) ASSERT_THAT(db().DropKeyspace(name(i)), IsOk());
  EXPECT_TRUE(DropsEnd());
  EXPECT_THAT(List(), IsEmpty());
  EXPECT_LE(ExtentBytes(), 512u << 10);
  // Their ids are free again.
  for (int i = 0; i < kMaxKeyspaces; ++i) Create(name(i));
  const absl::Status full = db().CreateKeyspace("one more").status();
  EXPECT_THAT(full, HasCode(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(full.message(), HasSubstr("2047"));
}

// The worker may be shutting a dropped one down while Close looks what is in use.
TEST_P(DbKeyspaceTest, CloseMayBeTriedWhileDropsEnd) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    Keyspace passing = Create("passing");
    ASSERT_THAT(passing.Put("key", "value"), IsOk());
    ASSERT_THAT(db().DropKeyspace("passing"), IsOk());
    absl::SleepFor(absl::Microseconds(random() % 3000));
    const absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
    ASSERT_THAT(snapshot.status(), IsOk());
    for (int i = 0; i < 20; ++i) {
      ASSERT_THAT(db().Close(), HasCode(absl::StatusCode::kFailedPrecondition));
    }
  }
}

TEST_P(DbKeyspaceTest, AFullStoreHasRoomForAKeyspaceOnceAnotherIsDropped) {
  if (GetParam() == Medium::kDisk) GTEST_SKIP() << "nobody waits for a slow disk for long";
  CloseCleanly();
  std::filesystem::remove_all(path());
  options_.shape = dax::PoolShape::kFixed;
  options_.fixed_size_bytes = 24 << 20;
  Open();
  Keyspace first = Create("first");
  absl::Status put;
  for (int i = 0; put.ok(); ++i) put = first.Put(NumberedKey(i), std::string(20000, 'v'));
  ASSERT_THAT(put, HasCode(absl::StatusCode::kResourceExhausted));
  for (int round = 0; round < 5; ++round) {
    ASSERT_THAT(db().DropKeyspace(absl::StrCat(round == 0 ? "first" : "next")), IsOk());
    Keyspace next = Create("next");
    put = absl::OkStatus();
    for (int i = 0; put.ok(); ++i) put = next.Put(NumberedKey(i), std::string(20000, 'v'));
    ASSERT_THAT(put, HasCode(absl::StatusCode::kResourceExhausted));
  }
}

}  // namespace
}  // namespace daxkv::kv
