// What an open has to do for process durability: for that of the last session, and for its own
// (stamps.h).
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/boot_id.h"
#include "kv/keyspace_table.h"
#include "kv/power_cut.h"
#include "kv/store.h"
#include "kv/superblock.h"

namespace daxkv::kv {

absl::Status Store::CompareDurabilities(bool has_store) {
  Durabilities& result = durabilities_;
  result.wants_process = options_.durability == dax::Durability::kProcess &&
                         pool_->media().media_class == dax::MediaClass::kPageCache;
  if (result.wants_process) {
    const absl::StatusOr<uint32_t> boot_id = ReadBootId(options_.boot_id_file);
    if (!boot_id.ok()) return boot_id.status();
    result.boot_id = *boot_id;
  }
  if (!has_store) return absl::OkStatus();
  const absl::StatusOr<bool> process = HasProcessDurability(*SuperblockOf(*pool_), nullptr);
  const absl::StatusOr<bool> power_cut =
      process.ok() ? MetPowerCut(*pool_, options_.boot_id_file) : process;
  if (!power_cut.ok()) {
    return absl::Status(power_cut.status().code(),
                        absl::StrCat(pool_->path(), ": ", power_cut.status().message()));
  }
  result.was_process = *process;
  result.power_cut = *power_cut;
  return absl::OkStatus();
}

// One 8-byte store, durable. A crash before it leaves the other mode's word, whose rules still
// hold.
absl::Status Store::StoreDurability(uint64_t word) {
  uint64_t& durability = SuperblockOf(*pool_)->durability;
  __atomic_store_n(&durability, word, __ATOMIC_RELEASE);
  return pool_->PersistWord(&durability);
}

// Before anything is changed: a process that died has left its stores in the page cache alone, and
// whatever this open makes durable must not come before them. From then on the store is as any
// other that a process left, unless this session goes on with process durability.
absl::Status Store::SettleLastSession() {
  if (!durabilities_.was_process || durabilities_.power_cut) return absl::OkStatus();
  absl::Status status = pool_->was_clean() ? absl::OkStatus() : pool_->Sync();
  if (status.ok() && !durabilities_.wants_process) status = StoreDurability(0);
  return status;
}

// Without a wait for the medium in between: another cut has the next open begin anew. Returns the
// default keyspace; the others are closed again when they are recovered.
absl::StatusOr<std::unique_ptr<Engine>> Store::RecoverKeyspaces() {
  absl::Status status = pool_->SetDurability(dax::Durability::kProcess);
  // Always durable, so whole (keyspace_table.h). If not, a keyspace that it hides would keep what
  // the cut has made of its index, and later nobody would know.
  KeyspaceTable table(pool_.get());
  if (status.ok()) status = table.Load();
  if (status.ok() && !table.damage().empty()) {
    status = absl::DataLossError(
        absl::StrCat("after a power cut every keyspace has to be recovered, but ",
                     table.damage().front(), "; repair the store"));
  }
  if (!status.ok()) return status;
  PowerCutRecovery::Roots roots = {{kDefaultKeyspace, &SuperblockOf(*pool_)->root}};
  for (const auto& [name, id] : table.live()) roots[id] = table.RootOf(id);
  PowerCutRecovery recovery(pool_.get(), snapshots_.get(), roots);
  const auto in_recovery = [](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("building the index anew after a power cut: ",
                                                    status.message()));
  };
  status = recovery.Begin();
  std::unique_ptr<Engine> default_engine;
  for (auto root = roots.begin(); root != roots.end() && status.ok(); ++root) {
    absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Recover(this, root->first, &recovery);
    status = engine.status();
    if (root->first == kDefaultKeyspace && status.ok()) default_engine = *std::move(engine);
  }
  if (!status.ok()) return in_recovery(status);
  absl::StatusOr<PowerCutReport> report = recovery.Finish();
  if (!report.ok()) return in_recovery(report.status());
  power_cut_ = *report;
  status = pool_->SetDurability(dax::Durability::kPower);
  if (status.ok() && !durabilities_.wants_process) status = StoreDurability(0);
  if (!status.ok()) return status;
  return default_engine;
}

// V5, V6.
absl::Status Store::BeginProcessDurability() {
  if (!durabilities_.wants_process) return absl::OkStatus();
  absl::Status status = durabilities_.was_process ? absl::OkStatus() : StampFreeSlots();
  if (status.ok()) status = StoreDurability(DurabilityWord(durabilities_.boot_id));
  if (status.ok()) status = pool_->SetDurability(dax::Durability::kProcess);
  if (!status.ok()) return status;
  Writeback::Hooks hooks;
  hooks.horizon = [this] { return batch_table_->AppliedUpTo(snapshots_->LastNumber()); };
  const auto for_each_space = [this](void (Space::*hook)()) {
    ForEachTarget(/*open=*/true, [&](const CompactionTarget& target) {
      (target.space->*hook)();
      return absl::OkStatus();
    }).IgnoreError();
  };
  hooks.before = [=] { for_each_space(&Space::BeforeWriteback); };
  hooks.after = [=] { for_each_space(&Space::AfterWriteback); };
  writeback_ =
      std::make_unique<Writeback>(pool_.get(), options_.writeback_interval, std::move(hooks));
  const auto engines = Engines(/*open=*/true);
  if (!engines.ok()) return engines.status();
  for (const std::shared_ptr<Engine>& engine : *engines) JoinDurability(*engine, /*is_new=*/false);
  return absl::OkStatus();
}

// Redo has made everything durable that a list of the last session was for. It goes in any case: a
// session without recent puts settles nothing when it removes.
absl::Status Store::BeginRecentPuts() {
  const bool wanted =
      pool_->media().media_class == dax::MediaClass::kPageCache && !durabilities_.wants_process;
  if (!wanted && RecentPuts::Read(*pool_).empty()) return absl::OkStatus();
  auto recent_puts = std::make_unique<RecentPuts>(pool_.get(), snapshots_.get());
  absl::Status status = recent_puts->Begin();
  if (!status.ok() || !wanted) return status;
  recent_puts_ = std::move(recent_puts);
  const auto engines = Engines(/*open=*/true);
  if (!engines.ok()) return engines.status();
  for (const std::shared_ptr<Engine>& engine : *engines) JoinDurability(*engine, /*is_new=*/false);
  return absl::OkStatus();
}

// V5, of all keyspaces.
absl::Status Store::StampFreeSlots() {
  return ForEachTarget(/*open=*/false, [](const CompactionTarget& target) {
    return target.space->StampFreeSlots();
  });
}

// A clean close has looked through the extents of the keyspaces that were open, which the default
// one always is. Those whose maps were saved since are quickly seen to be so.
void Store::JoinDurability(Engine& engine, bool is_new) const {
  if (recent_puts_ != nullptr) engine.index().RefuseNumbersOfRemoved();
  if (writeback_ == nullptr) return;
  const bool looked_through = engine.id() == kDefaultKeyspace && pool_->was_clean();
  engine.space().BeginProcessDurability(writeback_.get(),
                                        is_new || !durabilities_.was_process || looked_through);
}

}  // namespace daxkv::kv
