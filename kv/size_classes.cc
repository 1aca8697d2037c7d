#include "kv/size_classes.h"

#include <algorithm>

#include "dax/pool.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kStepBytes = 8;
// A linear class is its slot size in steps, less this.
constexpr uint16_t kLinearBias = kMinRecordSlotSizeBytes / kStepBytes - kFirstRecordClass;
constexpr uint64_t kLinearLimitBytes = 256;
constexpr unsigned kLinearLimitShift = 8;
constexpr unsigned kSizesPerDoublingShift = 5;
constexpr unsigned kSizesPerDoubling = 1 << kSizesPerDoublingShift;
constexpr uint16_t kFirstGeometricClass = kLinearLimitBytes / kStepBytes + 1 - kLinearBias;
constexpr uint64_t kSmallRunPages = 16;
constexpr uint32_t kMinSlotsPerExtent = 8;

constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

uint64_t FirstSlotOffset(uint64_t slot_count, uint64_t alignment) {
  return RoundUp(sizeof(ExtentHeader) + RoundUp(slot_count, 64) / 8, alignment);
}

}  // namespace

uint16_t RecordClass(uint64_t size_bytes) {
  size_bytes = std::max(size_bytes, kMinRecordSlotSizeBytes);
  if (size_bytes <= kLinearLimitBytes) {
    return static_cast<uint16_t>((size_bytes + kStepBytes - 1) / kStepBytes - kLinearBias);
  }
  const uint64_t last_byte = size_bytes - 1;
  const unsigned doubling = 63 - static_cast<unsigned>(__builtin_clzll(last_byte));
  const uint64_t step = (last_byte >> (doubling - kSizesPerDoublingShift)) % kSizesPerDoubling;
  return static_cast<uint16_t>(kFirstGeometricClass +
                               (doubling - kLinearLimitShift) * kSizesPerDoubling + step);
}

uint16_t FenceClass(uint64_t size_bytes) {
  const uint16_t record_class = RecordClass(size_bytes);
  if (size_bytes > kMaxFenceSlotSizeBytes) return record_class;
  return static_cast<uint16_t>(record_class - kFirstRecordClass + kFirstFenceClass);
}

uint32_t SlotSizeBytes(uint16_t size_class) {
  if (size_class >= kFirstFenceClass) {
    size_class = static_cast<uint16_t>(size_class - kFirstFenceClass + kFirstRecordClass);
  }
  if (size_class == kLeafClass) return kLeafSizeBytes;
  if (size_class == kInnerClass) return kInnerSizeBytes;
  if (size_class < kFirstGeometricClass) return (size_class + kLinearBias) * kStepBytes;
  const unsigned step = size_class - kFirstGeometricClass;
  const unsigned unit_shift = kLinearLimitShift - kSizesPerDoublingShift + step / kSizesPerDoubling;
  return (kSizesPerDoubling + step % kSizesPerDoubling + 1) << unit_shift;
}

SlotKind SlotKindOf(uint16_t size_class) {
  if (size_class == kLeafClass) return SlotKind::kLeaf;
  if (size_class == kInnerClass) return SlotKind::kInner;
  return size_class < kFirstFenceClass ? SlotKind::kRecord : SlotKind::kFence;
}

uint64_t SmallRunPages(uint16_t size_class) {
  uint64_t pages = kSmallRunPages;
  while (SlabLayout(size_class, pages).slot_count < kMinSlotsPerExtent) pages *= 2;
  return pages;
}

SlotLayout SlabLayout(uint16_t size_class, uint64_t pages) {
  SlotLayout layout;
  layout.size_class = size_class;
  layout.slot_size_bytes = SlotSizeBytes(size_class);
  // Nodes are aligned to their size; records to the largest power of two, up to a cache line, that
  // divides their slot size.
  const uint64_t alignment =
      size_class < kFirstRecordClass
          ? layout.slot_size_bytes
          : std::min<uint64_t>(64, layout.slot_size_bytes & (~layout.slot_size_bytes + 1));
  const uint64_t run_size_bytes = pages << dax::kPageShift;
  // Each slot costs its bytes and a bit; rounding may then cost a few slots more.
  uint64_t count =
      (run_size_bytes - sizeof(ExtentHeader)) * 8 / (uint64_t{layout.slot_size_bytes} * 8 + 1);
  while (FirstSlotOffset(count, alignment) + count * layout.slot_size_bytes > run_size_bytes) {
    --count;
  }
  layout.slot_count = static_cast<uint32_t>(count);
  layout.first_slot_offset = static_cast<uint32_t>(FirstSlotOffset(count, alignment));
  return layout;
}

}  // namespace daxkv::kv
