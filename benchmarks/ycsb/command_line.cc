#include "benchmarks/ycsb/command_line.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "benchmarks/ycsb/core_workload.h"
#include "benchmarks/ycsb/driver.h"

namespace daxkv::ycsb {
namespace {

constexpr std::string_view kUsage =
    R"(ycsb load|run|delete ENGINE [-P FILE]... [-p NAME=VALUE]... [-threads N] [-target OPS] [-s]

The YCSB core workloads. `load` fills the store, `run` does the workload's operations on it,
`delete` deletes what a load with the same properties would insert.

  -P FILE         properties from FILE, e.g. benchmarks/workloads/workloada; later files win
  -p NAME=VALUE   one property; wins over files
  -threads N      client threads (threadcount)
  -target OPS     operations a second, all threads together (target)
  -s              a status line on standard error every status.interval seconds
  -h, --help      this text

Example
  ycsb load daxkv -P benchmarks/workloads/workloada -p daxkv.path=/dev/shm/ycsb
  ycsb run daxkv -P benchmarks/workloads/workloada -p daxkv.path=/dev/shm/ycsb -threads 2 -s

Exit codes: 0; 2 usage; 3 input, output or resources; 4 corrupt or wrong data.
)";

std::string DomainText(const PropertyRule& rule) {
  switch (rule.kind) {
    case PropertyRule::Kind::kText:
      return "text";
    case PropertyRule::Kind::kFlag:
      return "true|false";
    case PropertyRule::Kind::kChoice:
      return absl::StrJoin(rule.choices, "|");
    default:
      return absl::StrCat(rule.min, "..", rule.max);
  }
}

// Takes the options one by one; each that has an argument takes it from the next word.
class Parser {
 public:
  explicit Parser(const std::vector<std::string>& arguments) : arguments_(arguments) {}

  absl::StatusOr<CommandLine> Parse() {
    for (const std::string& argument : arguments_) {
      if (argument == "-h" || argument == "-help" || argument == "--help") line_.help = true;
    }
    if (arguments_.empty()) line_.help = true;
    if (line_.help) return line_;
    if (absl::Status status = ParseCommand(); !status.ok()) return status;
    while (next_ < arguments_.size()) {
      if (absl::Status status = ParseOption(); !status.ok()) return status;
    }
    for (const std::string& file : files_) {
      if (absl::Status status = line_.properties.ReadFile(file); !status.ok()) return status;
    }
    for (const std::string& assignment : assignments_) {
      if (absl::Status status = line_.properties.Set(assignment); !status.ok()) return status;
    }
    for (const auto& [name, value] : options_) {
      line_.properties.Set(name, value, name == "target" ? "-target" : "-threads");
    }
    return line_;
  }

 private:
  absl::Status ParseCommand() {
    const std::string& command = arguments_[next_++];
    if (command == "load") {
      line_.phase = Phase::kLoad;
    } else if (command == "run") {
      line_.phase = Phase::kRun;
    } else if (command == "delete") {
      line_.phase = Phase::kDelete;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown command \"", command, "\": give load, run or delete, then the engine"));
    }
    const std::string engine = next_ < arguments_.size() ? arguments_[next_++] : "";
    absl::StatusOr<const EngineType*> type = FindEngine(engine);
    if (!type.ok()) return type.status();
    line_.engine = *type;
    return absl::OkStatus();
  }

  absl::Status ParseOption() {
    const std::string option = arguments_[next_++];
    if (option == "-s") {
      line_.status = true;
      return absl::OkStatus();
    }
    const bool known = option == "-P" || option == "-p" || option == "-threads" ||
                       option == "--threads" || option == "-target" || option == "--target";
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown option \"", option, "\"; ycsb --help lists the known ones"));
    }
    if (next_ == arguments_.size()) {
      return absl::InvalidArgumentError(absl::StrCat(option, " needs an argument"));
    }
    const std::string& argument = arguments_[next_++];
    if (option == "-P") {
      files_.push_back(argument);
    } else if (option == "-p") {
      assignments_.push_back(argument);
    } else {
      options_.emplace_back(option.back() == 's' ? "threadcount" : "target", argument);
    }
    return absl::OkStatus();
  }

  const std::vector<std::string>& arguments_;
  size_t next_ = 0;
  std::vector<std::string> files_, assignments_;
  std::vector<std::pair<std::string, std::string>> options_;
  CommandLine line_;
};

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments) {
  return Parser(arguments).Parse();
}

std::vector<PropertyRule> AllRules() {
  std::vector<PropertyRule> rules = CoreWorkloadRules();
  for (const PropertyRule& rule : DriverRules()) rules.push_back(rule);
  for (const EngineType& type : RegisteredEngines()) {
    rules.insert(rules.end(), type.rules.begin(), type.rules.end());
  }
  return rules;
}

std::string UsageText() {
  std::string text(kUsage);
  absl::StrAppend(&text, "\nEngines\n");
  for (const EngineType& type : RegisteredEngines()) {
    absl::StrAppendFormat(&text, "  %-14s  %s\n", type.name, type.summary);
  }
  for (const MissingEngine& missing : MissingEngines()) {
    absl::StrAppendFormat(&text, "  %-14s  not in this program: %s\n", missing.name,
                          missing.remedy);
  }
  absl::StrAppend(&text, "\nProperties [default] (accepted)\n");
  for (const PropertyRule& rule : AllRules()) {
    absl::StrAppendFormat(&text, "  %s [%s] (%s)\n      %s\n", rule.name, rule.fallback,
                          DomainText(rule), rule.help);
  }
  return text;
}

}  // namespace daxkv::ycsb
