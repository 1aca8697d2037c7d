#include "benchmarks/ycsb/record.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace daxkv::ycsb {
namespace {

TEST(RecordTest, FieldsSurviveEncoding) {
  const std::vector<std::string_view> fields = {"one", "", std::string_view("t\0o", 3), "four"};
  std::string record = "old bytes that must go";
  EncodeRecord(fields, &record);
  EXPECT_EQ(record.size(), 4 * kFieldLengthSizeBytes + 10);
  EXPECT_EQ(record.substr(0, 8), std::string("\3\0\0\0\0\0\0\0", 8));
  std::vector<std::string_view> decoded(4);
  ASSERT_TRUE(DecodeRecord(record, &decoded).ok());
  EXPECT_EQ(decoded, fields);
}

TEST(RecordTest, WhatIsNoRecordIsDataLoss) {
  std::string record;
  EncodeRecord({"one", "two"}, &record);
  std::vector<std::string_view> two(2), three(3);
  EXPECT_EQ(DecodeRecord(record, &three).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(DecodeRecord(record + "x", &two).code(), absl::StatusCode::kDataLoss);
  for (size_t size = 0; size < record.size(); ++size) {
    EXPECT_EQ(DecodeRecord(std::string_view(record).substr(0, size), &two).code(),
              absl::StatusCode::kDataLoss)
        << size;
  }
  record[0] = record[1] = record[2] = record[3] = '\xff';
  EXPECT_EQ(DecodeRecord(record, &two).code(), absl::StatusCode::kDataLoss);
}

TEST(RecordTest, DeterministicValuesAreYcsbs) {
  // "a:b:" hashes, as Java's String.hashCode does, to ((97 * 31 + 58) * 31 + 98) * 31 + 58
  // = 2948561.
  std::string value;
  DeterministicValue("a", "b", 11, &value);
  EXPECT_EQ(value, "a:b:2948561");
  DeterministicValue("a", "b", 6, &value);
  EXPECT_EQ(value, "a:b:29");
  DeterministicValue("a", "b", 2, &value);
  EXPECT_EQ(value, "a:");
  DeterministicValue("user1", "field0", 0, &value);
  EXPECT_EQ(value, "");
  // The second round hashes all of the first, and its colon.
  DeterministicValue("a", "b", 100, &value);
  uint32_t hash = 0;
  for (char c : std::string("a:b:2948561:")) hash = hash * 31 + static_cast<unsigned char>(c);
  const std::string second = "a:b:2948561:" + std::to_string(static_cast<int32_t>(hash));
  EXPECT_EQ(value.substr(0, second.size()), second);
  EXPECT_EQ(value.size(), 100u);
}

TEST(RandomBytesTest, ArePrintableAndDiffer) {
  const RandomBytes bytes(1, 1000);
  Random random(2);
  const std::string first(bytes.Take(1000, &random)), second(bytes.Take(1000, &random));
  EXPECT_NE(first, second);
  for (char c : first) {
    EXPECT_GE(c, ' ');
    EXPECT_LE(c, '_');
  }
}

}  // namespace
}  // namespace daxkv::ycsb
