// ycsb: runs the YCSB core workloads on a key-value store.
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/command_line.h"
#include "benchmarks/ycsb/driver.h"

namespace daxkv::ycsb {
namespace {

enum ExitCode { kDone = 0, kUsage = 2, kInputOutput = 3, kCorrupt = 4 };

ExitCode Fail(const absl::Status& status) {
  std::cerr << "ycsb: " << status.message() << "\n";
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return kUsage;
    case absl::StatusCode::kDataLoss:
      return kCorrupt;
    default:
      return kInputOutput;
  }
}

absl::Status WriteReport(const std::string& text, const std::string& path) {
  if (path.empty()) {
    std::cout << text << std::flush;
    return std::cout ? absl::OkStatus() : absl::InternalError("cannot write to standard output");
  }
  std::ofstream file(path);
  file << text << std::flush;
  return file ? absl::OkStatus()
              : absl::InternalError(absl::StrCat("cannot write the report to ", path));
}

// What a reader of the report should not have to find out by himself.
ExitCode Judge(const MeasurementTotals& totals) {
  const uint64_t reads = totals.operations[static_cast<size_t>(Operation::kRead)].succeeded.count();
  const uint64_t missing = totals.CountAll(Outcome::kNotFound);
  if (missing > reads) {
    std::cerr << "ycsb: most records were not found: load the store with the same recordcount, "
                 "insertorder and zeropadding first\n";
  }
  uint64_t failures = 0;
  for (Outcome outcome :
       {Outcome::kBadRequest, Outcome::kNoSpace, Outcome::kUnexpectedState, Outcome::kError}) {
    failures += totals.CountAll(outcome);
  }
  if (failures == 0) return kDone;
  std::cerr << "ycsb: " << failures << " failures, the first: " << totals.first_error.message()
            << "\n";
  return totals.CountAll(Outcome::kUnexpectedState) > 0 ? kCorrupt : kInputOutput;
}

ExitCode Main(const std::vector<std::string>& arguments) {
  absl::StatusOr<CommandLine> line = ParseCommandLine(arguments);
  if (!line.ok()) return Fail(line.status());
  if (line->help) {
    (arguments.empty() ? std::cerr : std::cout) << UsageText();
    return arguments.empty() ? kUsage : kDone;
  }
  absl::StatusOr<Settings> settings = Settings::Make(line->properties, AllRules());
  if (!settings.ok()) return Fail(settings.status());
  absl::StatusOr<RunResult> result =
      RunPhase(*line->engine, *settings, line->phase, line->status ? &std::cerr : nullptr);
  if (!result.ok()) return Fail(result.status());
  const absl::Status written = WriteReport(ReportText(result->lines), settings->Text("exportfile"));
  if (!written.ok()) return Fail(written);
  return Judge(result->totals);
}

}  // namespace
}  // namespace daxkv::ycsb

int main(int argc, char** argv) {
  return daxkv::ycsb::Main(std::vector<std::string>(argv + 1, argv + argc));
}
