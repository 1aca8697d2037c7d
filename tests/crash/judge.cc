#include "tests/crash/judge.h"

#include <libpmemobj.h>

#include <memory>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/crash/interposer.h"

namespace daxkv::crash {
namespace {

std::optional<std::string> ValueIn(const Model& model, const std::string& key) {
  const auto it = model.find(key);
  return it == model.end() ? std::nullopt : std::optional<std::string>(it->second);
}

// What differs first, for people.
std::string Difference(const Model& expected, const Model& found) {
  for (const auto& [key, value] : expected) {
    const auto it = found.find(key);
    if (it == found.end()) return absl::StrCat("lost: ", absl::CEscape(key));
    if (it->second != value) {
      return absl::StrCat("wrong value of ", value.size(), " bytes, found ", it->second.size(),
                          ": ", absl::CEscape(key));
    }
  }
  for (const auto& [key, value] : found) {
    if (expected.count(key) == 0) return absl::StrCat("came back: ", absl::CEscape(key));
  }
  return "";
}

}  // namespace

void OpenCopyOnWrite(bool on) {
  KeepFilesUntouched(on);
  int value = on ? 1 : 0;
  pmemobj_ctl_set(nullptr, "copy_on_write.at_open", &value);
}

std::string CompareStore(kv::Db& db, const Expectation& expected, Model* found) {
  const absl::StatusOr<kv::CheckReport> report = db.Check();
  if (!report.ok()) return absl::StrCat("check failed: ", report.status().ToString());
  if (!report->faults.empty()) {
    return absl::StrCat("check found ", report->faults.size(), " faults: ", report->faults[0]);
  }
  found->clear();
  const std::unique_ptr<kv::Iterator> it = db.NewIterator();
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    if (!found->empty() && it->key() <= found->rbegin()->first) return "keys out of order";
    found->emplace_hint(found->end(), it->key(), it->value());
  }
  if (!it->status().ok()) return absl::StrCat("scan: ", it->status().ToString());
  // Of what is in flight, either version will do.
  Model model = expected.acknowledged;
  if (expected.in_flight != nullptr) {
    for (const Operation::Change& change : expected.in_flight->changes) {
      if (ValueIn(*found, change.key) != change.value) continue;
      Change({expected.in_flight->kind, {change}}, &model);
    }
  }
  return Difference(model, *found);
}

std::vector<Operation> WritesAfterRecovery(const Model& found) {
  std::vector<Operation> writes = {Put("~ after recovery", 40)};
  if (!found.empty()) writes.push_back(Put(found.begin()->first, 200));
  if (found.size() > 1) writes.push_back(Delete(found.rbegin()->first));
  writes.push_back(Put(found.empty() ? "~ and another" : found.begin()->first, 3000));
  return writes;
}

std::string JudgeImage(const std::string& path, const Expectation& expected) {
  Store store(path);
  const absl::Status opened = store.Open();
  if (!opened.ok()) return absl::StrCat("open: ", opened.ToString());
  Model model;
  std::string fault = CompareStore(store.db(), expected, &model);
  if (!fault.empty()) return fault;
  for (const Operation& write : WritesAfterRecovery(model)) {
    const absl::Status written = store.Do(write);
    if (!written.ok()) return absl::StrCat("write after recovery: ", written.ToString());
    Change(write, &model);
  }
  Model found;
  fault = CompareStore(store.db(), {model}, &found);
  return fault.empty() ? fault : absl::StrCat("after new writes: ", fault);
}

}  // namespace daxkv::crash
