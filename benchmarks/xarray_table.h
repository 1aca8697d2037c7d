// Collects the medians of a benchmark run and prints them as one table, with the goals.
#ifndef DAXKV_BENCHMARKS_XARRAY_TABLE_H_
#define DAXKV_BENCHMARKS_XARRAY_TABLE_H_

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

namespace daxkv::xarray {

// A benchmark is named ROW/SIZE/COLUMN and reports one counter, "value".
class TableReporter : public benchmark::ConsoleReporter {
 public:
  // `show_runs`: print each run, too.
  explicit TableReporter(bool show_runs) : show_runs_(show_runs) {}

  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;

  // The table, then the goals, each met or missed. Returns how many goals are missed.
  int PrintTable() const;

 private:
  double Median(const std::string& row, const std::string& column) const;  // NaN: not measured

  bool show_runs_;
  // By ROW/SIZE and column.
  std::map<std::string, std::map<std::string, std::vector<double>>> samples_;
};

}  // namespace daxkv::xarray

#endif  // DAXKV_BENCHMARKS_XARRAY_TABLE_H_
