#include "kv/repair_keyspaces.h"

#include <cstring>
#include <optional>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/extent_header.h"
#include "kv/keyspace_table.h"
#include "kv/superblock.h"

namespace daxkv::kv {
namespace {

class TableRepair {
 public:
  TableRepair(dax::Pool* pool, const TableFindings& findings) : pool_(*pool), findings_(findings) {}

  absl::Status Run() {
    absl::Status status = FindRuns();
    if (!status.ok()) return status;
    RepairWord();
    if (tables_.empty()) return status;
    table_ = tables_.front();
    RepairHeader();
    FindNames();
    for (KeyspaceId id = 1; id < kKeyspaceEntries; ++id) RepairEntry(id);
    // All of it: what is right now may have been stored by a repair that died. Waited for by
    // KeyspaceTable::Load after a crash, else by the close.
    pool_.Flush(pool_.At(table_.offset()), kKeyspaceTableSizeBytes);
    return absl::OkStatus();
  }

 private:
  absl::Status FindRuns() {
    absl::Status walked = pool_.ForEachRun([&](const dax::Run& run) {
      const RunUse use = UseOf(run);
      if (use.is_extent()) with_extents_.insert(use.keyspace);
      if (use.kind != RunUse::Kind::kKeyspaceTable) return absl::OkStatus();
      tables_.push_back(run);
      if (run.size_bytes() == kKeyspaceTableSizeBytes) return absl::OkStatus();
      return absl::DataLossError(absl::StrCat("the run at pool offset ", run.offset(), " has ",
                                              run.size_bytes(),
                                              " bytes, which is no table of keyspaces"));
    });
    if (!walked.ok() || tables_.size() <= 1) return walked;
    return absl::DataLossError(absl::StrCat("there are ", tables_.size(), " tables of keyspaces"));
  }

  // One 8-byte store. A word that leads to where no table lies is what a crash leaves that cuts its
  // creation short.
  void RepairWord() {
    uint64_t& word = SuperblockOf(pool_)->keyspaces;
    const Address wanted = tables_.empty() ? word & kAddressMask : tables_.front().offset();
    if (word == KeyspaceTable::SealOffset(wanted) || (tables_.empty() && word == 0)) return;
    findings_.rebuilt("superblock: the word that names the table of keyspaces is damaged");
    const uint64_t repaired = tables_.empty() ? 0 : KeyspaceTable::SealOffset(wanted);
    __atomic_store_n(&word, repaired, __ATOMIC_RELEASE);
    pool_.Flush(&word, sizeof(word));
  }

  void RepairHeader() {
    const KeyspaceTableHeader wanted = KeyspaceTable::MakeHeader(table_.offset());
    char* const header = pool_.At(table_.offset());
    if (std::memcmp(header, &wanted, offsetof(KeyspaceTableHeader, reserved)) != 0) {
      findings_.rebuilt(absl::StrCat("table of keyspaces at pool offset ", table_.offset(),
                                     ": its header is damaged"));
      std::memcpy(header, &wanted, sizeof(wanted));
    }
  }

  KeyspaceEntry& EntryOf(KeyspaceId id) const {
    return reinterpret_cast<KeyspaceEntry*>(pool_.At(table_.offset()))[id];
  }

  // Those that a keyspace whose name is lost can't get.
  void FindNames() {
    for (KeyspaceId id = 1; id < kKeyspaceEntries; ++id) {
      const KeyspaceEntry& entry = EntryOf(id);
      if (KeyspaceTable::HasName(id, entry)) {
        readable_names_.emplace(entry.name, entry.name_size_bytes);
      }
    }
  }

  void RepairEntry(KeyspaceId id) {
    KeyspaceEntry& entry = EntryOf(id);
    std::optional<KeyspaceState> state = KeyspaceTable::UnsealState(id, entry);
    // Of one that does not live, nobody reads the name.
    if (state.has_value() && *state != KeyspaceState::kLive) return;
    const std::string where =
        absl::StrCat("table of keyspaces: entry ", id, " at pool offset ", pool_.OffsetOf(&entry));
    if (!state.has_value()) {
      state = with_extents_.count(id) != 0 ? KeyspaceState::kLive : KeyspaceState::kFree;
      findings_.rebuilt(absl::StrCat(
          where, ": its state is damaged; it has ",
          *state == KeyspaceState::kLive ? "extents: it lives" : "no extent: it is free"));
    }
    // Either may be durable first: another repair looks at both again.
    if (*state == KeyspaceState::kLive) GiveName(id, where, &entry);
    __atomic_store_n(&entry.state, KeyspaceTable::SealState(id, *state), __ATOMIC_RELEASE);
  }

  void GiveName(KeyspaceId id, const std::string& where, KeyspaceEntry* entry) {
    if (KeyspaceTable::HasName(id, *entry) &&
        names_.insert(std::string(entry->name, entry->name_size_bytes)).second) {
      return;
    }
    std::string name = absl::StrCat("name lost ", id);
    while (readable_names_.count(name) != 0 || !names_.insert(name).second) name += "'";
    findings_.lost(absl::StrCat(where, ": its name is lost; it is \"", name, "\" now"));
    findings_.rebuilt(absl::StrCat(where, ": its name is damaged"));
    KeyspaceTable::SetName(id, name, entry);
  }

  dax::Pool& pool_;
  const TableFindings& findings_;
  std::vector<dax::Run> tables_;
  std::set<KeyspaceId> with_extents_;
  std::set<std::string> readable_names_;  // Also of entries that are free.
  std::set<std::string> names_;           // Of those that are repaired.
  dax::Run table_;
};

}  // namespace

absl::Status RepairKeyspaceTable(dax::Pool& pool, const TableFindings& findings) {
  return TableRepair(&pool, findings).Run();
}

}  // namespace daxkv::kv
