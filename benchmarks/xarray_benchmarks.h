// What the parts of //benchmarks:xarray share.
#ifndef DAXKV_BENCHMARKS_XARRAY_BENCHMARKS_H_
#define DAXKV_BENCHMARKS_XARRAY_BENCHMARKS_H_

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace daxkv::xarray {

// 0..n-1 in random order, always the same one.
inline std::vector<uint32_t> Shuffled(uint32_t n) {
  std::vector<uint32_t> keys(n);
  std::iota(keys.begin(), keys.end(), 0);
  std::shuffle(keys.begin(), keys.end(), std::mt19937(12345));
  return keys;
}

inline std::string RowName(const std::string& row, uint64_t size, const std::string& column) {
  return absl::StrCat(row, "/", size, "/", column);
}

// Reports ns of CPU time per operation as the benchmark's value.
inline void SetNsPerOperation(benchmark::State& state, uint64_t operations_per_iteration) {
  state.counters["value"] = benchmark::Counter(
      static_cast<double>(operations_per_iteration) * 1e-9,
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void RegisterConcurrentBenchmarks();

}  // namespace daxkv::xarray

#endif  // DAXKV_BENCHMARKS_XARRAY_BENCHMARKS_H_
