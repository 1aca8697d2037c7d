#include "benchmarks/xarray_table.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace daxkv::xarray {
namespace {

// "xarray u" is inside one RCU section of the caller's, or under one lock.
const char* const kColumns[] = {"xarray", "xarray u", "JudyL", "btree", "flat_hash", "std::map"};

// What the kernel's XArray took in user space on another machine (2 cores, g++ 12 -O2): the upper
// end of its runs, ns.
struct ModelTiming {
  const char* row;
  const char* column;
  double value;
};
constexpr ModelTiming kModel[] = {
    {"load/64", "xarray", 6},
    {"load/4096", "xarray", 7},
    {"load/65536", "xarray", 18},
    {"load/1000000", "xarray", 146},
    {"load/64", "xarray u", 4.2},
    {"load/4096", "xarray u", 5.4},
    {"load/65536", "xarray u", 7.4},
    {"dependent load/1000000", "xarray", 407},
    {"overwrite/64", "xarray", 15},
    {"overwrite/4096", "xarray", 17},
    {"overwrite/65536", "xarray", 19},
    {"iterate/64", "xarray", 2.2},
    {"iterate/4096", "xarray", 2.5},
    {"iterate/65536", "xarray", 2.4},
    {"iterate/1000000", "xarray", 2.4},
    {"store sequential/1000000", "xarray", 48},
    {"store sequential/1000000", "xarray u", 18},
    {"store random/1000000", "xarray", 505},
    {"erase random/1000000", "xarray", 392},
    {"erase sequential/1000000", "xarray", 67},
    {"iterate 1% marked/1000000", "xarray", 95},
    {"order 9 store/100000", "xarray", 607},
    {"order 9 load/100000", "xarray", 77},
    {"order 9 iterate/100000", "xarray", 33},
    {"order 9 overwrite/100000", "xarray", 348},
    {"order 9 erase/100000", "xarray", 194},
};

double MedianOf(std::vector<double> samples) {
  if (samples.empty()) return std::nan("");
  std::sort(samples.begin(), samples.end());
  const size_t middle = samples.size() / 2;
  return samples.size() % 2 != 0 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

// Prints goals and counts those missed.
class Goals {
 public:
  // `limit` is the largest value that meets the goal, or the smallest with `at_least`.
  void Check(const std::string& what, double value, double limit, bool at_least = false) {
    if (std::isnan(value) || std::isnan(limit)) return;  // a filter left it out
    const bool met = at_least ? value >= limit : value <= limit;
    if (!met) ++missed_;
    absl::PrintF("%-7s %-66s %9.2f (%s %.2f)\n", met ? "met" : "MISSED", what, value,
                 at_least ? "at least" : "at most", limit);
  }
  int missed() const { return missed_; }

 private:
  int missed_ = 0;
};

}  // namespace

bool TableReporter::ReportContext(const Context& context) {
  return !show_runs_ || ConsoleReporter::ReportContext(context);
}

void TableReporter::ReportRuns(const std::vector<Run>& runs) {
  if (show_runs_) ConsoleReporter::ReportRuns(runs);
  for (const Run& run : runs) {
    const std::vector<std::string> parts = absl::StrSplit(run.run_name.function_name, '/');
    const auto value = run.counters.find("value");
    if (run.run_type != Run::RT_Iteration || run.error_occurred || parts.size() < 3 ||
        value == run.counters.end()) {
      continue;
    }
    const std::string row = absl::StrCat(parts[0], "/", parts[1]);
    samples_[row][parts[2]].push_back(value->second);
  }
}

double TableReporter::Median(const std::string& row, const std::string& column) const {
  const auto samples = samples_.find(row);
  if (samples == samples_.end()) return std::nan("");
  const auto values = samples->second.find(column);
  return values == samples->second.end() ? std::nan("") : MedianOf(values->second);
}

int TableReporter::PrintTable() const {
  absl::PrintF(
      "\nMedians: ns per operation, bytes per entry, or million operations per second.\n%-42s", "");
  for (const char* column : kColumns) absl::PrintF(" %10s", column);
  absl::PrintF("\n");
  for (const auto& [row, columns] : samples_) {
    absl::PrintF("%-42s", row);
    for (const char* column : kColumns) {
      const double value = Median(row, column);
      if (std::isnan(value)) {
        absl::PrintF(" %10s", "-");
      } else {
        absl::PrintF(" %10.2f", value);
      }
    }
    absl::PrintF("\n");
  }

  absl::PrintF("\nGoals of this run\n");
  Goals goals;
  const auto ours = [&](const std::string& row) { return Median(row, "xarray"); };
  const auto judy = [&](const std::string& row) { return Median(row, "JudyL"); };
  goals.Check("cached load at 4096 entries, ns", ours("load/4096"), 5);
  for (const char* size : {"64", "4096", "65536", "1000000"}) {
    const std::string row = absl::StrCat("load/", size);
    goals.Check(absl::StrCat(row, ": xarray / JudyL"), ours(row) / judy(row), 1);
  }
  for (const char* size : {"4096", "65536", "1000000"}) {
    const std::string row = absl::StrCat("iterate/", size);
    goals.Check(absl::StrCat(row, ", ns"), ours(row), 2.5);
    goals.Check(absl::StrCat(row, ": JudyL / xarray"), judy(row) / ours(row), 5, true);
  }
  for (const char* row : {"store random/1000000", "erase random/1000000", "order 9 load/100000"}) {
    goals.Check(absl::StrCat(row, ": xarray / JudyL"), ours(row) / judy(row), 1);
  }
  goals.Check("bytes per dense entry", ours("bytes per entry/1000000"), 9.2);
  goals.Check("1 reader beside 1 overwriting writer: share of its rate alone",
              ours("million reads, 1 reader + 1 writer/1000000") /
                  ours("million reads, 1 reader alone/1000000"),
              0.85, true);
  for (const char* what : {"million reads", "million writes"}) {
    const std::string row = absl::StrCat(what, ", 1 reader + 1 writer/1000000");
    goals.Check(absl::StrCat(row, ": xarray / btree"), ours(row) / Median(row, "btree"), 3, true);
  }

  absl::PrintF("\nThe model's own timings (from another machine: compare with care)\n");
  for (const ModelTiming& timing : kModel) {
    goals.Check(absl::StrCat(timing.row, " ", timing.column, ", ns"),
                Median(timing.row, timing.column), timing.value);
  }
  absl::PrintF("\n%d missed\n", goals.missed());
  return goals.missed();
}

}  // namespace daxkv::xarray
