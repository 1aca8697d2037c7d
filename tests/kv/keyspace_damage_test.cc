// The table of keyspaces, damaged byte by byte: what is hidden by that is told, the rest goes on.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/record.h"
#include "kv/repair.h"
#include "kv/space.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;

// Keyspaces "a" (id 1), "b" (id 2) and "c" (3), and records everywhere.
class KeyspaceDamageTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    ASSERT_THAT(db().Put("key", "default"), IsOk());
    for (const char* name : {"a", "b", "c"}) {
      absl::StatusOr<Keyspace> keyspace = db().CreateKeyspace(name);
      ASSERT_THAT(keyspace.status(), IsOk());
      ASSERT_THAT(keyspace->Put("key", name), IsOk());
    }
    CloseCleanly();
  }
  // The faults are wanted.
  void TearDown() override { Crash(); }

  void WithPool(const std::function<void(dax::Pool&)>& change) {
    dax::PoolOptions options;
    options.max_size_bytes = options_.max_size_bytes;
    absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path(), options);
    ASSERT_THAT(pool.status(), IsOk());
    change(**pool);
    ASSERT_THAT((*pool)->Close(), IsOk());
  }
  // Where the only record of a keyspace lies: its index is one leaf.
  static Address OnlyRecord(dax::Pool& pool, KeyspaceId id) {
    const auto* superblock = reinterpret_cast<Superblock*>(pool.root_area());
    const auto* entries =
        reinterpret_cast<KeyspaceEntry*>(pool.At(superblock->keyspaces & kAddressMask));
    const auto* slots =
        reinterpret_cast<uint64_t*>(pool.At(entries[id].root & kAddressMask) + sizeof(NodeHeader));
    Address found = kNullAddress;
    for (unsigned slot = 0; slot < kLeafSlots; ++slot) found |= slots[slot] & kAddressMask;
    return found;
  }
  // "b" has no value, rather than that of "a" under the same key.
  void ExpectLostInB() {
    Open();
    absl::StatusOr<Keyspace> b = db().OpenKeyspace("b");
    ASSERT_THAT(b.status(), IsOk());
    EXPECT_THAT(b->Get("key").status(), HasCode(kDataLoss));
    EXPECT_THAT(b->Pin("key").status(), HasCode(kDataLoss));
    std::unique_ptr<Iterator> it = b->NewIterator();
    it->SeekToFirst();
    EXPECT_FALSE(it->Valid());
    EXPECT_THAT(it->status(), HasCode(kDataLoss));
    it.reset();
    EXPECT_EQ(*db().OpenKeyspace("a")->Get("key"), "a");
    EXPECT_FALSE(db().Scrub()->faults.empty());
    EXPECT_FALSE(db().Check()->faults.empty());
    CloseCleanly();
    const absl::StatusOr<RepairReport> report = Repair(path(), options_);
    ASSERT_THAT(report.status(), IsOk());
    EXPECT_FALSE(report->lossless());
    Open();
    EXPECT_THAT(db().OpenKeyspace("b")->Get("key").status(), HasCode(kNotFound));
    EXPECT_EQ(*db().OpenKeyspace("a")->Get("key"), "a");
    EXPECT_EQ(GetOrDie("key"), "default");
    EXPECT_THAT(db().Check()->faults, IsEmpty());
  }

  // Changes the table as nobody but damage does. `entry`: 0 is the header.
  void Patch(const std::function<void(Superblock&, char* entry)>& change, KeyspaceId entry) {
    dax::PoolOptions options;
    options.max_size_bytes = options_.max_size_bytes;
    absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path(), options);
    ASSERT_THAT(pool.status(), IsOk());
    auto* superblock = reinterpret_cast<Superblock*>((*pool)->root_area());
    table_ = superblock->keyspaces & kAddressMask;
    char* const at = (*pool)->At(table_ + entry * sizeof(KeyspaceEntry));
    change(*superblock, at);
    ASSERT_THAT((*pool)->Persist(superblock, sizeof(*superblock)), IsOk());
    ASSERT_THAT((*pool)->Persist(at, sizeof(KeyspaceEntry)), IsOk());
    ASSERT_THAT((*pool)->Close(), IsOk());
  }
  void PatchAndOpen(const std::function<void(Superblock&, char*)>& change, KeyspaceId entry) {
    Patch(change, entry);
    Open();
    EXPECT_EQ(GetOrDie("key"), "default");
  }
  // `name` can't be had, and what is wrong is at this entry; others can.
  void ExpectHidden(std::string_view name, KeyspaceId entry) {
    const std::string offset = absl::StrCat("pool offset ", table_ + entry * sizeof(KeyspaceEntry));
    for (const absl::Status& status :
         {db().OpenKeyspace(name).status(), db().DropKeyspace(name),
          db().CreateKeyspace(name).status(), db().ListKeyspaces().status()}) {
      EXPECT_THAT(status, HasCode(kDataLoss));
      EXPECT_THAT(status.message(), HasSubstr(offset));
    }
    absl::StatusOr<Keyspace> other = db().OpenKeyspace("c");
    ASSERT_THAT(other.status(), IsOk());
    EXPECT_EQ(*other->Get("key"), "c");
    absl::StatusOr<CheckReport> report = db().Check();
    ASSERT_THAT(report.status(), IsOk());
    ASSERT_FALSE(report->faults.empty());
    EXPECT_THAT(report->faults[0], HasSubstr(offset));
  }

  // `keyspaces`: names, and the value of "key" in each.
  void RepairAndExpect(const std::map<std::string, std::string>& keyspaces, bool lossless) {
    const absl::StatusOr<RepairReport> report = Repair(path(), options_);
    ASSERT_THAT(report.status(), IsOk());
    EXPECT_TRUE(report->changed);
    EXPECT_EQ(report->lossless(), lossless) << testing::PrintToString(report->lost);
    EXPECT_EQ(report->records, keyspaces.size() + 1);
    Open();
    EXPECT_EQ(GetOrDie("key"), "default");
    EXPECT_EQ(db().ListKeyspaces()->size(), keyspaces.size());
    for (const auto& [name, value] : keyspaces) {
      absl::StatusOr<Keyspace> keyspace = db().OpenKeyspace(name);
      ASSERT_THAT(keyspace.status(), IsOk()) << name;
      EXPECT_EQ(keyspace->Get("key").value_or("lost"), value) << name;
    }
    EXPECT_THAT(db().Check()->faults, IsEmpty());
    CloseCleanly();
  }

  uint64_t table_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Media, KeyspaceDamageTest, testing::Values(Medium::kTmpfs), MediumName);

TEST_P(KeyspaceDamageTest, TellsADamagedState) {
  PatchAndOpen([](Superblock&, char* entry) { entry[0] ^= 1; }, 2);
  ExpectHidden("b", 2);
  // Its name can be read, and is not this one.
  EXPECT_THAT(db().OpenKeyspace("other").status(), HasCode(kNotFound));
  EXPECT_THAT(db().CreateKeyspace("other").status(), IsOk());
}

TEST_P(KeyspaceDamageTest, TellsAStateOfZeros) {
  PatchAndOpen([](Superblock&, char* entry) { std::memset(entry, 0, 8); }, 2);
  ExpectHidden("b", 2);
}

TEST_P(KeyspaceDamageTest, TellsAStateOfAnotherEntry) {
  PatchAndOpen([](Superblock&, char* entry) { std::memcpy(entry, entry + 128, 8); }, 2);
  ExpectHidden("b", 2);
}

TEST_P(KeyspaceDamageTest, TellsADamagedName) {
  PatchAndOpen([](Superblock&, char* entry) { entry[offsetof(KeyspaceEntry, name)] ^= 4; }, 2);
  // It might be any.
  ExpectHidden("b", 2);
  ExpectHidden("other", 2);
}

TEST_P(KeyspaceDamageTest, TellsAnEntryOfZeros) {
  PatchAndOpen([](Superblock&, char* entry) { std::memset(entry, 0, sizeof(KeyspaceEntry)); }, 2);
  ExpectHidden("b", 2);
}

TEST_P(KeyspaceDamageTest, TellsADamagedRoot) {
  const auto patch_root = [&](uint64_t root) {
    PatchAndOpen(
        [&](Superblock&, char* entry) {
          std::memcpy(entry + offsetof(KeyspaceEntry, root), &root, sizeof(root));
        },
        1);
    const absl::Status opened = db().OpenKeyspace("a").status();
    EXPECT_THAT(opened, HasCode(kDataLoss)) << root;
    EXPECT_THAT(opened.message(), HasSubstr("\"a\""));
    EXPECT_THAT(db().OpenKeyspace("b").status(), IsOk());
    absl::StatusOr<CheckReport> report = db().Check();
    ASSERT_THAT(report.status(), IsOk());
    EXPECT_FALSE(report->faults.empty());
    CloseCleanly();
  };
  patch_root(0);
  patch_root(~uint64_t{0});
  patch_root(4096);
  // The root of another keyspace: whose extents these are is known.
  uint64_t root_of_b = 0;
  Patch(
      [&](Superblock&, char* entry) {
        std::memcpy(&root_of_b, entry + offsetof(KeyspaceEntry, root), sizeof(root_of_b));
      },
      2);
  patch_root(root_of_b);
}

TEST_P(KeyspaceDamageTest, WithoutTheTableTheDefaultKeyspaceGoesOn) {
  const auto expect_none = [&](std::string_view what) {
    EXPECT_THAT(db().ListKeyspaces().status(), HasCode(kDataLoss));
    const absl::Status opened = db().OpenKeyspace("a").status();
    EXPECT_THAT(opened, HasCode(kDataLoss));
    EXPECT_THAT(opened.message(), HasSubstr(std::string(what)));
    EXPECT_THAT(db().CreateKeyspace("z").status(), HasCode(kDataLoss));
    absl::StatusOr<CheckReport> report = db().Check();
    ASSERT_THAT(report.status(), IsOk());
    ASSERT_FALSE(report->faults.empty());
    EXPECT_THAT(report->faults[0], HasSubstr(std::string(what)));
    ASSERT_THAT(db().Put("more", "value"), IsOk());
    CloseCleanly();
  };
  PatchAndOpen([](Superblock& superblock, char*) { superblock.keyspaces ^= 1 << 20; }, 0);
  expect_none("superblock");
  PatchAndOpen([](Superblock& superblock, char*) { superblock.keyspaces ^= 1 << 20; }, 0);
  EXPECT_THAT(*db().ListKeyspaces(), ElementsAre("a", "b", "c"));
  CloseCleanly();
  PatchAndOpen([](Superblock&, char* header) { header[17] ^= 1; }, 0);
  expect_none(absl::StrCat("pool offset ", table_));
}

// ---- Records of one keyspace where another's belong ----

TEST_P(KeyspaceDamageTest, NoRecordOfAnotherKeyspaceIsRead) {
  WithPool([](dax::Pool& pool) {
    char* const to = pool.At(OnlyRecord(pool, 2));
    std::memcpy(to, pool.At(OnlyRecord(pool, 1)), RecordSizeBytes(3, 1));
    ASSERT_THAT(pool.Persist(to, RecordSizeBytes(3, 1)), IsOk());
  });
  ExpectLostInB();
}

TEST_P(KeyspaceDamageTest, NoExtentOfAnotherKeyspaceIsRead) {
  WithPool([](dax::Pool& pool) {
    const absl::StatusOr<dax::Run> from = pool.FindRun(OnlyRecord(pool, 1) >> dax::kPageShift);
    const absl::StatusOr<dax::Run> to = pool.FindRun(OnlyRecord(pool, 2) >> dax::kPageShift);
    ASSERT_EQ(from->pages, to->pages);
    std::memcpy(pool.At(to->offset()), pool.At(from->offset()), to->size_bytes());
    ASSERT_THAT(pool.Persist(pool.At(to->offset()), to->size_bytes()), IsOk());
  });
  ExpectLostInB();
}

// What "a" left where "b" has its extent now: everything but the keyspace is right.
TEST_P(KeyspaceDamageTest, NoRecordThatAnotherKeyspaceHadAtThisPlaceIsRead) {
  WithPool([](dax::Pool& pool) {
    const Address address = OnlyRecord(pool, 2);
    absl::StatusOr<std::unique_ptr<Space>> a = Space::Open(&pool, 1);
    ASSERT_THAT(a.status(), IsOk());
    WriteRecord(**a, address, kValueRecord, /*sequence=*/7, "key", "a");
    ASSERT_THAT((*a)->Drain(), IsOk());
  });
  ExpectLostInB();
}

TEST_P(KeyspaceDamageTest, TheBackgroundScrubsWhatNobodyHasOpened) {
  WithPool([](dax::Pool& pool) {
    char* const value = pool.At(OnlyRecord(pool, 2)) + RecordSizeBytes(3, 0);
    *value ^= 1;
    ASSERT_THAT(pool.Persist(value, 1), IsOk());
  });
  options_.scrub_bytes_per_second = uint64_t{1} << 30;
  Open();
  ScrubStats stats;
  for (int i = 0; i < 2000 && stats.rounds == 0; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
    stats = db().GetInfo()->scrub;
  }
  EXPECT_EQ(stats.rounds, 1u);
  ASSERT_EQ(stats.first_faults.size(), 1u);
  EXPECT_THAT(stats.first_faults[0], HasSubstr("key"));
}

// ---- Repair ----

TEST_P(KeyspaceDamageTest, RepairLeavesWhatIsWell) {
  const absl::StatusOr<RepairReport> report = Repair(path(), options_);
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_FALSE(report->changed);
  EXPECT_EQ(report->records, 4u);
}

TEST_P(KeyspaceDamageTest, RepairMakesTheTableWhole) {
  const auto state = [](Superblock&, char* entry) { entry[3] ^= 1; };
  const auto name = [](Superblock&, char* entry) { entry[offsetof(KeyspaceEntry, name)] ^= 4; };
  const auto zeros = [](Superblock&, char* entry) { std::memset(entry, 0, sizeof(KeyspaceEntry)); };
  Patch([](Superblock& superblock, char*) { superblock.keyspaces ^= 1 << 20; }, 0);
  RepairAndExpect({{"a", "a"}, {"b", "b"}, {"c", "c"}}, /*lossless=*/true);
  Patch(zeros, 0);
  RepairAndExpect({{"a", "a"}, {"b", "b"}, {"c", "c"}}, /*lossless=*/true);
  Patch(state, 2);
  RepairAndExpect({{"a", "a"}, {"b", "b"}, {"c", "c"}}, /*lossless=*/true);
  Patch(state, 7);  // That is free.
  RepairAndExpect({{"a", "a"}, {"b", "b"}, {"c", "c"}}, /*lossless=*/true);
  Patch(name, 2);
  RepairAndExpect({{"a", "a"}, {"name lost 2", "b"}, {"c", "c"}}, /*lossless=*/false);
  Patch(zeros, 3);
  RepairAndExpect({{"a", "a"}, {"name lost 2", "b"}, {"name lost 3", "c"}}, /*lossless=*/false);
}

TEST_P(KeyspaceDamageTest, RepairGivesNoKeyspaceTheNameOfAnother) {
  Open();
  ASSERT_THAT(db().CreateKeyspace("name lost 2")->Put("key", "d"), IsOk());
  CloseCleanly();
  Patch([](Superblock&, char* entry) { entry[offsetof(KeyspaceEntry, name)] ^= 4; }, 2);
  RepairAndExpect({{"a", "a"}, {"name lost 2'", "b"}, {"c", "c"}, {"name lost 2", "d"}},
                  /*lossless=*/false);
}

// A run that says it is the table, and is too short for one: what follows it is left alone.
TEST_P(KeyspaceDamageTest, RepairBelievesNoTableOfAnotherSize) {
  TemporaryDirectory other(GetParam());
  const std::string path = other.Path("store");
  const auto open_pool = [&] {
    dax::PoolOptions options;
    options.max_size_bytes = options_.max_size_bytes;
    return dax::Pool::Open(path, options);
  };
  {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, options_);
    ASSERT_THAT(db.status(), IsOk());
    ASSERT_THAT((*db)->Put("key", "value"), IsOk());
    ASSERT_THAT((*db)->Close(), IsOk());
  }
  uint64_t beyond = 0;
  std::string bytes_beyond;
  const auto read_beyond = [&](const dax::Pool& pool) {
    return std::string(pool.At(beyond), kKeyspaceTableSizeBytes - 4096);
  };
  {
    absl::StatusOr<std::unique_ptr<dax::Pool>> pool = open_pool();
    ASSERT_THAT(pool.status(), IsOk());
    const absl::StatusOr<dax::Run> run = (*pool)->AllocateRun(1, kKeyspaceTableRun, 0, 4096);
    ASSERT_THAT(run.status(), IsOk());
    ASSERT_THAT((*pool)->CommitRun(*run), IsOk());
    beyond = run->offset() + run->size_bytes();
    bytes_beyond = read_beyond(**pool);
    ASSERT_THAT((*pool)->Close(), IsOk());
  }
  EXPECT_THAT(Repair(path, options_).status(), HasCode(kDataLoss));
  absl::StatusOr<std::unique_ptr<dax::Pool>> pool = open_pool();
  ASSERT_THAT(pool.status(), IsOk());
  EXPECT_TRUE(read_beyond(**pool) == bytes_beyond);
  ASSERT_THAT((*pool)->Close(), IsOk());
}

TEST_P(KeyspaceDamageTest, RepairBuildsTheIndexOfOneKeyspaceAnew) {
  Patch([](Superblock&, char* entry) { std::memset(entry + 8, 0x55, 8); }, 1);  // Its root.
  RepairAndExpect({{"a", "a"}, {"b", "b"}, {"c", "c"}}, /*lossless=*/true);
  // Leaves of "a" and "b", one after the other; the others' stay as they are.
  for (const KeyspaceId id : {KeyspaceId{1}, KeyspaceId{2}}) {
    Patch(
        [&](Superblock&, char* entry) {
          uint64_t root;
          std::memcpy(&root, entry + offsetof(KeyspaceEntry, root), sizeof(root));
          const uint64_t self = reinterpret_cast<const KeyspaceEntry*>(entry)->root & kAddressMask;
          char* const base = entry - (table_ + id * sizeof(KeyspaceEntry));
          std::memset(base + self, 0x77, kLeafSizeBytes);
        },
        id);
    RepairAndExpect({{"a", "a"}, {"b", "b"}, {"c", "c"}}, /*lossless=*/true);
  }
}

TEST_P(KeyspaceDamageTest, RepairTellsWhichKeyspaceHasLostAKey) {
  Open();
  absl::StatusOr<Keyspace> b = db().OpenKeyspace("b");
  const absl::StatusOr<PinnedValue> pinned = b->Pin("key");
  ASSERT_THAT(pinned.status(), IsOk());
  const_cast<char*>(pinned->value().data())[0] ^= 1;  // As nobody but damage does.
  { const PinnedValue dropped = std::move(const_cast<PinnedValue&>(*pinned)); }
  CloseCleanly();
  const absl::StatusOr<RepairReport> report = Repair(path(), options_);
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_THAT(report->lost_keys, IsEmpty());
  EXPECT_THAT(report->lost_keys_of_keyspaces, ElementsAre(testing::Pair("b", "key")));
  Open();
  b = db().OpenKeyspace("b");
  EXPECT_THAT(b->Get("key").status(), HasCode(kNotFound));
  EXPECT_THAT(db().Check()->faults, IsEmpty());
}

TEST_P(KeyspaceDamageTest, RepairsAnyBytesOfTheTable) {
  std::mt19937_64 random(12);
  for (int round = 0; round < 25; ++round) {
    Patch(
        [&](Superblock&, char* at) {
          for (uint64_t i = random() % 6 + 1; i > 0; --i) {
            at[random() % sizeof(KeyspaceEntry)] = static_cast<char>(random());
          }
        },
        static_cast<KeyspaceId>(random() % 5));
    ASSERT_THAT(Repair(path(), options_).status(), IsOk());
    Open();
    EXPECT_EQ(GetOrDie("key"), "default");
    const absl::StatusOr<std::vector<std::string>> names = db().ListKeyspaces();
    ASSERT_THAT(names.status(), IsOk());
    EXPECT_EQ(names->size(), 3u);
    std::string values;
    for (const std::string& name : *names) {
      values += db().OpenKeyspace(name)->Get("key").value_or(" lost ");
    }
    std::sort(values.begin(), values.end());
    EXPECT_EQ(values, "abc");
    EXPECT_THAT(db().Check()->faults, IsEmpty());
    CloseCleanly();
  }
}

// Whatever is in the table: no crash, and never a value that is not the key's.
TEST_P(KeyspaceDamageTest, SurvivesAnyBytes) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 60; ++round) {
    char before[sizeof(KeyspaceEntry)];
    const auto entry = static_cast<KeyspaceId>(random() % 4);
    Patch(
        [&](Superblock&, char* at) {
          std::memcpy(before, at, sizeof(before));
          for (uint64_t i = random() % 6 + 1; i > 0; --i) {
            at[random() % sizeof(before)] = static_cast<char>(random());
          }
        },
        entry);
    Open();
    for (const char* name : {"a", "b", "c"}) {
      absl::StatusOr<Keyspace> keyspace = db().OpenKeyspace(name);
      if (!keyspace.ok()) {
        EXPECT_THAT(keyspace.status(), HasCode(kDataLoss));
        continue;
      }
      absl::StatusOr<std::string> value = keyspace->Get("key");
      if (value.ok()) {
        EXPECT_EQ(*value, name);
      }
    }
    EXPECT_THAT(db().Check().status(), IsOk());
    EXPECT_EQ(GetOrDie("key"), "default");
    CloseCleanly();
    Patch([&](Superblock&, char* at) { std::memcpy(at, before, sizeof(before)); }, entry);
  }
  Open();
  EXPECT_THAT(*db().ListKeyspaces(), ElementsAre("a", "b", "c"));
  EXPECT_THAT(db().Check()->faults, IsEmpty());
}

// With a damaged table nobody could tell which indexes the cut has made worthless.
TEST(KeyspacePowerCutTest, AfterAPowerCutTheTableHasToBeWhole) {
  TemporaryDirectory directory(Medium::kDisk);
  std::ofstream(directory.Path("boot")) << "one\n";
  std::ofstream(directory.Path("other_boot")) << "two\n";
  const std::string path = directory.Path("store");
  Options options = TestOptions();
  options.durability = dax::Durability::kProcess;
  options.boot_id_file = directory.Path("boot");
  {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, options);
    ASSERT_THAT(db.status(), IsOk());
    if ((*db)->GetInfo()->media.media_class != dax::MediaClass::kPageCache) GTEST_SKIP();
    ASSERT_THAT((*db)->CreateKeyspace("a")->Put("key", "a"), IsOk());
    ASSERT_THAT((*db)->Put("key", "default"), IsOk());
    ASSERT_THAT((*db)->Sync(), IsOk());
    ASSERT_THAT((*db)->Sync(), IsOk());
  }
  {
    dax::PoolOptions pool_options;
    pool_options.max_size_bytes = options.max_size_bytes;
    absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path, pool_options);
    ASSERT_THAT(pool.status(), IsOk());
    const auto* superblock = reinterpret_cast<Superblock*>((*pool)->root_area());
    char* const entry = (*pool)->At((superblock->keyspaces & kAddressMask) + sizeof(KeyspaceEntry));
    entry[0] ^= 1;
    ASSERT_THAT((*pool)->Persist(entry, 1), IsOk());
  }
  options.boot_id_file = directory.Path("other_boot");
  const absl::Status opened = Db::Open(path, options).status();
  EXPECT_THAT(opened, HasCode(kDataLoss));
  EXPECT_THAT(opened.message(), HasSubstr("entry 1"));
  ASSERT_THAT(Repair(path, options).status(), IsOk());
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, options);
  ASSERT_THAT(db.status(), IsOk());
  EXPECT_EQ((*db)->Get("key").value_or("lost"), "default");
  EXPECT_EQ((*db)->OpenKeyspace("a")->Get("key").value_or("lost"), "a");
  EXPECT_THAT((*db)->Check()->faults, IsEmpty());
}

}  // namespace
}  // namespace daxkv::kv
