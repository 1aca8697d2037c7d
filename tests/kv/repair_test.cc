// Repair against an oracle that knows every version of every key. Stores are closed, or killed,
// then damaged in one to several places, and repaired. Afterwards the store opens, Check finds
// nothing, and every key has its last value, or is reported lost; no older value is there, and no
// key that was deleted. A second repair finds nothing to do.
//
// What a round allows: Repair may refuse a store whose pool can't be opened; and after a crash a
// key whose slot in its leaf was emptied may be gone unseen, as no one can tell that from a delete.
// (So it is when the superblock's word that saved maps count by is damaged.)
//
// Every round follows from its number: --first=N --rounds=1 repeats one; --rounds=N for more.
#include "kv/repair.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kv/format.h"
#include "tests/kv/damaged_store.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Random = StoreImage::Random;

uint64_t first_round = 0;
uint64_t rounds = 60;

constexpr uint64_t kKeys = 4000;

std::string KeyOf(uint64_t number) {
  std::string key = NumberedKey(number * 7919 % 100'003);
  // A few separators of the index become longer than 512 bytes.
  if (number % 97 == 0) key += std::string(number % 900, 'k');
  return key;
}

size_t ValueSizeBytes(uint64_t number, uint64_t version) {
  const uint64_t dice = (number * 31 + version * 17) % 1000;
  if (dice < 3) return 40'000 + dice * 90'000;
  if (dice < 30) return 1000 + dice * 500;
  return dice % 180;
}

std::string ValueOf(uint64_t number, uint64_t version) {
  return ValueFor(KeyOf(number), version, ValueSizeBytes(number, version));
}

Options StoreOptions() {
  Options options;
  options.max_size_bytes = 256 << 20;
  return options;
}

using Oracle = std::map<std::string, std::optional<std::string>>;

Oracle Final() {
  Oracle oracle;
  for (uint64_t i = 0; i < kKeys; ++i) {
    std::optional<std::string>& value = oracle[KeyOf(i)];
    if (i % 11 != 5) value = ValueOf(i, i % 3 == 0 ? 3 : i % 3);
  }
  return oracle;
}

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << status.ToString() << "\n";
  _exit(3);
}

// Keys with one to three versions, and many deleted ones, in two sessions.
void Fill(const std::string& path, bool close) {
  for (int session = 0; session < 2; ++session) {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, StoreOptions());
    Require(db.status());
    for (uint64_t i = 0; i < kKeys; ++i) {
      const uint64_t last = i % 3 == 0 ? 3 : i % 3;
      if (session == 0) {
        Require((*db)->Put(KeyOf(i), ValueOf(i, 1)));
      } else {
        for (uint64_t v = 2; v <= last; ++v) Require((*db)->Put(KeyOf(i), ValueOf(i, v)));
        if (i % 11 == 5) Require((*db)->Delete(KeyOf(i)));
      }
    }
    // What was deleted long enough before a crash is stamped dead.
    absl::SleepFor(absl::Milliseconds(200));
    if (session == 0 || close) {
      Require((*db)->Close());
    } else {
      _exit(0);
    }
  }
}

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

StoreImage MakeStore(bool clean) {
  const TemporaryDirectory directory(Medium::kTmpfs);
  const std::string path = directory.Path("store");
  EXPECT_EQ(RunInChild([&] { Fill(path, clean); }), 0);
  StoreImage image = StoreImage::Read(path);
  image.Survey();
  return image;
}

constexpr Region kRegions[] = {
    Region::kExtentHeader, Region::kSavedMap,   Region::kLeafHeader, Region::kLeafSlots,
    Region::kInner,        Region::kFence,      Region::kRecord,     Region::kLargeRecord,
    Region::kAnyPage,      Region::kSuperblock,
};

class RepairDamageTest : public testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() {
    for (const bool clean : {false, true}) images_[clean] = new StoreImage(MakeStore(clean));
    oracle_ = new Oracle(Final());
  }
  static void TearDownTestSuite() {
    for (StoreImage*& image : images_) delete std::exchange(image, nullptr);
    delete std::exchange(oracle_, nullptr);
  }

  bool clean() const { return GetParam(); }
  const StoreImage& image() const { return *images_[clean()]; }

  // The keys whose slots read as empty now.
  std::set<std::string> KeysWhoseSlotIsEmpty(const StoreImage& damaged) const {
    std::set<std::string> keys;
    for (const auto& [key, place] : image().leaf_slots()) {
      if (place + 8 > damaged.size_bytes() || damaged.Word(place) == 0) keys.insert(key);
    }
    return keys;
  }

  static bool IsReported(const RepairReport& report, const std::string& key) {
    if (report.lists_cut) return true;
    const auto& keys = report.lost_keys;
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) return true;
    return std::any_of(report.lost_ranges.begin(), report.lost_ranges.end(),
                       [&](const auto& range) {
                         return key >= range.from && (!range.to.has_value() || key < *range.to);
                       });
  }

  // `may_be_gone`: keys whose loss needs no report.
  void Judge(const std::string& path, const RepairReport& report,
             const std::set<std::string>& may_be_gone) {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, StoreOptions());
    ASSERT_TRUE(db.ok()) << db.status();
    const absl::StatusOr<CheckReport> check = (*db)->Check();
    ASSERT_TRUE(check.ok()) << check.status();
    for (const std::string& fault : check->faults) ADD_FAILURE() << fault;
    uint64_t there = 0;
    for (const auto& [key, value] : *oracle_) {
      const absl::StatusOr<std::string> got = (*db)->Get(key);
      there += got.ok() ? 1 : 0;
      if (got.ok()) {
        EXPECT_TRUE(value.has_value()) << "a deleted key is back: " << key;
        EXPECT_TRUE(!value.has_value() || *got == *value) << "another value: " << key;
      } else {
        EXPECT_TRUE(absl::IsNotFound(got.status())) << got.status();
        if (value.has_value() && !IsReported(report, key) && may_be_gone.count(key) == 0) {
          ADD_FAILURE() << key << " is gone, and not reported";
        }
        lost_ += value.has_value() ? 1 : 0;
      }
    }
    EXPECT_EQ(there, (*db)->GetInfo()->records);
    // The store goes on.
    ASSERT_TRUE((*db)->Put("one more", "value").ok());
    ASSERT_TRUE((*db)->Delete("one more").ok());
    ASSERT_TRUE((*db)->Close().ok());
  }

  void RunRound(uint64_t round, uint64_t most_places) {
    Random random(round * 2 + (clean() ? 1 : 0));
    StoreImage damaged = image();
    std::string done;
    const uint64_t places = 1 + random() % most_places;
    for (uint64_t i = 0; i < places; ++i) {
      const Region region = kRegions[(round + i * random()) % std::size(kRegions)];
      absl::StrAppend(&done, i == 0 ? "" : "; ", damaged.Damage(region, nullptr, random));
    }
    SCOPED_TRACE(absl::StrCat("round ", round, ", ", done));
    const TemporaryDirectory directory(Medium::kTmpfs);
    const std::string path = directory.Path("store");
    damaged.Write(path);
    const absl::StatusOr<RepairReport> report = Repair(path, StoreOptions());
    if (absl::IsDataLoss(report.status()) || absl::IsFailedPrecondition(report.status())) {
      ++refused_;
      return;
    }
    ASSERT_TRUE(report.ok()) << report.status();
    changed_ += report->changed ? 1 : 0;
    if (getenv("DAXKV_REPAIR_VERBOSE") != nullptr) {
      std::cout << "round " << round << ", " << done << "\n";
      for (const std::string& line : report->rebuilt) std::cout << "  rebuilt: " << line << "\n";
      for (const std::string& line : report->lost) std::cout << "  lost: " << line << "\n";
      std::cout << "  " << report->records << " records, " << report->records_recovered
                << " recovered, " << report->records_lost << " lost\n";
    }
    // While this word is damaged, no saved map counts: as after a crash.
    const uint64_t word =
        image().Begin(Region::kSuperblock) + offsetof(Superblock, maps_valid_since);
    const bool maps_count = clean() && damaged.Word(word) == image().Word(word);
    Judge(path, *report, maps_count ? std::set<std::string>() : KeysWhoseSlotIsEmpty(damaged));
    if (HasFatalFailure()) return;
    const absl::StatusOr<RepairReport> again = Repair(path, StoreOptions());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_FALSE(again->changed);
    for (const std::string& line : again->rebuilt) ADD_FAILURE() << "again: " << line;
  }

  void RunRounds(uint64_t most_places) {
    for (uint64_t round = first_round; round < first_round + rounds; ++round) {
      RunRound(round, most_places);
    }
    std::cout << rounds << " rounds: " << refused_ << " refused, " << changed_ << " repaired, "
              << lost_ << " keys lost\n";
  }

  static StoreImage* images_[2];  // Crashed, clean.
  static Oracle* oracle_;
  uint64_t refused_ = 0, changed_ = 0, lost_ = 0;
};
StoreImage* RepairDamageTest::images_[2] = {nullptr, nullptr};
Oracle* RepairDamageTest::oracle_ = nullptr;

INSTANTIATE_TEST_SUITE_P(Stores, RepairDamageTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) -> std::string {
                           return info.param ? "ClosedCleanly" : "Crashed";
                         });

TEST_P(RepairDamageTest, ChangesNothingWhereAllIsWell) {
  const TemporaryDirectory directory(Medium::kTmpfs);
  const std::string path = directory.Path("store");
  image().Write(path);
  const absl::StatusOr<RepairReport> report = Repair(path, StoreOptions());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->changed);
  for (const std::string& line : report->rebuilt) ADD_FAILURE() << line;
  for (const std::string& line : report->lost) ADD_FAILURE() << line;
  EXPECT_EQ(report->records, image().leaf_slots().size());
  Judge(path, *report, std::set<std::string>());
  // A few words of opening and closing, and what Judge wrote, aside.
}

// What a repair says to be lost, in a file: for those who come when it has died.
void Tell(const std::string& path, const RepairReport& report) {
  std::ofstream file(path, std::ios::app);
  for (const std::string& key : report.lost_keys) file << "key " << absl::CHexEscape(key) << "\n";
  for (const RepairReport::LostRange& range : report.lost_ranges) {
    file << "range " << absl::CHexEscape(range.from) << "\n";
    if (range.to.has_value()) file << "to " << absl::CHexEscape(*range.to) << "\n";
  }
  if (report.lists_cut) file << "cut\n";
}

void AddWhatWasTold(const std::string& path, RepairReport* report) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    std::string text;
    if (absl::ConsumePrefix(&rest, "key ")) {
      ASSERT_TRUE(absl::CUnescape(rest, &text));
      report->lost_keys.push_back(text);
    } else if (absl::ConsumePrefix(&rest, "range ")) {
      ASSERT_TRUE(absl::CUnescape(rest, &text));
      report->lost_ranges.emplace_back().from = text;
    } else if (absl::ConsumePrefix(&rest, "to ")) {
      ASSERT_TRUE(absl::CUnescape(rest, &text));
      report->lost_ranges.back().to = text;
    } else {
      report->lists_cut = true;
    }
  }
}

// A repair that dies leaves the old store, of which the next one knows as much, or the new one, and
// has told what is lost before.
TEST_P(RepairDamageTest, KilledAndRepeated) {
  for (uint64_t round = 0; round < rounds / 6; ++round) {
    Random random(1'000'000 + round);
    StoreImage damaged = image();
    std::string done;
    for (int i = 0; i < 6; ++i) {
      absl::StrAppend(&done, damaged.Damage(kRegions[random() % 9], nullptr, random), "; ");
    }
    SCOPED_TRACE(absl::StrCat("round ", round, ", ", done));
    const TemporaryDirectory directory(Medium::kTmpfs);
    const std::string path = directory.Path("store");
    damaged.Write(path);
    const std::string told = directory.Path("told");
    for (int kill_number = 0; kill_number < 3; ++kill_number) {
      const pid_t child = fork();
      if (child == 0) {
        const auto tell = [&told](const RepairReport& report) { Tell(told, report); };
        _exit(Repair(path, StoreOptions(), tell).ok() ? 0 : 1);
      }
      usleep(static_cast<useconds_t>(5'000 + random() % 60'000));
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    absl::StatusOr<RepairReport> report = Repair(path, StoreOptions());
    if (absl::IsDataLoss(report.status())) continue;
    ASSERT_TRUE(report.ok()) << report.status();
    AddWhatWasTold(told, &*report);
    Judge(path, *report, clean() ? std::set<std::string>() : KeysWhoseSlotIsEmpty(damaged));
  }
}

TEST_P(RepairDamageTest, OfOnePlace) { RunRounds(1); }
TEST_P(RepairDamageTest, OfManyPlaces) { RunRounds(12); }

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
