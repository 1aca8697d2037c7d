#include "benchmarks/ycsb/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace daxkv::ycsb {
namespace {

std::vector<EngineType>& Registry() {
  static auto& registry = *new std::vector<EngineType>();
  return registry;
}

std::vector<MissingEngine>& MissingRegistry() {
  static auto& registry = *new std::vector<MissingEngine>();
  return registry;
}

}  // namespace

absl::Status Session::ReadGroup(absl::Span<const std::string_view> keys, RecordSink* sink) {
  std::string_view record;
  for (const std::string_view key : keys) {
    if (absl::Status status = Read(key, &record); !status.ok()) return status;
    sink->Add(key, record);
  }
  return absl::OkStatus();
}

absl::Status Session::InsertGroup(absl::Span<const KeyRecord> records) {
  for (const KeyRecord& record : records) {
    if (absl::Status status = Insert(record.key, record.record); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Engine::Compact() {
  return absl::UnimplementedError("this engine cannot be asked to compact its store");
}

EngineRegistration::EngineRegistration(EngineType type) {
  std::vector<EngineType>& registry = Registry();
  const auto after = std::find_if(registry.begin(), registry.end(),
                                  [&](const EngineType& other) { return other.name > type.name; });
  registry.insert(after, std::move(type));
}

MissingEngineRegistration::MissingEngineRegistration(MissingEngine missing) {
  MissingRegistry().push_back(std::move(missing));
}

const std::vector<EngineType>& RegisteredEngines() { return Registry(); }
const std::vector<MissingEngine>& MissingEngines() { return MissingRegistry(); }

absl::StatusOr<const EngineType*> FindEngine(std::string_view name) {
  for (const EngineType& type : Registry()) {
    if (type.name == name) return &type;
  }
  for (const MissingEngine& missing : MissingRegistry()) {
    if (missing.name != name) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("this program has no engine \"", missing.name, "\": ", missing.remedy));
  }
  const auto append_name = [](std::string* out, const EngineType& type) { out->append(type.name); };
  return absl::InvalidArgumentError(absl::StrCat("unknown engine \"", std::string(name),
                                                 "\": this program has ",
                                                 absl::StrJoin(Registry(), ", ", append_name)));
}

}  // namespace daxkv::ycsb
