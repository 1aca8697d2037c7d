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

}  // namespace

absl::Status Session::InsertGroup(absl::Span<const KeyRecord> records) {
  for (const KeyRecord& record : records) {
    if (absl::Status status = Insert(record.key, record.record); !status.ok()) return status;
  }
  return absl::OkStatus();
}

EngineRegistration::EngineRegistration(EngineType type) {
  std::vector<EngineType>& registry = Registry();
  const auto after = std::find_if(registry.begin(), registry.end(),
                                  [&](const EngineType& other) { return other.name > type.name; });
  registry.insert(after, std::move(type));
}

const std::vector<EngineType>& RegisteredEngines() { return Registry(); }

absl::StatusOr<const EngineType*> FindEngine(std::string_view name) {
  for (const EngineType& type : Registry()) {
    if (type.name == name) return &type;
  }
  const auto append_name = [](std::string* out, const EngineType& type) { out->append(type.name); };
  return absl::InvalidArgumentError(absl::StrCat("unknown engine \"", std::string(name),
                                                 "\": this program has ",
                                                 absl::StrJoin(Registry(), ", ", append_name)));
}

}  // namespace daxkv::ycsb
