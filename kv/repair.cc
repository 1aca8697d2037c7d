#include "kv/repair.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/batch_table.h"
#include "kv/cut_repair.h"
#include "kv/exceptions.h"
#include "kv/extent_header.h"
#include "kv/keyspace_table.h"
#include "kv/power_cut.h"
#include "kv/repair_build.h"
#include "kv/repair_keyspaces.h"
#include "kv/repair_plan.h"
#include "kv/repair_survey.h"
#include "kv/repair_tree.h"
#include "kv/store.h"
#include "kv/superblock.h"
#include "kv/word_stores.h"

namespace daxkv::kv {
namespace {

// One keyspace, on its way through the steps.
struct KeyspaceRepair {
  KeyspaceRepair(dax::Pool* pool, KeyspaceId id, const std::string& name, uint64_t* root,
                 RepairReport* report)
      : root(root),
        findings(report, name),
        survey(pool, id, !WasOpenSinceCleanClose(*pool) && !IsIndexOfRepair(*pool, *root)),
        tree(&survey),
        plan(&survey, &tree, &findings) {}

  uint64_t* const root;  // The word.
  Findings findings;
  Survey survey;
  OldTree tree;
  RepairPlan plan;
  std::unique_ptr<TreeBuilder> builder;  // If it gets a new index, whose root is
  uint64_t new_root = 0;
};

// One store's repair. Steps, in their order on the medium:
//   1  new indexes are written, in runs of their own, and committed as runs; what earlier repairs
//      have left of that goes first
//   2  what a dead process left in caches is made durable, as the close will say that it is;
//      headers of extents, which say nothing that the runs don't, are written anew
//   3  Superblock::root, KeyspaceEntry::root: each commits one keyspace
//   4  in no order, durable before the close marks the pool clean:
//      the batch table is cleared; an open that comes before finds the batches applied
//      saved maps stop counting; an open that comes before sees an unclean close, and does the
//      same; a repair that does sees a new index, and does not believe them for that keyspace
//      records that nothing refers to now are stamped dead; lost runs are given back
class Repairer {
 public:
  Repairer(dax::Pool* pool, const RepairListener& listener, RepairReport* report)
      : pool_(*pool), superblock_(SuperblockOf(*pool)), listener_(listener), report_(*report) {}

  absl::Status Run() {
    absl::Status status = RepairTable(pool_, &report_);
    if (status.ok()) status = ReleaseCutRepairs(pool_);
    if (status.ok()) status = SurveyKeyspaces();
    if (!status.ok()) return status;
    FinishStores();
    for (const auto& part : parts_) {
      const size_t faults_before = report_.rebuilt.size();
      part->tree.Read(*part->root,
                      [&](std::string line) { part->findings.Rebuilt(std::move(line)); });
      part->plan.JudgeLeaves(faults_before);
    }
    bool new_index = false;
    for (const auto& part : parts_) {
      part->plan.JudgeRest(batch_words(), surveys_);
      TellOfExtents(*part);
      new_index |= part->plan.needs_new_index();
    }
    for (const auto& part : parts_) {
      if (new_index) part->plan.FinishBatchesByNewIndex();
      if (!part->plan.needs_new_index()) report_.records += part->plan.most_records();
    }
    if (report_.rebuilt.empty() && report_.lost.empty()) return absl::OkStatus();
    report_.changed = true;
    return new_index ? Rebuild() : RepairExtents();
  }

  // Also for a store that can't be opened before.
  static absl::Status RepairTable(dax::Pool& pool, RepairReport* report) {
    Findings findings(report, /*keyspace=*/"");
    return RepairKeyspaceTable(pool,
                               {[&](std::string line) { findings.Rebuilt(std::move(line)); },
                                [&](std::string line) { findings.LostElse(std::move(line)); }});
  }

 private:
  uint64_t* batch_words() const {
    return reinterpret_cast<uint64_t*>(pool_.root_area() + kBatchTableOffset);
  }

  absl::Status SurveyKeyspaces() {
    KeyspaceTable table(&pool_);
    absl::Status status = table.Load();
    if (!status.ok()) return status;
    const auto add = [&](KeyspaceId id, const std::string& name, uint64_t* root) {
      parts_.push_back(std::make_unique<KeyspaceRepair>(&pool_, id, name, root, &report_));
      surveys_.push_back(&parts_.back()->survey);
      absl::Status surveyed = surveys_.back()->Run();
      for (const SurveyedExtent& extent : surveys_.back()->extents()) {
        report_.size_bytes_verified += extent.run.size_bytes();
      }
      return surveyed;
    };
    status = add(kDefaultKeyspace, "", &superblock_->root);
    for (const auto& [name, id] : table.live()) {
      if (status.ok()) status = add(id, name, table.RootOf(id));
    }
    return status;
  }

  // What an open does before it reads anything of the index: sets of stores that were committed.
  // Their words stay in the table, and an open makes the stores once more.
  void FinishStores() {
    for (unsigned word = 0; word < kBatchTableWords; ++word) {
      const Address address = batch_words()[word] & kAddressMask;
      if (batch_words()[word] == 0 || batch_words()[word] != BatchTable::Seal(word, address))
        continue;
      for (Survey* survey : surveys_) {
        const std::optional<RecordView> record = survey->IntactRecord(address);
        if (record.has_value() && record->kind == kStoresRecord) MakeStores(*survey, *record);
      }
    }
  }

  // They are in nodes of the record's keyspace.
  void MakeStores(Survey& survey, const RecordView& record) {
    for (size_t at = 0; at + sizeof(WordStore) <= record.value.size(); at += sizeof(WordStore)) {
      WordStore store;
      std::memcpy(&store, record.value.data() + at, sizeof(store));
      if (!survey.IsInNode(store.at)) continue;
      *reinterpret_cast<uint64_t*>(pool_.At(store.at)) = store.value;
      pool_.Flush(pool_.At(store.at), sizeof(store.value));
    }
  }

  static void TellOfExtents(KeyspaceRepair& part) {
    for (const SurveyedExtent& extent : part.survey.extents()) {
      if (!extent.header_damaged) continue;
      part.findings.Rebuilt(
          absl::StrCat("extent at pool offset ", extent.run.offset(), ": its header is damaged"));
    }
    for (const dax::Run& run : part.survey.hopeless()) {
      part.findings.LostElse(absl::StrCat("the extent of ", run.size_bytes(),
                                          " bytes at pool offset ", run.offset(),
                                          ": neither header nor record can be read"));
    }
  }

  // Aside: nothing refers to it yet.
  absl::Status Build(KeyspaceRepair& part) {
    part.builder = std::make_unique<TreeBuilder>(&pool_, part.survey.keyspace());
    absl::Status built = part.plan.ForEach(
        [&](std::string_view key, Address record) { return part.builder->Add(key, record); });
    const absl::StatusOr<uint64_t> root = built.ok() ? part.builder->Finish() : built;
    if (absl::IsResourceExhausted(root.status())) {
      return absl::ResourceExhaustedError(absl::StrCat(
          pool_.path(), ": the new index takes about ",
          TreeBuilder::EstimateSizeBytes(part.plan.most_records(), part.plan.key_size_bytes()),
          " bytes, and there is no room for it: make room on the file system, or repair a larger "
          "copy; nothing was changed (",
          root.status().message(), ")"));
    }
    if (!root.ok()) return root.status();
    part.new_root = *root;
    return absl::OkStatus();
  }

  absl::Status Rebuild() {
    absl::Status status;
    for (const auto& part : parts_) {
      if (status.ok() && part->plan.needs_new_index()) status = Build(*part);
    }
    if (status.ok()) status = MakeInheritedDurable();
    if (!status.ok()) return status;
    if (listener_) listener_(report_);
    RepairHeaders();
    for (const auto& part : parts_) {
      if (part->builder == nullptr) continue;
      // Commits the repair of the keyspace.
      __atomic_store_n(part->root, part->new_root, __ATOMIC_RELEASE);
      part->builder->Release();
      status = pool_.Persist(part->root, sizeof(*part->root));
      if (!status.ok()) return status;
    }
    std::memset(batch_words(), 0, kBatchTableWords * sizeof(uint64_t));
    pool_.Flush(batch_words(), kBatchTableWords * sizeof(uint64_t));
    ForgetMaps();
    for (const auto& part : parts_) {
      for (const Address address : part->plan.rejected()) StampDead(address);
    }
    return GiveBackHopeless();
  }

  // Where the index is well.
  absl::Status RepairExtents() {
    absl::Status status = MakeInheritedDurable();
    if (!status.ok()) return status;
    if (listener_) listener_(report_);
    RepairHeaders();
    ForgetMaps();
    return GiveBackHopeless();
  }

  // With one wait: a run that the dead process made live has the bytes that it was committed with,
  // for these were drained before; what was stored in it since may come before its word or after.
  absl::Status MakeInheritedDurable() {
    if (pool_.was_clean()) return absl::OkStatus();
    if (pool_.media().media_class == dax::MediaClass::kPageCache) return pool_.Sync();
    std::vector<dax::Run> runs;
    for (Survey* survey : surveys_) {
      for (const SurveyedExtent& extent : survey->extents()) {
        pool_.Flush(pool_.At(extent.run.offset()), extent.run.size_bytes());
        runs.push_back(extent.run);
      }
    }
    return pool_.CommitRuns(runs);
  }

  // Not waited for: who comes before they are durable finds them damaged, as they were.
  void RepairHeaders() {
    for (Survey* survey : surveys_) {
      for (const SurveyedExtent& extent : survey->extents()) RepairHeader(extent);
    }
  }

  void RepairHeader(const SurveyedExtent& extent) {
    const dax::Run& run = extent.run;
    if (!extent.header_damaged || pool_.IsLost(run.offset(), sizeof(ExtentHeader))) return;
    if (UseOf(run).kind == RunUse::Kind::kSlab) {
      WriteSlabHeader(pool_, run);
    } else {
      WriteLargeHeader(pool_, run, extent.layout.slot_size_bytes);
    }
    FlushHeader(pool_, run);
  }

  // What is in use is another thing now. 8-byte store; as in Space::Open.
  void ForgetMaps() {
    superblock_->maps_valid_since = dax::Pool::SealEpoch(pool_.open_epoch());
    pool_.Flush(&superblock_->maps_valid_since, sizeof(superblock_->maps_valid_since));
  }

  // Not flushed, as in Space: only another repair reads the stamp, and does not rely on it after a
  // power cut. On a page cache, where recovery does, the close syncs all.
  void StampDead(Address address) {
    reinterpret_cast<RecordHeader*>(pool_.At(address))->kind_and_flags = kNoRecord;
  }

  absl::Status GiveBackHopeless() {
    absl::Status status;
    for (Survey* survey : surveys_) {
      const bool any = !survey->hopeless().empty();
      if (status.ok() && any) status = pool_.ReleaseRuns(survey->hopeless());
    }
    return status;
  }

  dax::Pool& pool_;
  Superblock* const superblock_;
  const RepairListener& listener_;
  RepairReport& report_;
  std::vector<std::unique_ptr<KeyspaceRepair>> parts_;  // The default keyspace first.
  std::vector<Survey*> surveys_;                        // Theirs.
};

absl::Status SettlePowerCut(const std::string& path, const Options& options) {
  Options existing = options;
  existing.create_if_missing = false;
  existing.error_if_exists = false;
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(path, existing);
  return store.ok() ? (*store)->Close() : store.status();
}

absl::StatusOr<RepairReport> RepairPool(const std::string& path, const Options& options,
                                        const RepairListener& listener) {
  dax::PoolOptions pool_options;
  pool_options.create_if_missing = false;
  pool_options.huge_pages = options.huge_pages;
  pool_options.sigbus = options.sigbus;
  absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path, pool_options);
  if (!pool.ok()) return pool.status();
  const dax::SurviveMediaErrors survive;
  RepairReport report;
  absl::StatusOr<bool> has_store = HasStore(**pool);
  if (has_store.ok() && *has_store) {
    const absl::StatusOr<bool> power_cut = MetPowerCut(**pool, options.boot_id_file);
    if (!power_cut.ok()) return power_cut.status();
    if (*power_cut) {
      // Its indexes prove nothing: an open, which needs the table, makes others first.
      absl::Status table_repaired = Repairer::RepairTable(**pool, &report);
      if (!table_repaired.ok()) return table_repaired;
      pool->reset();
      absl::Status settled = SettlePowerCut(path, options);
      if (!settled.ok()) return settled;
      pool = dax::Pool::Open(path, pool_options);
      if (!pool.ok()) return pool.status();
    }
  }
  const bool was_clean = (*pool)->was_clean();
  absl::Status repaired = has_store.status();
  if (repaired.ok() && *has_store) {
    repaired = Repairer(pool->get(), listener, &report).Run();
  }
  // What was unclean and whole stays so: the next open goes on as after the crash.
  if (was_clean || (repaired.ok() && report.changed)) {
    absl::Status closed = (*pool)->Close();
    if (repaired.ok()) repaired = closed;
  }
  if (!repaired.ok()) return repaired;
  return report;
}

}  // namespace

absl::StatusOr<RepairReport> Repair(const std::string& path, const Options& options,
                                    const RepairListener& listener) {
  return WithoutExceptions([&] { return RepairPool(path, options, listener); });
}

}  // namespace daxkv::kv
