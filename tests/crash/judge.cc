#include "tests/crash/judge.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace daxkv::crash {

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
  return expected.Difference(*found);
}

std::vector<Operation> WritesAfterRecovery(const Model& found) {
  std::vector<Operation> writes = {Put("~ after recovery", 40)};
  if (!found.empty()) writes.push_back(Put(found.begin()->first, 200));
  if (found.size() > 1) writes.push_back(Delete(found.rbegin()->first));
  writes.push_back(Put(found.empty() ? "~ and another" : found.begin()->first, 3000));
  return writes;
}

absl::Status Recover(const Script& script, Store& store) {
  absl::Status status;
  if (script.repairs) status = store.Repair();
  return status.ok() ? store.Open() : status;
}

std::string JudgeImage(const Script& script, const StoreFiles& files, const Expectation& expected) {
  Store store(files);
  const absl::Status opened = Recover(script, store);
  if (!opened.ok()) return absl::StrCat("open: ", opened.ToString());
  Model model;
  std::string fault = CompareStore(store.db(), expected, &model);
  if (!fault.empty()) return fault;
  for (const Operation& write : WritesAfterRecovery(model)) {
    const absl::Status written = write.run(store, write.changes);
    if (!written.ok()) return absl::StrCat("write after recovery: ", written.ToString());
    Apply(write.changes, &model);
  }
  Model found;
  fault = CompareStore(store.db(), Expectation(std::move(model)), &found);
  return fault.empty() ? fault : absl::StrCat("after new writes: ", fault);
}

}  // namespace daxkv::crash
