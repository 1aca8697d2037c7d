#include "kv/repair.h"

#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/batch_table.h"
#include "kv/exceptions.h"
#include "kv/extent_header.h"
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

// One store's repair. Steps, in their order on the medium:
//   1  the new index is written, in runs of its own, and committed as runs
//   2  what a dead process left in caches is made durable, as the close will say that it is; headers of
//      extents, which say nothing that the runs don't, are written anew
//   3  Superblock::root: commits
//   4  the batch table is cleared; an open that comes before finds the batches applied
//   5  saved maps stop counting; an open that comes before sees an unclean close, and does the same
//   6  records that nothing refers to now are stamped dead; lost runs are given back
class Repairer {
 public:
  Repairer(dax::Pool* pool, RepairReport* report)
      : pool_(*pool),
        superblock_(SuperblockOf(*pool)),
        report_(*report),
        findings_(report),
        survey_(pool, kDefaultKeyspace, pool->was_clean()),
        tree_(&survey_),
        plan_(&survey_, &tree_, &findings_) {}

  absl::Status Run() {
    if (absl::Status surveyed = survey_.Run(); !surveyed.ok()) return surveyed;
    for (const SurveyedExtent& extent : survey_.extents()) {
      report_.size_bytes_verified += extent.run.size_bytes();
    }
    absl::Status table_found =
        RepairTableWord(pool_, [this](std::string line) { findings_.Rebuilt(std::move(line)); });
    if (!table_found.ok()) return table_found;
    const size_t faults_before = report_.rebuilt.size();
    FinishStores();
    tree_.Read(superblock_->root, [this](std::string line) { findings_.Rebuilt(std::move(line)); });
    plan_.Judge(batch_words(), faults_before);
    TellOfExtents();
    if (!plan_.needs_new_index()) report_.records = plan_.most_records();
    if (report_.rebuilt.empty() && report_.lost.empty()) return absl::OkStatus();
    report_.changed = true;
    return plan_.needs_new_index() ? Rebuild() : RepairExtents();
  }

 private:
  uint64_t* batch_words() const {
    return reinterpret_cast<uint64_t*>(pool_.root_area() + kBatchTableOffset);
  }

  // What an open does before it reads anything of the index: sets of stores that were committed. Their
  // words stay in the table, and an open makes the stores once more.
  void FinishStores() {
    for (unsigned word = 0; word < kBatchTableWords; ++word) {
      const Address address = batch_words()[word] & kAddressMask;
      if (batch_words()[word] == 0 || batch_words()[word] != BatchTable::Seal(word, address))
        continue;
      const std::optional<RecordView> record = survey_.IntactRecord(address);
      if (!record.has_value() || record->kind != kStoresRecord) continue;
      for (size_t at = 0; at + sizeof(WordStore) <= record->value.size(); at += sizeof(WordStore)) {
        WordStore store;
        std::memcpy(&store, record->value.data() + at, sizeof(store));
        if (!survey_.IsInNode(store.at)) continue;
        *reinterpret_cast<uint64_t*>(pool_.At(store.at)) = store.value;
        pool_.Flush(pool_.At(store.at), sizeof(store.value));
      }
    }
  }

  void TellOfExtents() {
    for (const SurveyedExtent& extent : survey_.extents()) {
      if (!extent.header_damaged) continue;
      findings_.Rebuilt(
          absl::StrCat("extent at pool offset ", extent.run.offset(), ": its header is damaged"));
    }
    for (const dax::Run& run : survey_.hopeless()) {
      findings_.LostElse(absl::StrCat("the extent of ", run.size_bytes(), " bytes at pool offset ",
                                      run.offset(), ": neither header nor record can be read"));
    }
  }

  absl::Status Rebuild() {
    TreeBuilder builder(&pool_, survey_.keyspace());
    absl::Status built = plan_.ForEach(
        [&](std::string_view key, Address record) { return builder.Add(key, record); });
    const absl::StatusOr<uint64_t> root = built.ok() ? builder.Finish() : built;
    if (absl::IsResourceExhausted(root.status())) {
      return absl::ResourceExhaustedError(absl::StrCat(
          pool_.path(), ": the new index takes about ",
          TreeBuilder::EstimateSizeBytes(plan_.most_records(), plan_.key_size_bytes()),
          " bytes, and there is no room for it: make room on the file system, or repair a larger "
          "copy; nothing was changed (",
          root.status().message(), ")"));
    }
    if (!root.ok()) return root.status();
    absl::Status status = MakeInheritedDurable();
    if (status.ok()) status = RepairHeaders();
    if (!status.ok()) return status;
    // Commits the repair.
    __atomic_store_n(&superblock_->root, *root, __ATOMIC_RELEASE);
    builder.Release();
    status = pool_.Persist(&superblock_->root, sizeof(superblock_->root));
    if (!status.ok()) return status;
    std::memset(batch_words(), 0, kBatchTableWords * sizeof(uint64_t));
    status = pool_.Persist(batch_words(), kBatchTableWords * sizeof(uint64_t));
    if (!status.ok()) return status;
    status = ForgetMaps();
    if (!status.ok()) return status;
    for (const Address address : plan_.rejected()) StampDead(address);
    return GiveBackHopeless();
  }

  // Where the index is well.
  absl::Status RepairExtents() {
    absl::Status status = MakeInheritedDurable();
    if (status.ok()) status = RepairHeaders();
    if (status.ok()) status = ForgetMaps();
    return status.ok() ? GiveBackHopeless() : status;
  }

  absl::Status MakeInheritedDurable() {
    if (pool_.was_clean()) return absl::OkStatus();
    if (pool_.media().media_class == dax::MediaClass::kPageCache) return pool_.Sync();
    std::vector<dax::Run> runs;
    for (const SurveyedExtent& extent : survey_.extents()) {
      pool_.Flush(pool_.At(extent.run.offset()), extent.run.size_bytes());
      runs.push_back(extent.run);
    }
    absl::Status drained = pool_.Drain();
    return drained.ok() ? pool_.CommitRuns(runs) : drained;
  }

  absl::Status RepairHeaders() {
    for (const SurveyedExtent& extent : survey_.extents()) {
      const dax::Run& run = extent.run;
      if (!extent.header_damaged || pool_.IsLost(run.offset(), sizeof(ExtentHeader))) continue;
      if (UseOf(run).kind == RunUse::Kind::kSlab) {
        WriteSlabHeader(pool_, run);
      } else {
        WriteLargeHeader(pool_, run, extent.layout.slot_size_bytes);
      }
      FlushHeader(pool_, run);
    }
    return pool_.Drain();
  }

  // What is in use is another thing now. 8-byte store; as in Space::Open.
  absl::Status ForgetMaps() {
    superblock_->maps_valid_since = dax::Pool::SealEpoch(pool_.open_epoch());
    return pool_.Persist(&superblock_->maps_valid_since, sizeof(superblock_->maps_valid_since));
  }

  void StampDead(Address address) {
    auto* header = reinterpret_cast<RecordHeader*>(pool_.At(address));
    header->kind_and_flags = kNoRecord;
    pool_.Flush(header, sizeof(*header));
  }

  absl::Status GiveBackHopeless() {
    absl::Status drained = pool_.Drain();
    if (!drained.ok()) return drained;
    return pool_.ReleaseRuns(survey_.hopeless());
  }

  dax::Pool& pool_;
  Superblock* const superblock_;
  RepairReport& report_;
  Findings findings_;
  Survey survey_;
  OldTree tree_;
  RepairPlan plan_;
};

absl::Status SettlePowerCut(const std::string& path, const Options& options) {
  Options existing = options;
  existing.create_if_missing = false;
  existing.error_if_exists = false;
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(path, existing);
  return store.ok() ? (*store)->Close() : store.status();
}

absl::StatusOr<RepairReport> RepairPool(const std::string& path, const Options& options) {
  dax::PoolOptions pool_options;
  pool_options.create_if_missing = false;
  pool_options.huge_pages = options.huge_pages;
  pool_options.sigbus = options.sigbus;
  absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path, pool_options);
  if (!pool.ok()) return pool.status();
  const dax::SurviveMediaErrors survive;
  absl::StatusOr<bool> has_store = HasStore(**pool);
  if (has_store.ok() && *has_store) {
    const absl::StatusOr<bool> power_cut = MetPowerCut(**pool, options.boot_id_file);
    if (!power_cut.ok()) return power_cut.status();
    if (*power_cut) {
      // Its index proves nothing: an open makes another one first.
      pool->reset();
      absl::Status settled = SettlePowerCut(path, options);
      if (!settled.ok()) return settled;
      pool = dax::Pool::Open(path, pool_options);
      if (!pool.ok()) return pool.status();
    }
  }
  const bool was_clean = (*pool)->was_clean();
  RepairReport report;
  absl::Status repaired = has_store.status();
  if (repaired.ok() && *has_store) {
    repaired = Repairer(pool->get(), &report).Run();
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

absl::StatusOr<RepairReport> Repair(const std::string& path, const Options& options) {
  return WithoutExceptions([&] { return RepairPool(path, options); });
}

}  // namespace daxkv::kv
