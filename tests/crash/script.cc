#include "tests/crash/script.h"

#include <algorithm>
#include <random>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kv/repair.h"

namespace daxkv::crash {
namespace {

constexpr uint64_t kMostSizeBytes = uint64_t{64} << 20;
constexpr uint64_t kFixedSizeBytes = uint64_t{24} << 20;

using Changes = std::vector<Operation::Change>;

std::vector<std::vector<Script> (*)()>& Makers() {
  static auto* const makers = new std::vector<std::vector<Script> (*)()>;
  return *makers;
}

std::string NewValue(size_t size_bytes) {
  static uint64_t number = 0;
  std::mt19937_64 random(++number);
  std::string value(size_bytes, '\0');
  for (char& byte : value) byte = static_cast<char>(random());
  return value;
}

}  // namespace

kv::Options Store::MakeOptions() const {
  kv::Options options;
  options.compaction_bytes_per_second = 0;  // What is recorded shall be the script's.
  options.shape = files_.shape();
  if (files_.grows()) {
    options.max_size_bytes = kMostSizeBytes;
  } else {
    options.fixed_size_bytes = kFixedSizeBytes;
  }
  return options;
}

absl::Status Store::Open() {
  absl::StatusOr<std::unique_ptr<kv::Db>> opened = kv::Db::Open(files_.path(), MakeOptions());
  if (!opened.ok()) return opened.status();
  db_ = *std::move(opened);
  return absl::OkStatus();
}

absl::Status Store::Repair(bool lossless) {
  const absl::StatusOr<kv::RepairReport> report = kv::Db::Repair(files_.path(), MakeOptions());
  if (!report.ok() || !lossless || report->lossless()) return report.status();
  return absl::DataLossError("a repair reports a loss: " + report->lost.front());
}

void Store::Abandon() {
  EndProcess();
  for (auto& snapshot : snapshots_) static_cast<void>(snapshot.release());
  snapshots_.clear();
  for (auto& writer : writers_) static_cast<void>(writer.release());
  writers_.clear();
  db_.reset();
}

absl::Status Store::Close() {
  snapshots_.clear();
  writers_.clear();
  const absl::Status closed = db_->Close();
  db_.reset();
  return closed;
}

std::vector<const Operation*> Script::Recorded() const {
  std::vector<const Operation*> all;
  for (const Operation& operation : operations) all.push_back(&operation);
  for (const auto& thread : threads) {
    for (const Operation& operation : thread) all.push_back(&operation);
  }
  return all;
}

bool AddScripts(std::vector<Script> (*make)()) {
  Makers().push_back(make);
  return true;
}

std::vector<Script> AllScripts() {
  std::vector<Script> all;
  for (const auto make : Makers()) {
    for (Script& script : make()) all.push_back(std::move(script));
  }
  std::sort(all.begin(), all.end(),
            [](const Script& a, const Script& b) { return a.name < b.name; });
  return all;
}

Script OnPages(Script script) {
  script.name += "OnPages";
  script.platform = Platform::kPages;
  return script;
}

Operation Put(const std::string& key, size_t size_bytes) {
  return {"put", {{key, NewValue(size_bytes)}}, [](Store& store, const Changes& changes) {
            return store.db().Put(changes[0].key, *changes[0].value);
          }};
}

Operation Delete(const std::string& key) {
  return {"delete", {{key, std::nullopt}}, [](Store& store, const Changes& changes) {
            return store.db().Delete(changes[0].key);
          }};
}

Operation Read(const std::string& key) {
  return {"read", {}, [key](Store& store, const Changes&) {
            const absl::Status status = store.db().Get(key).status();
            return absl::IsNotFound(status) ? absl::OkStatus() : status;
          }};
}

Operation IfThere(Operation change) {
  change.run = [run = change.run](Store& store, const Changes& changes) {
    const absl::Status status = run(store, changes);
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  };
  return change;
}

Operation PutGroup(const std::vector<std::string>& keys, size_t size_bytes) {
  Operation group{absl::StrFormat("put group of %d", keys.size()), {}, nullptr};
  for (const std::string& key : keys) group.changes.push_back({key, NewValue(size_bytes)});
  group.run = [](Store& store, const Changes& changes) {
    std::vector<kv::KeyValue> records;
    for (const auto& change : changes) records.push_back({change.key, *change.value});
    return store.db().PutGroup(records).status();
  };
  return group;
}

Operation DeleteGroup(const std::vector<std::string>& keys) {
  Operation group{absl::StrFormat("delete group of %d", keys.size()), {}, nullptr};
  for (const std::string& key : keys) group.changes.push_back({key, std::nullopt});
  group.run = [](Store& store, const Changes& changes) {
    std::vector<std::string_view> keys;
    for (const auto& change : changes) keys.push_back(change.key);
    return store.db().DeleteGroup(keys).status();
  };
  return group;
}

Operation Batch(const std::vector<std::string>& put, size_t size_bytes,
                const std::vector<std::string>& deleted) {
  Operation batch{"batch", {}, nullptr, /*atomic=*/true};
  for (const std::string& key : put) batch.changes.push_back({key, NewValue(size_bytes)});
  for (const std::string& key : deleted) batch.changes.push_back({key, std::nullopt});
  batch.run = [](Store& store, const Changes& changes) {
    kv::WriteBatch writes;
    absl::Status status;
    for (const Operation::Change& change : changes) {
      status.Update(change.value ? writes.Put(change.key, *change.value)
                                 : writes.Delete(change.key));
    }
    status.Update(store.db().Write(writes));
    return status;
  };
  return batch;
}

Operation DeleteRange(const std::vector<std::string>& keys) {
  Operation range = DeleteGroup(keys);
  range.name = "delete range";
  range.run = [](Store& store, const Changes& changes) {
    return store.db().DeleteRange(changes.front().key, changes.back().key + '\0').status();
  };
  return range;
}

Operation BeginValue(const std::string& key, size_t size_bytes) {
  return {"begin value", {}, [key, size_bytes](Store& store, const Changes&) {
            absl::StatusOr<kv::ValueWriter> writer = store.db().NewValueWriter(key, size_bytes);
            if (!writer.ok()) return writer.status();
            store.writers().push_back(std::make_unique<kv::ValueWriter>(*std::move(writer)));
            return absl::OkStatus();
          }};
}
Operation TakeSnapshot() {
  return {"take snapshot", {}, [](Store& store, const Changes&) {
            absl::StatusOr<kv::Snapshot> snapshot = store.db().GetSnapshot();
            if (!snapshot.ok()) return snapshot.status();
            store.snapshots().push_back(std::make_unique<kv::Snapshot>(*std::move(snapshot)));
            return absl::OkStatus();
          }};
}
Operation ReleaseSnapshot() {
  return {"release snapshot", {}, [](Store& store, const Changes&) {
            store.snapshots().erase(store.snapshots().begin());
            return absl::OkStatus();
          }};
}

Operation Compact() {
  return {"compact", {}, [](Store& store, const Changes&) {
            return store.db().Compact(absl::Now() + absl::Seconds(1)).status();
          }};
}
Operation CompactInOrder() {
  return {"compact in order", {}, [](Store& store, const Changes&) {
            kv::CompactOptions options;
            options.deadline = absl::Now() + absl::Seconds(1);
            options.order_by_key = true;
            return store.db().Compact(options).status();
          }};
}
Operation Open() {
  Operation open{"open", {}, [](Store& store, const Changes&) { return store.Open(); }};
  open.opens = true;
  return open;
}
Operation Close() {
  return {"close", {}, [](Store& store, const Changes&) { return store.Close(); }};
}
Operation WriteBackOfCaches() {
  return {"write-back of caches", {}, [](Store&, const Changes&) {
            WriteBackCaches();
            return absl::OkStatus();
          }};
}
Operation Crash() {
  return {"crash", {}, [](Store& store, const Changes&) {
            store.Abandon();
            BeginProcess();
            return absl::OkStatus();
          }};
}
Operation Killed(Operation operation, unsigned fence) {
  operation.name += " killed";
  operation.unfinished = true;
  operation.run = [run = std::move(operation.run), fence](Store& store, const Changes& changes) {
    RunUntilDeath(fence, [&] { run(store, changes).IgnoreError(); });
    store.Abandon();
    BeginProcess();
    return absl::OkStatus();
  };
  return operation;
}
Operation InOtherThread(Operation operation) {
  operation.run = [run = std::move(operation.run)](Store& store, const Changes& changes) {
    absl::Status done;
    std::thread([&] { done = run(store, changes); }).join();
    return done;
  };
  return operation;
}
Operation Slowed(Operation operation, unsigned wait_ms) {
  operation.run = [run = std::move(operation.run), wait_ms](Store& store, const Changes& changes) {
    DelayFences(wait_ms);
    const absl::Status done = run(store, changes);
    DelayFences(0);
    return done;
  };
  return operation;
}
Operation DelayOfGracePeriods(unsigned wait_ms) {
  return {"delay of grace periods", {}, [wait_ms](Store&, const Changes&) {
            DelayGracePeriods(wait_ms);
            return absl::OkStatus();
          }};
}
std::vector<Operation> CloseAndOpen() { return {Close(), Open()}; }
std::vector<Operation> CrashAndOpen() { return {Crash(), Open()}; }

std::vector<std::string> Keys(int first, int count, int step) {
  std::vector<std::string> keys;
  for (int i = 0; i < count; ++i) keys.push_back(absl::StrFormat("key%06d", first + i * step));
  return keys;
}

std::vector<Operation> operator+(std::vector<Operation> a, const std::vector<Operation>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
std::vector<Operation> operator+(std::vector<Operation> a, Operation b) {
  a.push_back(std::move(b));
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
