// The table of keyspaces, repaired. Internal to kv/.
//
// Not thread-safe: the pool belongs to the repair.
#ifndef DAXKV_KV_REPAIR_KEYSPACES_H_
#define DAXKV_KV_REPAIR_KEYSPACES_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "dax/pool.h"

namespace daxkv::kv {

// Has the superblock lead to the table of keyspaces, if there is one, and to nothing otherwise.
// `rebuilt` gets a line if that was not so. One 8-byte store.
//   kDataLoss  there are several tables, or the pool's run descriptors are damaged
//   kInternal  the medium failed
absl::Status RepairTableWord(dax::Pool& pool, const std::function<void(std::string)>& rebuilt);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_REPAIR_KEYSPACES_H_
