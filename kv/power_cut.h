// The open after a power cut that met a store with process durability: what the medium has is a mix
// of pages of different times (stamps.h), in which the records alone prove anything.
//
// Not thread-safe: the pool belongs to the open.
#ifndef DAXKV_KV_POWER_CUT_H_
#define DAXKV_KV_POWER_CUT_H_

#include <cstdint>
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

// Whether the superblock's durability word says that the store has process durability. `boot_id`, if
// not null, gets the boot that the last such session belonged to.
//   kDataLoss  the word is damaged
absl::StatusOr<bool> HasProcessDurability(const Superblock& superblock, uint32_t* boot_id);
// The word.
uint64_t DurabilityWord(uint32_t boot_id);
// Whether the power failed while the store in `pool` had process durability: it was not closed, and
// this is another boot.
//   kDataLoss     the superblock's durability word is damaged
//   kUnavailable  the boot id can't be read
absl::StatusOr<bool> MetPowerCut(const dax::Pool& pool, const std::string& boot_id_file);

// What is to be recovered: one keyspace. Its index begins at *root.
struct PowerCutTarget {
  dax::Pool* pool;
  KeyspaceId keyspace;
  Space* space;
  Snapshots* snapshots;
  uint64_t* root;
};

// Builds the index anew from all records that count, stamps the others, and gives the extents of the
// old index back. The pool must have process durability meanwhile, and the space no oracle; returns
// with everything synced. A crash, or a power cut, before Superblock::durability is stored again is
// followed by another such open. Reads every byte of every record: O(store).
//   kDataLoss           the pool's run descriptors are damaged
//   kResourceExhausted  no room for the new index; nothing is lost
//   kInternal           the medium failed
absl::StatusOr<std::unique_ptr<Index>> RecoverFromPowerCut(const PowerCutTarget& target,
                                                           PowerCutReport* report);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_POWER_CUT_H_
