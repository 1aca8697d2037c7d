// The superblock: whether a pool holds a store, which format it has, and where its index begins.
//
// Not thread-safe: used while a store is opened or closed.
#ifndef DAXKV_KV_SUPERBLOCK_H_
#define DAXKV_KV_SUPERBLOCK_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/pool.h"
#include "kv/format.h"

namespace daxkv::kv {

// The superblock of `pool`, checked or not.
Superblock* SuperblockOf(const dax::Pool& pool);

// Maps saved in an epoch below this do not count; above all epochs while the word is damaged.
uint64_t MapsValidSince(const dax::Pool& pool);

// Whether `pool` holds a store: false for a new pool and for one whose creation a crash cut short.
//   kFailedPrecondition  the pool belongs to another program, or its format is newer
//   kDataLoss            a damaged superblock, also one that is blank above a pool full of runs
absl::StatusOr<bool> HasStore(const dax::Pool& pool);

// Completes the superblock after Index::Create. Commit point: the 8-byte store of the magic. A
// crash before it leaves a pool without a store; what the index had allocated is free again, as
// nothing refers to it. kInternal when the medium fails.
absl::Status CommitSuperblock(dax::Pool& pool);

// The session word (format.h).
uint64_t* SessionWordOf(const dax::Pool& pool);
// Says that this session has the store open. Durable on return. kInternal when the medium fails.
absl::Status BeginSession(dax::Pool& pool);
// Whether, since the pool's last clean close, the store may have been open: not if only repairs
// have come. False if the last close was clean.
bool WasOpenSinceCleanClose(const dax::Pool& pool);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SUPERBLOCK_H_
