// The open after a power cut that met a store with process durability: what the medium has is a mix
// of pages of different times (stamps.h), in which the records alone prove anything.
//
// Not thread-safe: the pool belongs to the open.
#ifndef DAXKV_KV_POWER_CUT_H_
#define DAXKV_KV_POWER_CUT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/index.h"
#include "kv/power_cut_report.h"
#include "kv/space.h"

namespace daxkv::kv {

// Whether the superblock's durability word says that the store has process durability. `boot_id`,
// if not null, gets the boot that the last such session belonged to.
//   kDataLoss  the word is damaged
absl::StatusOr<bool> HasProcessDurability(const Superblock& superblock, uint32_t* boot_id);
// The word.
uint64_t DurabilityWord(uint32_t boot_id);
// Whether the power failed while the store in `pool` was open with process durability: it was not
// closed, and this is another boot.
//   kDataLoss     the superblock's durability word is damaged
//   kUnavailable  the boot id can't be read
absl::StatusOr<bool> MetPowerCut(const dax::Pool& pool, const std::string& boot_id_file);

// Builds the indexes anew, one keyspace after the other, from all records that count; stamps the
// other records, and gives the extents of the old indexes back. Begin; Recover for each keyspace;
// Finish. The pool must have process durability meanwhile. A crash, or a power cut, before
// Superblock::durability is stored again is followed by another such open. Reads every byte of
// every record: O(store). Statuses of all:
//   kDataLoss           the pool's run descriptors are damaged
//   kResourceExhausted  no room for the new index; nothing is lost
//   kInternal           the medium failed
class PowerCutRecovery {
 public:
  // Where the index of each keyspace begins: of all that are live. Extents of others are left
  // alone.
  using Roots = std::map<KeyspaceId, uint64_t*>;

  PowerCutRecovery(dax::Pool* pool, Snapshots* snapshots, Roots roots);
  ~PowerCutRecovery();

  // Finds out which batches count, in all keyspaces, and drops all old indexes.
  absl::Status Begin();
  // `space`, the keyspace's, has no oracle.
  absl::StatusOr<std::unique_ptr<Index>> Recover(KeyspaceId keyspace, Space* space);
  // Returns with everything synced.
  absl::StatusOr<PowerCutReport> Finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_POWER_CUT_H_
