// What repairs leave that a crash cut short: new indexes, in runs of their own, that no root leads
// to. Taken for a part of the store, their nodes would be evidence against those that are. Internal
// to kv/.
//
// A repair's runs are known by their headers (format.h, map epoch) until the store is open again.
#ifndef DAXKV_KV_CUT_REPAIR_H_
#define DAXKV_KV_CUT_REPAIR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "dax/pool.h"

namespace daxkv::kv {

// Whether the index at `root` (a word as Superblock::root, which may be damaged) was made by a
// repair since the store was open. Saved maps are of the index before it, then.
bool IsIndexOfRepair(const dax::Pool& pool, uint64_t root);

// Gives such runs back, but for those of indexes that roots of live keyspaces lead to. To be called
// before BeginSession. Reads one word, unless a repair has come since the store was open and was
// not finished: then all headers, O(extents). A crash meanwhile: it is done again.
//   kDataLoss  run descriptors or the table of keyspaces are damaged; some may be left
//   kInternal  the medium failed
absl::Status ReleaseCutRepairs(dax::Pool& pool);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_CUT_REPAIR_H_
