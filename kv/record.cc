#include "kv/record.h"

#include <immintrin.h>
#include <isa-l/crc.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace daxkv::kv {
namespace {

// Up to this size a value is copied through the cache together with its header: one short flush.
constexpr size_t kCachedCopySizeBytes = 256;
constexpr uint64_t kLineSizeBytes = 64;
constexpr uint64_t kHeaderSizeBytes = sizeof(RecordHeader);

absl::Status Damaged(Address address, const char* what, uint64_t value) {
  return absl::DataLossError(
      absl::StrCat("record at pool offset ", address, ": ", what, " ", value, " can't be right"));
}

// The record's checksum from that of its body. All but the checksum itself and the flag of unlinked
// records is covered; address and keyspace tie the record to its place.
uint32_t Checksum(uint32_t body_checksum, const RecordHeader& header, Address address,
                  KeyspaceId keyspace) {
  constexpr size_t kCoveredSizeBytes = kHeaderSizeBytes - sizeof(header.checksum);
  const uint64_t place = address | uint64_t{keyspace} << kAddressBits;
  char bytes[kCoveredSizeBytes + sizeof(place)];
  std::memcpy(bytes, reinterpret_cast<const char*>(&header) + sizeof(header.checksum),
              kCoveredSizeBytes - 1);
  static_assert(offsetof(RecordHeader, kind_and_flags) == kHeaderSizeBytes - 1);
  bytes[kCoveredSizeBytes - 1] =
      static_cast<char>(KindAndFlags(header) & static_cast<uint8_t>(~kUnlinkedFlag));
  std::memcpy(bytes + kCoveredSizeBytes, &place, sizeof(place));
  return Crc32c(body_checksum, bytes, sizeof(bytes));
}

// False until they are initialised, which only costs time.
const bool kHasSse42 = __builtin_cpu_supports("sse4.2");
const bool kHasAvx = __builtin_cpu_supports("avx");

// Below this ISA-L folds nothing, and the instruction alone is quicker than its call.
constexpr size_t kFoldedCrcSizeBytes = 256;

// On the register's value, the inverted checksum.
__attribute__((target("sse4.2"))) uint32_t Crc32cByInstruction(uint32_t state,
                                                               const unsigned char* bytes,
                                                               size_t size_bytes) {
  uint64_t wide = state;
  for (; size_bytes >= sizeof(uint64_t); size_bytes -= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    wide = _mm_crc32_u64(wide, word);
    bytes += sizeof(word);
  }
  state = static_cast<uint32_t>(wide);
  if ((size_bytes & sizeof(uint32_t)) != 0) {
    uint32_t word;
    std::memcpy(&word, bytes, sizeof(word));
    state = _mm_crc32_u32(state, word);
    bytes += sizeof(word);
  }
  if ((size_bytes & sizeof(uint16_t)) != 0) {
    uint16_t word;
    std::memcpy(&word, bytes, sizeof(word));
    state = _mm_crc32_u16(state, word);
    bytes += sizeof(word);
  }
  if ((size_bytes & 1) != 0) state = _mm_crc32_u8(state, *bytes);
  return state;
}

// ISA-L leaves the upper halves of the vector registers in use. Then each SSE instruction, of which
// this program and its callers are made, waits for the last one that wrote its register: measured,
// 130 ns of a checksum's 150 for 1 KB, all paid after it.
__attribute__((target("avx"))) void ZeroUpperHalves() { _mm256_zeroupper(); }

}  // namespace

uint32_t Crc32c(uint32_t seed, const void* bytes, size_t size_bytes) {
  auto* position = static_cast<unsigned char*>(const_cast<void*>(bytes));
  if (size_bytes < kFoldedCrcSizeBytes && kHasSse42) {
    return ~Crc32cByInstruction(~seed, position, size_bytes);
  }
  // ISA-L chooses the instructions at run time. It takes an int for the size, wants the register's
  // value (the inverted checksum), and declares a pointer to what it only reads as mutable.
  constexpr size_t kStepSizeBytes = size_t{1} << 30;
  uint32_t state = ~seed;
  while (size_bytes > 0) {
    const size_t step = std::min(size_bytes, kStepSizeBytes);
    state = crc32_iscsi(position, static_cast<int>(step), state);
    position += step;
    size_bytes -= step;
  }
  if (kHasAvx) ZeroUpperHalves();
  return ~state;
}

uint16_t KeyTag(std::string_view key) {
  return static_cast<uint16_t>(XXH3_64bits(key.data(), key.size()));
}

uint32_t WriteRecord(Memory& memory, Address address, RecordKind kind, uint64_t sequence,
                     std::string_view key, std::string_view value, uint8_t flags) {
  const uint64_t value_offset = kHeaderSizeBytes + key.size();
  // A long value begins through the cache, too: the line that it shares with the key goes out once.
  // The rest goes first, so that it is on its way while the checksum is made.
  const uint64_t to_line_end = kLineSizeBytes - (address + value_offset) % kLineSizeBytes;
  const uint64_t cached = value.size() <= kCachedCopySizeBytes ? value.size() : to_line_end;
  if (cached < value.size()) {
    memory.CopyAndFlush(address + value_offset + cached, value.data() + cached,
                        value.size() - cached);
  }

  RecordHeader header = {};
  header.value_size_bytes = static_cast<uint32_t>(value.size());
  header.sequence = sequence;
  header.key_size_less_one = static_cast<uint16_t>(key.size() - 1);
  header.kind_and_flags = static_cast<uint8_t>(kind | flags);
  const uint32_t key_checksum = Crc32c(0, key.data(), key.size());
  const uint32_t body_checksum = Crc32c(key_checksum, value.data(), value.size());
  header.checksum = Checksum(body_checksum, header, address, memory.keyspace());
  char* to = memory.At(address);
  std::memcpy(to, &header, kHeaderSizeBytes);
  std::memcpy(to + kHeaderSizeBytes, key.data(), key.size());
  if (cached != 0) std::memcpy(to + value_offset, value.data(), cached);
  memory.Flush(to, value_offset + cached);
  return body_checksum;
}

uint32_t SealRecord(Memory& memory, Address address, RecordKind kind, uint64_t sequence,
                    uint64_t key_size_bytes, uint64_t value_size_bytes) {
  // Each part is flushed while it is still in the cache from being read.
  constexpr uint64_t kStepSizeBytes = 128 << 10;
  const char* body = memory.At(address) + kHeaderSizeBytes;
  const uint64_t body_size_bytes = key_size_bytes + value_size_bytes;
  uint32_t body_checksum = 0;
  for (uint64_t done = 0; done < body_size_bytes;) {
    const uint64_t step = std::min(kStepSizeBytes, body_size_bytes - done);
    body_checksum = Crc32c(body_checksum, body + done, step);
    memory.Flush(body + done, step);
    done += step;
  }
  RecordHeader header = {};
  header.value_size_bytes = static_cast<uint32_t>(value_size_bytes);
  header.sequence = sequence;
  header.key_size_less_one = static_cast<uint16_t>(key_size_bytes - 1);
  header.kind_and_flags = kind;
  header.checksum = Checksum(body_checksum, header, address, memory.keyspace());
  std::memcpy(memory.At(address), &header, kHeaderSizeBytes);
  memory.Flush(memory.At(address), kHeaderSizeBytes);
  return body_checksum;
}

void ResealRecord(Memory& memory, Address address, uint64_t sequence, uint32_t body_checksum) {
  auto* header = reinterpret_cast<RecordHeader*>(memory.At(address));
  header->sequence = sequence;
  header->checksum = Checksum(body_checksum, *header, address, memory.keyspace());
  memory.Flush(header, kHeaderSizeBytes);
}

namespace {

bool IsLostRecordError(const absl::Status& status) { return absl::IsDataLoss(status); }

// How many bytes of the slot at `address` may be read, when more than up to `end` are wanted.
// kUnavailable: something is absent. kDataLoss: a media error took some of the wanted bytes.
absl::StatusOr<uint64_t> RoomBeyond(const Memory& memory, Address address, Address end,
                                    uint64_t wanted_size_bytes) {
  const Address wanted = address + wanted_size_bytes;
  const Address found = memory.PresentBeyond(end, wanted);
  if (found == kNullAddress) return absl::Status(absl::StatusCode::kUnavailable, "");
  if (found < wanted && memory.IsLost(found, 1)) return LostRecordError(address);
  return found - address;
}

}  // namespace

absl::StatusOr<RecordView> ViewRecord(const Memory& memory, Address address) {
  const Address end = memory.PresentUntil(address);
  if (end == 0) return absl::Status(absl::StatusCode::kUnavailable, "");
  // Records begin at multiples of 8, in slots and in large runs.
  if (address % kRecordAlignment != 0) return Damaged(address, "address", address);
  uint64_t room = end - address;
  if (__builtin_expect(room < kHeaderSizeBytes, false)) {
    absl::StatusOr<uint64_t> more = RoomBeyond(memory, address, end, kHeaderSizeBytes);
    if (!more.ok()) return more.status();
    room = *more;
    if (room < kHeaderSizeBytes) return Damaged(address, "room for the header", room);
  }
  const auto* header = reinterpret_cast<const RecordHeader*>(memory.At(address));
  const uint64_t key_size_bytes = header->key_size_bytes();
  const uint64_t value_size_bytes = header->value_size_bytes;
  const uint8_t kind = KindAndFlags(*header);
  if (!IsRecordKind(kind)) return Damaged(address, "kind", kind);
  if (value_size_bytes > kMaxValueSizeBytes) {
    return Damaged(address, "value size in bytes", value_size_bytes);
  }
  RecordView record;
  const uint64_t size_bytes = RecordSizeBytes(key_size_bytes, value_size_bytes);
  if (__builtin_expect(size_bytes > room, false)) {
    absl::StatusOr<uint64_t> more = RoomBeyond(memory, address, end, size_bytes);
    const uint64_t key_end = kHeaderSizeBytes + key_size_bytes;
    if (IsLostRecordError(more.status())) {
      more = RoomBeyond(memory, address, end, key_end);
      record.lost = true;
    }
    if (!more.ok()) return more.status();
    if (*more < (record.lost ? key_end : size_bytes)) {
      return Damaged(address, "value size in bytes", value_size_bytes);
    }
  }
  record.address = address;
  record.sequence = header->sequence;
  record.kind = KindOf(kind);
  record.of_batch = (kind & kOfBatchFlag) != 0;
  const char* key = memory.At(address) + kHeaderSizeBytes;
  record.key = std::string_view(key, key_size_bytes);
  record.value =
      record.lost ? std::string_view() : std::string_view(key + key_size_bytes, value_size_bytes);
  return record;
}

absl::Status LostRecordError(Address address) {
  return absl::DataLossError(
      absl::StrCat("the record at pool offset ", address, " is lost to a media error"));
}

bool IsIntact(const RecordView& record, KeyspaceId keyspace) {
  const auto* header =
      reinterpret_cast<const RecordHeader*>(record.key.data() - sizeof(RecordHeader));
  // Key and value lie side by side.
  const uint32_t body_checksum =
      Crc32c(0, record.key.data(), record.key.size() + record.value.size());
  return Checksum(body_checksum, *header, record.address, keyspace) == header->checksum;
}

absl::Status VerifyRecord(const Memory& memory, const RecordView& record) {
  if (record.lost) return LostRecordError(record.address);
  const auto* header = reinterpret_cast<const RecordHeader*>(memory.At(record.address));
  // Key and value lie side by side.
  const uint32_t body_checksum =
      Crc32c(0, record.key.data(), record.key.size() + record.value.size());
  const uint32_t sum = Checksum(body_checksum, *header, record.address, memory.keyspace());
  if (sum == header->checksum) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("record at pool offset ", record.address,
                                          ": its CRC32C is ", sum, ", stored is ",
                                          header->checksum));
}

}  // namespace daxkv::kv
