#include "tests/crash/script.h"

#include <random>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"

namespace daxkv::crash {

const char* KindName(Operation::Kind kind) {
  static constexpr const char* kNames[] = {"put",     "delete", "put group", "delete group",
                                           "compact", "open",   "close",     "crash"};
  return kNames[static_cast<int>(kind)];
}

void Change(const Operation& operation, Model* model) {
  for (const Operation::Change& change : operation.changes) {
    if (change.value.has_value()) {
      (*model)[change.key] = *change.value;
    } else {
      model->erase(change.key);
    }
  }
}

absl::Status Store::Open() {
  kv::Options options;
  options.max_size_bytes = uint64_t{64} << 20;
  absl::StatusOr<std::unique_ptr<kv::Db>> opened = kv::Db::Open(path_, options);
  if (!opened.ok()) return opened.status();
  db_ = *std::move(opened);
  return absl::OkStatus();
}

absl::Status Store::Do(const Operation& operation) {
  const std::vector<Operation::Change>& changes = operation.changes;
  switch (operation.kind) {
    case Operation::Kind::kPut:
      return db_->Put(changes[0].key, *changes[0].value);
    case Operation::Kind::kDelete:
      return db_->Delete(changes[0].key);
    case Operation::Kind::kPutGroup: {
      std::vector<kv::KeyValue> records;
      for (const auto& change : changes) records.push_back({change.key, *change.value});
      return db_->PutGroup(records).status();
    }
    case Operation::Kind::kDeleteGroup: {
      std::vector<std::string_view> keys;
      for (const auto& change : changes) keys.push_back(change.key);
      return db_->DeleteGroup(keys).status();
    }
    case Operation::Kind::kCompact:
      return db_->Compact(absl::Now() + absl::Seconds(1)).status();
    case Operation::Kind::kOpen:
      return Open();
    case Operation::Kind::kClose: {
      const absl::Status closed = db_->Close();
      db_.reset();
      return closed;
    }
    case Operation::Kind::kCrash:
      db_.reset();
      return absl::OkStatus();
  }
  return absl::InternalError("no such operation");
}

namespace {

std::string NewValue(size_t size_bytes) {
  static uint64_t number = 0;
  std::mt19937_64 random(++number);
  std::string value(size_bytes, '\0');
  for (char& byte : value) byte = static_cast<char>(random());
  return value;
}

}  // namespace

Operation Put(const std::string& key, size_t size_bytes) {
  return {Operation::Kind::kPut, {{key, NewValue(size_bytes)}}};
}
Operation Delete(const std::string& key) {
  return {Operation::Kind::kDelete, {{key, std::nullopt}}};
}
Operation PutGroup(const std::vector<std::string>& keys, size_t size_bytes) {
  Operation group{Operation::Kind::kPutGroup, {}};
  for (const std::string& key : keys) group.changes.push_back({key, NewValue(size_bytes)});
  return group;
}
Operation DeleteGroup(const std::vector<std::string>& keys) {
  Operation group{Operation::Kind::kDeleteGroup, {}};
  for (const std::string& key : keys) group.changes.push_back({key, std::nullopt});
  return group;
}
Operation Do(Operation::Kind kind) { return {kind, {}}; }

std::vector<std::string> Keys(int first, int count, int step) {
  std::vector<std::string> keys;
  for (int i = 0; i < count; ++i) keys.push_back(absl::StrFormat("key%06d", first + i * step));
  return keys;
}

std::vector<Operation> operator+(std::vector<Operation> a, const std::vector<Operation>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
std::vector<Operation> Puts(const std::vector<std::string>& keys, size_t size_bytes) {
  std::vector<Operation> all;
  for (const std::string& key : keys) all.push_back(Put(key, size_bytes));
  return all;
}
std::vector<Operation> Deletes(const std::vector<std::string>& keys) {
  std::vector<Operation> all;
  for (const std::string& key : keys) all.push_back(Delete(key));
  return all;
}

}  // namespace daxkv::crash
