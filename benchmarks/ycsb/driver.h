// Runs a workload on an engine with a number of threads, at full speed or at a target rate.
#ifndef DAXKV_BENCHMARKS_YCSB_DRIVER_H_
#define DAXKV_BENCHMARKS_YCSB_DRIVER_H_

#include <cstdint>
#include <iosfwd>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/measurements.h"
#include "benchmarks/ycsb/properties.h"
#include "benchmarks/ycsb/report.h"

namespace daxkv::ycsb {

// The properties that the driver itself reads.
std::vector<PropertyRule> DriverRules();

struct RunResult {
  std::vector<ReportLine> lines;
  MeasurementTotals totals;
};

// Opens the engine, runs the phase, compacts if told so, asks the engine for its report and closes
// it. A load ends at its first failed insert; the other phases go on and count failures
// (RunResult::totals). With `status` a line about each interval of status.interval seconds is
// written there. An error: the settings don't fit together, or the engine could not be opened,
// reported on or closed.
absl::StatusOr<RunResult> RunPhase(const EngineType& type, const Settings& settings, Phase phase,
                                   std::ostream* status);

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_DRIVER_H_
