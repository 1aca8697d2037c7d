#include "benchmarks/ycsb/driver.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "benchmarks/ycsb/command_line.h"
#include "benchmarks/ycsb/record.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace daxkv::ycsb {
namespace {

using testing::HasSubstr;
using testing::Not;

// An engine over a std::map, which outlives its engines so that a run finds what a load made. It
// counts calls, and fails or lies where a test wants it to.
struct Shelf {
  std::mutex mutex;
  std::map<std::string, std::string, std::less<>> records;
  std::atomic<int> groups{0}, reads{0}, inserts{0}, updates{0}, compactions{0};
  size_t largest_group = 0;         // Under mutex.
  std::vector<size_t> read_groups;  // Their sizes; under mutex.
  bool full = false;
  bool lying = false;
};
Shelf* shelf = nullptr;

class ShelfSession final : public Session {
 public:
  absl::Status Read(std::string_view key, std::string_view* record) override {
    const std::lock_guard<std::mutex> lock(shelf->mutex);
    ++shelf->reads;
    const auto found = shelf->records.find(key);
    if (found == shelf->records.end()) return absl::NotFoundError("none");
    copy_ = found->second;
    if (shelf->lying) copy_.back() ^= 1;
    *record = copy_;
    return absl::OkStatus();
  }
  absl::Status ReadGroup(absl::Span<const std::string_view> keys, RecordSink* sink) override {
    {
      const std::lock_guard<std::mutex> lock(shelf->mutex);
      shelf->read_groups.push_back(keys.size());
    }
    return Session::ReadGroup(keys, sink);
  }
  absl::Status Delete(std::string_view key) override {
    const std::lock_guard<std::mutex> lock(shelf->mutex);
    return shelf->records.erase(std::string(key)) == 1 ? absl::OkStatus()
                                                       : absl::NotFoundError("none");
  }
  absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) override {
    const std::lock_guard<std::mutex> lock(shelf->mutex);
    auto it = shelf->records.lower_bound(start);
    for (; count > 0 && it != shelf->records.end(); --count, ++it) sink->Add(it->first, it->second);
    return absl::OkStatus();
  }
  absl::Status Insert(std::string_view key, std::string_view record) override {
    ++shelf->inserts;
    return Store(key, record);
  }
  absl::Status Update(std::string_view key, std::string_view record) override {
    ++shelf->updates;
    return Store(key, record);
  }
  absl::Status InsertGroup(absl::Span<const KeyRecord> records) override {
    ++shelf->groups;
    {
      const std::lock_guard<std::mutex> lock(shelf->mutex);
      shelf->largest_group = std::max(shelf->largest_group, records.size());
    }
    return Session::InsertGroup(records);
  }

 private:
  absl::Status Store(std::string_view key, std::string_view record) {
    const std::lock_guard<std::mutex> lock(shelf->mutex);
    if (shelf->full) return absl::ResourceExhaustedError("the shelf is full");
    shelf->records[std::string(key)] = std::string(record);
    return absl::OkStatus();
  }
  std::string copy_;
};

class ShelfEngine final : public Engine {
 public:
  explicit ShelfEngine(size_t group) : group_(group) {}
  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<ShelfSession>();
  }
  size_t load_group_records() const override { return group_; }
  absl::StatusOr<std::vector<ReportLine>> Report() override {
    return std::vector<ReportLine>{{"SHELF", "Records", absl::StrCat(shelf->records.size())}};
  }
  absl::Status Compact() override {
    ++shelf->compactions;
    return absl::OkStatus();
  }
  absl::Status Close() override { return absl::OkStatus(); }

 private:
  const size_t group_;
};

const EngineRegistration registration(
    {"shelf",
     "a map in memory",
     {WholeRule("shelf.group", "1", 1, 100, "records to load at a time")},
     [](const Settings& settings, Phase) -> absl::StatusOr<std::unique_ptr<Engine>> {
       return std::make_unique<ShelfEngine>(static_cast<size_t>(settings.Whole("shelf.group")));
     }});

class DriverTest : public testing::Test {
 protected:
  void SetUp() override { shelf = &my_shelf_; }

  // Runs a command line, "run shelf -p recordcount=3".
  absl::StatusOr<RunResult> Ycsb(const std::string& line) {
    absl::StatusOr<CommandLine> command = ParseCommandLine(absl::StrSplit(line, ' '));
    if (!command.ok()) return command.status();
    absl::StatusOr<Settings> settings = Settings::Make(command->properties, AllRules());
    if (!settings.ok()) return settings.status();
    return RunPhase(*command->engine, *settings, command->phase,
                    command->status ? &status_ : nullptr);
  }
  std::string ErrorOf(const std::string& line) {
    return std::string(Ycsb(line).status().message());
  }
  static uint64_t Ok(const RunResult& result, Operation operation) {
    return result.totals.Count(operation, Outcome::kOk);
  }

  Shelf my_shelf_;
  std::ostringstream status_;
};

TEST_F(DriverTest, LoadInsertsEachKeyOnce) {
  absl::StatusOr<RunResult> result =
      Ycsb("load shelf -P benchmarks/workloads/workloada -threads 3 -p fieldlength=7");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(shelf->records.size(), 1000u);
  EXPECT_EQ(shelf->inserts, 1000);
  EXPECT_EQ(Ok(*result, Operation::kInsert), 1000u);
  EXPECT_EQ(shelf->records.begin()->second.size(), 10 * (kFieldLengthSizeBytes + 7));
  EXPECT_EQ(shelf->records.count("user6284781860667377211"), 1u);
  EXPECT_THAT(ReportText(result->lines), HasSubstr("[SHELF], Records, 1000\n"));
}

TEST_F(DriverTest, LoadTakesApartAndInGroups) {
  ASSERT_TRUE(Ycsb("load shelf -p recordcount=100 -p insertstart=40 -p insertcount=35 "
                   "-p insertorder=ordered -p zeropadding=3 -p shelf.group=10")
                  .ok());
  EXPECT_EQ(shelf->records.size(), 35u);
  EXPECT_EQ(shelf->records.begin()->first, "user040");
  EXPECT_EQ(shelf->records.rbegin()->first, "user074");
  EXPECT_EQ(shelf->groups, 4);
  EXPECT_EQ(shelf->largest_group, 10u);
}

TEST_F(DriverTest, WorkloadsDoTheirMix) {
  const std::string more =
      " -p recordcount=2000 -p operationcount=4000 -p dataintegrity=true"
      " -threads 2 -p fieldlength=40";
  ASSERT_TRUE(Ycsb("load shelf -P benchmarks/workloads/workloada" + more).ok());
  // Shares of read, update, insert, scan, read-modify-write in hundredths; the reads and updates
  // of read-modify-writes count as such too.
  const std::map<char, std::array<double, 5>> mixes = {
      {'a', {50, 50, 0, 0, 0}}, {'b', {95, 5, 0, 0, 0}}, {'c', {100, 0, 0, 0, 0}},
      {'d', {95, 0, 5, 0, 0}},  {'e', {0, 0, 5, 95, 0}}, {'f', {100, 50, 0, 0, 50}}};
  for (const auto& [letter, mix] : mixes) {
    shelf->reads = shelf->updates = shelf->inserts = 0;
    absl::StatusOr<RunResult> result = Ycsb(
        absl::StrCat("run shelf -P benchmarks/workloads/workload", std::string(1, letter), more));
    ASSERT_TRUE(result.ok()) << result.status();
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(static_cast<double>(Ok(*result, static_cast<Operation>(i))), mix[i] * 40, 150)
          << letter << " " << OperationName(static_cast<Operation>(i));
    }
    // An update of one field reads the record first.
    EXPECT_EQ(static_cast<uint64_t>(shelf->reads),
              Ok(*result, Operation::kRead) + Ok(*result, Operation::kUpdate));
    EXPECT_EQ(result->totals.CountAll(Outcome::kNotFound), 0u) << letter;
    EXPECT_EQ(result->totals.CountAll(Outcome::kUnexpectedState), 0u) << letter;
    EXPECT_EQ(Ok(*result, Operation::kVerify),
              Ok(*result, Operation::kRead) + Ok(*result, Operation::kScan));
    EXPECT_THAT(ReportText(result->lines), HasSubstr("[OVERALL], Throughput(ops/sec), "));
    EXPECT_THAT(ReportText(result->lines), HasSubstr("[OVERALL], ClientCpuPerOperation(ns), "));
  }
}

TEST_F(DriverTest, WholeRecordUpdatesDoNotRead) {
  for (const char* how : {" -p fieldcount=1", " -p writeallfields=true"}) {
    my_shelf_.records.clear();
    const std::string more = absl::StrCat(" -P benchmarks/workloads/workloada", how);
    ASSERT_TRUE(Ycsb("load shelf" + more).ok());
    shelf->reads = 0;
    absl::StatusOr<RunResult> result = Ycsb("run shelf" + more);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(static_cast<uint64_t>(shelf->reads), Ok(*result, Operation::kRead));
    EXPECT_GT(shelf->updates, 0);
  }
}

TEST_F(DriverTest, MultigetReadsInGroups) {
  const std::string more = " -P benchmarks/workloads/workloadc -p dataintegrity=true";
  ASSERT_TRUE(Ycsb("load shelf" + more).ok());
  absl::StatusOr<RunResult> result = Ycsb("run shelf -p multiget=16 -p operationcount=100" + more);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Ok(*result, Operation::kRead), 100u);
  EXPECT_EQ(Ok(*result, Operation::kVerify), 100u);
  EXPECT_THAT(shelf->read_groups, testing::ElementsAre(16, 16, 16, 16, 16, 16, 4));

  shelf->lying = true;
  result = Ycsb("run shelf -p multiget=16" + more);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(Ok(*result, Operation::kVerify), 0u);
  EXPECT_EQ(result->totals.Count(Operation::kVerify, Outcome::kUnexpectedState), 1000u);
  // A lie in the record's lengths is noticed without dataintegrity, too.
  for (auto& [key, record] : shelf->records) record.pop_back();
  result = Ycsb("run shelf -p multiget=16 -P benchmarks/workloads/workloadc");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->totals.Count(Operation::kVerify, Outcome::kUnexpectedState), 1000u);

  EXPECT_THAT(ErrorOf("run shelf -p multiget=16 -P benchmarks/workloads/workloada"),
              HasSubstr("needs a workload of reads only, and updateproportion is not 0"));
}

TEST_F(DriverTest, DeleteTakesWhatALoadInserts) {
  const std::string more = " -P benchmarks/workloads/workloada";
  ASSERT_TRUE(Ycsb("load shelf" + more).ok());
  absl::StatusOr<RunResult> result = Ycsb(
      "delete shelf -threads 2 -p insertstart=200 -p insertcount=300 -p compactatend=true" + more);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Ok(*result, Operation::kDelete), 300u);
  EXPECT_EQ(shelf->records.size(), 700u);
  EXPECT_EQ(shelf->compactions, 1);
  EXPECT_THAT(ReportText(result->lines), HasSubstr("[SHELF], CompactTime(ms), "));
  result = Ycsb("delete shelf" + more);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(Ok(*result, Operation::kDelete), 700u);
  EXPECT_EQ(result->totals.Count(Operation::kDelete, Outcome::kNotFound), 300u);
  EXPECT_TRUE(shelf->records.empty());
  EXPECT_EQ(shelf->compactions, 1);
}

TEST_F(DriverTest, WarmupReadsEveryRecordOnceUnmeasured) {
  const std::string more = " -P benchmarks/workloads/workloadc -p operationcount=50 -threads 3";
  ASSERT_TRUE(Ycsb("load shelf" + more).ok());
  shelf->reads = 0;
  absl::StatusOr<RunResult> result = Ycsb("run shelf -p warmup=true" + more);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(shelf->reads, 1050);
  EXPECT_EQ(Ok(*result, Operation::kRead), 50u);
}

TEST_F(DriverTest, BackgroundWritersAreToldApart) {
  const std::string more = " -P benchmarks/workloads/workloadc -p fieldcount=1";
  ASSERT_TRUE(Ycsb("load shelf" + more).ok());
  absl::StatusOr<RunResult> result =
      Ycsb("run shelf -p backgroundwriters=2 -p operationcount=100000" + more);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Ok(*result, Operation::kRead), 100000u);
  EXPECT_EQ(Ok(*result, Operation::kUpdate), 0u);
  EXPECT_GT(shelf->updates, 0);
  EXPECT_THAT(ReportText(result->lines),
              HasSubstr(absl::StrCat("[BACKGROUND-UPDATE], Operations, ", shelf->updates.load())));
}

TEST_F(DriverTest, BackgroundCompactionGoesOnAsLongAsTheRun) {
  const std::string more = " -P benchmarks/workloads/workloadc -p fieldcount=1";
  ASSERT_TRUE(Ycsb("load shelf" + more).ok());
  absl::StatusOr<RunResult> result =
      Ycsb("run shelf -p backgroundcompaction=true -p operationcount=100000" + more);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(shelf->compactions, 1);
  EXPECT_THAT(
      ReportText(result->lines),
      HasSubstr(absl::StrCat("[BACKGROUND-COMPACTION], Operations, ", shelf->compactions.load())));
}

TEST_F(DriverTest, AFailedBackgroundCompactionEndsTheRun) {
  absl::StatusOr<RunResult> result = Ycsb(
      "run null -P benchmarks/workloads/workloadc -p backgroundcompaction=true "
      "-p maxexecutiontime=600 -p operationcount=0");
  EXPECT_TRUE(absl::IsUnimplemented(result.status())) << result.status();
}

TEST_F(DriverTest, TellsTheProcessMemory) {
  absl::StatusOr<RunResult> result = Ycsb("load shelf -P benchmarks/workloads/workloada");
  ASSERT_TRUE(result.ok());
  const auto anonymous =
      std::find_if(result->lines.begin(), result->lines.end(),
                   [](const ReportLine& line) { return line.measurement == "RssAnon(bytes)"; });
  ASSERT_NE(anonymous, result->lines.end());
  EXPECT_EQ(anonymous->section, "PROCESS");
  EXPECT_GT(std::stoull(anonymous->value), uint64_t{1000} * 1000);  // The shelf's own records.
}

TEST_F(DriverTest, DataIntegrityCatchesAWrongValue) {
  // Reads only: an update would write the wrong bytes back, and the next lie right them.
  const std::string more = " -P benchmarks/workloads/workloadc -p dataintegrity=true";
  ASSERT_TRUE(Ycsb("load shelf" + more).ok());
  shelf->lying = true;
  absl::StatusOr<RunResult> result = Ycsb("run shelf" + more);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(Ok(*result, Operation::kVerify), 0u);
  EXPECT_EQ(result->totals.Count(Operation::kVerify, Outcome::kUnexpectedState),
            Ok(*result, Operation::kRead));
  EXPECT_THAT(std::string(result->totals.first_error.message()),
              HasSubstr("wrong value in field9"));
  // The null engine's one record belongs to no key.
  result = Ycsb("run null" + more);
  ASSERT_TRUE(result.ok());
  EXPECT_GT(result->totals.Count(Operation::kVerify, Outcome::kUnexpectedState), 0u);
}

TEST_F(DriverTest, EveryDistributionFindsItsKeys) {
  ASSERT_TRUE(Ycsb("load shelf -p recordcount=500").ok());
  for (const char* distribution :
       {"uniform", "zipfian", "latest", "sequential", "hotspot", "exponential"}) {
    absl::StatusOr<RunResult> result =
        Ycsb(absl::StrCat("run shelf -p recordcount=500 -p operationcount=2000 -threads 2 "
                          "-p insertproportion=0.1 -p requestdistribution=",
                          distribution));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->totals.CountAll(Outcome::kNotFound), 0u) << distribution;
    EXPECT_GT(Ok(*result, Operation::kRead), 1500u) << distribution;
    my_shelf_.records.clear();
    ASSERT_TRUE(Ycsb("load shelf -p recordcount=500").ok());
  }
}

TEST_F(DriverTest, MissingRecordsAreCounted) {
  absl::StatusOr<RunResult> result = Ycsb("run shelf -P benchmarks/workloads/workloadc");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->totals.Count(Operation::kRead, Outcome::kNotFound), 1000u);
  EXPECT_THAT(ReportText(result->lines), HasSubstr("[READ], Return=NOT_FOUND, 1000\n"));
}

TEST_F(DriverTest, AFullStoreEndsALoadAtOnce) {
  shelf->full = true;
  absl::StatusOr<RunResult> result = Ycsb("load shelf -p recordcount=1000");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(shelf->inserts, 1);
  EXPECT_EQ(result->totals.Count(Operation::kInsert, Outcome::kNoSpace), 1u);
  EXPECT_EQ(result->totals.first_error.message(), "INSERT: the shelf is full");
}

TEST_F(DriverTest, KeepsToTargetAndTime) {
  ASSERT_TRUE(Ycsb("load shelf -p recordcount=100").ok());
  const auto start = std::chrono::steady_clock::now();
  absl::StatusOr<RunResult> result = Ycsb(
      "run shelf -p recordcount=100 -p maxexecutiontime=1 -p status.interval=1 -target 500 "
      "-threads 2 -s");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(result.ok());
  EXPECT_GE(took.count(), 1);
  const double operations =
      static_cast<double>(Ok(*result, Operation::kRead) + Ok(*result, Operation::kUpdate));
  // A thread that is stopped late by a busy machine still does not exceed its rate.
  EXPECT_LE(operations, 500 * took.count() + 2);
  EXPECT_GE(operations, 50);
}

TEST_F(DriverTest, StatusLinesTellTheRate) {
  ASSERT_TRUE(Ycsb("load shelf -p recordcount=100").ok());
  ASSERT_TRUE(Ycsb("run shelf -p recordcount=100 -p maxexecutiontime=2 -p status.interval=1 "
                   "-p operationcount=1000000000 -s")
                  .ok());
  EXPECT_THAT(status_.str(), HasSubstr(" 1 sec: "));
  EXPECT_THAT(status_.str(), HasSubstr(" current ops/sec; est completion in "));
  EXPECT_THAT(status_.str(), HasSubstr("[READ: Count="));
}

TEST_F(DriverTest, SameSeedSameRun) {
  std::map<std::string, std::string, std::less<>> first;
  for (int round = 0; round < 2; ++round) {
    my_shelf_.records.clear();
    ASSERT_TRUE(Ycsb("load shelf -P benchmarks/workloads/workloada -p seed=5").ok());
    ASSERT_TRUE(Ycsb("run shelf -P benchmarks/workloads/workloada -p seed=5").ok());
    if (round == 0) first = shelf->records;
  }
  EXPECT_EQ(shelf->records, first);
  ASSERT_TRUE(Ycsb("load shelf -P benchmarks/workloads/workloada -p seed=6").ok());
  EXPECT_NE(shelf->records, first);
}

TEST_F(DriverTest, SettingsThatDoNotFitAreNamed) {
  EXPECT_THAT(ErrorOf("run shelf"), HasSubstr("recordcount is not set"));
  EXPECT_THAT(ErrorOf("run shelf -p recordcount=1"), HasSubstr("operationcount is not set"));
  EXPECT_THAT(ErrorOf("load shelf -p recordcount=10 -p insertstart=10"), HasSubstr("insertstart"));
  EXPECT_THAT(ErrorOf("load shelf -p recordcount=10 -p insertstart=5 -p insertcount=6"),
              HasSubstr("-p: insertcount: the keys to insert must lie below recordcount"));
  const std::string run = "run shelf -p recordcount=10 -p operationcount=10 ";
  EXPECT_THAT(ErrorOf(run + "-p minscanlength=5 -p maxscanlength=4"), HasSubstr("minscanlength"));
  EXPECT_THAT(ErrorOf(run + "-p readproportion=0 -p updateproportion=0"),
              HasSubstr("nothing to do"));
  EXPECT_THAT(ErrorOf(run + "-p dataintegrity=true -p fieldlengthdistribution=uniform"),
              HasSubstr("needs fieldlengthdistribution=constant"));
  EXPECT_THAT(ErrorOf(run + "-p fieldlength=60000000 -p fieldcount=2"), HasSubstr("fieldlength"));
  EXPECT_THAT(ErrorOf(run + "-p hdrhistogram.percentiles=50,x"),
              HasSubstr("hdrhistogram.percentiles: \"x\" is no percentile"));
  EXPECT_THAT(ErrorOf(run + "-p requestdistribution=zipfain"), HasSubstr("one of uniform"));
  EXPECT_THAT(ErrorOf(run + "-p updateproprtion=1"),
              HasSubstr("did you mean \"updateproportion\""));
  EXPECT_THAT(ErrorOf(run + "-threads 0"), HasSubstr("-threads: threadcount: \"0\""));
}

TEST(CommandLineTest, AMissingEngineHasItsRemedy) {
  MissingEngineRegistration({"attic", "build the stairs first"});
  EXPECT_EQ(std::string(ParseCommandLine({"load", "attic"}).status().message()),
            "this program has no engine \"attic\": build the stairs first");
  EXPECT_THAT(UsageText(),
              HasSubstr("attic           not in this program: build the stairs first"));
}

TEST(CommandLineTest, MistakesAreNamed) {
  const auto error = [](const std::string& line) {
    return std::string(
        ParseCommandLine(std::vector<std::string>(absl::StrSplit(line, ' '))).status().message());
  };
  EXPECT_THAT(error("walk null"), HasSubstr("unknown command \"walk\""));
  EXPECT_THAT(error("run"), HasSubstr("unknown engine \"\": this program has null, shelf"));
  EXPECT_THAT(error("run rocks"), HasSubstr("unknown engine \"rocks\""));
  EXPECT_THAT(error("run null -x"), HasSubstr("unknown option \"-x\""));
  EXPECT_THAT(error("run null -P"), HasSubstr("-P needs an argument"));
  EXPECT_THAT(error("run null -P /no/such"), HasSubstr("cannot read the property file /no/such"));
  EXPECT_THAT(error("run null -p threads"), HasSubstr("give name=value"));
}

TEST(CommandLineTest, OptionsWinOverFiles) {
  absl::StatusOr<CommandLine> line =
      ParseCommandLine({"run", "null", "-p", "recordcount=5", "-P",
                        "benchmarks/workloads/workloada", "-threads", "4", "-target", "100", "-s"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->properties.values().at("recordcount").text, "5");
  EXPECT_EQ(line->properties.values().at("operationcount").text, "1000");
  EXPECT_EQ(line->properties.values().at("threadcount").text, "4");
  EXPECT_EQ(line->properties.values().at("target").text, "100");
  EXPECT_TRUE(line->status);
  EXPECT_EQ(line->phase, Phase::kRun);
}

TEST(CommandLineTest, HelpListsEnginesAndProperties) {
  EXPECT_TRUE(ParseCommandLine({})->help);
  EXPECT_TRUE(ParseCommandLine({"run", "--help"})->help);
  const std::string usage = UsageText();
  EXPECT_THAT(usage, HasSubstr("null "));
  EXPECT_THAT(usage, HasSubstr("requestdistribution [uniform]"));
  EXPECT_THAT(usage, Not(HasSubstr("kText")));
}

}  // namespace
}  // namespace daxkv::ycsb
