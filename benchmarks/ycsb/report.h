// The report of a run, in the lines that YCSB prints:
//
//   [OVERALL], Throughput(ops/sec), 1234567.8
//   [READ], 99thPercentileLatency(us), 1.234
//
// Latencies are microseconds with the nanoseconds behind the point (YCSB's own have none).
#ifndef DAXKV_BENCHMARKS_YCSB_REPORT_H_
#define DAXKV_BENCHMARKS_YCSB_REPORT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmarks/ycsb/measurements.h"

namespace daxkv::ycsb {

struct ReportLine {
  std::string section;  // "OVERALL", "READ".
  std::string measurement;
  std::string value;
};

// "1234.567" for 1234567 ns.
std::string MicrosText(double ns);
// "99th" for 99, "99.9" for 99.9.
std::string PercentileName(double percentile);
// "50,95,99.9" as numbers. kInvalidArgument for anything else, or a number outside 0..100.
absl::StatusOr<std::vector<double>> ParsePercentiles(std::string_view text);

// [OVERALL]: the run's length and its throughput in operations (for a load: records).
std::vector<ReportLine> OverallLines(double run_time_ms, uint64_t operations);
// The sections of all operations that happened.
std::vector<ReportLine> OperationLines(const MeasurementTotals& totals,
                                       const std::vector<double>& percentiles);
// One text line a report line.
std::string ReportText(const std::vector<ReportLine>& lines);

// "[READ: Count=..., Max=..., Min=..., Avg=..., 50=..., ...]" for each operation that happened in
// the interval between two states of the totals; microseconds.
std::string IntervalText(const MeasurementTotals& before, const MeasurementTotals& now);

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_REPORT_H_
