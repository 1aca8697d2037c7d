#include "tests/kv/stress_worker.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace daxkv::kv {
namespace {

// How often each call is made, of the sum of all.
constexpr int kWeights[kStressCalls] = {
    30, 10, 8, 8, 8,     // Put, delete, insert, update, compare-and-swap.
    10, 4,  3, 2, 4,     // Batch, groups, range, value writer.
    6,  30, 4, 4, 4,     // Counter, get, multi-get, snapshots.
    6,  4,  2, 1, 1, 1,  // Pin, iterate, estimate, sync, compact, backup.
    4};                  // Keyspaces that come and go.

}  // namespace

StressLocks::Holder::Holder(StressLocks* locks, std::vector<uint32_t> keys)
    : locks_(locks), held_(std::move(keys)) {
  for (uint32_t& key : held_) key /= kKeysPerLock;
  std::sort(held_.begin(), held_.end());
  held_.erase(std::unique(held_.begin(), held_.end()), held_.end());
  for (uint32_t lock : held_) locks_->mutexes_[lock].lock();
}

void StressLocks::Holder::Release() {
  for (uint32_t lock : held_) locks_->mutexes_[lock].unlock();
  held_.clear();
}

// Keys locked, in the order given; then marked one by one; committed together.
class StressWorker::Intent {
 public:
  Intent(StressWorker* worker, const std::vector<uint32_t>& keys)
      : worker_(*worker), locks_(&worker->locks_, keys) {}

  KeyState committed(uint32_t key) const { return worker_.state_.keys[key].committed(); }
  // The state that is pending from here on. `key` is one of those locked.
  KeyState Begin(uint32_t key, bool present) {
    const KeyState state = worker_.state_.keys[key].Begin(present);
    begun_.emplace_back(key, state);
    return state;
  }
  // Before the first Begin: all of these keys or none.
  void BeginAtomic(const std::vector<uint32_t>& keys) {
    AtomicGroup& group = worker_.state_.groups[worker_.thread_];
    std::copy(keys.begin(), keys.end(), group.keys);
    group.count.store(static_cast<uint32_t>(keys.size()));
  }
  void Commit() {
    worker_.state_.groups[worker_.thread_].count.store(0);
    for (const auto& [key, state] : begun_) worker_.state_.keys[key].Settle(state);
  }

 private:
  StressWorker& worker_;
  StressLocks::Holder locks_;
  std::vector<std::pair<uint32_t, KeyState>> begun_;
};

absl::StatusOr<std::vector<Keyspace>> OpenStressKeyspaces(Db& db) {
  std::vector<Keyspace> keyspaces = {db};
  for (uint32_t number = 1; number < kStressKeyspaces; ++number) {
    const std::string name = StressKeyspaceName(number);
    absl::StatusOr<Keyspace> keyspace = db.OpenKeyspace(name);
    if (absl::IsNotFound(keyspace.status())) keyspace = db.CreateKeyspace(name);
    if (!keyspace.ok()) return keyspace.status();
    keyspaces.push_back(*std::move(keyspace));
  }
  return keyspaces;
}

StressWorker::StressWorker(Db* db, std::vector<Keyspace> keyspaces, StressState* state,
                           StressLocks* locks, uint32_t thread, std::string scratch)
    : db_(*db),
      keyspaces_(std::move(keyspaces)),
      state_(*state),
      locks_(*locks),
      thread_(thread),
      scratch_(std::move(scratch)),
      random_(state->seed * kMaxStressThreads + thread) {}

void StressWorker::Require(bool holds, const std::string& what) {
  if (holds) return;
  if (!state_.failed.exchange(true)) {
    strncpy(state_.failure, what.c_str(), sizeof(state_.failure) - 1);
  }
  _exit(1);
}

void StressWorker::Require(const absl::Status& status, const std::string& what) {
  if (!status.ok()) Require(false, absl::StrCat(what, ": ", status.ToString()));
}

std::vector<uint32_t> StressWorker::SomeKeys(uint32_t most) {
  std::vector<uint32_t> keys(1 + Below(most));
  // Neighbours sometimes: in few leaves.
  const bool neighbours = Below(2) == 0;
  const uint32_t first = Below(kStressKeys - most);
  for (uint32_t& key : keys) key = neighbours ? first + Below(most) : SomeKey();
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

std::vector<uint32_t> StressWorker::In(uint32_t keyspace, std::vector<uint32_t> keys) {
  const auto elsewhere = [&](uint32_t i) { return KeyspaceOf(i) != keyspace; };
  keys.erase(std::remove_if(keys.begin(), keys.end(), elsewhere), keys.end());
  return keys;
}

void StressWorker::Run() {
  std::vector<int> weights(std::begin(kWeights), std::end(kWeights));
  if (state_.writes_only) std::fill(weights.begin() + kGet, weights.begin() + kPassingKeyspace, 0);
  std::discrete_distribution<int> dice(weights.begin(), weights.end());
  while (!state_.stop.load()) {
    const auto call = static_cast<StressCall>(dice(random_));
    Call(call);
    state_.calls[call].fetch_add(1);
  }
  while (!snapshots_.empty()) VerifySnapshot();
  VerifyPins();
  pins_.clear();
}

void StressWorker::Call(StressCall call) {
  switch (call) {
    case kPut:
      return Put(call);
    case kDelete:
      return Delete();
    case kInsert:
      return Insert();
    case kUpdate:
      return Update();
    case kCompareAndSwap:
      return CompareAndSwap();
    case kBatch:
      return Batch();
    case kPutGroup:
      return Group(/*deletes=*/false);
    case kDeleteGroup:
      return Group(/*deletes=*/true);
    case kDeleteRange:
      return DeleteRange();
    case kValueWriter:
      return FillValue();
    case kCounter:
      return RaiseCounter();
    case kGet:
      return Get();
    case kMultiGet:
      return MultiGet();
    case kTakeSnapshot:
      return TakeSnapshot();
    case kVerifySnapshot:
      return VerifySnapshot();
    case kPin:
      return Pin();
    case kIterate:
      return Iterate();
    case kEstimate:
      return Estimate();
    case kSync:
      return Require(db_.Sync(), "sync");
    case kCompact:
      return Require(db_.Compact().status(), "compact");
    case kBackup:
      return Backup();
    case kPassingKeyspace:
      return UsePassing();
    case kStressCalls:
      break;
  }
}

void StressWorker::Put(StressCall) {
  const uint32_t i = SomeKey();
  Intent intent(this, {i});
  const KeyState state = intent.Begin(i, true);
  Require(Of(i).Put(StressKey(i), StressValue(i, state)), "put");
  intent.Commit();
}

void StressWorker::Delete() {
  const uint32_t i = SomeKey();
  Intent intent(this, {i});
  const bool present = IsPresent(intent.committed(i));
  intent.Begin(i, false);
  const absl::Status status = Of(i).Delete(StressKey(i));
  if (!absl::IsNotFound(status)) Require(status, "delete");
  Require(status.ok() == present, absl::StrCat("delete of key ", i, " found the wrong thing"));
  intent.Commit();
}

void StressWorker::Insert() {
  const uint32_t i = SomeKey();
  Intent intent(this, {i});
  if (IsPresent(intent.committed(i))) {
    const absl::Status status = Of(i).Insert(StressKey(i), "unwanted");
    return Require(absl::IsAlreadyExists(status), absl::StrCat("insert: ", status.ToString()));
  }
  const KeyState state = intent.Begin(i, true);
  Require(Of(i).Insert(StressKey(i), StressValue(i, state)), "insert");
  intent.Commit();
}

void StressWorker::Update() {
  const uint32_t i = SomeKey();
  Intent intent(this, {i});
  const KeyState before = intent.committed(i);
  const bool keeps = Below(8) == 0;
  const bool deletes = !keeps && Below(4) == 0;
  const KeyState state = keeps ? before : intent.Begin(i, !deletes);
  bool right = true;
  Require(Of(i).Update(StressKey(i),
                       [&](std::optional<std::string_view> current,
                           std::string* value) -> absl::StatusOr<UpdateAction> {
                         right = right && Matches(i, before, current);
                         if (keeps) return UpdateAction::kKeep;
                         if (deletes) return UpdateAction::kDelete;
                         *value = StressValue(i, state);
                         return UpdateAction::kPut;
                       }),
          "update");
  Require(right, absl::StrCat("update saw a wrong value of key ", i));
  intent.Commit();
}

void StressWorker::CompareAndSwap() {
  const uint32_t i = SomeKey();
  Intent intent(this, {i});
  const KeyState before = intent.committed(i);
  std::optional<std::string> expected;
  if (IsPresent(before)) expected = StressValue(i, before);
  if (Below(4) == 0) {
    const absl::Status status = Of(i).CompareAndSwap(StressKey(i), "never", "unwanted");
    return Require(absl::IsAborted(status), absl::StrCat("compare: ", status.ToString()));
  }
  const bool deletes = Below(4) == 0;
  const KeyState state = intent.Begin(i, !deletes);
  std::optional<std::string> desired;
  if (!deletes) desired = StressValue(i, state);
  Require(Of(i).CompareAndSwap(StressKey(i), expected, desired), "compare-and-swap");
  intent.Commit();
}

void StressWorker::Batch() {
  const std::vector<uint32_t> keys = SomeKeys(Below(4) == 0 ? kMaxStressBatch : 8);
  WriteBatch batch;
  Intent intent(this, keys);
  intent.BeginAtomic(keys);
  for (uint32_t i : keys) {
    const bool present = Below(4) != 0;
    const KeyState state = intent.Begin(i, present);
    // A superseded operation of the same key.
    if (Below(16) == 0) Require(batch.Put(Of(i), StressKey(i), "superseded"), "batch");
    Require(present ? batch.Put(Of(i), StressKey(i), StressValue(i, state))
                    : batch.Delete(Of(i), StressKey(i)),
            "batch");
    if (passing_.has_value() && Below(8) == 0) {
      Require(batch.Put(*passing_, StressKey(i), kPassingValue), "batch");
    }
  }
  Require(db_.Write(batch), "write");
  intent.Commit();
}

void StressWorker::Group(bool deletes) {
  const uint32_t number = Below(kStressKeyspaces);
  const std::vector<uint32_t> numbers = In(number, SomeKeys(kMaxStressBatch));
  Intent intent(this, numbers);
  std::vector<std::string> keys, values;
  uint64_t present = 0;
  for (uint32_t i : numbers) {
    present += IsPresent(intent.committed(i)) ? 1 : 0;
    const KeyState state = intent.Begin(i, !deletes);
    keys.push_back(StressKey(i));
    values.push_back(deletes ? "" : StressValue(i, state));
  }
  absl::StatusOr<GroupResult> result;
  if (deletes) {
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    result = keyspaces_[number].DeleteGroup(views);
  } else {
    std::vector<KeyValue> records;
    for (size_t n = 0; n < keys.size(); ++n) records.push_back({keys[n], values[n]});
    result = keyspaces_[number].PutGroup(records);
  }
  Require(result.status(), "group");
  Require(result->replaced == present, absl::StrCat("a group replaced ", result->replaced,
                                                    " keys, and ", present, " were there"));
  intent.Commit();
}

void StressWorker::DeleteRange() {
  const uint32_t count = 1 + Below(24);
  const uint32_t first = Below(kStressKeys - count);
  std::vector<uint32_t> keys(count);
  for (uint32_t n = 0; n < count; ++n) keys[n] = first + n;
  const uint32_t number = Below(kStressKeyspaces);
  keys = In(number, std::move(keys));
  Intent intent(this, keys);
  uint64_t present = 0;
  for (uint32_t i : keys) {
    present += IsPresent(intent.committed(i)) ? 1 : 0;
    intent.Begin(i, false);
  }
  absl::StatusOr<uint64_t> deleted =
      keyspaces_[number].DeleteRange(StressKey(first), StressKey(first + count));
  Require(deleted.status(), "delete range");
  Require(*deleted == present,
          absl::StrCat("a range deleted ", *deleted, " keys, and ", present, " were there"));
  intent.Commit();
}

void StressWorker::FillValue() {
  const uint32_t i = SomeKey();
  if (Below(4) == 0) {
    // Abandoned: nothing of it is ever seen.
    absl::StatusOr<ValueWriter> writer = Of(i).NewValueWriter(StressKey(i), Below(200'000));
    Require(writer.status(), "value writer");
    std::fill(writer->bytes().begin(), writer->bytes().end(), 'u');
    return;
  }
  Intent intent(this, {i});
  const KeyState state = intent.Begin(i, true);
  const std::string value = StressValue(i, state);
  absl::StatusOr<ValueWriter> writer = Of(i).NewValueWriter(StressKey(i), value.size());
  Require(writer.status(), "value writer");
  std::copy(value.begin(), value.end(), writer->bytes().begin());
  Require(writer->Commit(), "commit");
  intent.Commit();
}

// Without a lock: only the store keeps the count right.
void StressWorker::RaiseCounter() {
  const uint32_t i = Below(kStressCounters);
  CounterExpectation& counter = state_.counters[i];
  counter.begun.fetch_add(1);
  Require(
      Of(i).Update(CounterKey(i),
                   [](std::optional<std::string_view> current,
                      std::string* value) -> absl::StatusOr<UpdateAction> {
                     uint64_t number = 0;
                     if (current.has_value() && !absl::SimpleAtoi(std::string(*current), &number)) {
                       return absl::DataLossError("a counter that is no number");
                     }
                     *value = absl::StrCat(number + 1);
                     return UpdateAction::kPut;
                   }),
      "counter");
  counter.acknowledged.fetch_add(1);
}

void StressWorker::UsePassing() {
  const std::string name = PassingName(thread_);
  if (!passing_.has_value()) {
    absl::StatusOr<Keyspace> made = db_.CreateKeyspace(name);
    if (absl::IsAlreadyExists(made.status())) made = db_.OpenKeyspace(name);
    Require(made.status(), "create a keyspace");
    passing_ = *std::move(made);
  } else if (Below(8) == 0) {
    const Keyspace dropped = *std::exchange(passing_, std::nullopt);
    Require(db_.DropKeyspace(name), "drop a keyspace");
    Require(absl::IsNotFound(dropped.Get("key").status()), "read in a keyspace that was dropped");
  } else {
    const std::string key = StressKey(SomeKey());
    Require(passing_->Put(key, kPassingValue), "put in a passing keyspace");
    const absl::StatusOr<std::string> got = passing_->Get(key);
    Require(got.status(), "get in a passing keyspace");
    Require(*got == kPassingValue, "a value of another keyspace");
  }
}

}  // namespace daxkv::kv
