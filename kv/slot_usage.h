// What the extents of one size class hold.
#ifndef DAXKV_KV_SLOT_USAGE_H_
#define DAXKV_KV_SLOT_USAGE_H_

#include <cstdint>

#include "kv/memory.h"

namespace daxkv::kv {

struct SlotClassUsage {
  SlotKind kind = SlotKind::kRecord;
  uint64_t slot_size_bytes = 0;  // 0: large records, each with a run of its own.
  uint64_t extents = 0;
  uint64_t size_bytes = 0;  // Of the runs.
  uint64_t slots = 0, used_slots = 0;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SLOT_USAGE_H_
