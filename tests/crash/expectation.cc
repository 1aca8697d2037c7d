#include "tests/crash/expectation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace daxkv::crash {
namespace {

std::optional<std::string> ValueIn(const Model& model, const std::string& key) {
  const auto it = model.find(key);
  return it == model.end() ? std::nullopt : std::optional<std::string>(it->second);
}

}  // namespace

void Apply(const std::vector<Operation::Change>& changes, Model* model) {
  for (const Operation::Change& change : changes) {
    if (change.value.has_value()) {
      (*model)[change.key] = *change.value;
    } else {
      model->erase(change.key);
    }
  }
}

void Expectation::Begin(const Operation* operation) {
  under_way_.push_back(operation);
  ++now_;
  for (const Operation::Change& change : operation->changes) {
    std::vector<Version>& versions = open_[change.key];
    if (versions.empty()) {
      versions.push_back({ValueIn(settled_, change.key), nullptr, 0, 0});
      settled_.erase(change.key);
    }
    versions.push_back({change.value, operation, now_, kUnderWay});
  }
}

void Expectation::EndUnfinished() {
  for (const Operation* operation : under_way_) {
    if (!operation->unfinished) continue;
    for (const Operation::Change& change : operation->changes) {
      const auto open = open_.find(change.key);
      if (open == open_.end()) continue;
      for (Version& version : open->second) {
        if (version.operation != operation || version.end != kUnderWay) continue;
        version.end = now_;
        version.certain = false;
      }
    }
  }
}

void Expectation::End(const Operation* operation) {
  under_way_.erase(std::find(under_way_.begin(), under_way_.end(), operation));
  ++now_;
  if (operation->opens) EndUnfinished();
  for (const Operation::Change& change : operation->changes) {
    const auto open = open_.find(change.key);
    if (open == open_.end()) continue;  // The operation names the key twice.
    std::vector<Version>& versions = open->second;
    uint64_t last_begin = 0;
    for (Version& version : versions) {
      if (version.operation == operation) version.end = now_;
      if (version.end != kUnderWay && version.certain)
        last_begin = std::max(last_begin, version.begin);
    }
    versions.erase(std::remove_if(versions.begin(), versions.end(),
                                  [=](const Version& v) { return v.end < last_begin; }),
                   versions.end());
    const bool under_way =
        std::any_of(versions.begin(), versions.end(),
                    [](const Version& version) { return version.end == kUnderWay; });
    if (under_way || versions.size() > 1) continue;
    if (versions[0].value.has_value()) settled_[change.key] = *std::move(versions[0].value);
    open_.erase(open);
  }
}

std::string Expectation::InFlight() const {
  if (under_way_.empty()) return "none";
  return absl::StrJoin(under_way_, ", ", [](std::string* out, const Operation* operation) {
    absl::StrAppend(out, operation->name);
    if (operation->changes.size() != 1) return;
    absl::StrAppend(out, " ", absl::CEscape(operation->changes[0].key));
  });
}

std::string Expectation::Judge(const std::string& key,
                               const std::optional<std::string>& found) const {
  const std::string name = absl::CEscape(key);
  const auto open = open_.find(key);
  if (open == open_.end()) {
    const auto settled = settled_.find(key);
    if (settled == settled_.end()) {
      return found.has_value() ? absl::StrCat("came back: ", name) : "";
    }
    if (!found.has_value()) return absl::StrCat("lost: ", name);
    if (*found == settled->second) return "";
    return absl::StrCat("wrong value of ", settled->second.size(), " bytes, found ", found->size(),
                        ": ", name);
  }
  for (const Version& version : open->second) {
    if (version.value == found) return "";
  }
  return absl::StrCat("none of the ", open->second.size(), " values that it may have, but ",
                      found.has_value() ? absl::StrCat(found->size(), " bytes") : "none", ": ",
                      name);
}

// Keys that other operations change at the same time tell nothing.
std::string Expectation::JudgeAtomic(const Operation& operation, const Model& found) const {
  size_t came = 0, stayed = 0;
  for (const Operation::Change& change : operation.changes) {
    const auto open = open_.find(change.key);
    if (open == open_.end() || open->second.size() != 2) continue;
    // What overlapped this one may have come after it.
    const Version& before = open->second[0];
    if (open->second[1].operation != &operation || before.end >= open->second[1].begin) continue;
    const std::optional<std::string> value = ValueIn(found, change.key);
    if (before.value == change.value) continue;
    ++(value == change.value ? came : stayed);
  }
  if (came == 0 || stayed == 0) return "";
  return absl::StrCat(operation.name, " came in part: ", came, " of its changes came, ", stayed,
                      " did not");
}

std::string Expectation::Difference(const Model& found) const {
  for (const auto& [key, value] : found) {
    const auto settled = settled_.find(key);
    if (settled != settled_.end() && settled->second == value) continue;
    std::string fault = Judge(key, value);
    if (!fault.empty()) return fault;
  }
  for (const auto& [key, value] : settled_) {
    if (found.count(key) == 0) return Judge(key, std::nullopt);
  }
  for (const auto& [key, versions] : open_) {
    std::string fault = Judge(key, ValueIn(found, key));
    if (!fault.empty()) return fault;
  }
  for (const Operation* operation : under_way_) {
    if (!operation->atomic) continue;
    std::string fault = JudgeAtomic(*operation, found);
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace daxkv::crash
