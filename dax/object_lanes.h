// The lanes of a libpmemobj pool, and its heap: where it says that they are. Lanes are the logs
// from which it finishes or undoes what a crash cut short.
//
// libpmemobj 1.12 follows the links, lengths and entries of these logs before it knows whether they
// are whole, and dies or never ends on damaged ones. So their shape is checked before it sees them.
#ifndef DAXKV_DAX_OBJECT_LANES_H_
#define DAXKV_DAX_OBJECT_LANES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace daxkv::dax {

// Checks the lanes of the pool whose first file is open as `fd` and holds them (a set's other parts
// do not). Costs one read of 3 MiB.
//   kDataLoss  a log can't be right (message: pool offset)
absl::Status CheckLanes(int fd, const std::string& path);

// libpmemobj's own header of the heap, before the first zone.
inline constexpr uint64_t kHeapHeaderSizeBytes = 1024;

// Where the heap of the pool that is mapped at `base` begins: its first zone's header.
uint64_t HeapOffset(const char* base);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_OBJECT_LANES_H_
