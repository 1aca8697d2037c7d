#include "benchmarks/ycsb/record.h"

#include <charconv>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace daxkv::ycsb {
namespace {

uint32_t LoadLength(const char* from) {
  uint32_t length;
  std::memcpy(&length, from, sizeof(length));
  return length;
}

absl::Status Damaged(std::string_view record, size_t fields) {
  return absl::DataLossError(absl::StrCat("a record of ", record.size(), " bytes is not one of ",
                                          fields, " fields: damaged, or loaded with another ",
                                          "fieldcount"));
}

}  // namespace

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "lengths are stored as they lie in memory");

absl::Status DecodeRecord(std::string_view record, std::vector<std::string_view>* fields) {
  const size_t table = fields->size() * kFieldLengthSizeBytes;
  if (record.size() < table) return Damaged(record, fields->size());
  size_t offset = table;
  for (size_t i = 0; i < fields->size(); ++i) {
    const uint32_t length = LoadLength(record.data() + i * kFieldLengthSizeBytes);
    if (length > record.size() - offset) return Damaged(record, fields->size());
    (*fields)[i] = record.substr(offset, length);
    offset += length;
  }
  return offset == record.size() ? absl::OkStatus() : Damaged(record, fields->size());
}

void EncodeRecord(const std::vector<std::string_view>& fields, std::string* record) {
  size_t size = fields.size() * kFieldLengthSizeBytes;
  for (std::string_view field : fields) size += field.size();
  record->resize(size);
  char* length_at = record->data();
  char* byte_at = record->data() + fields.size() * kFieldLengthSizeBytes;
  for (std::string_view field : fields) {
    const uint32_t length = static_cast<uint32_t>(field.size());
    std::memcpy(length_at, &length, sizeof(length));
    length_at += sizeof(length);
    if (length > 0) std::memcpy(byte_at, field.data(), length);
    byte_at += length;
  }
}

void DeterministicValue(std::string_view key, std::string_view field, size_t length,
                        std::string* value) {
  value->assign(key);
  value->push_back(':');
  value->append(field);
  uint32_t hash = 0;
  size_t hashed = 0;
  while (value->size() < length) {
    value->push_back(':');
    for (; hashed < value->size(); ++hashed) {
      hash = hash * 31 + static_cast<unsigned char>((*value)[hashed]);
    }
    char digits[16];
    const char* end =
        std::to_chars(digits, digits + sizeof(digits), static_cast<int32_t>(hash)).ptr;
    value->append(digits, static_cast<size_t>(end - digits));
  }
  value->resize(length);
}

RandomBytes::RandomBytes(uint64_t seed, size_t max_length) {
  Random random(seed);
  bytes_.resize(kStarts + max_length);
  uint64_t bits = 0;
  for (size_t i = 0; i < bytes_.size(); ++i) {
    bits = i % 10 == 0 ? random.Next() : bits >> 6;
    bytes_[i] = static_cast<char>(' ' + (bits & 63));
  }
}

}  // namespace daxkv::ycsb
