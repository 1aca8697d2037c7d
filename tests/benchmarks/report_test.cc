#include "benchmarks/ycsb/report.h"

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace daxkv::ycsb {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(ReportTest, PercentilesAreNamedAsYcsbDoes) {
  EXPECT_EQ(PercentileName(50), "50th");
  EXPECT_EQ(PercentileName(1), "1st");
  EXPECT_EQ(PercentileName(92), "92nd");
  EXPECT_EQ(PercentileName(13), "13th");
  EXPECT_EQ(PercentileName(93), "93rd");
  EXPECT_EQ(PercentileName(99.9), "99.9");
}

TEST(ReportTest, PercentilesAreParsed) {
  EXPECT_EQ(*ParsePercentiles("50,99.9"), (std::vector<double>{50, 99.9}));
  for (const char* bad : {"", "50,", "x", "101", "-1", "nan"}) {
    EXPECT_EQ(ParsePercentiles(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(ReportTest, LinesAreThoseOfYcsb) {
  ThreadMeasurements first, second;
  for (uint64_t us = 1; us <= 60; ++us) first.Record(Operation::kRead, us * 1000, absl::OkStatus());
  for (uint64_t us = 61; us <= 100; ++us) {
    second.Record(Operation::kRead, us * 1000 + 500, absl::OkStatus());
  }
  second.Record(Operation::kRead, 3000, absl::NotFoundError("none"));
  second.Record(Operation::kUpdate, 1500, absl::OkStatus());
  second.Record(Operation::kUpdate, 2500, absl::ResourceExhaustedError("pool full"));
  MeasurementTotals totals;
  first.AddTo(&totals, true);
  second.AddTo(&totals, true);
  const std::string text = ReportText(OperationLines(totals, {50, 95, 99, 99.9}));
  EXPECT_EQ(text,
            "[READ], Operations, 100\n"
            "[READ], AverageLatency(us), 50.700\n"
            "[READ], MinLatency(us), 1.000\n"
            "[READ], MaxLatency(us), 100.500\n"
            "[READ], 50thPercentileLatency(us), 50.015\n"
            "[READ], 95thPercentileLatency(us), 95.551\n"
            "[READ], 99thPercentileLatency(us), 99.519\n"
            "[READ], 99.9PercentileLatency(us), 100.500\n"
            "[READ], Return=OK, 100\n"
            "[READ], Return=NOT_FOUND, 1\n"
            "[READ-FAILED], Operations, 1\n"
            "[READ-FAILED], AverageLatency(us), 3.000\n"
            "[READ-FAILED], MinLatency(us), 3.000\n"
            "[READ-FAILED], MaxLatency(us), 3.000\n"
            "[READ-FAILED], 50thPercentileLatency(us), 3.000\n"
            "[READ-FAILED], 95thPercentileLatency(us), 3.000\n"
            "[READ-FAILED], 99thPercentileLatency(us), 3.000\n"
            "[READ-FAILED], 99.9PercentileLatency(us), 3.000\n"
            "[UPDATE], Operations, 1\n"
            "[UPDATE], AverageLatency(us), 1.500\n"
            "[UPDATE], MinLatency(us), 1.500\n"
            "[UPDATE], MaxLatency(us), 1.500\n"
            "[UPDATE], 50thPercentileLatency(us), 1.500\n"
            "[UPDATE], 95thPercentileLatency(us), 1.500\n"
            "[UPDATE], 99thPercentileLatency(us), 1.500\n"
            "[UPDATE], 99.9PercentileLatency(us), 1.500\n"
            "[UPDATE], Return=OK, 1\n"
            "[UPDATE], Return=NO_SPACE, 1\n"
            "[UPDATE-FAILED], Operations, 1\n"
            "[UPDATE-FAILED], AverageLatency(us), 2.500\n"
            "[UPDATE-FAILED], MinLatency(us), 2.500\n"
            "[UPDATE-FAILED], MaxLatency(us), 2.500\n"
            "[UPDATE-FAILED], 50thPercentileLatency(us), 2.500\n"
            "[UPDATE-FAILED], 95thPercentileLatency(us), 2.500\n"
            "[UPDATE-FAILED], 99thPercentileLatency(us), 2.500\n"
            "[UPDATE-FAILED], 99.9PercentileLatency(us), 2.500\n");
  EXPECT_EQ(totals.first_error.message(), "UPDATE: pool full");
  EXPECT_EQ(totals.first_error.code(), absl::StatusCode::kResourceExhausted);
}

TEST(ReportTest, OverallGivesTheRate) {
  EXPECT_EQ(ReportText(OverallLines(2000, 1'000'001)),
            "[OVERALL], RunTime(ms), 2000.000\n"
            "[OVERALL], Throughput(ops/sec), 500000.5\n");
  EXPECT_THAT(ReportText(OverallLines(0, 5)), HasSubstr("Throughput(ops/sec), 0.0"));
}

TEST(ReportTest, AFailedVerificationIsNoOperationOfItsOwn) {
  ThreadMeasurements measurements;
  measurements.Record(Operation::kVerify, 100, absl::OkStatus());
  measurements.Record(Operation::kVerify, 100, absl::DataLossError("wrong"));
  MeasurementTotals totals;
  measurements.AddTo(&totals, true);
  const std::string text = ReportText(OperationLines(totals, {50}));
  EXPECT_THAT(text, HasSubstr("[VERIFY], Operations, 2\n"));
  EXPECT_THAT(text, HasSubstr("[VERIFY], Return=OK, 1\n[VERIFY], Return=UNEXPECTED_STATE, 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("FAILED")));
}

TEST(ReportTest, TheIntervalLeavesOutWhatWasBefore) {
  ThreadMeasurements measurements;
  measurements.Record(Operation::kRead, 1'000'000, absl::OkStatus());
  measurements.Record(Operation::kScan, 1'000'000, absl::OkStatus());
  MeasurementTotals before, now;
  measurements.AddTo(&before, false);
  measurements.Record(Operation::kRead, 2000, absl::OkStatus());
  measurements.Record(Operation::kRead, 1000, absl::OkStatus());
  measurements.AddTo(&now, false);
  EXPECT_EQ(IntervalText(before, now),
            " [READ: Count=2, Max=2.00, Min=1.00, Avg=1.50, 50=1.00, 90=2.00, 99=2.00, 99.9=2.00, "
            "99.99=2.00]");
}

}  // namespace
}  // namespace daxkv::ycsb
