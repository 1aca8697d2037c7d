#include "kv/cut_repair.h"

#include <map>
#include <optional>
#include <vector>

#include "kv/extent_header.h"
#include "kv/format.h"
#include "kv/keyspace_table.h"
#include "kv/superblock.h"

namespace daxkv::kv {
namespace {

std::optional<uint64_t> LastSession(const dax::Pool& pool) {
  return dax::Pool::UnsealEpoch(*SessionWordOf(pool));
}

// Of the repair that has made the run since then; 0: none has.
uint64_t EpochOfRepair(const dax::Pool& pool, const dax::Run& run, uint64_t last_session) {
  if (UseOf(run).kind != RunUse::Kind::kSlab || pool.IsLost(run.offset(), sizeof(ExtentHeader)) ||
      !CheckExtent(pool, run).ok()) {
    return 0;
  }
  const uint64_t epoch = EpochWithoutMap(pool, run.offset());
  return epoch > last_session && epoch <= pool.open_epoch() ? epoch : 0;
}

uint64_t EpochOfIndex(const dax::Pool& pool, uint64_t root, uint64_t last_session) {
  const absl::StatusOr<dax::Run> run = pool.FindRun((root & kAddressMask) >> dax::kPageShift);
  return run.ok() ? EpochOfRepair(pool, *run, last_session) : 0;
}

}  // namespace

bool IsIndexOfRepair(const dax::Pool& pool, uint64_t root) {
  const std::optional<uint64_t> session = LastSession(pool);
  return session.has_value() && EpochOfIndex(pool, root, *session) != 0;
}

absl::Status ReleaseCutRepairs(dax::Pool& pool) {
  const std::optional<uint64_t> session = LastSession(pool);
  if (pool.was_clean() || !session.has_value() || *session + 1 >= pool.open_epoch()) {
    return absl::OkStatus();
  }
  KeyspaceTable table(&pool);
  absl::Status status = table.Load();
  if (!status.ok()) return status;
  // Of one whose entry is damaged it can't be told.
  std::map<KeyspaceId, uint64_t> epochs = {
      {kDefaultKeyspace, EpochOfIndex(pool, SuperblockOf(pool)->root, *session)}};
  for (const auto& [name, id] : table.live()) {
    epochs[id] = EpochOfIndex(pool, *table.RootOf(id), *session);
  }
  std::vector<dax::Run> cut;
  status = pool.ForEachRun([&](const dax::Run& run) {
    const uint64_t epoch = EpochOfRepair(pool, run, *session);
    const auto keyspace = epochs.find(UseOf(run).keyspace);
    if (epoch != 0 && keyspace != epochs.end() && epoch != keyspace->second) cut.push_back(run);
    return absl::OkStatus();
  });
  return status.ok() ? pool.ReleaseRuns(cut) : status;
}

}  // namespace daxkv::kv
