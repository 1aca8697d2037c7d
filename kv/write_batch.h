// WriteBatch: puts and deletes, in one keyspace or in several, to be done as one by Db::Write. It
// lives in DRAM and keeps copies.
//
// Thread safety: none.
#ifndef DAXKV_KV_WRITE_BATCH_H_
#define DAXKV_KV_WRITE_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace daxkv::kv {

class Engine;
class Keyspace;

class WriteBatch {
 public:
  struct Operation {
    std::string_view key;
    std::optional<std::string_view> value;  // Nullopt: delete.
    // Which keyspace; null: the default one of the Db that writes the batch.
    const std::shared_ptr<Engine>* keyspace = nullptr;
  };

  // Add an operation, to the default keyspace or to the one given. Of several with the same key of
  // a keyspace the last one counts.
  //   kInvalidArgument    key or value out of its range (db.h); nothing added
  //   kResourceExhausted  no memory; nothing added
  absl::Status Put(std::string_view key, std::string_view value);
  absl::Status Delete(std::string_view key);
  absl::Status Put(const Keyspace& keyspace, std::string_view key, std::string_view value);
  absl::Status Delete(const Keyspace& keyspace, std::string_view key);
  void Clear();

  // Operations added, superseded ones too.
  size_t Count() const { return operations_.size(); }
  // Of their keys and values.
  uint64_t size_bytes() const { return bytes_.size(); }
  // 0..Count() - 1, in the order they were added. The views are good until the batch changes.
  Operation operation(size_t i) const;

 private:
  // Its key, and right behind it its value, in bytes_.
  struct Place {
    size_t offset;
    uint32_t key_size_bytes;
    uint32_t value_size_bytes;
    uint32_t keyspace;  // Its position in keyspaces_ plus one; 0: the default one.
    bool is_delete;
  };
  absl::Status Add(const Keyspace* keyspace, std::string_view key,
                   std::optional<std::string_view> value);
  uint32_t NumberOf(const Keyspace* keyspace);

  std::string bytes_;
  std::vector<Place> operations_;
  std::vector<std::shared_ptr<Engine>> keyspaces_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_WRITE_BATCH_H_
