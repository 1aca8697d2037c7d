// The table of keyspaces, repaired. Internal to kv/.
//
// What it says is believed where its checksums hold. The rest is decided by the extents, whose runs
// tell whose they are: an entry of which a word is damaged is a keyspace that lives if it has
// extents, and free if it has none, as one that lives has. So a keyspace comes back that was being
// dropped when its state was damaged. One whose name is damaged gets a new one.
//
// Not thread-safe: the pool belongs to the repair.
#ifndef DAXKV_KV_REPAIR_KEYSPACES_H_
#define DAXKV_KV_REPAIR_KEYSPACES_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "dax/pool.h"

namespace daxkv::kv {

struct TableFindings {
  std::function<void(std::string)> rebuilt, lost;  // A line for each.
};

// Has the superblock lead to the table, if there is one, and to nothing otherwise; makes the
// table's header and its damaged entries whole. Durable with the caller's next drain. A crash
// before that: repair it again.
//   kDataLoss  there are several tables, or the pool's run descriptors are damaged
absl::Status RepairKeyspaceTable(dax::Pool& pool, const TableFindings& findings);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_REPAIR_KEYSPACES_H_
