// YCSB's command line:
//
//   ycsb load|run|delete ENGINE [-P FILE]... [-p NAME=VALUE]... [-threads N] [-target OPS] [-s]
#ifndef DAXKV_BENCHMARKS_YCSB_COMMAND_LINE_H_
#define DAXKV_BENCHMARKS_YCSB_COMMAND_LINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/properties.h"

namespace daxkv::ycsb {

struct CommandLine {
  bool help = false;  // Then nothing else is set.
  Phase phase = Phase::kLoad;
  const EngineType* engine = nullptr;
  bool status = false;
  Properties properties;  // Files in their order, then -p, whatever their places on the line.
};

// `arguments` without the program's name. kInvalidArgument for a mistake, or what
// Properties::ReadFile returns.
absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments);

// Every property there is: the workload's, the driver's and those of all engines.
std::vector<PropertyRule> AllRules();

std::string UsageText();

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_COMMAND_LINE_H_
