#include "benchmarks/ycsb/histogram.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "benchmarks/ycsb/random.h"
#include "gtest/gtest.h"

namespace daxkv::ycsb {
namespace {

TEST(LatencyCellsTest, EveryCellIsNarrowAndFollowsTheOneBefore) {
  uint64_t lowest = 0;
  for (size_t cell = 0; cell < LatencyCells::kCount; ++cell) {
    const uint64_t highest = LatencyCells::HighestOf(cell);
    ASSERT_GE(highest, lowest);
    ASSERT_EQ(LatencyCells::CellOf(lowest), cell);
    ASSERT_EQ(LatencyCells::CellOf(highest), cell);
    ASSERT_LE((highest - lowest) * 1024, std::max<uint64_t>(lowest, 1)) << cell;
    lowest = highest + 1;
  }
  EXPECT_EQ(lowest, uint64_t{1} << LatencyCells::kMaxBits);
  EXPECT_EQ(LatencyCells::CellOf(lowest), LatencyCells::kCount - 1);
  EXPECT_EQ(LatencyCells::CellOf(UINT64_MAX), LatencyCells::kCount - 1);
}

TEST(LatencyHistogramTest, PercentilesAgreeWithSortedSamples) {
  Random random(7);
  LatencyHistogram histogram;
  std::vector<uint64_t> samples;
  double sum = 0;
  for (int i = 0; i < 100'000; ++i) {
    // From 1 ns to 18 minutes, as many in each power of two.
    const uint64_t sample = static_cast<uint64_t>(std::exp2(random.NextDouble() * 40));
    histogram.Record(sample);
    samples.push_back(sample);
    sum += static_cast<double>(sample);
  }
  std::sort(samples.begin(), samples.end());
  for (double percentile : {0.0, 0.1, 1.0, 25.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0}) {
    const size_t rank = std::max<size_t>(
        static_cast<size_t>(std::ceil(percentile / 100 * static_cast<double>(samples.size()))), 1);
    const double exact = static_cast<double>(samples[rank - 1]);
    const double told = static_cast<double>(histogram.PercentileNs(percentile));
    EXPECT_GE(told, exact) << percentile;
    EXPECT_LE(told, exact * (1 + 1.0 / 1024)) << percentile;
  }
  EXPECT_EQ(histogram.count(), samples.size());
  EXPECT_EQ(histogram.min_ns(), samples.front());
  EXPECT_EQ(histogram.max_ns(), samples.back());
  EXPECT_EQ(histogram.PercentileNs(100), samples.back());
  EXPECT_NEAR(histogram.mean_ns(), sum / static_cast<double>(samples.size()), 1);
}

TEST(LatencyHistogramTest, EmptyIsAllZero) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.min_ns(), 0u);
  EXPECT_EQ(histogram.max_ns(), 0u);
  EXPECT_EQ(histogram.mean_ns(), 0);
  EXPECT_EQ(histogram.PercentileNs(99), 0u);
}

TEST(LatencyHistogramTest, MergedRecordersEqualOneHistogramOfAll) {
  Random random(8);
  LatencyHistogram all, merged;
  LatencyRecorder first, second;
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t sample = random.Below(1'000'000);
    all.Record(sample);
    (i % 3 == 0 ? first : second).Record(sample);
  }
  first.AddTo(&merged);
  second.AddTo(&merged);
  EXPECT_EQ(merged.count(), all.count());
  EXPECT_EQ(merged.min_ns(), all.min_ns());
  EXPECT_EQ(merged.max_ns(), all.max_ns());
  EXPECT_DOUBLE_EQ(merged.mean_ns(), all.mean_ns());
  for (double percentile : {1.0, 50.0, 99.9}) {
    EXPECT_EQ(merged.PercentileNs(percentile), all.PercentileNs(percentile));
  }
}

TEST(LatencyRecorderTest, CountsAGroupForEachOfItsRecords) {
  LatencyRecorder recorder;
  recorder.Record(500, 10);
  recorder.Record(100);
  LatencyHistogram histogram;
  recorder.AddTo(&histogram);
  EXPECT_EQ(histogram.count(), 11u);
  EXPECT_NEAR(histogram.mean_ns(), 5100.0 / 11, 1e-9);
  EXPECT_EQ(histogram.PercentileNs(50), 500u);
}

TEST(LatencyHistogramTest, SinceGivesTheInterval) {
  LatencyHistogram before;
  before.Record(10);
  before.Record(1'000'000);
  LatencyHistogram now = before;
  now.Record(20);
  now.Record(30);
  now.Record(40);
  const LatencyHistogram interval = now.Since(before);
  EXPECT_EQ(interval.count(), 3u);
  EXPECT_EQ(interval.min_ns(), 20u);
  EXPECT_EQ(interval.max_ns(), 40u);
  EXPECT_EQ(interval.PercentileNs(50), 30u);
  EXPECT_NEAR(interval.mean_ns(), 30, 1e-9);
  EXPECT_EQ(now.Since(LatencyHistogram()).count(), 5u);
}

}  // namespace
}  // namespace daxkv::ycsb
