#include "tests/crash/judge.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace daxkv::crash {

namespace {

// The key by which the model of a script knows a keyspace; its records are below that.
std::string NameInModel(const std::string& keyspace) { return absl::StrCat("@", keyspace); }

bool IsOfKeyspace(const std::string& key) { return key[0] == '@'; }

std::string ReadKeyspaces(kv::Db& db, Model* found) {
  const absl::StatusOr<std::vector<std::string>> names = db.ListKeyspaces();
  if (!names.ok()) return absl::StrCat("list of keyspaces: ", names.status().ToString());
  for (const std::string& name : *names) {
    const absl::StatusOr<kv::Keyspace> keyspace = db.OpenKeyspace(name);
    if (!keyspace.ok()) return absl::StrCat("keyspace: ", keyspace.status().ToString());
    found->emplace(NameInModel(name), "");
    const std::unique_ptr<kv::Iterator> it = keyspace->NewIterator();
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      found->emplace(absl::StrCat(NameInModel(name), "/", std::string(it->key())), it->value());
    }
    if (!it->status().ok()) return absl::StrCat("scan: ", it->status().ToString());
  }
  return "";
}

// Whatever a dropped keyspace had goes, and a new one finds nothing of it.
std::string UseKeyspacesAfterRecovery(kv::Db& db, const Model& found) {
  if (std::none_of(found.begin(), found.end(),
                   [](const auto& record) { return IsOfKeyspace(record.first); })) {
    return "";
  }
  absl::StatusOr<kv::Keyspace> made = db.CreateKeyspace("~ after recovery");
  if (!made.ok()) return absl::StrCat("create keyspace: ", made.status().ToString());
  {
    // Gone before the drop, which waits for its snapshot.
    const std::unique_ptr<kv::Iterator> it = made->NewIterator();
    it->SeekToFirst();
    if (it->Valid()) return "a new keyspace is not empty";
  }
  absl::Status status = made->Put("key", "value");
  if (status.ok()) status = db.DropKeyspace("~ after recovery");
  if (status.ok()) status = db.Compact(absl::Now() + absl::Seconds(20)).status();
  if (!status.ok()) return absl::StrCat("keyspace after recovery: ", status.ToString());
  const absl::StatusOr<kv::Info> info = db.GetInfo();
  if (!info.ok()) return info.status().ToString();
  return info->keyspaces_dropping == 0 ? "" : "a drop does not end";
}

}  // namespace

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
  const std::string fault = ReadKeyspaces(db, found);
  return fault.empty() ? expected.Difference(*found) : fault;
}

std::vector<Operation> WritesAfterRecovery(const Model& all) {
  Model found;  // In the default keyspace.
  for (const auto& record : all) {
    if (!IsOfKeyspace(record.first)) found.insert(record);
  }
  std::vector<Operation> writes = {Put("~ after recovery", 40)};
  if (!found.empty()) writes.push_back(Put(found.begin()->first, 200));
  if (found.size() > 1) writes.push_back(Delete(found.rbegin()->first));
  writes.push_back(Put(found.empty() ? "~ and another" : found.begin()->first, 3000));
  return writes;
}

absl::Status Recover(Damage damage, Store& store) {
  absl::Status status;
  if (damage != Damage::kNone) status = store.Repair(damage == Damage::kLossless);
  return status.ok() ? store.Open() : status;
}

std::string JudgeImage(Damage damage, const StoreFiles& files, const Expectation& expected) {
  Store store(files);
  const absl::Status opened = Recover(damage, store);
  if (!opened.ok()) return absl::StrCat("open: ", opened.ToString());
  Model model;
  std::string fault = CompareStore(store.db(), expected, &model);
  if (!fault.empty()) return fault;
  for (const Operation& write : WritesAfterRecovery(model)) {
    const absl::Status written = write.run(store, write.changes);
    if (!written.ok()) return absl::StrCat("write after recovery: ", written.ToString());
    Apply(write.changes, &model);
  }
  fault = UseKeyspacesAfterRecovery(store.db(), model);
  if (!fault.empty()) return fault;
  Model found;
  fault = CompareStore(store.db(), Expectation(std::move(model)), &found);
  return fault.empty() ? fault : absl::StrCat("after new writes: ", fault);
}

}  // namespace daxkv::crash
