// SIGKILL at random moments of a child process whose threads write, delete, write batches, look at
// snapshots and compact. In long lives the background's compaction comes to work, too.
//
// Parent and child share a ledger: for every key the number of the last version whose write was
// begun, and of the last one that was acknowledged (its call had returned). After each kill the
// parent opens the store and demands that every key is in one of these two states, byte for byte,
// all keys of a batch in the same one, and that Check finds no fault and no leak.
//
// The child is this same binary, started again with --child, so that it has no threads from before.
// More rounds: --rounds=N.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

constexpr int kMaxWriters = 4;
constexpr int kKeys = 400;      // Of each writer alone.
constexpr int kContested = 20;  // Written by all of them, never deleted.
constexpr int kMaxGroup = 40;
constexpr int kBatch = 8;            // Keys of each writer that only batches write, all at once.
constexpr int kWatched = 30;         // Own keys that a snapshot's holder compares.
constexpr int kFill = 16'000;        // Small records that come and, most of them, go.
constexpr size_t kFillBytes = 1000;  // Half of that is more than the background leaves alone.

int rounds_each = 10;

struct Progress {
  std::atomic<uint64_t> begun;
  std::atomic<uint64_t> acknowledged;
};

struct Ledger {
  uint64_t seed;
  int writers;
  bool compacts;
  bool fills;  // Makes work for the compaction in the background.
  std::atomic<bool> opened;
  std::atomic<uint64_t> calls;
  Progress own[kMaxWriters][kKeys];
  Progress contested[kContested][kMaxWriters];
  Progress batch[kMaxWriters];
  std::atomic<uint64_t> batches, snapshots, fills_done;
  char error[1000];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// What a version of a key is follows from key and number.
std::string OwnKey(int writer, int i) { return absl::StrCat("own/", writer, "/", NumberedKey(i)); }
std::string BatchKey(int writer, int i) { return absl::StrCat("batch/", writer, "/", i); }
std::string FillKey(int i) { return absl::StrCat("fill/", NumberedKey(i)); }
std::string ContestedKey(int i) { return absl::StrCat("contested/", i); }

bool IsDelete(const std::string& key, uint64_t version) {
  return std::hash<std::string>()(absl::StrCat(key, "#", version)) % 5 == 0;
}

std::string VersionValue(const std::string& key, int writer, uint64_t version) {
  const uint64_t dice = std::hash<std::string>()(absl::StrCat(key, "@", version));
  const uint64_t limit = dice % 100 == 0 ? 400'000 : dice % 10 == 0 ? 40'000 : 1'000;
  return absl::StrCat(writer, ":", version, ";", ValueFor(key, version, dice / 100 % limit));
}

Ledger* MapLedger(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, sizeof(Ledger)) != 0) return nullptr;
  void* map = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return map == MAP_FAILED ? nullptr : static_cast<Ledger*>(map);
}

// ---- The child ---------------------------------------------------------------------------------

class Writer {
 public:
  Writer(Db& db, Ledger& ledger, int number)
      : db_(db), ledger_(ledger), number_(number), random_(ledger.seed + number) {}

  [[noreturn]] void Run() {
    if (ledger_.fills && number_ == 0) Fill();
    for (;;) {
      switch (random_() % 12) {
        case 0:
          PutContested();
          break;
        case 1:
          PutGroup();
          break;
        case 2:
          WriteBatch();
          break;
        case 3:
          LookAtSnapshot();
          break;
        default:
          WriteOne();
      }
      ledger_.calls.fetch_add(1);
    }
  }

 private:
  int Below(int limit) { return static_cast<int>(random_() % static_cast<uint64_t>(limit)); }

  void Require(const absl::Status& status) {
    if (status.ok() || absl::IsNotFound(status)) return;
    strncpy(ledger_.error, status.ToString().c_str(), sizeof(ledger_.error) - 1);
    _exit(1);
  }

  void WriteOne() {
    const int i = Below(kKeys);
    const std::string key = OwnKey(number_, i);
    Progress& progress = ledger_.own[number_][i];
    const uint64_t version = progress.begun.load() + 1;
    progress.begun.store(version);
    Require(IsDelete(key, version) ? db_.Delete(key)
                                   : db_.Put(key, VersionValue(key, number_, version)));
    progress.acknowledged.store(version);
  }

  void PutContested() {
    const int i = Below(kContested);
    const std::string key = ContestedKey(i);
    Progress& progress = ledger_.contested[i][number_];
    const uint64_t version = progress.begun.load() + 1;
    progress.begun.store(version);
    Require(db_.Put(key, VersionValue(key, number_, version)));
    progress.acknowledged.store(version);
  }

  // A run of neighbouring keys, those whose next version is a value.
  void PutGroup() {
    std::vector<Progress*> members;
    std::vector<std::pair<std::string, std::string>> records;
    const int first = Below(kKeys);
    for (int i = first; i < std::min(kKeys, first + kMaxGroup); ++i) {
      std::string key = OwnKey(number_, i);
      Progress& progress = ledger_.own[number_][i];
      const uint64_t version = progress.begun.load() + 1;
      if (IsDelete(key, version)) continue;
      std::string value = VersionValue(key, number_, version);
      records.emplace_back(std::move(key), std::move(value));
      members.push_back(&progress);
    }
    std::vector<KeyValue> group;
    group.reserve(records.size());
    for (const auto& [key, value] : records) group.push_back({key, value});
    for (Progress* progress : members) progress->begun.fetch_add(1);
    Require(db_.PutGroup(group).status());
    for (Progress* progress : members) progress->acknowledged.store(progress->begun.load());
  }

  void WriteBatch() {
    Progress& progress = ledger_.batch[number_];
    const uint64_t version = progress.begun.load() + 1;
    progress.begun.store(version);
    kv::WriteBatch batch;
    for (int i = 0; i < kBatch; ++i) {
      const std::string key = BatchKey(number_, i);
      Require(IsDelete(BatchKey(number_, 0), version)
                  ? batch.Delete(key)
                  : batch.Put(key, VersionValue(key, number_, version)));
    }
    Require(db_.Write(batch));
    progress.acknowledged.store(version);
    ledger_.batches.fetch_add(1);
  }

  // Takes one, or compares what the one held shows with what was there when it was taken. Nobody
  // else writes these keys.
  void LookAtSnapshot() {
    if (snapshot_ == nullptr) {
      absl::StatusOr<Snapshot> taken = db_.GetSnapshot();
      Require(taken.status());
      snapshot_ = std::make_unique<Snapshot>(*std::move(taken));
      for (int i = 0; i < kWatched; ++i) seen_[i] = ledger_.own[number_][i].acknowledged.load();
      return;
    }
    for (int i = 0; i < kWatched; ++i) {
      const std::string key = OwnKey(number_, i);
      const absl::StatusOr<std::string> got = db_.Get(key, *snapshot_);
      Require(got.status());
      const bool absent = seen_[i] == 0 || IsDelete(key, seen_[i]);
      if (got.ok() == absent || (got.ok() && *got != VersionValue(key, number_, seen_[i]))) {
        Require(absl::DataLossError(absl::StrCat(key, " is another than at the snapshot")));
      }
    }
    snapshot_.reset();
    ledger_.snapshots.fetch_add(1);
  }

  void Fill() {
    std::string value(kFillBytes, 'f');
    for (int i = 0; i < kFill; i += 500) {
      std::vector<std::string> keys;
      for (int k = i; k < i + 500; ++k) keys.push_back(FillKey(k));
      std::vector<KeyValue> group;
      for (const std::string& key : keys) group.push_back({key, value});
      Require(db_.PutGroup(group).status());
      std::vector<std::string_view> gone;
      for (const std::string& key : keys) {
        if (random_() % 5 != 0) gone.push_back(key);
      }
      Require(db_.DeleteGroup(gone).status());
    }
    ledger_.fills_done.fetch_add(1);
  }

  Db& db_;
  Ledger& ledger_;
  const int number_;
  std::mt19937_64 random_;
  std::unique_ptr<Snapshot> snapshot_;
  uint64_t seen_[kWatched];
};

int RunChild(const std::string& store, const std::string& ledger_path) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Ledger* ledger = MapLedger(ledger_path);
  if (ledger == nullptr) return 2;
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(store, TestOptions());
  if (!db.ok()) {
    strncpy(ledger->error, db.status().ToString().c_str(), sizeof(ledger->error) - 1);
    return 1;
  }
  ledger->opened.store(true);
  std::vector<std::thread> threads;
  threads.reserve(kMaxWriters);
  for (int i = 0; i < ledger->writers; ++i) {
    threads.emplace_back([&, i] { Writer(**db, *ledger, i).Run(); });
  }
  while (true) {
    if (ledger->compacts) (*db)->Compact().IgnoreError();
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
}

// ---- The parent --------------------------------------------------------------------------------

class KillTest : public testing::TestWithParam<Medium> {
 protected:
  KillTest() : directory_(GetParam()), ledger_directory_(Medium::kTmpfs) {
    ledger_ = MapLedger(ledger_directory_.Path("ledger"));
    const uint64_t seed = std::random_device()();
    std::cout << "seed " << seed << "\n";
    random_.seed(seed);
  }
  ~KillTest() override { munmap(ledger_, sizeof(Ledger)); }

  std::string store() const { return directory_.Path("store"); }

  // Runs a child and kills it.
  void RunAndKill() {
    using std::chrono::milliseconds;
    ledger_->seed = random_();
    ledger_->writers = 2 + static_cast<int>(random_() % 3);
    ledger_->compacts = random_() % 3 == 0;
    ledger_->opened.store(false);
    ledger_->error[0] = '\0';
    // Now and then while it opens, which finishes what the kill before left half done.
    const bool early = random_() % 6 == 0;
    const int longest_life_ms = early ? 15 : GetParam() == Medium::kTmpfs ? 250 : 800;
    // The background begins after two seconds.
    ledger_->fills = !early && random_() % 8 == 0;
    const milliseconds life(ledger_->fills ? 2500 + random_() % 2000 : random_() % longest_life_ms);
    const std::string ledger_path = ledger_directory_.Path("ledger");
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      execl("/proc/self/exe", "db_kill_test", "--child", store().c_str(), ledger_path.c_str(),
            nullptr);
      _exit(127);
    }
    int state = 0;
    pid_t ended = 0;
    while (!early && !ledger_->opened.load() && ended == 0) {
      std::this_thread::sleep_for(milliseconds(1));
      ended = waitpid(child, &state, WNOHANG);
    }
    std::this_thread::sleep_for(life);
    kill(child, SIGKILL);
    if (ended == 0) ended = waitpid(child, &state, 0);
    ASSERT_EQ(ended, child);
    ASSERT_TRUE(WIFSIGNALED(state) && WTERMSIG(state) == SIGKILL)
        << "the child ended by itself, state " << state << ": " << ledger_->error;
  }

  void VerifyStore() {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(store(), TestOptions());
    ASSERT_THAT(db.status(), IsOk());
    // Sometimes the lazy recovery of a reader comes first, sometimes the full one of Check.
    const bool check_first = random_() % 2 == 0;
    if (check_first) {
      ASSERT_NO_FATAL_FAILURE(ExpectClean(**db));
    }
    for (int writer = 0; writer < kMaxWriters; ++writer) {
      for (int i = 0; i < kKeys; ++i) VerifyOwn(**db, writer, i);
    }
    for (int i = 0; i < kContested; ++i) VerifyContested(**db, i);
    for (int writer = 0; writer < kMaxWriters; ++writer) VerifyBatch(**db, writer);
    for (int i = 0; i < kFill; i += 7) {
      const absl::StatusOr<std::string> got = (*db)->Get(FillKey(i));
      ASSERT_TRUE(got.ok() ? *got == std::string(kFillBytes, 'f') : absl::IsNotFound(got.status()));
    }
    if (!check_first) {
      ASSERT_NO_FATAL_FAILURE(ExpectClean(**db));
    }
    if (random_() % 3 == 0) {
      ASSERT_THAT((*db)->Close(), IsOk());
    }
  }

  Ledger& ledger() { return *ledger_; }

 private:
  void ExpectClean(const Db& db) {
    absl::StatusOr<CheckReport> report = db.Check();
    ASSERT_THAT(report.status(), IsOk());
    ASSERT_THAT(report->faults, testing::IsEmpty());
  }

  void VerifyOwn(const Db& db, int writer, int i) {
    const std::string key = OwnKey(writer, i);
    Progress& progress = ledger_->own[writer][i];
    const absl::StatusOr<std::string> got = db.Get(key);
    ASSERT_TRUE(got.ok() || absl::IsNotFound(got.status())) << got.status();
    const auto is_version = [&](uint64_t version) {
      if (version == 0 || IsDelete(key, version)) return !got.ok();
      return got.ok() && *got == VersionValue(key, writer, version);
    };
    const uint64_t begun = progress.begun.load(), acknowledged = progress.acknowledged.load();
    ASSERT_LE(begun, acknowledged + 1);
    if (is_version(acknowledged)) {
      progress.begun.store(acknowledged);
    } else if (is_version(begun)) {
      progress.acknowledged.store(begun);
    } else {
      ADD_FAILURE() << key << ": version " << acknowledged << " was acknowledged, " << begun
                    << " begun; found " << (got.ok() ? got->substr(0, got->find(';')) : "nothing")
                    << " of " << (got.ok() ? got->size() : 0) << " bytes";
    }
  }

  void VerifyBatch(const Db& db, int writer) {
    Progress& progress = ledger_->batch[writer];
    const uint64_t acknowledged = progress.acknowledged.load(), begun = progress.begun.load();
    ASSERT_LE(begun, acknowledged + 1);
    const auto is_version = [&](uint64_t version) {
      const bool absent = version == 0 || IsDelete(BatchKey(writer, 0), version);
      for (int i = 0; i < kBatch; ++i) {
        const std::string key = BatchKey(writer, i);
        const absl::StatusOr<std::string> got = db.Get(key);
        EXPECT_TRUE(got.ok() || absl::IsNotFound(got.status())) << got.status();
        if (absent ? got.ok() : !got.ok() || *got != VersionValue(key, writer, version)) {
          return false;
        }
      }
      return true;
    };
    if (is_version(acknowledged)) {
      progress.begun.store(acknowledged);
    } else if (is_version(begun)) {
      progress.acknowledged.store(begun);
    } else {
      ADD_FAILURE() << "the batch of writer " << writer << ": version " << acknowledged
                    << " was acknowledged, " << begun << " begun; neither is there whole";
    }
  }

  void VerifyContested(const Db& db, int i) {
    const std::string key = ContestedKey(i);
    const absl::StatusOr<std::string> got = db.Get(key);
    if (absl::IsNotFound(got.status())) {
      for (Progress& progress : ledger_->contested[i]) EXPECT_EQ(progress.acknowledged.load(), 0u);
      return;
    }
    ASSERT_THAT(got.status(), IsOk());
    int writer = 0;
    uint64_t version = 0;
    const std::string_view bytes = *got;
    const size_t colon = bytes.find(':'), semicolon = bytes.find(';');
    ASSERT_TRUE(semicolon != bytes.npos && colon < semicolon);
    ASSERT_TRUE(absl::SimpleAtoi(std::string(bytes.substr(0, colon)), &writer));
    ASSERT_TRUE(
        absl::SimpleAtoi(std::string(bytes.substr(colon + 1, semicolon - colon - 1)), &version));
    ASSERT_TRUE(writer >= 0 && writer < kMaxWriters);
    ASSERT_TRUE(bytes == VersionValue(key, writer, version)) << key << " is torn";
    Progress& progress = ledger_->contested[i][writer];
    EXPECT_LE(version, progress.begun.load());
    EXPECT_GE(version, progress.acknowledged.load()) << key << ": lost writer " << writer;
    progress.acknowledged.store(version);
    progress.begun.store(version);
  }

  TemporaryDirectory directory_;
  TemporaryDirectory ledger_directory_;
  Ledger* ledger_ = nullptr;
  std::mt19937_64 random_;
};
INSTANTIATE_ON_BOTH_MEDIA(KillTest);

TEST_P(KillTest, KeepsEveryAcknowledgedWrite) {
  for (int round = 0; round < rounds_each; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    ASSERT_NO_FATAL_FAILURE(RunAndKill());
    ASSERT_NO_FATAL_FAILURE(VerifyStore());
    ASSERT_FALSE(HasNonfatalFailure());
  }
  std::cout << rounds_each << " kills, " << ledger().calls.load() << " acknowledged calls, "
            << ledger().batches.load() << " batches, " << ledger().snapshots.load()
            << " snapshots compared, " << ledger().fills_done.load() << " times filled\n";
}

}  // namespace
}  // namespace daxkv::kv

int main(int argc, char** argv) {
  if (argc == 4 && std::string_view(argv[1]) == "--child") {
    return daxkv::kv::RunChild(argv[2], argv[3]);
  }
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--rounds=") &&
        absl::SimpleAtoi(argument, &daxkv::kv::rounds_each)) {
      continue;
    }
    std::cerr << argv[i] << ": unknown; --rounds=N is all there is\n";
    return 2;
  }
  return RUN_ALL_TESTS();
}
