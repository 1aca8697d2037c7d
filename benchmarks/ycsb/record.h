// A YCSB record as one value of a key-value store: the lengths of its fields, 32-bit little-endian
// each, then the fields' bytes. Field names are not stored: field i of every record has the name
// <fieldnameprefix>i. 10 fields of 100 bytes make 1040 bytes; one field of n bytes makes n + 4.
#ifndef DAXKV_BENCHMARKS_YCSB_RECORD_H_
#define DAXKV_BENCHMARKS_YCSB_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "benchmarks/ycsb/generators.h"
#include "benchmarks/ycsb/random.h"

namespace daxkv::ycsb {

inline constexpr size_t kFieldLengthSizeBytes = 4;

// Points `fields` (its size is the number of fields expected) into `record`. kDataLoss when the
// lengths do not add up to the record: damage, or a store loaded with another fieldcount.
absl::Status DecodeRecord(std::string_view record, std::vector<std::string_view>* fields);

// Encodes `fields` into *record.
void EncodeRecord(const std::vector<std::string_view>& fields, std::string* record);

// The value that `dataintegrity` writes and expects: "<key>:<field>", then ":" and Java's hash
// code of all so far, over and over, cut at `length` bytes.
void DeterministicValue(std::string_view key, std::string_view field, size_t length,
                        std::string* value);

// Random field bytes, drawn in advance, so that a field costs one copy. One per thread.
class RandomBytes {
 public:
  // For requests of up to `max_length` bytes.
  RandomBytes(uint64_t seed, size_t max_length);
  // `length` printable bytes from a random place. Good as long as this object.
  std::string_view Take(size_t length, Random* random) const {
    return {bytes_.data() + random->Below(kStarts), length};
  }

 private:
  static constexpr size_t kStarts = size_t{256} * 1024;
  std::string bytes_;
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_RECORD_H_
