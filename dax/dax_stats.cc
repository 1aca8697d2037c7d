#include "dax/dax_stats.h"

#include <algorithm>

namespace daxkv::dax {

double DaxStats::fragmentation() const {
  const uint64_t could_be = std::min(pool.free_pages, kMaxRunPages);
  if (could_be == 0) return 0;
  return 1 - static_cast<double>(pool.largest_free_run_pages) / static_cast<double>(could_be);
}

absl::StatusOr<DaxStats> CollectStats(const Pool& pool, const Mapping& mapping) {
  DaxStats stats;
  stats.mapping = mapping.stats();
  stats.pins = mapping.ReportPins();
  absl::StatusOr<PoolStats> pool_stats = pool.Stats();
  if (!pool_stats.ok()) return pool_stats.status();
  stats.pool = *pool_stats;
  absl::StatusOr<HugePages> pages = CountHugePages(pool.At(0), pool_stats->file_size_bytes);
  if (!pages.ok()) return pages.status();
  stats.pages = *pages;
  stats.pages.counted = pool.media().file_system != "devdax" &&
                        (pool.media().media_class != MediaClass::kDax || pool.media().forced);
  return stats;
}

}  // namespace daxkv::dax
