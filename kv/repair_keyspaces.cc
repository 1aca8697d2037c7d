#include "kv/repair_keyspaces.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/keyspace_table.h"
#include "kv/superblock.h"

namespace daxkv::kv {

absl::Status RepairTableWord(dax::Pool& pool, const std::function<void(std::string)>& rebuilt) {
  uint64_t& word = SuperblockOf(pool)->keyspaces;
  std::vector<Address> tables;
  absl::Status walked = pool.ForEachRun([&](const dax::Run& run) {
    if (run.kind == kKeyspaceTableRun) tables.push_back(run.offset());
    return absl::OkStatus();
  });
  if (!walked.ok()) return walked;
  if (tables.size() > 1) {
    return absl::DataLossError(absl::StrCat("there are ", tables.size(), " tables of keyspaces"));
  }
  // A word that leads to where no table lies is what a crash leaves that cuts its creation short.
  const bool well = tables.empty() ? word == KeyspaceTable::SealOffset(word & kAddressMask)
                                   : word == KeyspaceTable::SealOffset(tables.front());
  if (well || (tables.empty() && word == 0)) return absl::OkStatus();
  rebuilt("superblock: the word that names the table of keyspaces is damaged");
  const uint64_t repaired = tables.empty() ? 0 : KeyspaceTable::SealOffset(tables.front());
  __atomic_store_n(&word, repaired, __ATOMIC_RELEASE);
  return pool.Persist(&word, sizeof(word));
}

}  // namespace daxkv::kv
