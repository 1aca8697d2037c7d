// Power cuts under process durability: what an open makes of pages of different times.
//
// This binary defines pmem_msync itself. It keeps the store's file as it was when the last
// writeback that was completed began, and as it was at moments since, some of them in the middle of
// calls. An image takes each page as it was at any of these moments (or torn between two), is
// opened as if another kernel had booted, and must hold
//   of each key a state that the key had not lost before the last completed writeback began, or, if
//   by then it was deleted, one that it lost less than two writebacks before;
//   of each group of keys that only batches write, the members of one batch alone.
// Keys and groups lie in two keyspaces; others come and go, with the same keys.
#include <libpmem.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/kv/page_images.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kFileSizeBytes = 32 << 20;
constexpr int kKeys = 250;
constexpr int kGroups = 6, kGroupKeys = 5;

// The store's file as it is seen by everybody who maps it, and as it was.
class File {
 public:
  // The store that was opened last.
  void Observe(const std::string& path) {
    std::lock_guard<std::mutex> lock(mutex_);
    ASSERT_NO_FATAL_FAILURE(file_.Map(path, kFileSizeBytes));
    base_ = last_synced_;
    copies_ = {file_.Copy()};
    begun_.store(0);
    completed_.store(0);
  }
  void Forget() {
    std::lock_guard<std::mutex> lock(mutex_);
    file_.Unmap();
  }

  // What pmem_msync does, around the real one.
  int Sync(const char* address, size_t size_bytes) {
    const auto first = reinterpret_cast<uintptr_t>(address) & ~(kPageSizeBytes - 1);
    const auto last = reinterpret_cast<uintptr_t>(address) + size_bytes;
    const bool whole = size_bytes == kFileSizeBytes;
    // What waits for another one's end begins after it.
    const std::lock_guard<std::mutex> one_at_a_time(sync_mutex_);
    std::unique_lock<std::mutex> lock(mutex_);
    // Images are opened as well.
    const bool ours = file_.is_mapped() && first - base_ < kFileSizeBytes;
    if (whole) last_synced_ = first;
    // In this order: others may be writing.
    if (ours && whole) ++begun_;
    FileCopy before;
    if (ours) before = file_.Copy();
    lock.unlock();
    const int result = msync(reinterpret_cast<void*>(first), last - first, MS_SYNC);
    lock.lock();
    if (!ours || !file_.is_mapped()) return result;
    if (whole) {
      // Older copies say nothing any more.
      copies_.clear();
      copies_.push_back(std::move(before));
      for (auto& [begun, copy] : during_) {
        if (begun >= begun_) copies_.push_back(std::move(copy));
      }
      during_.clear();
      completed_.store(begun_.load());
    } else {
      for (uint64_t at = first - base_; at < last - base_; at += kPageSizeBytes) {
        for (FileCopy& copy : copies_) std::memcpy(&copy[at], &before[at], kPageSizeBytes);
      }
    }
    return result;
  }

  // Remembers a moment.
  void Capture() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!file_.is_mapped()) return;
    if (begun_ != completed_) {
      if (during_.size() < 2) during_.emplace_back(begun_, file_.Copy());
    } else if (copies_.size() < 5) {
      copies_.push_back(file_.Copy());
    }
  }

  uint64_t begun() const { return begun_; }

  // A state that a cut now may leave. Modes differ in how pages are chosen. *completed: as of now.
  void WriteImage(const std::string& path, std::mt19937_64& random, uint64_t* completed) {
    std::lock_guard<std::mutex> lock(mutex_);
    *completed = completed_;
    std::vector<const FileCopy*> copies;
    for (const FileCopy& copy : copies_) copies.push_back(&copy);
    const FileCopy now = file_.Copy();
    copies.push_back(&now);
    WriteMixedImage(path, copies, /*rare=*/20, random);
  }

 private:
  std::mutex sync_mutex_;  // Before the other.
  std::mutex mutex_;
  MappedFile file_;
  uintptr_t base_ = 0, last_synced_ = 0;  // Addresses.
  std::vector<FileCopy> copies_;          // As the last completed one began, and since.
  std::vector<std::pair<uint64_t, FileCopy>> during_;
  std::atomic<uint64_t> begun_{0}, completed_{0};
};

File observed;

// A key's states, in order. Version 0 is its absence at first.
struct State {
  uint64_t version;     // 0: deleted.
  uint64_t ended_sync;  // Syncs begun when the call that made it returned. Not all are writebacks:
                        // keyspaces come and go with syncs of their own.
  uint64_t ended_writeback;  // Writebacks that the test had asked for by then.
};

uint64_t writebacks = 0;  // Done, of those that the test asked for.

struct History {
  std::vector<State> states = {{0, 0, 0}};

  void Add(uint64_t version) { states.push_back({version, observed.begun(), writebacks}); }
  uint64_t last() const { return states.back().version; }

  bool Allows(uint64_t version, uint64_t completed) const {
    size_t durable = 0;
    for (size_t i = 0; i < states.size(); ++i) {
      if (states[i].ended_sync < completed) durable = i;
    }
    for (size_t i = durable; i < states.size(); ++i) {
      if (states[i].version == version) return true;
    }
    if (states[durable].version != 0) return false;
    for (size_t i = 0; i < durable; ++i) {
      if (states[i].version == version && states[i + 1].ended_writeback + 1 >= writebacks) {
        return true;
      }
    }
    return false;
  }
};

std::string Key(int i) { return absl::StrCat("key/", NumberedKey(i)); }
std::string GroupKey(int group, int i) { return absl::StrCat("group/", group, "/", i); }
// Every third key, and each group's odd members, lie in a keyspace besides the default one.
constexpr char kSecond[] = "second";
constexpr uint64_t kPassingVersion = uint64_t{1} << 40;  // Of what lies in keyspaces that go again.
bool IsInSecond(const std::string& key) {
  const int last = key.back() - '0';
  return key[0] == 'g' ? last % 2 == 1 : last % 3 == 1;
}

std::string ValueOf(const std::string& key, uint64_t version) {
  const uint64_t dice = std::hash<std::string>()(absl::StrCat(key, "@", version));
  const uint64_t limit = dice % 40 == 0 ? 60'000 : dice % 5 == 0 ? 5'000 : 300;
  return absl::StrCat(version, ";", ValueFor(key, version, dice / 100 % limit));
}

Options StoreOptions(const std::string& boot_id_file) {
  Options options;
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = kFileSizeBytes;
  options.durability = dax::Durability::kProcess;
  options.writeback_interval = absl::Hours(1);  // They come when the test wants them.
  options.boot_id_file = boot_id_file;
  options.compaction_bytes_per_second = 0;
  return options;
}

// Versions of keys. What is no whole value of its key is said in *error.
using Found = std::map<std::string, uint64_t>;
void ReadKeyspace(const Keyspace& keyspace, bool second, Found* found, std::string* error) {
  const std::unique_ptr<Iterator> it = keyspace.NewIterator();
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const std::string key(it->key());
    const absl::StatusOr<std::string> value = keyspace.Get(key);
    const uint64_t version = value.ok() ? std::strtoull(value->c_str(), nullptr, 10) : uint64_t{0};
    if (!value.ok() || *value != ValueOf(key, version)) {
      absl::StrAppend(error, "torn: ", key, " ", value.status().ToString(), "\n");
    }
    if (IsInSecond(key) != second) absl::StrAppend(error, "of another keyspace: ", key, "\n");
    (*found)[key] = version;
  }
  if (!it->status().ok()) absl::StrAppend(error, it->status().ToString(), "\n");
}

Found ReadAll(const Db& db, std::string* error) {
  Found found;
  ReadKeyspace(db, /*second=*/false, &found, error);
  const absl::StatusOr<Keyspace> second = db.OpenKeyspace(kSecond);
  if (!second.ok()) {
    absl::StrAppend(error, second.status().ToString(), "\n");
  } else {
    ReadKeyspace(*second, /*second=*/true, &found, error);
  }
  return found;
}

// One that was being made, or dropped, is there or not; what it holds is its own.
void ReadPassing(const Db& db, std::string* error) {
  const absl::StatusOr<std::vector<std::string>> names = db.ListKeyspaces();
  if (!names.ok()) absl::StrAppend(error, names.status().ToString(), "\n");
  for (const std::string& name : names.value_or(std::vector<std::string>())) {
    if (name == kSecond) continue;
    const absl::StatusOr<Keyspace> passing = db.OpenKeyspace(name);
    if (!passing.ok()) {
      absl::StrAppend(error, passing.status().ToString(), "\n");
      continue;
    }
    const std::unique_ptr<Iterator> it = passing->NewIterator();
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      const std::string value(it->value());
      const uint64_t version = std::strtoull(value.c_str(), nullptr, 10);
      if (version < kPassingVersion || value != ValueOf(std::string(it->key()), version)) {
        absl::StrAppend(error, "not of ", name, ": ", std::string(it->key()), "\n");
      }
    }
    if (!it->status().ok()) absl::StrAppend(error, it->status().ToString(), "\n");
  }
}

// Opens an image, writes what it holds, and tries whether it goes on as any store.
int ReadImage(char** arguments) {
  const std::string path = arguments[0];
  Options options = StoreOptions(arguments[1]);
  if (std::string_view(arguments[2]) == "power") options.durability = dax::Durability::kPower;
  std::ofstream out(arguments[3]);
  std::string error;
  const auto require = [&](bool condition, const std::string& what) {
    if (!condition) absl::StrAppend(&error, what, "\n");
  };
  Found found;
  for (int open = 0; open < 2; ++open) {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, options);
    if (!db.ok()) {
      out << db.status() << "\n";
      return 1;
    }
    const absl::StatusOr<Info> info = (*db)->GetInfo();
    require(info.ok() && info->power_cut.has_value() == (open == 0), "power cut?");
    if (info.ok() && info->power_cut.has_value()) {
      out << "torn " << info->power_cut->slots_torn << "\n";
      out << "dropped " << info->power_cut->batches_dropped << "\n";
    }
    const Found now = ReadAll(**db, &error);
    require(open == 0 || now == found, "another content after a clean close");
    ReadPassing(**db, &error);
    found = now;
    const absl::StatusOr<CheckReport> report = (*db)->Check();
    require(report.ok(), report.status().ToString());
    if (report.ok()) {
      for (const std::string& fault : report->faults) require(false, fault);
    }
    require((*db)->Put("new", ValueOf("new", 1)).ok(), "put");
    require((*db)->Delete("new").ok(), "delete");
    const absl::Status closed = (*db)->Close();
    require(closed.ok(), closed.ToString());
  }
  for (const auto& [key, version] : found) out << "key " << key << " " << version << "\n";
  out << error;
  return error.empty() ? 0 : 1;
}

class PowerCutTest : public testing::Test {
 protected:
  PowerCutTest() : directory_(Medium::kDisk) {
    const uint64_t seed = std::random_device()();
    std::cout << "seed " << seed << "\n";
    random_.seed(seed);
    std::ofstream(directory_.Path("boot")) << "one\n";
    std::ofstream(directory_.Path("other_boot")) << "two\n";
  }
  ~PowerCutTest() override {
    snapshot_.reset();
    db_.reset();
    observed.Forget();
  }

  Options StoreOptions() const { return kv::StoreOptions(directory_.Path("boot")); }

  void Open() {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory_.Path("store"), StoreOptions());
    ASSERT_THAT(db.status(), IsOk());
    db_ = *std::move(db);
    ASSERT_NO_FATAL_FAILURE(OpenSecond());
    const absl::StatusOr<Info> info = db_->GetInfo();
    ASSERT_THAT(info.status(), IsOk());
    if (info->media.media_class != dax::MediaClass::kPageCache) GTEST_SKIP() << "no disk here";
    observed.Observe(directory_.Path("store"));
    writebacks = 0;
    for (History& history : keys_) history = {{{history.last(), 0, 0}}};
    for (History& history : groups_) history = {{{history.last(), 0, 0}}};
  }

  void OpenSecond() {
    absl::StatusOr<Keyspace> second = db_->OpenKeyspace(kSecond);
    if (absl::IsNotFound(second.status())) second = db_->CreateKeyspace(kSecond);
    ASSERT_THAT(second.status(), IsOk());
    second_ = *std::move(second);
  }

  const Keyspace& KeyspaceOf(const std::string& key) const {
    return IsInSecond(key) ? *second_ : *db_;
  }

  // Makes a keyspace, or writes to it, or drops it.
  void DoPassing() {
    if (!passing_.has_value()) {
      passing_name_ = absl::StrCat("passing ", ++versions_);
      absl::StatusOr<Keyspace> made = db_->CreateKeyspace(passing_name_);
      ASSERT_THAT(made.status(), IsOk());
      passing_ = *std::move(made);
    } else if (random_() % 12 == 0) {
      passing_.reset();
      ASSERT_THAT(db_->DropKeyspace(passing_name_), IsOk());
    } else {
      const std::string key = Key(static_cast<int>(random_() % kKeys));
      ASSERT_THAT(passing_->Put(key, ValueOf(key, kPassingVersion + ++versions_)), IsOk());
    }
  }

  void Writeback() {
    ASSERT_THAT(db_->Sync(), IsOk());
    ++writebacks;
  }

  void DoSomething() {
    const int i = static_cast<int>(random_() % kKeys);
    const std::string key = Key(i);
    const uint64_t version = ++versions_;
    Keyspace keyspace = KeyspaceOf(key);
    switch (random_() % 13) {
      case 12:
        DoPassing();
        break;
      case 0:
      case 1:
      case 2:
        ASSERT_THAT(keyspace.Delete(key),
                    testing::AnyOf(IsOk(), HasCode(absl::StatusCode::kNotFound)));
        keys_[i].Add(0);
        break;
      case 3:
        WriteGroup(static_cast<int>(random_() % kGroups), version);
        break;
      case 4: {
        // Fails, now and then: what it has written must not show.
        const absl::Status inserted = keyspace.Insert(key, ValueOf(key, version));
        if (inserted.ok()) keys_[i].Add(version);
        break;
      }
      case 5:
        if (random_() % 10 != 0) break;
        snapshot_.reset();
        if (random_() % 3 == 0) {
          auto snapshot = db_->GetSnapshot();
          ASSERT_THAT(snapshot.status(), IsOk());
          snapshot_ = std::make_unique<Snapshot>(*std::move(snapshot));
        }
        break;
      default:
        ASSERT_THAT(keyspace.Put(key, ValueOf(key, version)), IsOk());
        keys_[i].Add(version);
    }
  }

  void WriteGroup(int group, uint64_t version) {
    const bool deletes = random_() % 3 == 0;
    WriteBatch batch;
    for (int i = 0; i < kGroupKeys; ++i) {
      const std::string key = GroupKey(group, i);
      if (deletes) {
        EXPECT_THAT(batch.Delete(KeyspaceOf(key), key), IsOk());
      } else {
        EXPECT_THAT(batch.Put(KeyspaceOf(key), key, ValueOf(key, version)), IsOk());
      }
    }
    ASSERT_THAT(db_->Write(batch), IsOk());
    groups_[group].Add(deletes ? 0 : version);
  }

  // `found`: the versions of keys in a store; absent ones are missing.
  // `completed`: syncs by then.
  void Judge(const Found& found, uint64_t completed) {
    const auto version_of = [&](const std::string& key) {
      const auto it = found.find(key);
      return it == found.end() ? 0 : it->second;
    };
    for (int i = 0; i < kKeys; ++i) {
      const uint64_t version = version_of(Key(i));
      EXPECT_TRUE(keys_[i].Allows(version, completed))
          << Explain(Key(i), keys_[i], version, completed);
    }
    for (int group = 0; group < kGroups; ++group) {
      const uint64_t version = version_of(GroupKey(group, 0));
      EXPECT_TRUE(groups_[group].Allows(version, completed))
          << Explain(GroupKey(group, 0), groups_[group], version, completed);
      for (int i = 1; i < kGroupKeys; ++i) {
        EXPECT_EQ(version_of(GroupKey(group, i)), version)
            << "half a batch: " << Explain(GroupKey(group, 0), groups_[group], version, completed);
      }
    }
  }

  static std::string Explain(const std::string& key, const History& history, uint64_t version,
                             uint64_t completed) {
    std::string text = absl::StrCat(key, " has version ", version, " after ", completed,
                                    " syncs and ", writebacks, " writebacks; its states:");
    for (const State& state : history.states) {
      absl::StrAppend(&text, " ", state.version, "@", state.ended_sync, "/", state.ended_writeback);
    }
    return text;
  }

  // What a cut may leave now, opened by a process of its own: one can't open two copies of a pool.
  void CutAndJudge(bool process_durability) {
    const std::string path = directory_.Path("image"), out = directory_.Path("found");
    unlink(path.c_str());
    unlink(out.c_str());
    uint64_t completed = 0;
    ASSERT_NO_FATAL_FAILURE(observed.WriteImage(path, random_, &completed));
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      execl("/proc/self/exe", "power_cut_test", "--read", path.c_str(),
            directory_.Path("other_boot").c_str(), process_durability ? "process" : "power",
            out.c_str(), nullptr);
      _exit(127);
    }
    int state = 0;
    ASSERT_EQ(waitpid(child, &state, 0), child);
    std::ifstream file(out);
    std::string line, errors;
    Found found;
    while (std::getline(file, line)) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      if (words[0] == "key") {
        found[words[1]] = std::strtoull(words[2].c_str(), nullptr, 10);
      } else if (words[0] == "torn") {
        torn_ += std::strtoull(words[1].c_str(), nullptr, 10);
      } else if (words[0] == "dropped") {
        dropped_ += std::strtoull(words[1].c_str(), nullptr, 10);
      } else {
        absl::StrAppend(&errors, line, "\n");
      }
    }
    ASSERT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == 0) << state << " " << errors;
    ++images_;
    Judge(found, completed);
  }

  TemporaryDirectory directory_;
  std::mt19937_64 random_;
  std::unique_ptr<Db> db_;
  std::optional<Keyspace> second_;
  std::optional<Keyspace> passing_;
  std::string passing_name_;
  std::unique_ptr<Snapshot> snapshot_;
  History keys_[kKeys], groups_[kGroups];
  uint64_t versions_ = 0;
  uint64_t images_ = 0, torn_ = 0, dropped_ = 0;
};

TEST_F(PowerCutTest, AnyMixOfPagesSinceTheLastWritebackIsAHistoryOfEachKey) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (IsSkipped()) return;
  std::atomic<bool> done{false};
  std::thread in_the_middle([&] {
    while (!done.load()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(7));
      observed.Capture();
    }
  });
  for (int round = 0; round < 24; ++round) {
    const int operations = static_cast<int>(random_() % 400);
    for (int i = 0; i < operations && !HasFatalFailure(); ++i) DoSomething();
    if (round % 3 != 0) Writeback();
    if (round % 7 == 6) {
      ASSERT_THAT(db_->Compact().status(), IsOk());
    }
    const int more = static_cast<int>(random_() % 100);
    for (int i = 0; i < more && !HasFatalFailure(); ++i) DoSomething();
    CutAndJudge(/*process_durability=*/round % 4 != 0);
    if (HasFailure()) break;
  }
  done.store(true);
  in_the_middle.join();
  std::cout << images_ << " images, with " << torn_ << " torn slots and " << dropped_
            << " batches that were dropped\n";
}

// The same kernel still has what the process left.
TEST_F(PowerCutTest, WithoutAPowerCutNothingIsLookedThrough) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (IsSkipped()) return;
  for (int i = 0; i < 500; ++i) DoSomething();
  observed.Forget();
  snapshot_.reset();
  db_.reset();  // As a crash of the process leaves it.
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory_.Path("store"), StoreOptions());
  ASSERT_THAT(db.status(), IsOk());
  const absl::StatusOr<Info> info = (*db)->GetInfo();
  ASSERT_THAT(info.status(), IsOk());
  EXPECT_FALSE(info->was_clean);
  EXPECT_FALSE(info->power_cut.has_value());
  EXPECT_TRUE(info->writeback.has_value());
  std::string error;
  Found found = ReadAll(**db, &error);
  EXPECT_EQ(error, "");
  for (int i = 0; i < kKeys; ++i) EXPECT_EQ(found[Key(i)], keys_[i].last()) << Key(i);
  for (int group = 0; group < kGroups; ++group) {
    for (int i = 0; i < kGroupKeys; ++i) {
      EXPECT_EQ(found[GroupKey(group, i)], groups_[group].last());
    }
  }
}

// Sessions that end in different ways, and one with the other durability between them, whose free
// slots nobody stamped.
TEST_F(PowerCutTest, SessionsOfBothDurabilitiesTakeTurns) {
  for (int session = 0; session < 6; ++session) {
    ASSERT_NO_FATAL_FAILURE(Open());
    if (IsSkipped()) return;
    for (int i = 0; i < 300 && !HasFatalFailure(); ++i) DoSomething();
    ASSERT_NO_FATAL_FAILURE(Writeback());
    ASSERT_NO_FATAL_FAILURE(Writeback());
    for (int i = 0; i < 50 && !HasFatalFailure(); ++i) DoSomething();
    ASSERT_NO_FATAL_FAILURE(CutAndJudge(/*process_durability=*/true));
    ASSERT_FALSE(HasFailure());
    observed.Forget();
    snapshot_.reset();
    passing_.reset();
    if (session % 2 == 0) {
      ASSERT_THAT(db_->Close(), IsOk());
    }
    db_.reset();
    if (session % 3 == 2) continue;
    Options options = StoreOptions();
    options.durability = dax::Durability::kPower;
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory_.Path("store"), options);
    ASSERT_THAT(db.status(), IsOk());
    db_ = *std::move(db);
    ASSERT_NO_FATAL_FAILURE(OpenSecond());
    for (int i = 0; i < 60 && !HasFatalFailure(); ++i) DoSomething();
    snapshot_.reset();
    passing_.reset();
    if (session % 2 == 1) {
      ASSERT_THAT(db_->Close(), IsOk());
    }
    db_.reset();
  }
}

TEST_F(PowerCutTest, OptionsOutOfTheirRangeAreRefused) {
  Options options = StoreOptions();
  for (const absl::Duration interval :
       {absl::ZeroDuration(), absl::Microseconds(999), absl::Hours(1) + absl::Seconds(1)}) {
    options.writeback_interval = interval;
    EXPECT_THAT(Db::Open(directory_.Path("store"), options).status(),
                HasCode(absl::StatusCode::kInvalidArgument));
  }
  options = StoreOptions();
  options.boot_id_file = directory_.Path("nothing");
  EXPECT_THAT(Db::Open(directory_.Path("store"), options).status(),
              HasCode(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace daxkv::kv

extern "C" int pmem_msync(const void* address, size_t size_bytes) {
  return daxkv::kv::observed.Sync(static_cast<const char*>(address), size_bytes);
}

int main(int argc, char** argv) {
  if (argc == 6 && std::string_view(argv[1]) == "--read") return daxkv::kv::ReadImage(argv + 2);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
