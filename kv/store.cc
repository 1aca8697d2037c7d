#include "kv/store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/batch_redo.h"
#include "kv/cut_repair.h"
#include "kv/exceptions.h"
#include "kv/superblock.h"

namespace daxkv::kv {

Store::Store(std::unique_ptr<dax::Pool> pool, const Options& options)
    : options_(options),
      pool_(std::move(pool)),
      snapshots_(std::make_unique<Snapshots>(pool_->open_epoch())),
      batch_table_(std::make_unique<BatchTable>(
          pool_.get(), reinterpret_cast<uint64_t*>(pool_->root_area() + kBatchTableOffset))) {}

Store::~Store() {
  scrubber_.reset();
  compactor_.reset();
  // Its hooks use the keyspaces, whose threads use it.
  if (writeback_ != nullptr) writeback_->Stop();
  keyspaces_.reset();
  // Handles may outlive us, with nothing behind them.
  if (default_keyspace_ != nullptr) default_keyspace_->Shut();
}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const std::string& path,
                                                   const Options& options) {
  if (options.writeback_interval < absl::Milliseconds(1) ||
      options.writeback_interval > absl::Hours(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("writeback_interval must be 1ms..1h, not ",
                     absl::FormatDuration(options.writeback_interval)));
  }
  dax::PoolOptions pool_options;
  pool_options.create_if_missing = options.create_if_missing;
  pool_options.error_if_exists = options.error_if_exists;
  pool_options.shape = options.shape;
  pool_options.fixed_size_bytes = options.fixed_size_bytes;
  pool_options.max_size_bytes = options.max_size_bytes;
  pool_options.huge_pages = options.huge_pages;
  pool_options.sigbus = options.sigbus;
  absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path, pool_options);
  if (!pool.ok()) return pool.status();
  const dax::SurviveMediaErrors survive;
  std::unique_ptr<Store> store(new Store(*std::move(pool), options));
  absl::Status opened = store->OpenParts();
  if (!opened.ok()) return opened;
  return store;
}

absl::Status Store::OpenParts() {
  absl::StatusOr<bool> has_store = HasStore(*pool_);
  if (!has_store.ok()) {
    // Nothing was touched: a pool that was clean is left clean for the program it belongs to.
    if (pool_->was_clean()) pool_->Close().IgnoreError();
    return has_store.status();
  }
  absl::Status status = CompareDurabilities(*has_store);
  if (status.ok()) status = SettleLastSession();
  if (status.ok() && *has_store && !durabilities_.power_cut) {
    // Damage is for the calls that meet it, and for a repair.
    status = ReleaseCutRepairs(*pool_);
    if (absl::IsDataLoss(status)) status = absl::OkStatus();
  }
  if (status.ok()) status = BeginSession(*pool_);
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenDefaultKeyspace(*has_store);
  if (!engine.ok()) return engine.status();
  default_keyspace_ = *std::move(engine);
  keyspaces_ = std::make_unique<Keyspaces>(this);
  status = *has_store ? Redo() : CommitSuperblock(*pool_);
  if (status.ok()) status = BeginRecentPuts();
  if (status.ok()) status = BeginProcessDurability();
  if (!status.ok()) return status;
  compactor_ =
      std::make_unique<Compactor>(pool_.get(), static_cast<CompactionTargets*>(this),
                                  batch_table_.get(), options_.compaction_bytes_per_second);
  StartScrubber();
  keyspaces_->Start();
  return absl::OkStatus();
}

void Store::StartScrubber() {
  scrubber_ = std::make_unique<Scrubber>(static_cast<CompactionTargets*>(this),
                                         options_.scrub_bytes_per_second);
}

absl::StatusOr<std::unique_ptr<Engine>> Store::OpenDefaultKeyspace(bool has_store) {
  if (durabilities_.power_cut) return RecoverKeyspaces();
  uint64_t* const root = &SuperblockOf(*pool_)->root;
  return has_store ? Engine::Open(this, kDefaultKeyspace, root)
                   : Engine::Create(this, kDefaultKeyspace, root);
}

absl::Status Store::Redo() {
  BatchRedo redo(this);
  absl::Status status = redo.Read(/*after_crash=*/!pool_->was_clean());
  return status.ok() && !redo.empty() ? redo.Apply() : status;
}

absl::Status Store::CheckUnused() const {
  absl::Status unused = default_keyspace_->CheckUnused();
  if (unused.ok()) unused = keyspaces_->CheckUnused();
  if (!unused.ok()) return unused;
  const SnapshotStats snapshots = snapshots_->Stats();
  if (snapshots.snapshots == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      snapshots.snapshots, " snapshots are still held; release every Snapshot and iterator first"));
}

absl::Status Store::Close() {
  scrubber_.reset();  // It has pins.
  absl::Status unused = CheckUnused();
  if (!unused.ok()) {
    StartScrubber();
    return unused;
  }
  compactor_.reset();
  absl::Status closed = keyspaces_->Close();
  closed.Update(default_keyspace_->Close());
  if (recent_puts_ != nullptr) closed.Update(recent_puts_->Close());
  if (writeback_ != nullptr) writeback_->Stop();
  keyspaces_->Shut();
  default_keyspace_->Shut();
  writeback_.reset();
  // Without what came before, the pool must not be marked clean.
  if (closed.ok()) closed = pool_->Close();
  pool_.reset();
  return closed;
}

absl::StatusOr<std::vector<std::shared_ptr<Engine>>> Store::Engines(
    bool open, std::vector<std::string>* damage) const {
  absl::StatusOr<std::vector<std::shared_ptr<Engine>>> engines = keyspaces_->Engines(open, damage);
  if (engines.ok()) engines->insert(engines->begin(), default_keyspace_);
  return engines;
}

absl::Status Store::ForEachTarget(bool open,
                                  absl::FunctionRef<absl::Status(const CompactionTarget&)> visit) {
  std::vector<std::string> damage;
  const absl::StatusOr<std::vector<std::shared_ptr<Engine>>> engines =
      WithoutExceptions([&] { return Engines(open, &damage); });
  if (!engines.ok()) return engines.status();
  for (const std::shared_ptr<Engine>& engine : *engines) {
    const Gate::Pass pass(engine->gate());
    if (pass.refused()) continue;  // Dropped meanwhile.
    absl::Status status = visit({&engine->space(), &engine->index()});
    if (!status.ok()) return status;
  }
  // What is well was visited all the same.
  return damage.empty() ? absl::OkStatus() : absl::DataLossError(damage.front());
}

bool Store::MakeRoom(const Engine& besides) {
  const absl::StatusOr<std::vector<std::shared_ptr<Engine>>> engines = Engines(/*open=*/true);
  if (!engines.ok()) return false;
  bool made_room = false;
  for (const std::shared_ptr<Engine>& engine : *engines) {
    const Gate::Pass pass(engine->gate());
    if (pass.refused() || engine.get() == &besides) continue;
    made_room |= engine->space().MakeRoom().ok();
  }
  // One that waits for us does not get on, and is not waited for.
  if (keyspaces_->WaitForRoom()) made_room = true;
  return made_room;
}

absl::StatusOr<CompactionResult> Store::Compact(const CompactOptions& options) {
  absl::StatusOr<CompactionResult> result = compactor_->Compact(options);
  if (result.ok()) keyspaces_->WaitForDrops(options.deadline);
  return result;
}

}  // namespace daxkv::kv
