#include "kv/size_classes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "dax/pool.h"

namespace daxkv::kv {
namespace {

TEST(SizeClassesTest, EachSizeGetsTheSmallestSlotThatHoldsIt) {
  for (uint64_t size_bytes = 24; size_bytes <= kMaxSlabSlotSizeBytes; ++size_bytes) {
    const uint16_t size_class = RecordClass(size_bytes);
    ASSERT_GE(size_class, kFirstRecordClass);
    ASSERT_LT(size_class, kFirstFenceClass);
    ASSERT_GE(SlotSizeBytes(size_class), size_bytes);
    if (size_class > kFirstRecordClass) {
      ASSERT_LT(SlotSizeBytes(size_class - 1), size_bytes);
    }
  }
  EXPECT_EQ(SlotSizeBytes(kFirstFenceClass - 1), kMaxSlabSlotSizeBytes);
}

TEST(SizeClassesTest, FencesHaveClassesOfTheirOwn) {
  for (uint64_t size_bytes = 24; size_bytes <= kMaxFenceSlotSizeBytes; ++size_bytes) {
    const uint16_t size_class = FenceClass(size_bytes);
    ASSERT_GE(size_class, kFirstFenceClass);
    ASSERT_LT(size_class, kSizeClasses);
    ASSERT_EQ(SlotKindOf(size_class), SlotKind::kFence);
    ASSERT_EQ(SlotSizeBytes(size_class), SlotSizeBytes(RecordClass(size_bytes)));
  }
  EXPECT_EQ(FenceClass(kMaxFenceSlotSizeBytes), kSizeClasses - 1);
  EXPECT_EQ(FenceClass(kMaxFenceSlotSizeBytes + 1), RecordClass(kMaxFenceSlotSizeBytes + 1));
}

TEST(SizeClassesTest, SlotsWasteAtMostOneThirtySecond) {
  for (uint16_t size_class = kFirstRecordClass; size_class < kFirstFenceClass; ++size_class) {
    const uint64_t slot = SlotSizeBytes(size_class);
    EXPECT_EQ(slot % kRecordAlignment, 0u);
    if (slot >= 2048) {
      EXPECT_EQ(slot % 64, 0u);
    }
    if (size_class > kFirstRecordClass) {
      const uint64_t smallest = SlotSizeBytes(size_class - 1) + 1;
      EXPECT_LE(slot - smallest, std::max<uint64_t>(7, slot / 32)) << slot;
    }
  }
}

TEST(SizeClassesTest, LayoutsFitAndWasteLittle) {
  for (uint16_t size_class = 0; size_class < kSizeClasses; ++size_class) {
    const uint64_t small_pages = SmallRunPages(size_class);
    EXPECT_GE(small_pages, 16u);
    EXPECT_EQ(small_pages & (small_pages - 1), 0u);
    for (uint64_t pages = small_pages; pages <= dax::kHugePages; pages *= 2) {
      const SlotLayout layout = SlabLayout(size_class, pages);
      const uint64_t run_size_bytes = pages * dax::kPageSizeBytes;
      const uint64_t end =
          layout.first_slot_offset + uint64_t{layout.slot_count} * layout.slot_size_bytes;
      EXPECT_GE(layout.slot_count, 8u);
      EXPECT_LE(end, run_size_bytes);
      EXPECT_GE(layout.first_slot_offset, sizeof(ExtentHeader) + (layout.slot_count + 63) / 64 * 8);
      // Space::PresentUntil tells large records by their place: no slot may lie there.
      EXPECT_GT(layout.first_slot_offset, kLargeRecordOffset);
      // Room for two more slots and their bits would be a slot forgotten.
      EXPECT_LT(run_size_bytes - end, 2 * layout.slot_size_bytes + 64);
      if (size_class <= kInnerClass) {
        EXPECT_EQ(layout.first_slot_offset % layout.slot_size_bytes, 0u);
      }
      EXPECT_EQ(layout.first_slot_offset % kRecordAlignment, 0u);
    }
  }
}

TEST(SizeClassesTest, NodesHaveClassesOfTheirOwn) {
  EXPECT_EQ(SlotSizeBytes(kLeafClass), kLeafSizeBytes);
  EXPECT_EQ(SlotSizeBytes(kInnerClass), kInnerSizeBytes);
  EXPECT_EQ(SlotKindOf(kLeafClass), SlotKind::kLeaf);
  EXPECT_EQ(SlotKindOf(kInnerClass), SlotKind::kInner);
  EXPECT_EQ(SlotKindOf(RecordClass(kLeafSizeBytes)), SlotKind::kRecord);
}

}  // namespace
}  // namespace daxkv::kv
