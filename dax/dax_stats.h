// DaxStats: everything that is counted below the keys, in one struct: `kvctl info` prints it.
#ifndef DAXKV_DAX_DAX_STATS_H_
#define DAXKV_DAX_DAX_STATS_H_

#include "absl/status/statusor.h"
#include "dax/huge_pages.h"
#include "dax/mapping.h"
#include "dax/pool.h"

namespace daxkv::dax {

struct DaxStats {
  MappingStats mapping;  // Entries, faults, waits.
  PinReport pins;
  PoolStats pool;   // Segments, runs, files.
  HugePages pages;  // What the processor maps.

  // How broken up the free pages are: 0 if they could be handed out as one run, towards 1 the
  // smaller the largest run is. 0 if there are none.
  double fragmentation() const;
};

// Walks entries, descriptors and page tables: milliseconds, and more with the pool's size. Disturbs
// nobody but allocations, which wait. Statuses of Pool::Stats and CountHugePages.
absl::StatusOr<DaxStats> CollectStats(const Pool& pool, const Mapping& mapping);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_DAX_STATS_H_
