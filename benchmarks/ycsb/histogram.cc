#include "benchmarks/ycsb/histogram.h"

#include <algorithm>
#include <cmath>

namespace daxkv::ycsb {

uint64_t LatencyCells::HighestOf(size_t cell) {
  if (cell < 2 * kHalf) return cell;
  const size_t shift = cell / kHalf - 1;
  const uint64_t mantissa = cell - shift * kHalf;
  return ((mantissa + 1) << shift) - 1;
}

void LatencyHistogram::Record(uint64_t ns) {
  if (cells_.empty()) cells_.resize(LatencyCells::kCount);
  ++cells_[LatencyCells::CellOf(ns)];
  ++count_;
  sum_ns_ += ns;
  min_ns_ = std::min(min_ns_, ns);
  max_ns_ = std::max(max_ns_, ns);
}

void LatencyHistogram::Add(const LatencyHistogram& other) {
  if (other.cells_.empty()) return;
  if (cells_.empty()) cells_.resize(LatencyCells::kCount);
  for (size_t cell = 0; cell < cells_.size(); ++cell) cells_[cell] += other.cells_[cell];
  count_ += other.count_;
  sum_ns_ += other.sum_ns_;
  min_ns_ = std::min(min_ns_, other.min_ns_);
  max_ns_ = std::max(max_ns_, other.max_ns_);
}

LatencyHistogram LatencyHistogram::Since(const LatencyHistogram& earlier) const {
  if (earlier.cells_.empty()) return *this;
  LatencyHistogram difference;
  difference.cells_.resize(LatencyCells::kCount);
  difference.sum_ns_ = sum_ns_ - earlier.sum_ns_;
  for (size_t cell = 0; cell < cells_.size(); ++cell) {
    const uint64_t more = cells_[cell] - earlier.cells_[cell];
    if (more == 0) continue;
    difference.cells_[cell] = more;
    difference.count_ += more;
    difference.min_ns_ = std::min(difference.min_ns_, LatencyCells::HighestOf(cell));
    difference.max_ns_ = LatencyCells::HighestOf(cell);
  }
  return difference;
}

double LatencyHistogram::mean_ns() const {
  return count_ == 0 ? 0 : static_cast<double>(sum_ns_) / static_cast<double>(count_);
}

uint64_t LatencyHistogram::PercentileNs(double percentile) const {
  if (count_ == 0) return 0;
  const double wanted = std::ceil(percentile / 100 * static_cast<double>(count_));
  const uint64_t rank = std::clamp<uint64_t>(static_cast<uint64_t>(wanted), 1, count_);
  uint64_t seen = 0;
  for (size_t cell = 0; cell < cells_.size(); ++cell) {
    seen += cells_[cell];
    if (seen >= rank) return std::min(LatencyCells::HighestOf(cell), max_ns_);
  }
  return max_ns_;
}

void LatencyRecorder::AddTo(LatencyHistogram* histogram) const {
  LatencyHistogram now;
  now.cells_.resize(LatencyCells::kCount);
  for (size_t cell = 0; cell < LatencyCells::kCount; ++cell) {
    now.cells_[cell] = cells_[cell].load(std::memory_order_relaxed);
    now.count_ += now.cells_[cell];
  }
  if (now.count_ == 0) return;
  now.sum_ns_ = sum_ns_.load(std::memory_order_relaxed);
  now.min_ns_ = min_ns_.load(std::memory_order_relaxed);
  now.max_ns_ = max_ns_.load(std::memory_order_relaxed);
  histogram->Add(now);
}

}  // namespace daxkv::ycsb
