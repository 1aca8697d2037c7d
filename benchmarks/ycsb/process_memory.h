// What memory this process holds, by what lies under it: the kernel's own figures.
#ifndef DAXKV_BENCHMARKS_YCSB_PROCESS_MEMORY_H_
#define DAXKV_BENCHMARKS_YCSB_PROCESS_MEMORY_H_

#include <vector>

#include "benchmarks/ycsb/report.h"

namespace daxkv::ycsb {

// The [PROCESS] lines, resident bytes each:
//   RssAnon(bytes)   the heap, stacks and caches: DRAM besides the store's mapping
//   RssShmem(bytes)  mapped pages of tmpfs, where a mapped store's own bytes lie
//   RssFile(bytes)   mapped pages of other files
// The driver's own part of RssAnon is what the engine `null` shows. Empty where /proc is missing.
std::vector<ReportLine> ProcessMemoryLines();

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_PROCESS_MEMORY_H_
