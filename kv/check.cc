// Check, GetInfo and GetStats: what the store holds, and whether it all fits together.
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/extent_header.h"
#include "kv/store.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

constexpr size_t kMaxFaults = 1000;

// Fills a report from what the walks over the store's parts tell.
class Checker {
 public:
  explicit Checker(CheckReport* report) : report_(*report) {}

  void AddFault(std::string fault) {
    if (report_.faults.size() < kMaxFaults) report_.faults.push_back(std::move(fault));
  }

  void AddSlot(const Memory& memory, SlotKind kind, Address address) {
    // Of a lost record two leaves may know, as neither can tell whose it is.
    if (!reachable_.insert(address).second && !memory.IsLost(address, 1)) {
      AddFault(absl::StrCat("offset ", address, ": the index refers twice to this slot"));
    }
    if (IsNode(kind)) {
      ++report_.nodes;
      return;
    }
    rcu::ReadGuard guard;
    absl::StatusOr<RecordView> record = ViewRecord(memory, address);
    if (!record.ok()) return;  // Index::Verify has reported it.
    if (record->kind == kFenceRecord) {
      ++report_.fences;
      return;
    }
    ++report_.records;
    report_.record_size_bytes += record->key.size() + record->value.size();
  }

  // A slot that only snapshots refer to.
  void AddKept(Address address) {
    if (!reachable_.insert(address).second) {
      AddFault(absl::StrCat("offset ", address, ": kept for a snapshot and referred to again"));
    }
  }

  // Every run of the pool has to be an extent of some keyspace, or their table.
  void AddRun(const dax::Pool& pool, const dax::Run& run, Keyspaces& keyspaces) {
    const RunUse use = UseOf(run);
    if (use.kind == RunUse::Kind::kKeyspaceTable) {
      const absl::StatusOr<dax::Run> table = keyspaces.TableRun();
      if (table.ok() && table->first_page == run.first_page) return;
      return AddFault(absl::StrCat("offset ", run.offset(),
                                   ": a table of keyspaces that the superblock does not name"));
    }
    ++report_.extents;
    if (!use.is_extent()) {
      return AddFault(
          absl::StrCat("offset ", run.offset(), ": a run of the unknown kind ", run.kind));
    }
    if (use.keyspace == kDefaultKeyspace) return;
    const absl::StatusOr<KeyspaceState> state = keyspaces.StateOf(use.keyspace);
    if (state.ok() && *state == KeyspaceState::kFree) {
      // A drop may have ended since: it gives all extents back before the name is free.
      const absl::StatusOr<dax::Run> now = pool.FindRun(run.first_page);
      if (!now.ok() || !now->live || now->owner != run.owner) return;
      AddFault(absl::StrCat("offset ", run.offset(), ": an extent of keyspace ", use.keyspace,
                            ", which is not there"));
    }
  }

  void AddLostPage(uint64_t page, const absl::StatusOr<dax::Run>& run) {
    ++report_.lost_pages;
    AddFault(absl::StrCat("offset ", page << dax::kPageShift,
                          ": this page is lost to a media error",
                          run.ok() ? absl::StrCat(", in the extent of ", run->size_bytes(),
                                                  " bytes at offset ", run->offset())
                                   : std::string(" and out of use")));
  }

  bool Reachable(Address address) const { return reachable_.count(address) != 0; }

 private:
  CheckReport& report_;
  std::unordered_set<Address> reachable_;
};

}  // namespace

absl::StatusOr<CheckReport> Store::Check() const {
  const Compactor::Pause pause(compactor_.get());
  CheckReport report;
  report.recovered_after_crash = !pool_->was_clean();
  Checker checker(&report);

  std::vector<std::string> damage;
  const absl::StatusOr<std::vector<std::shared_ptr<Engine>>> engines =
      Engines(/*open=*/false, &damage);
  if (!engines.ok()) return engines.status();
  for (std::string& fault : damage) checker.AddFault(std::move(fault));
  std::vector<std::unique_ptr<Gate::Pass>> passes;
  std::vector<Engine*> checked;
  for (const std::shared_ptr<Engine>& engine : *engines) {
    passes.push_back(std::make_unique<Gate::Pass>(engine->gate()));
    if (!passes.back()->refused()) checked.push_back(engine.get());
  }

  for (Engine* engine : checked) {
    const size_t faults_before = report.faults.size();
    absl::Status verified = engine->index().Verify(
        Index::VerifyOptions(),
        [&](SlotKind kind, Address address) { checker.AddSlot(engine->space(), kind, address); },
        [&](std::string fault) { checker.AddFault(std::move(fault)); });
    // Damage was reported line by line; anything else kept the walk from being done.
    if (!verified.ok() && !absl::IsDataLoss(verified)) return verified;
    if (!verified.ok() && report.faults.size() == faults_before) {
      checker.AddFault(verified.ToString());
    }
  }

  absl::Status walked = pool_->ForEachRun([&](const dax::Run& run) {
    checker.AddRun(*pool_, run, *keyspaces_);
    return absl::OkStatus();
  });
  if (absl::IsDataLoss(walked)) {
    checker.AddFault(walked.ToString());
  } else if (!walked.ok()) {
    return walked;
  }

  for (const uint64_t page : pool_->ListLostPages()) {
    checker.AddLostPage(page, pool_->FindRun(page));
  }

  snapshots_->ForEachKept([&](Address address) { checker.AddKept(address); });
  for (Engine* engine : checked) {
    engine->space().Quiesce();
    absl::StatusOr<uint64_t> audited =
        engine->space().Audit([&](Address address) { return checker.Reachable(address); },
                              [&](std::string fault) { checker.AddFault(std::move(fault)); });
    if (!audited.ok()) return audited.status();
    report.slots += *audited;
  }
  return report;
}

absl::Status Store::AddSpaces(Info* info) const {
  std::map<KeyspaceId, uint64_t> size_bytes;
  absl::Status walked = pool_->ForEachRun([&](const dax::Run& run) {
    unsigned order = 0;
    while (order < dax::kHugeOrder && (uint64_t{1} << order) < run.pages) ++order;
    info->live_extents_by_order[order] += std::max<uint64_t>(1, run.pages / dax::kHugePages);
    const RunUse use = UseOf(run);
    if (use.kind == RunUse::Kind::kSlab) info->slab_size_bytes += run.size_bytes();
    if (use.kind == RunUse::Kind::kLarge) info->large_size_bytes += run.size_bytes();
    if (use.is_extent()) size_bytes[use.keyspace] += run.size_bytes();
    return absl::OkStatus();
  });
  if (!walked.ok()) return walked;
  absl::StatusOr<std::vector<std::pair<std::string, KeyspaceId>>> names = keyspaces_->Names();
  if (!names.ok()) return names.status();
  for (auto& [name, id] : *names) {
    KeyspaceInfo keyspace;
    keyspace.name = std::move(name);
    keyspace.size_bytes = size_bytes[id];
    info->keyspaces.push_back(std::move(keyspace));
  }
  info->keyspaces_dropping = keyspaces_->CountDrops();
  return absl::OkStatus();
}

absl::Status Store::CountKeyspaces(Info* info) const {
  for (KeyspaceInfo& keyspace : info->keyspaces) {
    const absl::StatusOr<std::shared_ptr<Engine>> engine = keyspaces_->Open(keyspace.name);
    if (absl::IsNotFound(engine.status())) continue;  // Dropped meanwhile.
    if (!engine.ok()) return engine.status();
    const Gate::Pass pass((*engine)->gate());
    if (pass.refused()) continue;
    absl::StatusOr<uint64_t> records = (*engine)->index().Count();
    if (!records.ok()) return records.status();
    absl::StatusOr<uint64_t> size_bytes = (*engine)->KeyValueSizeBytes();
    if (!size_bytes.ok()) return size_bytes.status();
    keyspace.records = *records;
    keyspace.key_value_size_bytes = *size_bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<Info> Store::GetInfo(bool count_bytes) const {
  Info info;
  info.path = pool_->path();
  info.shape = pool_->shape();
  info.media = pool_->media();
  info.format_version = kFormatVersion;
  info.open_epoch = pool_->open_epoch();
  info.was_clean = pool_->was_clean();
  if (writeback_ != nullptr) {
    const WritebackStats stats = writeback_->stats();
    info.writeback = {stats.completed, stats.last_took};
  }
  info.power_cut = power_cut_;

  absl::Status added = AddSpaces(&info);
  if (added.ok() && count_bytes) added = CountKeyspaces(&info);
  if (!added.ok()) return added;
  const Index& index = default_keyspace_->index();
  absl::StatusOr<uint64_t> records = index.Count();
  if (!records.ok()) return records.status();
  info.records = *records;
  if (count_bytes) {
    absl::StatusOr<uint64_t> size_bytes = default_keyspace_->KeyValueSizeBytes();
    if (!size_bytes.ok()) return size_bytes.status();
    info.key_value_size_bytes = *size_bytes;
  }
  const IndexStats index_stats = index.stats();
  info.leaves = index_stats.leaves;
  info.inner_nodes = index_stats.inner_nodes;
  info.index_height = index_stats.height;
  info.index_view_size_bytes = index_stats.view_size_bytes;

  const SnapshotStats snapshots = snapshots_->Stats();
  info.snapshots = snapshots.snapshots;
  info.oldest_snapshot_age = absl::FromChrono(snapshots.oldest_age);
  info.snapshot_versions = snapshots.versions;
  info.snapshot_version_size_bytes = snapshots.size_bytes;

  absl::StatusOr<std::vector<SlotClassUsage>> classes = default_keyspace_->space().UsageByClass();
  if (!classes.ok()) return classes.status();
  info.slot_classes = *std::move(classes);
  info.scrub = scrubber_->stats();
  absl::StatusOr<dax::DaxStats> dax =
      dax::CollectStats(*pool_, default_keyspace_->space().mapping());
  if (!dax.ok()) return dax.status();
  info.dax = *std::move(dax);
  return info;
}

absl::StatusOr<Stats> Store::GetStats() const {
  Stats stats;
  const absl::StatusOr<dax::Pool::FileSizes> files = pool_->SizesOfFiles();
  if (!files.ok()) return files.status();
  stats.file_size_bytes = files->size_bytes;
  stats.file_blocks_bytes = files->blocks_bytes;
  const SnapshotStats snapshots = snapshots_->Stats();
  stats.snapshots = snapshots.snapshots;
  stats.oldest_snapshot_age = absl::FromChrono(snapshots.oldest_age);
  stats.snapshot_versions = snapshots.versions;
  stats.snapshot_version_size_bytes = snapshots.size_bytes;
  stats.keyspaces_dropping = keyspaces_->CountDrops();
  stats.lost_pages = pool_->ListLostPages().size();
  if (writeback_ != nullptr) {
    const WritebackStats writeback = writeback_->stats();
    stats.writeback = {writeback.completed, writeback.last_took};
  }
  stats.scrub = scrubber_->stats();
  return stats;
}

absl::StatusOr<uint64_t> Engine::KeyValueSizeBytes() const {
  uint64_t size_bytes = 0;
  std::string from, next_from;
  for (bool end = false; !end; from.swap(next_from)) {
    absl::Status scanned = index_->ScanLeaf(
        from,
        [&](const RecordView& record) {
          size_bytes += record.key.size() + record.value.size();
          return true;
        },
        &next_from, &end);
    if (!scanned.ok()) return scanned;
  }
  return size_bytes;
}

}  // namespace daxkv::kv
