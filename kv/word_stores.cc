#include "kv/word_stores.h"

#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

template <typename T>
std::string_view Bytes(const T* from, size_t count) {
  return {reinterpret_cast<const char*>(from), count * sizeof(T)};
}

absl::Status Damaged(const RecordView& record, const char* what) {
  return absl::DataLossError(
      absl::StrCat("stores record at pool offset ", record.address, ": ", what));
}

// Waits until the word's extent is present.
absl::Status FaultInWord(Memory& memory, Address at) {
  for (;;) {
    {
      rcu::ReadGuard guard;
      if (memory.PresentUntil(at) != 0) return absl::OkStatus();
    }
    if (absl::Status status = memory.FaultIn(at); !status.ok()) return status;
  }
}

}  // namespace

void WriteWordStores(Memory& memory, Address record, absl::Span<const WordStore> stores) {
  const uint64_t count = stores.size();
  WriteRecord(memory, record, kStoresRecord, /*sequence=*/0, Bytes(&count, 1),
              Bytes(stores.data(), stores.size()));
}

absl::Status RedoWordStores(Memory& memory, const RecordView& record) {
  uint64_t count = 0;
  if (record.key.size() == sizeof(count)) std::memcpy(&count, record.key.data(), sizeof(count));
  if (record.kind != kStoresRecord || record.value.size() % sizeof(WordStore) != 0 ||
      record.value.size() / sizeof(WordStore) != count) {
    return Damaged(record, "its number of stores can't be right");
  }
  for (uint64_t i = 0; i < count; ++i) {
    WordStore store;
    std::memcpy(&store, record.value.data() + i * sizeof(store), sizeof(store));
    if (store.at % sizeof(uint64_t) != 0) return Damaged(record, "it stores to no word");
    if (absl::Status status = FaultInWord(memory, store.at); !status.ok()) return status;
    auto* word = reinterpret_cast<uint64_t*>(memory.At(store.at));
    __atomic_store_n(word, store.value, __ATOMIC_RELEASE);
    memory.Flush(word, sizeof(*word));
  }
  return absl::OkStatus();
}

}  // namespace daxkv::kv
