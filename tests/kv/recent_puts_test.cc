// Power cuts on an ordinary file whose puts survive them: what an open makes of pages of which the
// medium may hold any state since they were last msynced.
//
// This binary defines pmem_msync itself, and so knows of each page what it was when the last msync
// of it began, and at moments since. In the middle of msyncs it writes images in which each page, or
// each word of each page, is as at any of these moments, opens them in processes of their own, and
// judges what they hold: of each key a version that no operation which had returned by then, and had
// begun after that version's had returned, replaced; and of keys that batches write, one batch's.
#include <libpmem.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "dax/yield_point.h"
#include "kv/format.h"
#include "kv/repair.h"
#include "tests/kv/page_images.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kFileSizeBytes = 32 << 20;
constexpr size_t kMostCopies = 5;
constexpr int kKeys = 300;
constexpr int kGroups = 8, kGroupKeys = 4;
constexpr char kSecond[] = "second";

// The store's file, and what the medium may have of it. The store's own threads msync at any time:
// Observe, SetInSync and Forget wait for an msync that is under way.
class PageCache {
 public:
  void Observe(const std::string& path) {
    const std::scoped_lock lock(sync_mutex_, mutex_);
    ASSERT_NO_FATAL_FAILURE(file_.Map(path, kFileSizeBytes));
    copies_ = {file_.Copy()};
  }
  // Called in the middle of every msync; must not call those three itself.
  void SetInSync(std::function<void()> in_sync) {
    const std::lock_guard<std::mutex> lock(sync_mutex_);
    in_sync_ = std::move(in_sync);
  }
  // Ends that, too.
  void Forget() {
    const std::scoped_lock lock(sync_mutex_, mutex_);
    in_sync_ = nullptr;
    file_.Unmap();
  }

  int Sync(const char* address, size_t size_bytes) {
    const auto first = reinterpret_cast<uintptr_t>(address) & ~(kPageSizeBytes - 1);
    const auto last = (reinterpret_cast<uintptr_t>(address) + size_bytes + kPageSizeBytes - 1) &
                      ~(kPageSizeBytes - 1);
    // One that ends after another one has not begun before it.
    const std::lock_guard<std::mutex> one_at_a_time(sync_mutex_);
    if (size_bytes == kFileSizeBytes) base_ = first;
    const bool ours = file_.is_mapped() && first - base_ < kFileSizeBytes;
    FileCopy before;
    if (ours) {
      before = file_.Copy(first - base_, last - base_);
      if (in_sync_) in_sync_();
    }
    const int result = msync(reinterpret_cast<void*>(first), last - first, MS_SYNC);
    if (!ours) return result;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (before.size() == kFileSizeBytes) {
      copies_ = {std::move(before)};
    } else {
      for (FileCopy& copy : copies_)
        std::memcpy(&copy[first - base_], before.data(), before.size());
    }
    return result;
  }

  // Remembers a moment.
  void Capture() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (copies_.size() == kMostCopies) copies_.erase(copies_.begin() + 1);
    copies_.push_back(file_.Copy());
  }

  // A state that a cut now may leave.
  void WriteImage(const std::string& path, std::mt19937_64& random) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<const FileCopy*> copies;
    for (const FileCopy& copy : copies_) copies.push_back(&copy);
    const FileCopy now = file_.Copy();
    copies.push_back(&now);
    WriteMixedImage(path, copies, /*rare=*/8, random);
  }

 private:
  std::mutex sync_mutex_;  // Before the other.
  std::mutex mutex_;
  MappedFile file_;                // Changes under both.
  uintptr_t base_ = 0;             // sync_mutex_
  std::function<void()> in_sync_;  // sync_mutex_
  std::vector<FileCopy> copies_;   // mutex_. The first: what is known to be durable.
};

PageCache medium;

std::string Key(int i) { return absl::StrCat("key/", NumberedKey(i)); }
std::string GroupKey(int group, int i) { return absl::StrCat("group/", group, "/", i); }
bool IsInSecond(const std::string& key) { return key.back() % 3 == 1; }

std::string ValueOf(const std::string& key, uint64_t version) {
  const uint64_t dice = std::hash<std::string>()(absl::StrCat(key, "@", version));
  const uint64_t limit = dice % 40 == 0 ? 60'000 : dice % 4 == 0 ? 8'000 : 300;
  return absl::StrCat(version, ";", ValueFor(key, version, dice / 100 % limit));
}

Options StoreOptions() {
  Options options;
  options.shape = dax::PoolShape::kFixed;
  options.fixed_size_bytes = kFileSizeBytes;
  options.compaction_bytes_per_second = 0;
  return options;
}

// What may be of each key. Moments are numbers of one counter.
class Expectation {
 public:
  static constexpr uint64_t kNever = UINT64_MAX;

  size_t Begin(const std::string& key, uint64_t version) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Operation>& operations = keys_[key];
    if (operations.empty()) operations.push_back({0, 0, 0});
    operations.push_back({version, ++clock_, kNever});
    return operations.size() - 1;
  }
  // It had no effect if not `done`.
  void End(const std::string& key, size_t number, bool done) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Operation& operation = keys_[key][number];
    operation.end = ++clock_;
    operation.failed = !done;
  }
  uint64_t Now() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ++clock_;
  }
  // Whether a cut between the two moments may leave the key with the version. 0: absent.
  bool Allows(const std::string& key, uint64_t version, uint64_t from, uint64_t to) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::vector<Operation>& operations = keys_[key];
    if (operations.empty()) return version == 0;
    for (const Operation& candidate : operations) {
      if (candidate.version != version || candidate.begin > to) continue;
      if (candidate.failed && candidate.end <= from) continue;
      bool replaced = false;
      for (const Operation& later : operations) {
        replaced |= !later.failed && later.begin > candidate.end && later.end <= from;
      }
      if (!replaced) return true;
    }
    return false;
  }
  std::string Explain(const std::string& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::string text;
    for (const Operation& operation : keys_[key]) {
      absl::StrAppend(&text, " ", operation.version, "@", operation.begin, "-",
                      operation.end == kNever ? "" : absl::StrCat(operation.end),
                      operation.failed ? "(failed)" : "");
    }
    return text;
  }

 private:
  struct Operation {
    uint64_t version;
    uint64_t begin, end;
    bool failed = false;
  };
  std::mutex mutex_;
  uint64_t clock_ = 0;
  std::map<std::string, std::vector<Operation>> keys_;
};

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

// Opens an image, writes what it holds, and tries whether it goes on as any store.
int ReadImage(char** arguments) {
  const std::string path = arguments[0];
  std::ofstream out(arguments[1]);
  std::string error;
  const auto require = [&](bool condition, const std::string& what) {
    if (!condition) absl::StrAppend(&error, what, "\n");
  };
  Found found;
  if (std::string_view(arguments[2]) == "repair") {
    const absl::StatusOr<RepairReport> report = Db::Repair(path, StoreOptions());
    require(report.ok(), report.status().ToString());
    if (report.ok()) {
      for (const std::string& key : report->lost_keys) require(false, "lost " + key);
    }
  }
  for (int open = 0; open < 2; ++open) {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, StoreOptions());
    if (!db.ok()) {
      out << db.status() << "\n";
      return 1;
    }
    const Found now = ReadAll(**db, &error);
    require(open == 0 || now == found, "another content after a clean close");
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

// Any one of a file's.
void DamageLeaf(const std::string& path, std::mt19937_64& random) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  std::vector<char> bytes(kFileSizeBytes);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  std::vector<size_t> leaves;
  for (size_t at = 0; at < bytes.size(); at += kLeafSizeBytes) {
    NodeHeader header;
    std::memcpy(&header, &bytes[at], sizeof(header));
    if (header.magic == kLeafMagic && header.self == at) leaves.push_back(at);
  }
  ASSERT_FALSE(leaves.empty());
  file.seekp(static_cast<std::streamoff>(leaves[random() % leaves.size()] +
                                         offsetof(NodeHeader, checksum)));
  file.write("what", 4);
  ASSERT_TRUE(file.good());
}

class RecentPutsTest : public testing::Test {
 protected:
  RecentPutsTest() : directory_(Medium::kDisk) {}
  ~RecentPutsTest() override {
    medium.Forget();
    db_.reset();
  }

  void Open() {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory_.Path("store"), StoreOptions());
    ASSERT_THAT(db.status(), IsOk());
    db_ = *std::move(db);
    absl::StatusOr<Keyspace> second = db_->OpenKeyspace(kSecond);
    if (absl::IsNotFound(second.status())) second = db_->CreateKeyspace(kSecond);
    ASSERT_THAT(second.status(), IsOk());
    second_ = *std::move(second);
    const absl::StatusOr<Info> info = db_->GetInfo();
    ASSERT_THAT(info.status(), IsOk());
    if (info->media.media_class != dax::MediaClass::kPageCache) GTEST_SKIP() << "no disk here";
    ASSERT_THAT(db_->Sync(), IsOk());
    medium.Observe(directory_.Path("store"));
    ASSERT_THAT(db_->Sync(), IsOk());
  }

  Keyspace KeyspaceOf(const std::string& key) const {
    return IsInSecond(key) ? *second_ : Keyspace(*db_);
  }

  // An operation on one key. `call` returns whether it had an effect.
  template <typename Call>
  void Do(const std::string& key, uint64_t version, Call call) {
    const size_t number = expectation_.Begin(key, version);
    const absl::Status status = call(KeyspaceOf(key));
    EXPECT_THAT(status, testing::AnyOf(IsOk(), HasCode(absl::StatusCode::kNotFound),
                                       HasCode(absl::StatusCode::kAlreadyExists),
                                       HasCode(absl::StatusCode::kAborted)));
    expectation_.End(key, number, status.ok());
  }

  void DoSomething(std::mt19937_64& random) {
    const std::string key = Key(static_cast<int>(random() % kKeys));
    const uint64_t version = ++versions_;
    switch (random() % 16) {
      case 0:
      case 1:
        return Do(key, 0, [&](Keyspace keyspace) { return keyspace.Delete(key); });
      case 3:
        return WriteGroup(static_cast<int>(random() % kGroups), random() % 3 == 0 ? 0 : version);
      case 4:
        return Do(key, version,
                  [&](Keyspace keyspace) { return keyspace.Insert(key, ValueOf(key, version)); });
      case 5:
        return Do(key, version, [&](Keyspace keyspace) {
          return keyspace.PutGroup({{key, ValueOf(key, version)}}).status();
        });
      case 6:
        return Do(key, 0, [&](Keyspace keyspace) {
          const absl::StatusOr<uint64_t> deleted = keyspace.DeleteRange(key, key + '\0');
          if (deleted.ok() && *deleted == 0) return absl::NotFoundError("");
          return deleted.status();
        });
      case 7:
        if (random() % 60 == 0) {
          EXPECT_THAT(db_->Compact().status(), IsOk());
        }
        return;
      case 8: {
        const std::string other = Key(static_cast<int>(random() % kKeys));
        return Do(other, 0, [&](Keyspace of_other) {
          absl::Status written;
          Do(key, 0, [&](Keyspace keyspace) {
            WriteBatch batch;
            EXPECT_THAT(batch.Delete(keyspace, key), IsOk());
            EXPECT_THAT(batch.Delete(of_other, other), IsOk());
            return written = db_->Write(batch);
          });
          return written;
        });
      }
      default:
        return Do(key, version,
                  [&](Keyspace keyspace) { return keyspace.Put(key, ValueOf(key, version)); });
    }
  }

  // 0: deletes. Groups of one thread each.
  void WriteGroup(int group, uint64_t version) {
    const std::lock_guard<std::mutex> lock(group_mutexes_[group]);
    WriteBatch batch;
    std::vector<size_t> numbers;
    for (int i = 0; i < kGroupKeys; ++i) {
      const std::string key = GroupKey(group, i);
      numbers.push_back(expectation_.Begin(key, version));
      if (version == 0) {
        EXPECT_THAT(batch.Delete(KeyspaceOf(key), key), IsOk());
      } else {
        EXPECT_THAT(batch.Put(KeyspaceOf(key), key, ValueOf(key, version)), IsOk());
      }
    }
    EXPECT_THAT(db_->Write(batch), IsOk());
    for (int i = 0; i < kGroupKeys; ++i) expectation_.End(GroupKey(group, i), numbers[i], true);
  }

  // What a cut may leave now, opened by a process of its own: one can't open two copies of a pool.
  void CutAndJudge(std::mt19937_64& random, bool damages_leaf = false) {
    const std::string path = directory_.Path("image"), out = directory_.Path("found");
    unlink(path.c_str());
    unlink(out.c_str());
    const uint64_t from = expectation_.Now();
    ASSERT_NO_FATAL_FAILURE(medium.WriteImage(path, random));
    const uint64_t to = expectation_.Now();
    // Whatever is pending, a repair before the open leaves it to that, or does it.
    const bool repairs = damages_leaf || random() % 4 == 0;
    if (damages_leaf) {
      ASSERT_NO_FATAL_FAILURE(DamageLeaf(path, random));
    }
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      execl("/proc/self/exe", "recent_puts_test", "--read", path.c_str(), out.c_str(),
            repairs ? "repair" : "open", nullptr);
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
      } else {
        absl::StrAppend(&errors, line, "\n");
      }
    }
    ASSERT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == 0) << state << " " << errors;
    ++images_;
    const auto version_of = [&](const std::string& key) {
      const auto it = found.find(key);
      return it == found.end() ? 0 : it->second;
    };
    const auto judge = [&](const std::string& key) {
      EXPECT_TRUE(expectation_.Allows(key, version_of(key), from, to))
          << key << " has version " << version_of(key) << " at " << from << "-" << to
          << "; its operations:" << expectation_.Explain(key);
    };
    for (int i = 0; i < kKeys; ++i) judge(Key(i));
    for (int group = 0; group < kGroups; ++group) {
      for (int i = 0; i < kGroupKeys; ++i) {
        judge(GroupKey(group, i));
        EXPECT_EQ(version_of(GroupKey(group, i)), version_of(GroupKey(group, 0)))
            << "half a batch: " << GroupKey(group, i);
      }
    }
  }

  // Cuts in the middle of msyncs of any thread, while the others go on.
  void CutInSyncs(std::mt19937_64& random, unsigned one_in) {
    medium.SetInSync([this, &random, one_in] {
      const std::unique_lock<std::mutex> lock(cut_mutex_, std::try_to_lock);
      if (!lock.owns_lock() || testing::Test::HasFailure()) return;
      if (random() % (one_in / 2) == 0) medium.Capture();
      if (random() % one_in == 0) CutAndJudge(random);
    });
  }

  void Run(unsigned threads, unsigned sessions, unsigned operations) {
    const uint64_t seed = std::random_device()();
    std::cout << "seed " << seed << "\n";
    std::mt19937_64 cuts(seed);
    for (unsigned session = 0; session < sessions && !HasFailure(); ++session) {
      ASSERT_NO_FATAL_FAILURE(Open());
      if (IsSkipped()) return;
      CutInSyncs(cuts, 60);
      std::vector<std::thread> workers;
      for (unsigned i = 0; i < threads; ++i) {
        workers.emplace_back([this, i, seed, session, operations] {
          std::mt19937_64 random(seed + i + 100 * session);
          std::optional<Snapshot> snapshot;
          for (unsigned k = 0; k < operations && !HasFailure(); ++k) {
            if (k % 97 == 50) {
              auto taken = db_->GetSnapshot();
              if (taken.ok()) snapshot = *std::move(taken);
            }
            if (k % 97 == 80) snapshot.reset();
            DoSomething(random);
          }
        });
      }
      for (std::thread& worker : workers) worker.join();
      medium.Forget();
      if (session % 2 == 0) {
        second_.reset();
        ASSERT_THAT(db_->Close(), IsOk());
      }
      db_.reset();  // Otherwise as the end of the process leaves it.
    }
    std::cout << images_ << " images\n";
    EXPECT_GT(images_, 10u);
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Db> db_;
  std::optional<Keyspace> second_;
  Expectation expectation_;
  std::mutex group_mutexes_[kGroups];
  std::mutex cut_mutex_;
  std::atomic<uint64_t> versions_{0};
  std::atomic<uint64_t> images_{0};
};

TEST_F(RecentPutsTest, APowerCutCostsNothingThatReturned) { Run(1, 2, 350); }

// The next keyspace has the id of one that was dropped, and its extents the place of that one's.
TEST_F(RecentPutsTest, TheNextKeyspaceGetsNothingOfADroppedOne) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (IsSkipped()) return;
  const uint64_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  for (int round = 0; round < 6 && !HasFailure(); ++round) {
    std::vector<std::string> keys;
    for (int i = 0; i < kKeys; ++i) {
      if (IsInSecond(Key(i))) keys.push_back(Key(i));
    }
    const auto put = [&](const std::string& key) {
      const uint64_t version = ++versions_;
      Do(key, version, [&](Keyspace keyspace) { return keyspace.Put(key, ValueOf(key, version)); });
    };
    for (const std::string& key : keys) put(key);
    std::vector<size_t> drops;
    for (const std::string& key : keys) drops.push_back(expectation_.Begin(key, 0));
    second_.reset();
    ASSERT_THAT(db_->DropKeyspace(kSecond), IsOk());
    ASSERT_THAT(db_->Compact().status(), IsOk());
    absl::StatusOr<Keyspace> second = db_->CreateKeyspace(kSecond);
    ASSERT_THAT(second.status(), IsOk());
    second_ = *std::move(second);
    for (size_t i = 0; i < keys.size(); ++i) expectation_.End(keys[i], drops[i], true);
    put(keys[random() % keys.size()]);
    for (int cut = 0; cut < 4; ++cut) ASSERT_NO_FATAL_FAILURE(CutAndJudge(random));
  }
}

// A put stands between its record and its slot when another thread settles: its number counts as
// settled from then on, and so it has to wait for its slot.
std::function<void()> at_yield_point;

TEST_F(RecentPutsTest, APutThatASettleOvertakesWaitsForItsSlot) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (IsSkipped()) return;
  const auto put = [&](const std::string& key) {
    const uint64_t version = ++versions_;
    Do(key, version, [&](Keyspace keyspace) { return keyspace.Put(key, ValueOf(key, version)); });
  };
  // In two keyspaces: the removed record's slot is reused after an msync of its leaf's page.
  const std::string overtaken = Key(1), removed = Key(0);
  ASSERT_NE(IsInSecond(overtaken), IsInSecond(removed));
  put(removed);
  at_yield_point = [&] {
    dax::SetYieldHook(nullptr);
    std::thread([&] {
      Do(removed, 0, [&](Keyspace keyspace) { return keyspace.Delete(removed); });
    }).join();
  };
  dax::SetYieldHook([](const char* point) {
    // A put drains its record first.
    if (std::string_view(point) == "space:drained") at_yield_point();
  });
  put(overtaken);
  const uint64_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  for (int cut = 0; cut < 20; ++cut) ASSERT_NO_FATAL_FAILURE(CutAndJudge(random));
}

// What a repair finds of a damaged leaf's keys it takes from records. Those that no leaf of the
// image leads to yet count as well.
TEST_F(RecentPutsTest, ARepairBeforeTheOpenKeepsThem) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (IsSkipped()) return;
  const uint64_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  for (int cut = 0; cut < 12; ++cut) {
    for (int i = 0; i < (cut == 0 ? kKeys : kKeys / 8); ++i) {
      const std::string key = Key(cut == 0 ? i : static_cast<int>(random() % kKeys));
      const uint64_t version = ++versions_;
      Do(key, version, [&](Keyspace keyspace) { return keyspace.Put(key, ValueOf(key, version)); });
    }
    if (cut == 0) {
      ASSERT_THAT(db_->Sync(), IsOk());
    } else {
      ASSERT_NO_FATAL_FAILURE(CutAndJudge(random, /*damages_leaf=*/cut % 2 == 1));
    }
  }
}

// A list that outlives its session must not bring back what a session without recent puts removes.
TEST_F(RecentPutsTest, ASessionOfProcessDurabilityEndsTheList) {
  ASSERT_NO_FATAL_FAILURE(Open());
  if (IsSkipped()) return;
  medium.Forget();
  ASSERT_THAT(db_->Put("removed", "value"), IsOk());
  ASSERT_THAT(db_->Put("kept", "value"), IsOk());
  for (const dax::Durability durability : {dax::Durability::kProcess, dax::Durability::kPower}) {
    second_.reset();
    db_.reset();  // As the end of the process leaves it.
    Options options = StoreOptions();
    options.durability = durability;
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(directory_.Path("store"), options);
    ASSERT_THAT(db.status(), IsOk());
    db_ = *std::move(db);
    std::string value;
    EXPECT_THAT(db_->Get("kept", &value), IsOk());
    if (durability == dax::Durability::kProcess) {
      EXPECT_THAT(db_->Delete("removed"), IsOk());
    }
    EXPECT_THAT(db_->Get("removed", &value), HasCode(absl::StatusCode::kNotFound));
  }
}

TEST_F(RecentPutsTest, NorWithThreadsThatMeetAtTheSameKeys) { Run(4, 2, 120); }

}  // namespace
}  // namespace daxkv::kv

extern "C" int pmem_msync(const void* address, size_t size_bytes) {
  return daxkv::kv::medium.Sync(static_cast<const char*>(address), size_bytes);
}

int main(int argc, char** argv) {
  if (argc == 5 && std::string_view(argv[1]) == "--read") return daxkv::kv::ReadImage(argv + 2);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
