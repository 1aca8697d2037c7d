// Size classes: which slot sizes there are, and how slots lie in an extent.
//
//   class 0            leaves
//   class 1            inner nodes
//   class 2..30        records, 32..256 bytes in steps of 8
//   class 31..254      records, 264 bytes..32 KiB: thirty-two sizes to each doubling
//   class 255..315     fences, 32..512 bytes in steps of 8
//
// So a slot above 256 bytes is at most 1/32 larger than its record needs, and every slot is
// 8-byte aligned (64-byte from 2 KiB on). Fences are never moved: kept by themselves, they do not
// keep extents of records from becoming empty. (One above 512 bytes lies among the records.) The
// numbers are part of the format (RunKind).
#ifndef DAXKV_KV_SIZE_CLASSES_H_
#define DAXKV_KV_SIZE_CLASSES_H_

#include <cstdint>

#include "kv/format.h"
#include "kv/memory.h"

namespace daxkv::kv {

inline constexpr uint64_t kMaxSlabSlotSizeBytes = 32 << 10;
inline constexpr uint64_t kMinRecordSlotSizeBytes = 32;

inline constexpr uint16_t kLeafClass = 0;
inline constexpr uint16_t kInnerClass = 1;
inline constexpr uint16_t kFirstRecordClass = 2;
inline constexpr uint16_t kFirstFenceClass = 255;
inline constexpr uint16_t kSizeClasses = 316;
inline constexpr uint64_t kMaxFenceSlotSizeBytes = 512;
// Stands for large extents where a class is asked for. Never on the medium.
inline constexpr uint16_t kLargeClass = kSizeClasses;

// How slots lie in an extent.
struct SlotLayout {
  uint16_t size_class = 0;
  uint32_t slot_size_bytes = 0;
  uint32_t slot_count = 0;
  uint32_t first_slot_offset = 0;
};

// The smallest class whose slots hold `size_bytes`, at most kMaxSlabSlotSizeBytes.
uint16_t RecordClass(uint64_t size_bytes);

// The same for a fence. Above kMaxFenceSlotSizeBytes it is a record's.
uint16_t FenceClass(uint64_t size_bytes);

// Bytes of a slot of a class below kSizeClasses.
uint32_t SlotSizeBytes(uint16_t size_class);

// What lies in the slots of a class; large extents hold records.
SlotKind SlotKindOf(uint16_t size_class);

// Pages of the runs that a class starts with: 64 KiB, or more if that is needed for 8 slots.
uint64_t SmallRunPages(uint16_t size_class);

// The slots of a slab extent of `pages` pages: as many as fit behind header and map.
SlotLayout SlabLayout(uint16_t size_class, uint64_t pages);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SIZE_CLASSES_H_
