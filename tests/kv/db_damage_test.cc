// Damaged stores. Whatever happens to the files of a store, opening and using it never crashes,
// never hangs, never gives a wrong value; and writing to it destroys no record that was readable.
//
// Two stores are made, one closed cleanly and one whose process died. Each round copies one,
// damages the copy in one to three places, and lets a child process with a time limit and an
// address space limit use it in every way. The child judges what it sees; the parent judges how it
// ended.
//
// What a round allows:
//   - A call may fail, with a status that fits.
//   - A key may be absent only if the very slot of the leaf that held it was damaged. In a store
//   that
//     was closed cleanly Check then reports it. (After a crash an emptied slot can't be told from a
//     delete.)
//   - Where older pages were put back, an older value of the key may come back with them, and what
//     refers to the same slot twice, or to none, can't be known. Only crashes, hangs and values
//     that the key never had count there.
//
// Every round follows from its number: --first=N --rounds=1 repeats one; --rounds=N for more.
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kv/format.h"
#include "tests/kv/damaged_store.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Random = StoreImage::Random;

constexpr uint64_t kMaxPoolSizeBytes = 256 << 20;
constexpr rlim_t kAddressSpaceSizeBytes = rlim_t{4} << 30;
constexpr unsigned kTimeLimitSeconds = 30;

uint64_t first_round = 0;
uint64_t rounds = 40;

// ---- What the stores hold ----------------------------------------------------------------------

constexpr uint64_t kKeys = 1500;
constexpr uint64_t kOlderKeys = 1000;  // Those that the older state has.

std::string KeyOf(uint64_t number) {
  std::string key = NumberedKey(number * 7919 % 100'003);
  if (number % 97 == 0) key += std::string(number % 900, 'k');
  return key;
}

size_t ValueSizeBytes(uint64_t number, uint64_t version) {
  const uint64_t dice = (number * 31 + version * 17) % 1000;
  if (dice < 3) return 40'000 + dice * 90'000;
  if (dice < 30) return 1000 + dice * 700;
  return dice % 180;
}

bool IsDeleted(uint64_t number) { return number % 11 == 5; }

// The version that the finished store holds.
uint64_t VersionOf(uint64_t number) { return number % 3 == 0 ? 2 : 1; }

std::string ValueOf(uint64_t number, uint64_t version) {
  return ValueFor(KeyOf(number), version, ValueSizeBytes(number, version));
}

Options StoreOptions() {
  Options options;
  options.max_size_bytes = kMaxPoolSizeBytes;
  return options;
}

[[noreturn]] void Die(const std::string& what) {
  std::cerr << what << "\n";
  _exit(3);
}

void Require(const absl::Status& status) {
  if (!status.ok()) Die(status.ToString());
}

void FillOlder(Db& db) {
  for (uint64_t i = 0; i < kOlderKeys; ++i) Require(db.Put(KeyOf(i), ValueOf(i, 1)));
}

void FillRest(Db& db) {
  for (uint64_t i = 0; i < kOlderKeys; ++i) {
    if (VersionOf(i) == 2) Require(db.Put(KeyOf(i), ValueOf(i, 2)));
  }
  for (uint64_t i = kOlderKeys; i < kKeys; ++i) Require(db.Put(KeyOf(i), ValueOf(i, VersionOf(i))));
  for (uint64_t i = 0; i < kKeys; ++i) {
    if (IsDeleted(i)) Require(db.Delete(KeyOf(i)));
  }
}

// Runs `work` in a process of its own, so that this one never has threads or a store open.
int RunInChild(const std::function<void()>& work) {
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    work();
    _exit(0);
  }
  int state = 0;
  waitpid(child, &state, 0);
  return state;
}

struct Stores {
  StoreImage older, image;
};

Stores MakeStores(bool clean) {
  const TemporaryDirectory directory(Medium::kTmpfs);
  const std::string path = directory.Path("store");
  const auto session = [&](void (*fill)(Db&), bool close) {
    const int state = RunInChild([&] {
      absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, StoreOptions());
      Require(db.status());
      fill(**db);
      if (close) Require((*db)->Close());
    });
    EXPECT_EQ(state, 0);
    return StoreImage::Read(path);
  };
  Stores stores;
  stores.older = session(FillOlder, /*close=*/true);
  stores.image = session(FillRest, clean);
  stores.image.Survey();
  return stores;
}

// ---- The child: uses a damaged store and judges ------------------------------------------------

// What the child tells; shared memory, so that it survives the child.
struct Report {
  char phase[64];
  char complaint[600];
  bool refused;  // Open said no.
  char open_status[300];
  uint64_t data_losses;
  uint64_t absent;
  bool faults_reported;
};

class Judge {
 public:
  Judge(std::string path, Report* report, uint64_t seed, bool clean, bool older_pages,
        std::set<std::string> may_be_absent)
      : path_(std::move(path)),
        report_(report),
        random_(seed),
        clean_(clean),
        older_pages_(older_pages),
        may_be_absent_(std::move(may_be_absent)) {
    for (uint64_t i = 0; i < kKeys; ++i) {
      State& state = states_[KeyOf(i)];
      if (!IsDeleted(i)) state.values = {ValueOf(i, VersionOf(i))};
      state.absent = IsDeleted(i);
      if (older_pages_) {
        state.values.insert(ValueOf(i, 1));
        state.values.insert(ValueOf(i, VersionOf(i)));
        state.absent = true;
      }
    }
  }

  void Run() {
    Phase("open");
    if (!Open()) return;
    Phase("get");
    // Check before, after, or much later: it derives what a crash left.
    const uint64_t check_when = random_() % 3;
    if (check_when == 0) Check();
    GetAll();
    Phase("scan");
    Scan(/*keys_only=*/false);
    Scan(/*keys_only=*/true);
    Phase("pin");
    PinSome();
    if (check_when == 1) Check();
    if (check_when < 2 && clean_ && !older_pages_ && !report_->faults_reported &&
        report_->absent + report_->data_losses > 0) {
      Complain("reads failed or found nothing, and Check reports no fault");
    }
    NeedReadable();
    Phase("write");
    Write();
    Phase("get after writes");
    GetAll();
    CheckPins();
    Phase("check");
    Check();
    Phase("compact");
    pins_.clear();
    Allow("compact", db_->Compact().status());
    GetAll();
    Phase("info");
    Allow("info", db_->GetInfo(true).status());
    Phase("close");
    const absl::Status closed = random_() % 3 == 0 ? absl::OkStatus() : db_->Close();
    Allow("close", closed);
    db_.reset();
    Phase("reopen");
    if (!Open()) Complain("the store opened before the writes and does not now");
    Phase("get after reopen");
    GetAll();
    Check();
    Phase("end");
    db_.reset();
  }

 private:
  // What a key may be.
  struct State {
    std::set<std::string> values;
    bool absent = true;
    bool must_read = false;  // Was readable, and so stays.
  };

  void Phase(const char* name) { strncpy(report_->phase, name, sizeof(report_->phase) - 1); }

  void Complain(const std::string& what) {
    strncpy(report_->complaint, what.c_str(), sizeof(report_->complaint) - 1);
    _exit(2);
  }

  // Damage may be in the way of anything.
  void Allow(const std::string& what, const absl::Status& status) {
    if (status.ok() || absl::IsNotFound(status)) return;
    if (!absl::IsDataLoss(status)) Complain(absl::StrCat(what, ": ", status.ToString()));
    ++report_->data_losses;
  }

  bool Open() {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path_, StoreOptions());
    if (db.ok()) {
      db_ = *std::move(db);
      return true;
    }
    report_->refused = true;
    strncpy(report_->open_status, db.status().ToString().c_str(), sizeof(report_->open_status) - 1);
    return false;
  }

  void Saw(const std::string& key, const absl::StatusOr<std::string>& got) {
    State& state = states_[key];
    if (got.ok()) {
      if (state.values.count(*got) == 0) {
        Complain(absl::StrCat(key, ": a wrong value of ", got->size(), " bytes"));
      }
      return;
    }
    if (absl::IsNotFound(got.status())) {
      if (state.absent && !state.must_read) return;
      if (state.must_read) Complain(absl::StrCat(key, " was readable, and is gone"));
      if (may_be_absent_.count(key) == 0) {
        Complain(absl::StrCat(key, " is absent, though its slot was not hit"));
      }
      ++report_->absent;
      return;
    }
    if (!absl::IsDataLoss(got.status())) Complain(got.status().ToString());
    if (state.must_read) {
      Complain(absl::StrCat("was readable, and now: ", got.status().ToString()));
    }
    ++report_->data_losses;
  }

  void GetAll() {
    readable_.clear();
    for (auto& entry : states_) {
      const absl::StatusOr<std::string> got = db_->Get(entry.first);
      Saw(entry.first, got);
      if (got.ok()) readable_.insert(entry.first);
    }
  }

  // From here on, what can be read has to stay so.
  void NeedReadable() {
    if (older_pages_) return;
    for (const std::string& key : readable_) states_[key].must_read = true;
  }

  void Scan(bool keys_only) {
    IteratorOptions options;
    options.keys_only = keys_only;
    std::unique_ptr<Iterator> it = db_->NewIterator(options);
    std::set<std::string> seen;
    std::string last;
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      const std::string key(it->key());
      if (!seen.empty() && key <= last) Complain(absl::StrCat("scan: ", key, " after ", last));
      const auto state = states_.find(key);
      if (state == states_.end()) Complain(absl::StrCat("scan: a key that never was: ", key));
      if (!keys_only && state->second.values.count(std::string(it->value())) == 0) {
        Complain(absl::StrCat("scan: ", key, " has a wrong value"));
      }
      seen.insert(key);
      last = key;
    }
    if (!it->status().ok()) return Allow("scan", it->status());
    if (older_pages_) return;
    for (const auto& [key, state] : states_) {
      if (state.absent || seen.count(key) != 0 || may_be_absent_.count(key) != 0) continue;
      Complain(absl::StrCat("scan: ends well, without ", key,
                            readable_.count(key) != 0 ? ", which is readable" : ""));
    }
  }

  void PinSome() {
    for (const auto& entry : states_) {
      if (random_() % 20 != 0) continue;
      absl::StatusOr<PinnedValue> pinned = db_->Pin(entry.first);
      PinUnverified(entry.first, pinned.ok());
      if (!pinned.ok()) {
        Saw(entry.first, pinned.status());
        continue;
      }
      std::string value(pinned->value());
      Saw(entry.first, value);
      pins_.emplace_back(*std::move(pinned), std::move(value));
    }
  }

  // All bytes of such a value can be read, and Verify tells what Pin would have.
  void PinUnverified(const std::string& key, bool is_good) {
    const absl::StatusOr<PinnedValue> pinned = db_->Pin(key, PinVerify::kLater);
    if (!pinned.ok()) {
      Saw(key, pinned.status());
      if (is_good) Complain(absl::StrCat(key, ": pinned now, but not to be verified later"));
      return;
    }
    const std::string value(pinned->value());
    const absl::Status intact = pinned->Verify();
    if (intact.ok() != is_good) Complain(absl::StrCat(key, ": ", intact.ToString()));
    if (intact.ok()) {
      Saw(key, value);
    } else {
      Allow("verify", intact);
    }
  }

  void CheckPins() {
    if (older_pages_) return;
    for (const auto& [pinned, value] : pins_) {
      if (pinned.value() != value) Complain("a pinned value changed");
    }
  }

  void Check() {
    const absl::StatusOr<CheckReport> report = db_->Check();
    Allow("check", report.status());
    if (!report.ok() || !report->faults.empty()) report_->faults_reported = true;
  }

  std::string SomeKey() {
    if (random_() % 3 == 0) return KeyOf(kKeys + random_() % 2000);
    return KeyOf(random_() % kKeys);
  }

  std::string NewValue(const std::string& key) {
    return ValueFor(key, 100 + ++writes_, random_() % 40 == 0 ? 50'000 : random_() % 600);
  }

  void Wrote(const std::string& key, const absl::Status& status, const std::string* value) {
    State& state = states_[key];
    if (status.ok() || absl::IsNotFound(status)) {
      // A delete that finds nothing has to be right about it.
      if (!status.ok() && state.must_read) Complain(absl::StrCat(key, " was readable: no delete"));
      if (!older_pages_) state.values.clear();
      state.absent = value == nullptr || older_pages_;
      state.must_read = value != nullptr && !older_pages_;
      if (value != nullptr) state.values.insert(*value);
      return;
    }
    Allow("write", status);
  }

  void Write() {
    for (int i = 0; i < 150; ++i) {
      const std::string key = SomeKey();
      const std::string value = NewValue(key);
      Wrote(key, db_->Put(key, value), &value);
      if (i % 3 != 0) continue;
      const std::string victim = SomeKey();
      Wrote(victim, db_->Delete(victim), nullptr);
    }
    for (int i = 0; i < 3; ++i) {
      std::map<std::string, std::string> group;
      for (int n = 0; n < 60; ++n) {
        const std::string key = SomeKey();
        group[key] = NewValue(key);
      }
      PutGroup(group);
      std::set<std::string> victims;
      for (int n = 0; n < 15; ++n) victims.insert(SomeKey());
      DeleteGroup(victims);
    }
  }

  // After a failure any of the group may have been done.
  void PutGroup(const std::map<std::string, std::string>& group) {
    std::vector<KeyValue> records;
    for (const auto& [key, value] : group) records.push_back({key, value});
    const absl::Status status = db_->PutGroup(records).status();
    for (const auto& [key, value] : group) {
      Wrote(key, status, &value);
      if (!status.ok()) states_[key].values.insert(value);
    }
  }

  void DeleteGroup(const std::set<std::string>& keys) {
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    const absl::Status status = db_->DeleteGroup(views).status();
    for (const std::string& key : keys) {
      Wrote(key, status, nullptr);
      if (status.ok()) continue;
      states_[key].absent = true;
      states_[key].must_read = false;
    }
  }

  const std::string path_;
  Report* const report_;
  Random random_;
  const bool clean_;
  const bool older_pages_;
  const std::set<std::string> may_be_absent_;
  uint64_t writes_ = 0;
  std::map<std::string, State> states_;
  std::set<std::string> readable_;
  std::unique_ptr<Db> db_;
  std::vector<std::pair<PinnedValue, std::string>> pins_;
};

void Limit() {
  alarm(kTimeLimitSeconds);
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit memory = {kAddressSpaceSizeBytes, kAddressSpaceSizeBytes};
  setrlimit(RLIMIT_AS, &memory);
#endif
}

// ---- The parent --------------------------------------------------------------------------------

class DamageTest : public testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() {
    stores_[0] = new Stores(MakeStores(/*clean=*/false));
    stores_[1] = new Stores(MakeStores(/*clean=*/true));
  }
  static void TearDownTestSuite() {
    for (Stores*& stores : stores_) {
      delete stores;
      stores = nullptr;
    }
  }

  DamageTest() {
    void* shared =
        mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    report_ = static_cast<Report*>(shared);
  }
  ~DamageTest() override { munmap(report_, sizeof(Report)); }

  bool clean() const { return GetParam(); }
  const Stores& stores() const { return *stores_[clean() ? 1 : 0]; }

  template <size_t kCount>
  void RunRounds(const Region (&regions)[kCount], bool older_pages, uint64_t count) {
    for (uint64_t round = first_round; round < first_round + count; ++round) {
      Random random(round * 2 + (clean() ? 1 : 0));
      StoreImage image = stores().image;
      std::string done;
      const uint64_t places = 1 + random() % 8 / 6;
      for (uint64_t i = 0; i < places; ++i) {
        const Region region = regions[(round + i * random()) % kCount];
        if (!image.Has(region)) continue;
        absl::StrAppend(&done, i == 0 ? "" : "; ",
                        image.Damage(region, older_pages ? &stores().older : nullptr, random));
      }
      RunRound(image, round, older_pages, done);
    }
    std::cout << count << " rounds: " << refused_ << " refused by Open, " << with_data_loss_
              << " with DataLoss later, " << with_absent_ << " with keys gone, " << with_faults_
              << " with faults reported by Check\n";
  }

 private:
  std::set<std::string> KeysWhoseSlotWasHit(const StoreImage& damaged) const {
    std::set<std::string> keys;
    const StoreImage& image = stores().image;
    for (const auto& [key, place] : image.leaf_slots()) {
      if (place + 8 > damaged.size_bytes() || damaged.Word(place) != image.Word(place)) {
        keys.insert(key);
      }
    }
    return keys;
  }

  void RunRound(const StoreImage& image, uint64_t round, bool older_pages,
                const std::string& done) {
    *report_ = Report();
    const TemporaryDirectory directory(Medium::kTmpfs);
    const std::string path = directory.Path("store");
    image.Write(path);
    const int state = RunInChild([&] {
      Limit();
      Judge(path, report_, round, clean(), older_pages, KeysWhoseSlotWasHit(image)).Run();
    });
    if (state != 0) {
      ADD_FAILURE() << "round " << round << ", " << done << "\n  phase " << report_->phase << ": "
                    << (WIFSIGNALED(state) ? absl::StrCat("signal ", WTERMSIG(state))
                                           : absl::StrCat("exit code ", WEXITSTATUS(state)))
                    << " " << report_->complaint << " " << report_->open_status;
    }
    refused_ += report_->refused ? 1 : 0;
    with_data_loss_ += report_->data_losses > 0 ? 1 : 0;
    with_absent_ += report_->absent > 0 ? 1 : 0;
    with_faults_ += report_->faults_reported ? 1 : 0;
    if (getenv("DAXKV_DAMAGE_VERBOSE") != nullptr) {
      std::cout << "round " << round << ", " << done << ": " << report_->open_status << " "
                << report_->data_losses << " data losses, " << report_->absent << " absent\n";
    }
  }

  static Stores* stores_[2];  // Crashed, clean.
  Report* report_;
  uint64_t refused_ = 0, with_data_loss_ = 0, with_absent_ = 0, with_faults_ = 0;
};
Stores* DamageTest::stores_[2] = {nullptr, nullptr};

INSTANTIATE_TEST_SUITE_P(Stores, DamageTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) -> std::string {
                           return info.param ? "ClosedCleanly" : "Crashed";
                         });

// After a crash a slot whose record is damaged counts as free: nothing in it names a key that lives
// there. The index refers to it still, and must not show the record that comes there next.
TEST_P(DamageTest, AReusedSlotOfADamagedRecordIsNoOtherRecord) {
  const uint64_t victim = 7;
  const std::string key = KeyOf(victim);
  const size_t size_bytes = ValueSizeBytes(victim, VersionOf(victim));
  StoreImage image = stores().image;
  const uint64_t record = image.Word(image.leaf_slots().at(key)) & kAddressMask;
  const uint64_t kind_at = record + offsetof(RecordHeader, kind_and_flags);
  image.SetByte(kind_at, '\x55');
  const TemporaryDirectory directory(Medium::kTmpfs);
  const std::string path = directory.Path("store");
  image.Write(path);
  const auto other = [](uint64_t i) { return NumberedKey(500'000 + i); };
  const int state = RunInChild([&] {
    Limit();
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, StoreOptions());
    Require(db.status());
    Require((*db)->Compact().status());  // Derives every extent.
    for (uint64_t i = 0; i < 2000; ++i) {
      Require((*db)->Put(other(i), ValueFor(other(i), 1, size_bytes)));
    }
    if (!absl::IsDataLoss((*db)->Get(key).status())) Die("get");
    if (!absl::IsDataLoss((*db)->Delete(key))) Die("a delete took another key's record");
    // A put needs to know nothing of what the key had: it gets a slot of its own.
    Require((*db)->Put(key, "new"));
    if ((*db)->Get(key).value_or("") != "new") Die("a put that is not found");
    Require((*db)->Put(key, "newer"));
    if ((*db)->Get(key).value_or("") != "newer") Die("an update that is not found");
    Require((*db)->Delete(key));
    if (!absl::IsDataLoss((*db)->Get(key).status())) Die("get after the delete");
    for (uint64_t i = 0; i < 2000; ++i) Require((*db)->Get(other(i)).status());
    // Nor must the damaged key's slot have the other record moved, and its old place given back.
    CompactOptions by_key;
    by_key.order_by_key = true;
    for (int i = 0; i < 2; ++i) Require((*db)->Compact(by_key).status());
    if (!absl::IsDataLoss((*db)->Get(key).status())) Die("get after the records were moved");
    for (uint64_t i = 0; i < 2000; ++i) Require((*db)->Get(other(i)).status());
    Require((*db)->Close());
  });
  EXPECT_EQ(state, 0);
  const uint64_t now = StoreImage::Read(path).Word(kind_at / 8 * 8);
  // The map that a clean close saved knows the slot to be in use.
  EXPECT_EQ(now >> (kind_at % 8 * 8) & 0xff, clean() ? 0x55u : unsigned{kValueRecord});
}

// After a crash an extent whose records are all damaged counts as empty, and goes. Slots of the index
// still lead there, and must not hide what was put since.
TEST_P(DamageTest, AKeyOutlivesTheExtentOfItsDamagedRecord) {
  const uint64_t put_before = 7, put_after = 8;
  StoreImage image = stores().image;
  for (const uint64_t victim : {put_before, put_after}) {
    const uint64_t record = image.Word(image.leaf_slots().at(KeyOf(victim))) & kAddressMask;
    image.SetByte(record + offsetof(RecordHeader, kind_and_flags), '\x55');
  }
  const TemporaryDirectory directory(Medium::kTmpfs);
  const std::string path = directory.Path("store");
  image.Write(path);
  const int state = RunInChild([&] {
    Limit();
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, StoreOptions());
    Require(db.status());
    Require((*db)->Put(KeyOf(put_before), "new"));
    for (uint64_t i = 0; i < kKeys; ++i) {
      if (IsDeleted(i) || i == put_before || i == put_after) continue;
      Require((*db)->Delete(KeyOf(i)));
    }
    Require((*db)->Compact().status());
    const absl::Status damaged = (*db)->Get(KeyOf(put_after)).status();
    if (!absl::IsDataLoss(damaged)) Die("get of a damaged record");
    const bool extent_is_gone = absl::StrContains(damaged.message(), "no extent");
    if (extent_is_gone == clean()) Die(damaged.ToString());
    for (const uint64_t i : {put_before, put_after}) {
      const std::string key = KeyOf(i);
      if (i == put_before && (*db)->Get(key).value_or("") != "new") Die("get of what was put");
      Require((*db)->Put(key, "newer"));
      if ((*db)->Get(key).value_or("") != "newer") Die("get of what was put after the extent went");
      Require((*db)->Delete(key));
      if (!absl::IsDataLoss((*db)->Get(key).status())) Die("get after the delete");
    }
    Require((*db)->Close());
  });
  EXPECT_EQ(state, 0);
}

TEST_P(DamageTest, OfOurOwnStructures) { RunRounds(kOurRegions, /*older_pages=*/false, rounds); }
TEST_P(DamageTest, ByOlderPages) { RunRounds(kOurRegions, /*older_pages=*/true, rounds / 4); }
TEST_P(DamageTest, OfFiles) { RunRounds(kFileRegions, /*older_pages=*/false, rounds / 4); }
TEST_P(DamageTest, OfLibpmemobjsStructures) {
  RunRounds(kObjectRegions, /*older_pages=*/false, rounds / 4);
}

}  // namespace
}  // namespace daxkv::kv

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--rounds=")
            ? absl::SimpleAtoi(argument, &daxkv::kv::rounds)
            : absl::ConsumePrefix(&argument, "--first=") &&
                  absl::SimpleAtoi(argument, &daxkv::kv::first_round)) {
      continue;
    }
    std::cerr << argv[i] << ": unknown; --rounds=N and --first=N are all there are\n";
    return 2;
  }
  return RUN_ALL_TESTS();
}
