#include "benchmarks/ycsb/report.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace daxkv::ycsb {
namespace {

void AppendLatencies(const std::string& section, const LatencyHistogram& histogram,
                     const std::vector<double>& percentiles, std::vector<ReportLine>* lines) {
  lines->push_back({section, "Operations", absl::StrCat(histogram.count())});
  lines->push_back({section, "AverageLatency(us)", MicrosText(histogram.mean_ns())});
  const auto micros = [](uint64_t ns) { return MicrosText(static_cast<double>(ns)); };
  lines->push_back({section, "MinLatency(us)", micros(histogram.min_ns())});
  lines->push_back({section, "MaxLatency(us)", micros(histogram.max_ns())});
  for (double percentile : percentiles) {
    lines->push_back({section, PercentileName(percentile) + "PercentileLatency(us)",
                      micros(histogram.PercentileNs(percentile))});
  }
}

void AppendInterval(std::string_view name, const LatencyHistogram& interval, std::string* text) {
  if (interval.count() == 0) return;
  const auto micros = [](uint64_t ns) { return static_cast<double>(ns) / 1000; };
  absl::StrAppendFormat(text, " [%s: Count=%d, Max=%.2f, Min=%.2f, Avg=%.2f", std::string(name),
                        interval.count(), micros(interval.max_ns()), micros(interval.min_ns()),
                        interval.mean_ns() / 1000);
  for (double percentile : {50.0, 90.0, 99.0, 99.9, 99.99}) {
    absl::StrAppendFormat(text, ", %g=%.2f", percentile, micros(interval.PercentileNs(percentile)));
  }
  text->push_back(']');
}

}  // namespace

std::string MicrosText(double ns) { return absl::StrFormat("%.3f", ns / 1000); }

std::string PercentileName(double percentile) {
  if (percentile != std::floor(percentile)) return absl::StrFormat("%g", percentile);
  const int whole = static_cast<int>(percentile);
  const bool teen = whole % 100 >= 11 && whole % 100 <= 13;
  const char* suffix = teen              ? "th"
                       : whole % 10 == 1 ? "st"
                       : whole % 10 == 2 ? "nd"
                       : whole % 10 == 3 ? "rd"
                                         : "th";
  return absl::StrCat(whole, suffix);
}

absl::StatusOr<std::vector<double>> ParsePercentiles(std::string_view text) {
  std::vector<double> percentiles;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(std::string(text), ','))) {
    double percentile;
    if (!absl::SimpleAtod(part, &percentile) || !(percentile >= 0 && percentile <= 100)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", part, "\" is no percentile: give numbers from 0 to 100 with commas between"));
    }
    percentiles.push_back(percentile);
  }
  return percentiles;
}

std::vector<ReportLine> OverallLines(double run_time_ms, uint64_t operations) {
  const double per_second =
      run_time_ms > 0 ? static_cast<double>(operations) * 1000 / run_time_ms : 0;
  return {{"OVERALL", "RunTime(ms)", absl::StrFormat("%.3f", run_time_ms)},
          {"OVERALL", "Throughput(ops/sec)", absl::StrFormat("%.1f", per_second)}};
}

std::vector<ReportLine> OperationLines(const MeasurementTotals& totals,
                                       const std::vector<double>& percentiles) {
  std::vector<ReportLine> lines;
  for (size_t i = 0; i < kOperations; ++i) {
    const MeasurementTotals::PerOperation& measured = totals.operations[i];
    const std::string section(OperationName(static_cast<Operation>(i)));
    if (measured.succeeded.count() + measured.failed.count() == 0) continue;
    AppendLatencies(section, measured.succeeded, percentiles, &lines);
    for (size_t outcome = 0; outcome < kOutcomes; ++outcome) {
      if (measured.outcomes[outcome] == 0) continue;
      lines.push_back(
          {section,
           absl::StrCat("Return=", std::string(OutcomeName(static_cast<Outcome>(outcome)))),
           absl::StrCat(measured.outcomes[outcome])});
    }
    if (measured.failed.count() == 0) continue;
    AppendLatencies(section + "-FAILED", measured.failed, percentiles, &lines);
  }
  return lines;
}

std::string ReportText(const std::vector<ReportLine>& lines) {
  std::string text;
  for (const ReportLine& line : lines) {
    absl::StrAppend(&text, "[", line.section, "], ", line.measurement, ", ", line.value, "\n");
  }
  return text;
}

std::string IntervalText(const MeasurementTotals& before, const MeasurementTotals& now) {
  std::string text;
  for (size_t i = 0; i < kOperations; ++i) {
    const std::string name(OperationName(static_cast<Operation>(i)));
    AppendInterval(name, now.operations[i].succeeded.Since(before.operations[i].succeeded), &text);
    AppendInterval(name + "-FAILED", now.operations[i].failed.Since(before.operations[i].failed),
                   &text);
  }
  return text;
}

}  // namespace daxkv::ycsb
