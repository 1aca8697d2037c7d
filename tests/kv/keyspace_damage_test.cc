// The table of keyspaces, damaged byte by byte: what is hidden by that is told, the rest goes on.
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dax/pool.h"
#include "kv/format.h"
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

}  // namespace
}  // namespace daxkv::kv
