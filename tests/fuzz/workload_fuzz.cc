// Workload files of the YCSB driver.
#include "benchmarks/ycsb/core_workload.h"
#include "benchmarks/ycsb/properties.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size_bytes) {
  using daxkv::fuzz::Require;
  namespace ycsb = daxkv::ycsb;
  static const std::vector<ycsb::PropertyRule> rules = ycsb::CoreWorkloadRules();
  ycsb::Properties given;
  const absl::Status parsed =
      given.Parse(std::string_view(reinterpret_cast<const char*>(bytes), size_bytes), "fuzz");
  Require(parsed.ok() || absl::IsInvalidArgument(parsed), "a wrong status of Parse");
  if (!parsed.ok()) return 0;
  const absl::StatusOr<ycsb::Settings> settings = ycsb::Settings::Make(given, rules);
  Require(settings.ok() || absl::IsInvalidArgument(settings.status()), "a wrong status of Make");
  if (!settings.ok()) return 0;
  for (const ycsb::PropertyRule& rule : rules) {
    if (rule.kind != ycsb::PropertyRule::Kind::kWhole) continue;
    const int64_t value = settings->Whole(rule.name);
    Require(!settings->IsSet(rule.name) || (value >= rule.min && value <= rule.max),
            "a setting out of its range");
  }
  return 0;
}
