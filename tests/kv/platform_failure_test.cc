// A platform that refuses: blocks that can't be had, an msync that fails, files cut short while the
// store was closed or is open, a read-only file system, files that may not be written, too few
// addresses, a mapping with MAP_SYNC. Each has a clear status, and nothing acknowledged is lost.
//
// This binary stands in for fallocate, posix_fallocate, msync and mmap, and passes them on.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/dax/fallocate_watch.h"
#include "tests/dax/own_tmpfs.h"
#include "tests/kv/store_fixture.h"

namespace {

enum class Failing { kNone, kOne, kThatAndAllAfter };

// Which of the calls of one kind fail.
struct Failures {
  std::atomic<Failing> failing{Failing::kNone};
  std::atomic<int> left{0};
  std::atomic<int> failed{0};

  void Arm(Failing how, int allowed) {
    failed = 0;
    left = allowed;
    failing = how;
  }
  void Disarm() { failing = Failing::kNone; }
  bool Next() {
    const Failing how = failing.load();
    if (how == Failing::kNone) return false;
    const int number = left.fetch_sub(1);
    const bool fails = number == 0 || (number < 0 && how == Failing::kThatAndAllAfter);
    failed += fails ? 1 : 0;
    return fails;
  }
};
Failures g_reservations;
Failures g_syncs;
std::atomic<int> g_map_sync_error{0};  // Of each mmap with MAP_SYNC.

}  // namespace

int daxkv::OnFallocate(off_t) { return g_reservations.Next() ? ENOSPC : 0; }

extern "C" {
void* mmap(void* address, size_t size_bytes, int protection, int flags, int fd, off_t offset) {
  if ((flags & MAP_SYNC) != 0 && g_map_sync_error != 0) {
    errno = g_map_sync_error;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(
      syscall(SYS_mmap, address, size_bytes, protection, flags, fd, offset));
}
void* mmap64(void* address, size_t size_bytes, int protection, int flags, int fd, off_t offset) {
  return mmap(address, size_bytes, protection, flags, fd, offset);
}
int msync(void* address, size_t size_bytes, int flags) {
  if (g_syncs.Next()) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(syscall(SYS_msync, address, size_bytes, flags));
}
}

namespace daxkv::kv {
namespace {

using Model = std::map<std::string, std::string>;

// What was told, once each, for people to read.
class Messages {
 public:
  explicit Messages(std::string where) : where_(std::move(where)) {}
  ~Messages() {
    for (const std::string& text : texts_) std::cout << where_ << ": " << text << "\n";
  }
  void Add(const absl::Status& status) {
    EXPECT_FALSE(status.message().empty()) << where_;
    if (texts_.size() < 8) texts_.insert(status.ToString());
  }

 private:
  const std::string where_;
  std::set<std::string> texts_;
};

void ExpectModel(const Db& db, const Model& model) {
  for (const auto& [key, value] : model) {
    absl::StatusOr<std::string> got = db.Get(key);
    ASSERT_THAT(got.status(), IsOk()) << key;
    ASSERT_TRUE(*got == value) << key;
  }
  absl::StatusOr<CheckReport> report = db.Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_THAT(report->faults, testing::IsEmpty());
  EXPECT_EQ(report->records, model.size());
}

class ReservationTest : public testing::TestWithParam<std::tuple<Medium, bool>> {
 protected:
  Medium medium() const { return std::get<0>(GetParam()); }
  Failing how() const {
    return std::get<1>(GetParam()) ? Failing::kThatAndAllAfter : Failing::kOne;
  }
};
INSTANTIATE_TEST_SUITE_P(Media, ReservationTest,
                         testing::Combine(testing::Values(Medium::kTmpfs, Medium::kDisk),
                                          testing::Bool()),
                         [](const auto& info) {
                           return absl::StrCat(
                               std::get<0>(info.param) == Medium::kTmpfs ? "Tmpfs" : "Disk",
                               std::get<1>(info.param) ? "AllAfter" : "One");
                         });

TEST_P(ReservationTest, EveryStepOfGrowingPuts) {
  TemporaryDirectory directory(medium());
  Messages messages("put without blocks");
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), TestOptions());
  ASSERT_THAT(db.status(), IsOk());
  Model model;
  int refused = 0;
  for (int i = 0; i < 120; ++i) {
    const std::string key = NumberedKey(i % 90);
    const size_t sizes[] = {100, 5'000, 70'000, 700'000, 2'500'000};
    const std::string value = ValueFor(key, i, sizes[i % 5]);
    for (int allowed = 0;; ++allowed) {
      g_reservations.Arm(how(), allowed);
      const absl::Status put = (*db)->Put(key, value);
      g_reservations.Disarm();
      const bool met = g_reservations.failed > 0;
      if (put.ok()) {
        model[key] = value;
      } else {
        ++refused;
        messages.Add(put);
        ASSERT_THAT(put, HasCode(absl::StatusCode::kResourceExhausted));
        // What libpmemobj begins and fails to end, when it adds a part, it does not begin again.
        const bool must_reopen = absl::StrContains(std::string(put.message()), "reopen it");
        ASSERT_TRUE(met || must_reopen) << put;
        if (must_reopen) {
          ASSERT_THAT((*db)->Close(), IsOk());
          db = Db::Open(directory.Path("store"), TestOptions());
          ASSERT_THAT(db.status(), IsOk());
          continue;
        }
      }
      absl::StatusOr<std::string> got = (*db)->Get(key);
      const auto wanted = model.find(key);
      ASSERT_EQ(got.ok(), wanted != model.end()) << got.status();
      if (got.ok()) {
        ASSERT_TRUE(*got == wanted->second);
      }
      if (!met) break;
    }
  }
  std::cout << refused << " puts refused\n";
  // One failure alone is met by another try.
  if (how() == Failing::kThatAndAllAfter) {
    EXPECT_GT(refused, 0);
  }
  ASSERT_NO_FATAL_FAILURE(ExpectModel(**db, model));
  ASSERT_THAT((*db)->Close(), IsOk());
}

TEST_P(ReservationTest, EveryStepOfACreation) {
  TemporaryDirectory directory(medium());
  Messages messages("creation without blocks");
  for (int allowed = 0;; ++allowed) {
    g_reservations.Arm(how(), allowed);
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("store"), TestOptions());
    g_reservations.Disarm();
    if (!db.ok()) {
      messages.Add(db.status());
      ASSERT_THAT(db.status(), HasCode(absl::StatusCode::kResourceExhausted));
      continue;
    }
    ASSERT_THAT((*db)->Put("key", "value"), IsOk());
    if (g_reservations.failed == 0) break;
    db->reset();
    std::filesystem::remove_all(directory.Path("store"));
  }
}

// ---- msync
// ---------------------------------------------------------------------------------------

// A script of changes; `model` is what was acknowledged, `tried` what else a key may have.
class Script {
 public:
  void Run(Db& db, Messages* messages) {
    Change(db, "a", "first", messages);
    Change(db, "old3", "overwritten", messages);
    Change(db, "large", std::string(300'000, 'l'), messages);
    std::vector<std::pair<std::string, std::string>> records;
    for (int i = 0; i < 200; ++i) records.emplace_back(absl::StrCat("group", i), NumberedKey(i));
    std::vector<KeyValue> group;
    for (const auto& [key, value] : records) {
      group.push_back({key, value});
      tried[key].insert(value);
    }
    if (Note("group", db.PutGroup(group).status(), messages)) {
      for (const auto& [key, value] : records) model[key] = value;
    }
    Change(db, "old4", std::nullopt, messages);
    Change(db, "large", std::nullopt, messages);
    Note("compact", db.Compact().status(), messages);
    Change(db, "z", "last", messages);
    Note("sync", db.Sync(), messages);
  }

  Model model;
  std::map<std::string, std::set<std::optional<std::string>>> tried;
  bool failed = false;

 private:
  void Change(Db& db, const std::string& key, std::optional<std::string> value,
              Messages* messages) {
    tried[key].insert(value);
    if (!Note(key, value.has_value() ? db.Put(key, *value) : db.Delete(key), messages)) return;
    if (value.has_value()) {
      model[key] = *value;
    } else {
      model.erase(key);
    }
    tried[key].clear();
  }
  // From the first failure on nothing is acknowledged, but that nothing had to be done.
  bool Note(const std::string& call, const absl::Status& status, Messages* messages) {
    if (status.ok()) {
      EXPECT_FALSE(failed) << call << " was acknowledged after a failed msync";
      return !failed;
    }
    if (failed && absl::IsNotFound(status)) return false;
    failed = true;
    messages->Add(status);
    EXPECT_THAT(status, HasCode(absl::StatusCode::kInternal));
    return false;
  }
};

TEST(MsyncTest, EachThatFails) {
  TemporaryDirectory directory(Medium::kDisk);
  Messages messages("failed msync");
  Model before;
  {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory.Path("first"), TestOptions());
    ASSERT_THAT(db.status(), IsOk());
    if ((*db)->GetInfo()->media.media_class != dax::MediaClass::kPageCache) GTEST_SKIP();
    for (int i = 0; i < 50; ++i) {
      before[absl::StrCat("old", i)] = ValueFor("old", i, 200);
      ASSERT_THAT((*db)->Put(absl::StrCat("old", i), before[absl::StrCat("old", i)]), IsOk());
    }
    ASSERT_THAT((*db)->Close(), IsOk());
  }
  int rounds = 0;
  for (int allowed = 0;; ++allowed, ++rounds) {
    SCOPED_TRACE(absl::StrCat("msync ", allowed));
    const std::string path = directory.Path("store");
    std::filesystem::remove_all(path);
    std::filesystem::copy(directory.Path("first"), path, std::filesystem::copy_options::recursive);
    Script script;
    script.model = before;
    bool met;
    {
      absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
      ASSERT_THAT(db.status(), IsOk());
      g_syncs.Arm(Failing::kOne, allowed);  // Linux, too, tells of a failure once.
      script.Run(**db, &messages);
      g_syncs.Disarm();
      met = g_syncs.failed > 0;
      // Reads go on.
      EXPECT_THAT((*db)->Get("old7").status(), IsOk());
      const absl::Status closed = (*db)->Close();
      if (script.failed) {
        messages.Add(closed);
        EXPECT_THAT(closed, HasCode(absl::StatusCode::kInternal));
      }
    }
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
    ASSERT_THAT(db.status(), IsOk());
    std::set<std::string> keys;
    for (const auto& [key, value] : script.model) keys.insert(key);
    for (const auto& [key, values] : script.tried) keys.insert(key);
    for (const std::string& key : keys) {
      const absl::StatusOr<std::string> got = (*db)->Get(key);
      ASSERT_TRUE(got.ok() || absl::IsNotFound(got.status())) << key << ": " << got.status();
      const std::optional<std::string> found =
          got.ok() ? std::optional<std::string>(*got) : std::nullopt;
      const auto kept = script.model.find(key);
      const std::optional<std::string> acknowledged =
          kept == script.model.end() ? std::nullopt : std::optional<std::string>(kept->second);
      EXPECT_TRUE(found == acknowledged || script.tried[key].count(found) != 0) << key;
    }
    absl::StatusOr<CheckReport> report = (*db)->Check();
    ASSERT_THAT(report.status(), IsOk());
    EXPECT_THAT(report->faults, testing::IsEmpty());
    EXPECT_THAT((*db)->Put("again", "works"), IsOk());
    if (!met || HasFailure()) break;
  }
  std::cout << rounds << " msyncs failed, one at a time\n";
}

// A keyspace whose creation or drop fails is there or it is not.
TEST(MsyncTest, EachThatFailsWhileAKeyspaceComesOrGoes) {
  TemporaryDirectory directory(Medium::kDisk);
  const std::string path = directory.Path("store");
  const auto open = [&] {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
    EXPECT_THAT(db.status(), IsOk());
    return *std::move(db);
  };
  bool drop = false, done = false;
  for (int allowed = 0; !done || !std::exchange(drop, true);) {
    std::unique_ptr<Db> db = open();
    if (db->GetInfo()->media.media_class != dax::MediaClass::kPageCache) GTEST_SKIP();
    const auto is_there = [&] { return db->ListKeyspaces()->size() == 1; };
    if (drop) {
      absl::StatusOr<Keyspace> keyspace =
          is_there() ? db->OpenKeyspace("name") : db->CreateKeyspace("name");
      ASSERT_THAT(keyspace->Put("key", "value"), IsOk());
    }
    if (!drop && is_there()) {
      ASSERT_THAT(db->DropKeyspace("name"), IsOk());
    }
    ASSERT_THAT(db->Compact(absl::Now() + absl::Seconds(20)).status(), IsOk());
    if (done) allowed = 0;
    g_syncs.Arm(Failing::kOne, allowed++);
    const absl::Status status =
        drop ? db->DropKeyspace("name") : db->CreateKeyspace("name").status();
    done = g_syncs.failed == 0;
    g_syncs.Disarm();
    if (status.ok()) {
      EXPECT_EQ(is_there(), !drop);
    } else {
      EXPECT_THAT(status, HasCode(absl::StatusCode::kInternal));
    }
    db.reset();
    db = open();
    EXPECT_TRUE(!status.ok() || is_there() != drop);
    if (is_there()) {
      absl::StatusOr<Keyspace> keyspace = db->OpenKeyspace("name");
      ASSERT_THAT(keyspace.status(), IsOk());
      EXPECT_EQ(keyspace->Get("key").ok(), drop);
    }
    EXPECT_THAT(db->Check()->faults, testing::IsEmpty());
    ASSERT_FALSE(HasFailure()) << "msync " << allowed << (drop ? " of a drop" : " of a creation");
  }
}

// ---- In a process of its own
// ---------------------------------------------------------------------

// What the child found wrong goes to stderr; it ends with 0 if nothing.
int InChild(const std::function<bool()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  int state = 0;
  waitpid(child, &state, 0);
  return state;
}

bool MakeStore(const std::string& path) {
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
  if (!db.ok()) return false;
  for (int i = 0; i < 400; ++i) {
    if (!(*db)->Put(NumberedKey(i), ValueFor(NumberedKey(i), 0, i % 8 == 0 ? 400'000 : 300)).ok()) {
      return false;
    }
  }
  return (*db)->Close().ok();
}

// True: a clear refusal, or all that is read is right or said to be lost.
bool OpensOrSaysWhy(const std::string& path, const std::string& damage) {
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
  if (!db.ok()) {
    fprintf(stderr, "%s: %s\n", damage.c_str(), db.status().ToString().c_str());
    return !db.status().message().empty() && !absl::IsInternal(db.status());
  }
  int lost = 0;
  std::string example;
  for (int i = 0; i < 400; ++i) {
    const absl::StatusOr<std::string> got = (*db)->Get(NumberedKey(i));
    if (got.ok() && *got == ValueFor(NumberedKey(i), 0, i % 8 == 0 ? 400'000 : 300)) continue;
    if (got.ok() || !absl::IsDataLoss(got.status())) {
      fprintf(stderr, "%s: key %d: %s\n", damage.c_str(), i, got.status().ToString().c_str());
      return false;
    }
    ++lost;
    example = got.status().ToString();
  }
  fprintf(stderr, "%s: opened, %d of 400 lost %s\n", damage.c_str(), lost, example.c_str());
  return true;
}

TEST(ClosedStoreTest, PartsCutShortToEveryClassOfLength) {
  TemporaryDirectory directory(Medium::kTmpfs);
  ASSERT_EQ(InChild([&] { return MakeStore(directory.Path("first")); }), 0);
  for (const char* part : {"000000.pmem", "000001.pmem"}) {
    const std::string original = directory.Path(absl::StrCat("first/parts/", part));
    ASSERT_TRUE(std::filesystem::exists(original));
    const uint64_t size = std::filesystem::file_size(original);
    for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{4096},
                                  uint64_t{8192}, uint64_t{3} << 20, size / 2, size - (2 << 20),
                                  size - 4096, size - 1, size + 1, size + 4096}) {
      const std::string path = directory.Path("store");
      std::filesystem::remove_all(path);
      std::filesystem::copy(directory.Path("first"), path,
                            std::filesystem::copy_options::recursive);
      std::filesystem::resize_file(absl::StrCat(path, "/parts/", part), length);
      const std::string damage = absl::StrCat(part, " of ", size, " bytes cut to ", length);
      EXPECT_EQ(InChild([&] { return OpensOrSaysWhy(path, damage); }), 0) << damage;
    }
  }
}

// ---- Cut by somebody else while it is open ------------------------------------------------------

// Goes on with a store whose part was cut. Every call returns: what is right, or that it is lost.
bool LivesOn(Db& db, const std::string& damage) {
  std::map<absl::StatusCode, int> gets, puts;
  for (int i = 0; i < 400; ++i) {
    const absl::StatusOr<std::string> got = db.Get(NumberedKey(i));
    ++gets[got.status().code()];
    if (got.ok() && *got == ValueFor(NumberedKey(i), 0, i % 8 == 0 ? 400'000 : 300)) continue;
    if (got.ok() || !absl::IsDataLoss(got.status())) {
      fprintf(stderr, "%s: key %d: %s\n", damage.c_str(), i, got.status().ToString().c_str());
      return false;
    }
  }
  std::string example;
  for (int i = 0; i < 60; ++i) {
    const std::string key = absl::StrCat("new", i);
    const absl::Status put = db.Put(key, ValueFor(key, 1, i % 8 == 0 ? 400'000 : 300));
    ++puts[put.code()];
    if (put.message().empty() != put.ok()) return false;
    if (!put.ok()) example = put.ToString();
    const absl::StatusOr<std::string> got = db.Get(key);
    const bool right = got.ok() && *got == ValueFor(key, 1, i % 8 == 0 ? 400'000 : 300);
    if (put.ok() ? !right : got.ok() && !right) {
      fprintf(stderr, "%s: put %s, then get %s\n", damage.c_str(), put.ToString().c_str(),
              got.status().ToString().c_str());
      return false;
    }
  }
  db.Delete("new1").IgnoreError();
  db.Compact().IgnoreError();
  db.Check().IgnoreError();
  db.Sync().IgnoreError();
  const absl::Status closed = db.Close();
  fprintf(stderr, "%s: %d of 400 read, %d lost; %d of 60 put %s; close: %s\n", damage.c_str(),
          gets[absl::StatusCode::kOk], gets[absl::StatusCode::kDataLoss],
          puts[absl::StatusCode::kOk], example.c_str(), closed.ToString().c_str());
  return true;
}

class TruncationTest : public testing::TestWithParam<Medium> {};
INSTANTIATE_ON_BOTH_MEDIA(TruncationTest);

// At most LostPages::kCapacity pages are replaced; when more are touched, the process gets the
// SIGBUS as it would of any mapped file.
TEST_P(TruncationTest, OfAPartThatIsOpen) {
  TemporaryDirectory directory(GetParam());
  ASSERT_EQ(InChild([&] { return MakeStore(directory.Path("first")); }), 0);
  for (const char* part : {"000000.pmem", "000001.pmem"}) {
    const uint64_t size =
        std::filesystem::file_size(directory.Path(absl::StrCat("first/parts/", part)));
    for (const uint64_t gone : {uint64_t{4096}, uint64_t{1} << 20, size - (uint64_t{3} << 19)}) {
      const std::string path = directory.Path("store");
      std::filesystem::remove_all(path);
      std::filesystem::copy(directory.Path("first"), path,
                            std::filesystem::copy_options::recursive);
      const std::string damage = absl::StrCat(part, " of ", size, " bytes cut by ", gone);
      const int state = InChild([&] {
        absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
        if (!db.ok() || !(*db)->Get(NumberedKey(1)).ok()) return false;
        const std::string file = absl::StrCat(path, "/parts/", part);
        if (truncate(file.c_str(), static_cast<off_t>(size - gone)) != 0) return false;
        return LivesOn(**db, damage);
      });
      if (gone < uint64_t{2} << 20) {
        EXPECT_EQ(state, 0) << damage;
      } else {
        EXPECT_TRUE(state == 0 || (WIFSIGNALED(state) && WTERMSIG(state) == SIGBUS))
            << damage << ", state " << state;
      }
    }
  }
}

TEST(MapSyncTest, Refused) {
  TemporaryDirectory directory(Medium::kDisk);
  for (const int error : {EOPNOTSUPP, EINVAL}) {
    g_map_sync_error = error;
    const std::string path = directory.Path(absl::StrCat("store", error));
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
    ASSERT_THAT(db.status(), IsOk());
    EXPECT_NE((*db)->GetInfo()->media.media_class, dax::MediaClass::kDax);
    EXPECT_THAT((*db)->Put("key", std::string(3'000'000, 'v')), IsOk());
    EXPECT_THAT((*db)->Close(), IsOk());
    for (const int other : {EACCES, ENOMEM, EPERM}) {
      g_map_sync_error = other;
      const absl::Status refused = Db::Open(path, TestOptions()).status();
      std::cout << "MAP_SYNC: " << strerror(other) << ": " << refused << "\n";
      EXPECT_FALSE(refused.ok());
      EXPECT_THAT(std::string(refused.message()), testing::HasSubstr(path));
    }
    g_map_sync_error = 0;
    db = Db::Open(path, TestOptions());
    ASSERT_THAT(db.status(), IsOk());
    EXPECT_THAT((*db)->Get("key").status(), IsOk());
    EXPECT_THAT((*db)->Close(), IsOk());
  }
}

TEST(ReadOnlyTest, AFileSystemThatIs) {
  TemporaryDirectory directory(Medium::kTmpfs);
  const std::string mount_point = directory.Path("");
  if (!dax::MountOwnTmpfs(mount_point, "size=128m")) {
    GTEST_SKIP() << "can't mount a tmpfs here";
  }
  EXPECT_EQ(InChild([&] { return MakeStore(directory.Path("store")); }), 0);
  ASSERT_EQ(mount("daxkv_test", mount_point.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr), 0);
  for (const char* name : {"store", "none"}) {
    EXPECT_EQ(InChild([&] {
                const absl::Status status = Db::Open(directory.Path(name), TestOptions()).status();
                fprintf(stderr, "read-only file system: %s\n", status.ToString().c_str());
                return absl::IsPermissionDenied(status) &&
                       absl::StrContains(std::string(status.message()), directory.Path(name));
              }),
              0);
  }
  umount2(mount_point.c_str(), MNT_DETACH);
}

TEST(ReadOnlyTest, FilesThatAre) {
  if (getuid() != 0) GTEST_SKIP() << "needs a second user";
  TemporaryDirectory directory(Medium::kTmpfs);
  std::filesystem::permissions(directory.Path(""), std::filesystem::perms::all);
  ASSERT_EQ(InChild([&] { return MakeStore(directory.Path("store")); }), 0);
  for (const char* name : {"LOCK", "parts/000000.pmem", "parts/000001.pmem", ""}) {
    const auto all = std::filesystem::perms::all;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(directory.Path("store"))) {
      std::filesystem::permissions(entry.path(), all);
    }
    std::filesystem::permissions(directory.Path("store"), all);
    std::filesystem::permissions(
        directory.Path("store") + "/" + name,
        *name == '\0' ? std::filesystem::perms::none : std::filesystem::perms(0444));
    EXPECT_EQ(InChild([&] {
                if (setgid(65534) != 0 || setuid(65534) != 0) return false;
                const absl::Status status =
                    Db::Open(directory.Path("store"), TestOptions()).status();
                fprintf(stderr, "%s not permitted: %s\n", name, status.ToString().c_str());
                return absl::IsPermissionDenied(status);
              }),
              0)
        << name;
  }
}

TEST(AddressSpaceTest, TooLittleOfIt) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer itself needs more";
#endif
  TemporaryDirectory directory(Medium::kTmpfs);
  ASSERT_EQ(InChild([&] { return MakeStore(directory.Path("store")); }), 0);
  int refused = 0;
  for (const uint64_t mebibytes : {64, 128, 256, 1024, 8192, 63 * 1024, 80 * 1024, 200 * 1024}) {
    for (const bool fresh : {false, true}) {
      const std::string path = directory.Path(fresh ? absl::StrCat("fresh", mebibytes) : "store");
      const int state = InChild([&] {
        const rlimit limit = {mebibytes << 20, mebibytes << 20};
        if (setrlimit(RLIMIT_AS, &limit) != 0) return false;
        absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
        fprintf(stderr, "%d MiB of addresses, %s: %s\n", static_cast<int>(mebibytes),
                fresh ? "creation" : "open", db.status().ToString().c_str());
        if (!db.ok()) {
          if (!absl::IsResourceExhausted(db.status())) return false;
          _exit(2);
        }
        return (*db)->Put("key", std::string(200'000, 'v')).ok() && (*db)->Close().ok();
      });
      EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) != 1) << mebibytes << " state " << state;
      refused += WIFEXITED(state) && WEXITSTATUS(state) == 2 ? 1 : 0;
    }
  }
  EXPECT_GE(refused, 8);
  EXPECT_LT(refused, 16);
  EXPECT_EQ(InChild([&] { return OpensOrSaysWhy(directory.Path("store"), "all addresses"); }), 0);
}

}  // namespace
}  // namespace daxkv::kv
