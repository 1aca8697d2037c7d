// Records: encoding into a slot, and reading them back without trusting a byte.
#ifndef DAXKV_KV_RECORD_H_
#define DAXKV_KV_RECORD_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv/format.h"
#include "kv/memory.h"

namespace daxkv::kv {

// A record in place. The views are good as long as the record is (its ReadGuard or pin).
struct RecordView {
  Address address = kNullAddress;
  uint64_t sequence = 0;
  RecordKind kind = kValueRecord;
  bool of_batch = false;  // Of an atomic batch.
  std::string_view key;
  std::string_view value;
  // A media error took a part of the value: `value` is empty, and VerifyRecord says so.
  bool lost = false;
};

// CRC32C (Castagnoli, reflected, as in iSCSI) of `bytes` onto `seed`; chains.
uint32_t Crc32c(uint32_t seed, const void* bytes, size_t size_bytes);

// The 16-bit tag of a key: low bits of XXH3-64, part of the format.
uint16_t KeyTag(std::string_view key);

// Bytes that a record needs.
constexpr uint64_t RecordSizeBytes(uint64_t key_size_bytes, uint64_t value_size_bytes) {
  return sizeof(RecordHeader) + key_size_bytes + value_size_bytes;
}

// A record's kind as it is stored, and read while another thread may stamp it as unlinked.
inline uint8_t KindAndFlags(const RecordHeader& header) {
  return __atomic_load_n(&header.kind_and_flags, __ATOMIC_RELAXED);
}
inline RecordKind KindOf(uint8_t kind_and_flags) {
  return static_cast<RecordKind>(kind_and_flags & kRecordKindMask);
}

// Writes a record into a slot that nobody else can see and starts flushing it (Memory::Drain
// finishes that). Sizes were checked by the caller. `flags` stand beside its kind. Returns the
// CRC32C of key and value, for ResealRecord.
uint32_t WriteRecord(Memory& memory, Address address, RecordKind kind, uint64_t sequence,
                     std::string_view key, std::string_view value, uint8_t flags = 0);

// Completes a record whose key and value were stored in place, in a slot that nobody else can see:
// writes its header and starts flushing all of it. Returns as WriteRecord.
uint32_t SealRecord(Memory& memory, Address address, RecordKind kind, uint64_t sequence,
                    uint64_t key_size_bytes, uint64_t value_size_bytes);

// Gives a record that still nobody else can see another sequence number, without reading its body,
// and starts flushing its header.
void ResealRecord(Memory& memory, Address address, uint64_t sequence, uint32_t body_checksum);

// The record at `address`: bounds are checked, the checksum is not.
//   kUnavailable  its extent is absent (Memory::FaultIn, then again)
//   kDataLoss     sizes, kind or alignment can't be right (message: pool offset and field), or a
//                 media error took header or key
absl::StatusOr<RecordView> ViewRecord(const Memory& memory, Address address);

// The same for who knows how far bytes are present: quicker, but false says only that ViewRecord must
// tell. Sets *record in place, field by field.
inline bool TryViewRecord(const Memory& memory, Address address, Address end, RecordView* record);

// What a record at `address` says that a media error took.
absl::Status LostRecordError(Address address);

// Where the key ends in a record that has a short one: what to prefetch where only keys are read.
inline constexpr uint64_t kShortKeyEnd = sizeof(RecordHeader) + 32;

// Asks the processor for the lines of the first bytes of a record, so that the misses overlap.
// `address` may be anything.
inline void PrefetchRecord(const Memory& memory, Address address, uint64_t size_bytes) {
  constexpr uint64_t kLineSizeBytes = 64;
  const char* const record = memory.At(address);
  for (uint64_t offset = 0; offset < size_bytes; offset += kLineSizeBytes) {
    __builtin_prefetch(record + offset);
  }
  __builtin_prefetch(record + size_bytes - 1);
}

// Asks the processor for a line that is about to be written, for itself alone. The builtin means
// prefetcht0 on the baseline, which asks for a line to share. Where this is not known, it does
// nothing.
inline void PrefetchToWrite(const char* line) { asm volatile("prefetchw %0" : : "m"(*line)); }

// Asks the processor for the lines of a slot into which WriteRecord will store. The stores then find
// them; else the next atomic operation waits until all of them have come. Of a long record these are
// the lines at its ends: those between are written past the cache.
inline void PrefetchSlot(const Memory& memory, Address address, uint64_t size_bytes) {
  constexpr uint64_t kLineSizeBytes = 64;
  constexpr uint64_t kShortSizeBytes = 320;  // Of records all of which goes through the cache.
  constexpr uint64_t kHeadSizeBytes = 2 * kLineSizeBytes;  // A header and a usual key.
  const char* const slot = memory.At(address);
  const uint64_t head_size_bytes = size_bytes <= kShortSizeBytes ? size_bytes : kHeadSizeBytes;
  for (uint64_t offset = 0; offset < head_size_bytes; offset += kLineSizeBytes) {
    PrefetchToWrite(slot + offset);
  }
  PrefetchToWrite(slot + size_bytes - 1);
}

// The record at an address where ViewRecord has found one, whose slot can't have been reused since.
inline RecordView RecordAt(const Memory& memory, Address address) {
  const char* bytes = memory.At(address);
  const auto* header = reinterpret_cast<const RecordHeader*>(bytes);
  const char* key = bytes + sizeof(RecordHeader);
  RecordView record;
  record.address = address;
  record.sequence = header->sequence;
  const uint8_t kind = KindAndFlags(*header);
  record.kind = KindOf(kind);
  record.of_batch = (kind & kOfBatchFlag) != 0;
  record.key = std::string_view(key, header->key_size_bytes());
  record.value = std::string_view(key + header->key_size_bytes(), header->value_size_bytes);
  return record;
}

inline bool TryViewRecord(const Memory& memory, Address address, Address end, RecordView* record) {
  if (address % kRecordAlignment != 0 || address >= end) return false;
  const uint64_t room = end - address;
  if (room < sizeof(RecordHeader)) return false;
  const char* const bytes = memory.At(address);
  const auto* header = reinterpret_cast<const RecordHeader*>(bytes);
  const uint64_t key_size_bytes = header->key_size_bytes();
  const uint64_t value_size_bytes = header->value_size_bytes;
  const uint8_t kind = KindAndFlags(*header);
  if (!IsRecordKind(kind) || value_size_bytes > kMaxValueSizeBytes ||
      RecordSizeBytes(key_size_bytes, value_size_bytes) > room) {
    return false;
  }
  const char* const key = bytes + sizeof(RecordHeader);
  record->address = address;
  record->sequence = header->sequence;
  record->kind = KindOf(kind);
  record->of_batch = (kind & kOfBatchFlag) != 0;
  record->key = std::string_view(key, key_size_bytes);
  record->value = std::string_view(key + key_size_bytes, value_size_bytes);
  record->lost = false;
  return true;
}

// Whether the checksum of a record of that keyspace holds, all of whose bytes are there.
bool IsIntact(const RecordView& record, KeyspaceId keyspace);

// Checks the checksum of a viewed record. kDataLoss names the pool offset.
absl::Status VerifyRecord(const Memory& memory, const RecordView& record);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_RECORD_H_
