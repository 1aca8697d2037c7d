// Stores without room: reads and deletes go on, puts say so, nothing is lost.
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <future>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/dax/own_tmpfs.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Model = std::map<std::string, std::string>;

// Puts values of `size_bytes` until one is refused. The keys begin with `prefix`.
void Fill(Db& db, const std::string& prefix, size_t size_bytes, Model* model) {
  for (int i = 0;; ++i) {
    const std::string key = prefix + NumberedKey(i);
    const std::string value = ValueFor(key, 0, size_bytes);
    const absl::Status put = db.Put(key, value);
    if (!put.ok()) {
      EXPECT_THAT(put, HasCode(absl::StatusCode::kResourceExhausted));
      EXPECT_FALSE(put.message().empty());
      return;
    }
    (*model)[key] = value;
  }
}

// Fills, sees that everything else goes on, empties, and does so again: a leak would show as less
// room each time.
void FillAndEmptyRepeatedly(Db& db) {
  size_t first_size_bytes = 0;
  for (int cycle = 0; cycle < 3; ++cycle) {
    SCOPED_TRACE(absl::StrCat("cycle ", cycle));
    Model model;
    Fill(db, "large", 300'000, &model);
    Fill(db, "middle", 5'000, &model);
    Fill(db, "small", 100, &model);
    // Bytes, not records: one extent more or less of small ones makes hundreds.
    size_t size_bytes = 0;
    for (const auto& [key, value] : model) size_bytes += key.size() + value.size();
    if (cycle == 0) first_size_bytes = size_bytes;
    EXPECT_GT(size_bytes, first_size_bytes * 8 / 10);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db, model));

    // Replacing needs room before it frees any, and leaves the old value if there is none.
    const std::string victim = model.begin()->first;
    EXPECT_THAT(db.Put(victim, std::string(1 << 20, 'x')),
                HasCode(absl::StatusCode::kResourceExhausted));
    EXPECT_TRUE(*db.Get(victim) == model[victim]);
    const absl::Status group =
        db.PutGroup({{victim, std::string(1 << 20, 'x')}, {"zzz", std::string(1 << 20, 'x')}})
            .status();
    EXPECT_THAT(group, HasCode(absl::StatusCode::kResourceExhausted));
    EXPECT_TRUE(*db.Get(victim) == model[victim]);

    int n = 0;
    for (auto it = model.begin(); it != model.end();) {
      if (++n % 10 == 0) {
        ++it;
        continue;
      }
      ASSERT_THAT(db.Delete(it->first), IsOk());
      it = model.erase(it);
    }
    ASSERT_THAT(db.Compact().status(), IsOk());
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(db, model));
    EXPECT_THAT(db.Put("again", std::string(300'000, 'a')), IsOk());
    ASSERT_THAT(db.Delete("again"), IsOk());
    for (const auto& [key, value] : model) ASSERT_THAT(db.Delete(key), IsOk());
    ASSERT_THAT(db.Compact().status(), IsOk());
  }
}

class FullTest : public testing::TestWithParam<Medium> {};
INSTANTIATE_ON_BOTH_MEDIA(FullTest);

TEST_P(FullTest, AFixedPool) {
  TemporaryDirectory directory(GetParam());
  Options options = TestOptions();
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 32 << 20;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(db.status(), IsOk());
  FillAndEmptyRepeatedly(**db);
  EXPECT_THAT((*db)->Close(), IsOk());
}

TEST_P(FullTest, AFullPoolReopens) {
  TemporaryDirectory directory(GetParam());
  Options options = TestOptions();
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 16 << 20;
  Model model;
  for (int life = 0; life < 3; ++life) {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
    ASSERT_THAT(db.status(), IsOk());
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
    Fill(**db, absl::StrCat("life", life, "/"), 20'000 >> (life * 3), &model);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
    if (life == 1) {
      ASSERT_THAT((*db)->Close(), IsOk());
    }
  }
}

// Nothing is empty, but what is left would fit into a tenth of the pool: the puts move it together
// themselves.
TEST_P(FullTest, AFullButSparsePoolMakesRoomForPuts) {
  TemporaryDirectory directory(GetParam());
  Options options = TestOptions();
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 16 << 20;
  options.compaction_bytes_per_second = 0;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(db.status(), IsOk());
  Model model;
  Fill(**db, "middle", 2'000, &model);
  int n = 0;
  for (auto it = model.begin(); it != model.end();) {
    if (++n % 10 == 0) {
      ++it;
      continue;
    }
    ASSERT_THAT((*db)->Delete(it->first), IsOk());
    it = model.erase(it);
  }
  // Another size class, and a run of its own.
  Model more;
  for (int i = 0; i < 8; ++i) {
    for (const size_t size_bytes : {200'000, 9'000}) {
      const std::string key = absl::StrCat("more", size_bytes, "/", i);
      model[key] = ValueFor(key, 1, size_bytes);
      ASSERT_THAT((*db)->Put(key, model[key]), IsOk()) << key;
    }
  }
  std::vector<KeyValue> group;
  for (int i = 0; i < 50; ++i) more[absl::StrCat("group", i)] = std::string(20'000, 'g');
  for (const auto& [key, value] : more) group.push_back({key, value});
  ASSERT_THAT((*db)->PutGroup(group).status(), IsOk());
  model.merge(more);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
  EXPECT_THAT((*db)->Close(), IsOk());
}

// Compact waited for pins with a lock held that a put into a full store wants: a thread that had a
// pin and put waited for itself.
TEST_P(FullTest, APinsHolderPutsWhileCompactWaitsForThePin) {
  TemporaryDirectory directory(GetParam());
  Options options = TestOptions();
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = 16 << 20;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), options);
  ASSERT_THAT(db.status(), IsOk());
  ASSERT_THAT((*db)->Put("pinned", std::string(1 << 20, 'p')), IsOk());
  Model model;
  Fill(**db, "large", 300'000, &model);
  absl::StatusOr<PinnedValue> pin = (*db)->Pin("pinned");
  ASSERT_THAT(pin.status(), IsOk());
  ASSERT_THAT((*db)->Delete("pinned"), IsOk());

  std::future<absl::StatusOr<CompactionResult>> compaction =
      std::async(std::launch::async, [&] { return (*db)->Compact(absl::InfiniteFuture()); });
  EXPECT_EQ(compaction.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  std::future<absl::Status> put =
      std::async(std::launch::async, [&] { return (*db)->Put("more", std::string(1 << 20, 'm')); });
  const bool ended = put.wait_for(std::chrono::seconds(60)) == std::future_status::ready;
  EXPECT_TRUE(ended) << "the put waits for the compaction, which waits for the pin";
  EXPECT_TRUE(pin->value() == std::string(1 << 20, 'p'));
  pin = PinnedValue();
  EXPECT_THAT(put.get(), HasCode(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(compaction.get().status(), IsOk());
  EXPECT_THAT((*db)->Put("more", std::string(1 << 20, 'm')), IsOk());
}

// A tmpfs of its own. Needs the right to mount.
class SmallFileSystem {
 public:
  explicit SmallFileSystem(uint64_t size_bytes) : directory_(Medium::kTmpfs) {
    path_ = directory_.Path("");
    mounted_ = dax::MountOwnTmpfs(path_, absl::StrCat("size=", size_bytes));
    if (!mounted_) error_ = strerror(errno);
  }
  ~SmallFileSystem() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  const std::string& error() const { return error_; }
  std::string Path(std::string_view name) const { return directory_.Path(name); }

 private:
  TemporaryDirectory directory_;
  std::string path_;
  bool mounted_ = false;
  std::string error_;
};

TEST(SmallFileSystemTest, ItIsFull) {
  SmallFileSystem file_system(96 << 20);
  if (!file_system.mounted()) GTEST_SKIP() << "can't mount a tmpfs here: " << file_system.error();
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(file_system.Path("store"), TestOptions());
  ASSERT_THAT(db.status(), IsOk());
  FillAndEmptyRepeatedly(**db);
  EXPECT_THAT((*db)->Close(), IsOk());
}

TEST(SmallFileSystemTest, SomebodyElseFillsIt) {
  SmallFileSystem file_system(96 << 20);
  if (!file_system.mounted()) GTEST_SKIP() << "can't mount a tmpfs here: " << file_system.error();
  Model model;
  {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(file_system.Path("store"), TestOptions());
    ASSERT_THAT(db.status(), IsOk());
    for (int i = 0; i < 1000; ++i) {
      const std::string key = NumberedKey(i);
      model[key] = ValueFor(key, 0, 1000);
      ASSERT_THAT((*db)->Put(key, model[key]), IsOk());
    }
    const std::string ballast = file_system.Path("ballast");
    {
      std::ofstream out(ballast);
      const std::string block(1 << 16, 'b');
      while ((out << block).flush()) {
      }
    }
    Fill(**db, "more", 2000, &model);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
    for (int i = 0; i < 500; ++i) {
      ASSERT_THAT((*db)->Delete(NumberedKey(i)), IsOk());
      model.erase(NumberedKey(i));
    }
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(**db, model));
    std::filesystem::remove(ballast);
    EXPECT_THAT((*db)->Put("after", std::string(1 << 20, 'a')), IsOk());
    model["after"] = std::string(1 << 20, 'a');
  }
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(file_system.Path("store"), TestOptions());
  ASSERT_THAT(db.status(), IsOk());
  ExpectEqual(**db, model);
}

}  // namespace
}  // namespace daxkv::kv
