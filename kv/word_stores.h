// Sets of 8-byte stores of which a crash leaves all or none, by a redo at the next open.
//
//   1  write the set as a record, in a slot of one's own; make it durable
//   2  store a word of the batch table that leads to the record, durably: this commits
//   3  make the stores; make them durable
//   4  clear the word, durably
//
// A crash before 2 leaves nothing; after it, open makes all the stores again, before anything reads
// the words concerned. Storing a word twice does no harm, as nobody else stores it between 2 and 4.
#ifndef DAXKV_KV_WORD_STORES_H_
#define DAXKV_KV_WORD_STORES_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kv/format.h"
#include "kv/memory.h"
#include "kv/record.h"

namespace daxkv::kv {

// As on the medium.
struct WordStore {
  Address at;  // A multiple of 8.
  uint64_t value;
};
static_assert(sizeof(WordStore) == 16);

// Bytes of a record with so many stores.
constexpr uint64_t WordStoresSizeBytes(size_t count) {
  return RecordSizeBytes(sizeof(uint64_t), count * sizeof(WordStore));
}

// Step 1, without the wait: writes the record and starts flushing it.
void WriteWordStores(Memory& memory, Address record, absl::Span<const WordStore> stores);

// Makes the stores of a record of kind kStoresRecord, whose checksum was verified, and starts
// flushing them. Outside any ReadGuard.
//   kDataLoss  it can't be such a record, or leads to where no extent is
absl::Status RedoWordStores(Memory& memory, const RecordView& record);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_WORD_STORES_H_
