// Db: the engine's calls, with exceptions kept inside and a closed store told apart.
#include "kv/db.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/engine.h"
#include "kv/exceptions.h"
#include "kv/repair.h"
#include "kv/store.h"

namespace daxkv::kv {
namespace {

absl::Status Closed() { return absl::FailedPreconditionError("the store is closed"); }

// Runs function(engine) without letting an exception out, and without the keyspace being dropped
// meanwhile.
template <typename Function>
auto OnOpenStore(const std::shared_ptr<Engine>& engine, Function&& function)
    -> decltype(function(*engine)) {
  if (engine == nullptr || engine->is_shut()) {
    return engine == nullptr ? Closed() : engine->Refusal();
  }
  const dax::SurviveMediaErrors survive;
  const Gate::Pass pass(engine->gate());
  if (__builtin_expect(pass.refused(), false)) return engine->Refusal();
  return WithoutExceptions([&] { return function(*engine); });
}

template <typename Function>
auto OnOpenStore(const std::unique_ptr<Store>& store, Function&& function)
    -> decltype(function(*store)) {
  if (store == nullptr) return Closed();
  const dax::SurviveMediaErrors survive;
  return WithoutExceptions([&] { return function(*store); });
}

// The same for a read at a snapshot, an entry of `snapshots`: what was dropped after that was taken
// stays as long as it.
template <typename Function>
auto AtSnapshot(const std::shared_ptr<Engine>& engine, const Snapshots* snapshots,
                const SnapshotEntry* snapshot, Function&& function) -> decltype(function(*engine)) {
  if (engine == nullptr) return Closed();
  const absl::Status usable = engine->CheckSnapshot(snapshots, snapshot);
  if (__builtin_expect(!usable.ok(), false)) return usable;
  const dax::SurviveMediaErrors survive;
  if (__builtin_expect(!engine->IsSeenBy(*snapshot), false)) return engine->Refusal();
  if (engine->is_shut()) return engine->Refusal();
  return WithoutExceptions([&] { return function(*engine); });
}

}  // namespace

PinnedValue::PinnedValue(const Engine& engine, PinnedRecord pinned)
    : engine_(&engine),
      pins_(std::move(pinned.pins)),
      key_size_bytes_(pinned.record.key.size()),
      value_(pinned.record.value) {}

PinnedValue& PinnedValue::operator=(PinnedValue&& other) noexcept {
  engine_ = std::exchange(other.engine_, nullptr);
  pins_ = std::move(other.pins_);
  key_size_bytes_ = other.key_size_bytes_;
  value_ = std::exchange(other.value_, {});
  return *this;
}

absl::Status PinnedValue::Verify() const {
  if (engine_ == nullptr) return absl::OkStatus();
  return WithoutExceptions([&] {
    return engine_->Reading([&] { return engine_->VerifyPinned(value_, key_size_bytes_); });
  });
}

absl::Status PinnedValue::CheckMedium() const {
  if (engine_ == nullptr || value_.empty()) return absl::OkStatus();
  return WithoutExceptions([&] { return engine_->CheckLost(value_); });
}

Db::Db(std::unique_ptr<Store> store)
    : Keyspace(store->shared_default_keyspace()), store_(std::move(store)) {}
Db::~Db() = default;

absl::StatusOr<std::unique_ptr<Db>> Db::Open(const std::string& path, const Options& options) {
  return WithoutExceptions([&]() -> absl::StatusOr<std::unique_ptr<Db>> {
    absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(path, options);
    if (!store.ok()) return store.status();
    return std::unique_ptr<Db>(new Db(*std::move(store)));
  });
}

absl::Status Db::Close() {
  absl::Status closed = OnOpenStore(store_, [](Store& store) { return store.Close(); });
  // Pins are still held: the caller may release them and try again.
  if (absl::IsFailedPrecondition(closed)) return closed;
  store_.reset();
  return closed;
}

absl::Status Keyspace::Put(std::string_view key, std::string_view value) {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Writing([&] { return engine.Put(key, value); });
  });
}

absl::StatusOr<GroupResult> Keyspace::PutGroup(absl::Span<const KeyValue> records) {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Writing([&] { return engine.PutGroup(records); });
  });
}

absl::StatusOr<GroupResult> Keyspace::DeleteGroup(absl::Span<const std::string_view> keys) {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Reading([&] { return engine.DeleteGroup(keys); });
  });
}

absl::StatusOr<std::string> Keyspace::Get(std::string_view key) const {
  std::string value;
  absl::Status got = Get(key, &value);
  if (!got.ok()) return got;
  return value;
}

absl::Status Keyspace::Get(std::string_view key, std::string* value) const {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Reading([&] { return engine.Get(key, value); });
  });
}

absl::StatusOr<PinnedValue> Keyspace::Pin(std::string_view key, PinVerify verify) const {
  return OnOpenStore(engine_, [&](Engine& engine) -> absl::StatusOr<PinnedValue> {
    PinnedRecord pinned;
    absl::Status status = engine.Reading([&] { return engine.Pin(key, verify, &pinned); });
    if (!status.ok()) return status;
    return PinnedValue(engine, std::move(pinned));
  });
}

absl::Status Keyspace::Contains(std::string_view key) const {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Reading([&] { return engine.Contains(key); });
  });
}

Snapshot::Snapshot(Snapshot&& other) noexcept
    : snapshots_(other.snapshots_), entry_(std::exchange(other.entry_, nullptr)) {}
Snapshot& Snapshot::operator=(Snapshot&& other) noexcept {
  if (this == &other) return *this;
  if (entry_ != nullptr) snapshots_->Release(entry_);
  snapshots_ = other.snapshots_;
  entry_ = std::exchange(other.entry_, nullptr);
  return *this;
}
Snapshot::~Snapshot() {
  if (entry_ != nullptr) snapshots_->Release(entry_);
}

absl::StatusOr<Snapshot> Db::GetSnapshot() const {
  return OnOpenStore(store_, [](Store& store) -> absl::StatusOr<Snapshot> {
    return Snapshot(&store.snapshots(), store.snapshots().Acquire());
  });
}

absl::StatusOr<std::string> Keyspace::Get(std::string_view key, const Snapshot& snapshot) const {
  std::string value;
  absl::Status got = Get(key, snapshot, &value);
  if (!got.ok()) return got;
  return value;
}

absl::Status Keyspace::Get(std::string_view key, const Snapshot& snapshot,
                           std::string* value) const {
  return AtSnapshot(engine_, snapshot.snapshots_, snapshot.entry_, [&](Engine& engine) {
    return engine.Reading([&] { return engine.GetAt(*snapshot.entry_, key, value); });
  });
}

absl::StatusOr<PinnedValue> Keyspace::Pin(std::string_view key, const Snapshot& snapshot,
                                          PinVerify verify) const {
  return AtSnapshot(engine_, snapshot.snapshots_, snapshot.entry_,
                    [&](Engine& engine) -> absl::StatusOr<PinnedValue> {
                      PinnedRecord pinned;
                      absl::Status status = engine.Reading(
                          [&] { return engine.PinAt(*snapshot.entry_, key, verify, &pinned); });
                      if (!status.ok()) return status;
                      return PinnedValue(engine, std::move(pinned));
                    });
}

absl::Status Keyspace::Contains(std::string_view key, const Snapshot& snapshot) const {
  return AtSnapshot(engine_, snapshot.snapshots_, snapshot.entry_, [&](Engine& engine) {
    return engine.Reading([&] { return engine.ContainsAt(*snapshot.entry_, key); });
  });
}

absl::Status Keyspace::Delete(std::string_view key) {
  return OnOpenStore(
      engine_, [&](Engine& engine) { return engine.Writing([&] { return engine.Delete(key); }); });
}

absl::Status Keyspace::MultiGet(absl::Span<const std::string_view> keys,
                                absl::Span<std::string> values,
                                absl::Span<absl::Status> statuses) const {
  return OnOpenStore(engine_, [&](Engine& engine) -> absl::Status {
    if (values.size() != keys.size() || statuses.size() != keys.size()) {
      return absl::InvalidArgumentError(absl::StrCat(keys.size(), " keys, but room for ",
                                                     values.size(), " values and ", statuses.size(),
                                                     " statuses"));
    }
    return engine.Reading([&] {
      engine.MultiGet(keys, values, statuses);
      return absl::OkStatus();
    });
  });
}

absl::Status Db::Write(const WriteBatch& batch) {
  return OnOpenStore(store_, [&](Store& store) { return store.Write(batch); });
}

absl::Status Keyspace::Insert(std::string_view key, std::string_view value) {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Writing([&] { return engine.Insert(key, value); });
  });
}

absl::Status Keyspace::Update(std::string_view key, UpdateFunction function) {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Writing([&] { return engine.Update(key, function); });
  });
}

absl::Status Keyspace::CompareAndSwap(std::string_view key,
                                      std::optional<std::string_view> expected,
                                      std::optional<std::string_view> desired) {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Writing([&] { return engine.CompareAndSwap(key, expected, desired); });
  });
}

absl::StatusOr<uint64_t> Keyspace::DeleteRange(std::string_view from, std::string_view to) {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Reading([&] { return engine.DeleteRange(from, to); });
  });
}

absl::StatusOr<RangeEstimate> Keyspace::ApproximateRange(std::string_view from,
                                                         std::string_view to) const {
  return OnOpenStore(engine_, [&](Engine& engine) {
    return engine.Reading([&] { return engine.ApproximateRange(from, to); });
  });
}

absl::StatusOr<uint64_t> Keyspace::Count() const {
  return OnOpenStore(engine_, [](Engine& engine) {
    return engine.Reading([&] { return engine.index().Count(); });
  });
}

absl::Status Db::Sync() {
  return OnOpenStore(store_, [](Store& store) { return store.Sync(); });
}

absl::StatusOr<CompactionResult> Db::Compact(absl::Time deadline) {
  CompactOptions options;
  options.deadline = deadline;
  return Compact(options);
}

absl::StatusOr<CompactionResult> Db::Compact(const CompactOptions& options) {
  return OnOpenStore(store_, [&](Store& store) {
    return store.default_keyspace().Writing([&] { return store.Compact(options); });
  });
}

absl::StatusOr<ScrubReport> Db::Scrub() const {
  return OnOpenStore(engine_, [&](Engine&) { return store_->Scrub(); });
}

absl::StatusOr<RepairReport> Db::Repair(const std::string& path, const Options& options,
                                        const std::function<void(const RepairReport&)>& listener) {
  return kv::Repair(path, options, listener);
}

absl::StatusOr<CheckReport> Db::Check() const {
  return OnOpenStore(store_, [](Store& store) {
    return store.default_keyspace().Reading([&] { return store.Check(); });
  });
}

absl::StatusOr<Info> Db::GetInfo(bool count_bytes) const {
  return OnOpenStore(store_, [&](Store& store) {
    return store.default_keyspace().Reading([&] { return store.GetInfo(count_bytes); });
  });
}

absl::StatusOr<Stats> Db::GetStats() const {
  return OnOpenStore(store_, [](Store& store) {
    return store.default_keyspace().Reading([&] { return store.GetStats(); });
  });
}

absl::StatusOr<Keyspace> Db::CreateKeyspace(std::string_view name) {
  return OnOpenStore(store_, [&](Store& store) -> absl::StatusOr<Keyspace> {
    absl::StatusOr<std::shared_ptr<Engine>> engine = store.keyspaces().Create(name);
    if (!engine.ok()) return engine.status();
    return Keyspace(*std::move(engine));
  });
}

absl::StatusOr<Keyspace> Db::OpenKeyspace(std::string_view name) const {
  return OnOpenStore(store_, [&](Store& store) -> absl::StatusOr<Keyspace> {
    absl::StatusOr<std::shared_ptr<Engine>> engine = store.keyspaces().Open(name);
    if (!engine.ok()) return engine.status();
    return Keyspace(*std::move(engine));
  });
}

absl::Status Db::DropKeyspace(std::string_view name) {
  return OnOpenStore(store_, [&](Store& store) { return store.keyspaces().Drop(name); });
}

absl::StatusOr<std::vector<std::string>> Db::ListKeyspaces() const {
  return OnOpenStore(store_, [](Store& store) { return store.keyspaces().List(); });
}

}  // namespace daxkv::kv
