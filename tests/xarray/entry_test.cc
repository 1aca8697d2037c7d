#include "xarray/entry.h"

#include <gtest/gtest.h>

namespace daxkv::xarray {
namespace {

TEST(EntryTest, NullIsNothingElse) {
  const Entry null;
  EXPECT_TRUE(null.is_null());
  EXPECT_FALSE(null);
  EXPECT_FALSE(null.is_value());
  EXPECT_FALSE(null.is_pointer());
  EXPECT_FALSE(null.is_internal());
  EXPECT_EQ(Entry::Pointer(nullptr), null);
}

TEST(EntryTest, ValuesKeepSixtyThreeBits) {
  for (uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 62, Entry::kMaxValue}) {
    const Entry entry = Entry::Value(value);
    EXPECT_TRUE(entry);
    EXPECT_TRUE(entry.is_value());
    EXPECT_FALSE(entry.is_pointer());
    EXPECT_FALSE(entry.is_internal());
    EXPECT_EQ(entry.value(), value);
    EXPECT_EQ(Entry::FromRaw(entry.raw()), entry);
  }
}

TEST(EntryTest, PointersOfEveryAlignmentFromFour) {
  alignas(64) static int words[16];
  for (int& word : words) {
    const Entry entry = Entry::Pointer(&word);
    EXPECT_TRUE(entry.is_pointer());
    EXPECT_FALSE(entry.is_value());
    EXPECT_FALSE(entry.is_internal());
    EXPECT_EQ(entry.pointer<int>(), &word);
  }
}

TEST(EntryTest, SiblingsOfEveryTieAreDistinctFromRetryAndNodes) {
  for (unsigned first = 0; first < 64; ++first) {
    for (unsigned slots = 2; slots <= 64; ++slots) {
      const Entry entry = Entry::Sibling(first, slots);
      ASSERT_TRUE(entry.is_internal());
      ASSERT_TRUE(entry.is_sibling());
      ASSERT_FALSE(entry.is_node());
      ASSERT_FALSE(entry.is_retry());
      ASSERT_FALSE(entry.is_value());
      ASSERT_FALSE(entry.is_pointer());
      ASSERT_EQ(entry.sibling_first(), first);
      ASSERT_EQ(entry.sibling_slots(), slots);
    }
  }
}

TEST(EntryTest, RetryAndNodes) {
  EXPECT_TRUE(Entry::Retry().is_internal());
  EXPECT_TRUE(Entry::Retry().is_retry());
  EXPECT_FALSE(Entry::Retry().is_sibling());
  EXPECT_FALSE(Entry::Retry().is_node());
  alignas(8) static char place[8];
  const Entry node = Entry::Node(place);
  EXPECT_TRUE(node.is_internal());
  EXPECT_TRUE(node.is_node());
  EXPECT_FALSE(node.is_sibling());
  EXPECT_FALSE(node.is_retry());
  EXPECT_EQ(node.node<char>(), place);
}

}  // namespace
}  // namespace daxkv::xarray
