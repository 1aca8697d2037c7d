#include "kv/batch_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kv/record.h"

namespace daxkv::kv {
namespace {

constexpr unsigned kSealShift = 48;
constexpr size_t kAddressSizeBytes = kSealShift / 8;

}  // namespace

uint64_t BatchTable::Seal(unsigned word, Address batch_record) {
  const uint64_t seal = Crc32c(word + 1, &batch_record, kAddressSizeBytes) & 0xffff;
  return batch_record | seal << kSealShift;
}

absl::StatusOr<std::vector<Address>> BatchTable::Pending(bool after_crash) {
  if (after_crash) {
    pool_.Flush(words_, kBatchTableWords * sizeof(uint64_t));
    absl::Status drained = pool_.Drain();
    if (!drained.ok()) return drained;
  }
  std::vector<Address> records;
  for (unsigned word = 0; word < kBatchTableWords; ++word) {
    if (words_[word] == 0) continue;
    const Address address = words_[word] & kAddressMask;
    if (words_[word] != Seal(word, address)) {
      return absl::DataLossError(absl::StrCat("batch table: word ", word, " is damaged (",
                                              absl::Hex(words_[word], absl::kZeroPad16),
                                              "); a batch may be half applied"));
    }
    records.push_back(address);
  }
  return records;
}

absl::Status BatchTable::Forget() {
  for (unsigned word = 0; word < kBatchTableWords; ++word) words_[word] = 0;
  pool_.Flush(words_, kBatchTableWords * sizeof(uint64_t));
  return pool_.Drain();
}

unsigned BatchTable::Claim() {
  std::unique_lock<std::mutex> lock(mutex_);
  released_.wait(lock, [this] { return ~claimed_ != 0; });
  const unsigned word = static_cast<unsigned>(__builtin_ctz(~claimed_));
  claimed_ |= uint32_t{1} << word;
  return word;
}

std::optional<unsigned> BatchTable::TryClaim() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (~claimed_ == 0) return std::nullopt;
  const unsigned word = static_cast<unsigned>(__builtin_ctz(~claimed_));
  claimed_ |= uint32_t{1} << word;
  return word;
}

void BatchTable::NoteBegin(unsigned word, uint64_t number) {
  begun_[word].store(number, std::memory_order_seq_cst);
}

uint64_t BatchTable::AppliedUpTo(uint64_t last_number) const {
  for (const std::atomic<uint64_t>& begun : begun_) {
    const uint64_t number = begun.load(std::memory_order_seq_cst);
    if (number != 0) last_number = std::min(last_number, number);
  }
  return last_number;
}

void BatchTable::Release(unsigned word) {
  begun_[word].store(0, std::memory_order_seq_cst);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    claimed_ &= ~(uint32_t{1} << word);
  }
  released_.notify_one();
}

// Only the word's claimer stores it, and nobody reads it before the next open: a plain order would
// do, but the store must be a single one.
absl::Status BatchTable::StoreWord(unsigned word, uint64_t value) {
  __atomic_store_n(&words_[word], value, __ATOMIC_RELEASE);
  pool_.Flush(&words_[word], sizeof(uint64_t));
  return pool_.Drain();
}

absl::Status BatchTable::Store(unsigned word, Address batch_record) {
  return StoreWord(word, Seal(word, batch_record));
}

absl::Status BatchTable::Clear(unsigned word) { return StoreWord(word, 0); }

}  // namespace daxkv::kv
