// Latency histograms with three significant digits, after HdrHistogram's layout: values below 2048
// have a cell each, every further power of two has 1024 cells. A cell is never wider than 1/1024 of
// its values.
#ifndef DAXKV_BENCHMARKS_YCSB_HISTOGRAM_H_
#define DAXKV_BENCHMARKS_YCSB_HISTOGRAM_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace daxkv::ycsb {

// The cells' geometry, in nanoseconds. Values from 2^42 (73 minutes) share the last cell.
struct LatencyCells {
  static constexpr int kLinearBits = 11;
  static constexpr int kMaxBits = 42;
  static constexpr size_t kHalf = size_t{1} << (kLinearBits - 1);
  static constexpr size_t kCount = 2 * kHalf + (kMaxBits - kLinearBits) * kHalf;

  static size_t CellOf(uint64_t ns) {
    if (ns < 2 * kHalf) return ns;
    const int top_bit = 63 - __builtin_clzll(ns);
    if (top_bit >= kMaxBits) return kCount - 1;
    const int shift = top_bit - (kLinearBits - 1);
    return static_cast<size_t>(shift) * kHalf + (ns >> shift);
  }
  // The largest value of a cell.
  static uint64_t HighestOf(size_t cell);
};

// A histogram to read: merged from recorders. Not for concurrent use.
class LatencyHistogram {
 public:
  void Record(uint64_t ns);
  void Add(const LatencyHistogram& other);
  // What came since `earlier`, an older state of the same histogram. Minimum and maximum of the
  // result are the bounds of its cells.
  LatencyHistogram Since(const LatencyHistogram& earlier) const;

  uint64_t count() const { return count_; }
  uint64_t min_ns() const { return count_ == 0 ? 0 : min_ns_; }
  uint64_t max_ns() const { return max_ns_; }
  double mean_ns() const;
  // The smallest recorded value (to three digits, rounded up) that `percentile` per cent of all do
  // not exceed; 0 when empty. percentile: 0..100.
  uint64_t PercentileNs(double percentile) const;

 private:
  friend class LatencyRecorder;
  std::vector<uint64_t> cells_;  // Empty, or LatencyCells::kCount.
  uint64_t count_ = 0;
  uint64_t sum_ns_ = 0;
  uint64_t min_ns_ = UINT64_MAX;
  uint64_t max_ns_ = 0;
};

// A histogram to write: one thread records, any thread may read at the same time and sees some
// recent state. No read-modify-write, no line that another thread writes.
class LatencyRecorder {
 public:
  LatencyRecorder() : cells_(std::make_unique<Cell[]>(LatencyCells::kCount)) {}

  // `times` records of the same latency.
  void Record(uint64_t ns, uint64_t times = 1) {
    Bump(&cells_[LatencyCells::CellOf(ns)], times);
    Bump(&sum_ns_, ns * times);
    if (ns < min_ns_.load(std::memory_order_relaxed)) {
      min_ns_.store(ns, std::memory_order_relaxed);
    }
    if (ns > max_ns_.load(std::memory_order_relaxed)) {
      max_ns_.store(ns, std::memory_order_relaxed);
    }
  }
  void AddTo(LatencyHistogram* histogram) const;

 private:
  using Cell = std::atomic<uint64_t>;
  // Relaxed throughout: readers want numbers, not order, and there is one writer.
  static void Bump(Cell* cell, uint64_t by) {
    cell->store(cell->load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }

  std::unique_ptr<Cell[]> cells_;
  Cell sum_ns_{0};
  Cell min_ns_{UINT64_MAX};
  Cell max_ns_{0};
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_HISTOGRAM_H_
