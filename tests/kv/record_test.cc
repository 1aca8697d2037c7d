// Records: checksums, tags, and reading back what can't be trusted.
#include "kv/record.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <string>

#include "tests/kv/arena_memory.h"

namespace daxkv::kv {
namespace {

// Castagnoli's polynomial, reflected, a bit at a time.
uint32_t BitwiseCrc32c(uint32_t seed, std::string_view bytes) {
  uint32_t state = ~seed;
  for (const char byte : bytes) {
    state ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) state = state >> 1 ^ (state & 1 ? 0x82f63b78u : 0);
  }
  return ~state;
}

TEST(RecordTest, Crc32cIsTheSameByEachOfItsWays) {
  std::string bytes(3000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i * 31 + i);
  for (size_t size = 0; size < 1100; ++size) {
    const std::string_view part = std::string_view(bytes).substr(size % 67, size);
    EXPECT_EQ(Crc32c(7, part.data(), part.size()), BitwiseCrc32c(7, part)) << size << " bytes";
  }
  EXPECT_EQ(Crc32c(0, bytes.data(), bytes.size()), BitwiseCrc32c(0, bytes));
}

TEST(RecordTest, Crc32cHasThePublishedValues) {
  // From the iSCSI standard's appendix (RFC 3720, B.4), and the usual check value.
  EXPECT_EQ(Crc32c(0, "123456789", 9), 0xe3069283u);
  EXPECT_EQ(Crc32c(0, std::string(32, '\0').data(), 32), 0x8a9136aau);
  EXPECT_EQ(Crc32c(0, std::string(32, '\xff').data(), 32), 0x62a8ab43u);
  EXPECT_EQ(Crc32c(Crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
  EXPECT_EQ(Crc32c(7, nullptr, 0), 7u);
}

TEST(RecordTest, TagsArePartOfTheFormat) {
  // XXH3-64 of no bytes with seed 0 is 2d06800538d394c2.
  EXPECT_EQ(KeyTag(std::string_view()), 0x94c2);
  EXPECT_EQ(KeyTag("planet"), KeyTag(std::string("planet")));
  EXPECT_NE(KeyTag("planet"), KeyTag("planes"));
}

class RecordPlaceTest : public ::testing::Test {
 protected:
  RecordPlaceTest() : memory_(4 << 20) {}
  Address Write(std::string_view key, std::string_view value) {
    const Address address =
        *memory_.Allocate(SlotKind::kRecord, RecordSizeBytes(key.size(), value.size()));
    WriteRecord(memory_, address, kValueRecord, 42, key, value);
    return address;
  }
  absl::StatusOr<RecordView> View(Address address) {
    rcu::ReadGuard guard;
    return ViewRecord(memory_, address);
  }
  ArenaMemory memory_;
};

TEST_F(RecordPlaceTest, ReadsBackAllSizes) {
  for (const size_t key_size : {1, 7, 8, 255, 1024}) {
    for (const size_t value_size : {0, 1, 256, 257, 5000, 200000}) {
      const std::string key(key_size, 'k'), value(value_size, 'v');
      const Address address = Write(key, value);
      ASSERT_TRUE(memory_.Drain().ok());
      std::unique_ptr<ArenaMemory> durable = memory_.CrashImage(0, 0);
      {
        rcu::ReadGuard guard;
        EXPECT_TRUE(absl::IsUnavailable(ViewRecord(*durable, address).status()));
      }
      ASSERT_TRUE(durable->FaultIn(address).ok());
      rcu::ReadGuard guard;
      absl::StatusOr<RecordView> record = ViewRecord(*durable, address);
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_EQ(record->address, address);
      EXPECT_EQ(record->sequence, 42u);
      EXPECT_EQ(record->kind, kValueRecord);
      EXPECT_EQ(record->key, key);
      EXPECT_EQ(record->value, value);
      EXPECT_TRUE(VerifyRecord(*durable, *record).ok());
    }
  }
}

TEST_F(RecordPlaceTest, EveryTurnedBitIsFound) {
  const Address address = Write("some key", "some value");
  const uint64_t size_bytes = RecordSizeBytes(8, 10);
  for (uint64_t bit = 0; bit < size_bytes * 8; ++bit) {
    // It only matters after a power cut, and comes while readers may be there.
    if (bit == offsetof(RecordHeader, kind_and_flags) * 8 + 7) continue;
    char& byte = *memory_.At(address + bit / 8);
    byte = static_cast<char>(byte ^ (1 << bit % 8));
    absl::StatusOr<RecordView> record = View(address);
    absl::Status status = record.status();
    if (status.ok()) status = VerifyRecord(memory_, *record);
    EXPECT_TRUE(absl::IsDataLoss(status)) << "bit " << bit << ": " << status;
    byte = static_cast<char>(byte ^ (1 << bit % 8));
  }
  EXPECT_TRUE(VerifyRecord(memory_, *View(address)).ok());
}

TEST_F(RecordPlaceTest, ARecordAtAWrongPlaceDoesNotVerify) {
  const Address address = Write("key", "value");
  const Address other = Write("yek", "eulav");
  std::memcpy(memory_.At(other), memory_.At(address), RecordSizeBytes(3, 5));
  EXPECT_TRUE(absl::IsDataLoss(VerifyRecord(memory_, *View(other))));
}

TEST_F(RecordPlaceTest, SizesBeyondTheExtentAreRefused) {
  const Address address = Write("key", "value");
  auto* header = reinterpret_cast<RecordHeader*>(memory_.At(address));
  header->value_size_bytes = 1 << 20;
  EXPECT_TRUE(absl::IsDataLoss(View(address).status()));
  header->value_size_bytes = ~uint32_t{0};
  EXPECT_TRUE(absl::IsDataLoss(View(address).status()));
  header->value_size_bytes = 5;
  header->key_size_less_one = UINT16_MAX;
  EXPECT_TRUE(absl::IsDataLoss(View(address).status()));
  header->key_size_less_one = 2;
  EXPECT_TRUE(View(address).ok());
  EXPECT_TRUE(absl::IsDataLoss(View(address + 4).status()));
  EXPECT_TRUE(absl::IsUnavailable(View(~uint64_t{0}).status()));
}

}  // namespace
}  // namespace daxkv::kv
