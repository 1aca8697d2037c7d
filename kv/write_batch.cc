#include "kv/write_batch.h"

#include <algorithm>

#include "kv/engine.h"
#include "kv/exceptions.h"

namespace daxkv::kv {

// There are few of them, and most often it is the last one again.
uint32_t WriteBatch::NumberOf(const Keyspace* keyspace) {
  if (keyspace == nullptr) return 0;
  const auto found = std::find(keyspaces_.rbegin(), keyspaces_.rend(), keyspace->engine_);
  if (found == keyspaces_.rend()) {
    keyspaces_.push_back(keyspace->engine_);
    return static_cast<uint32_t>(keyspaces_.size());
  }
  return static_cast<uint32_t>(keyspaces_.rend() - found);
}

absl::Status WriteBatch::Add(const Keyspace* keyspace, std::string_view key,
                             std::optional<std::string_view> value) {
  absl::Status valid = CheckKey(key);
  if (valid.ok() && value.has_value()) valid = CheckValue(*value);
  if (!valid.ok()) return valid;
  const size_t offset = bytes_.size();
  absl::Status added = WithoutExceptions([&] {
    const std::string_view value_bytes = value.value_or(std::string_view());
    operations_.push_back({offset, static_cast<uint32_t>(key.size()),
                           static_cast<uint32_t>(value_bytes.size()), NumberOf(keyspace),
                           !value.has_value()});
    try {
      bytes_.append(key);
      bytes_.append(value_bytes);
    } catch (...) {
      operations_.pop_back();
      bytes_.resize(offset);
      throw;
    }
    return absl::OkStatus();
  });
  return added;
}

absl::Status WriteBatch::Put(std::string_view key, std::string_view value) {
  return Add(nullptr, key, value);
}

absl::Status WriteBatch::Delete(std::string_view key) { return Add(nullptr, key, std::nullopt); }

absl::Status WriteBatch::Put(const Keyspace& keyspace, std::string_view key,
                             std::string_view value) {
  return Add(&keyspace, key, value);
}

absl::Status WriteBatch::Delete(const Keyspace& keyspace, std::string_view key) {
  return Add(&keyspace, key, std::nullopt);
}

void WriteBatch::Clear() {
  bytes_.clear();
  operations_.clear();
  keyspaces_.clear();
}

WriteBatch::Operation WriteBatch::operation(size_t i) const {
  const Place& place = operations_[i];
  const char* key = bytes_.data() + place.offset;
  Operation operation;
  operation.key = std::string_view(key, place.key_size_bytes);
  if (place.keyspace != 0) operation.keyspace = &keyspaces_[place.keyspace - 1];
  if (!place.is_delete) {
    operation.value = std::string_view(key + place.key_size_bytes, place.value_size_bytes);
  }
  return operation;
}

}  // namespace daxkv::kv
