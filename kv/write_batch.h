// WriteBatch: puts and deletes to be done as one by Db::Write. It lives in DRAM and keeps copies.
//
// Thread safety: none.
#ifndef DAXKV_KV_WRITE_BATCH_H_
#define DAXKV_KV_WRITE_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace daxkv::kv {

class WriteBatch {
 public:
  struct Operation {
    std::string_view key;
    std::optional<std::string_view> value;  // Nullopt: delete.
  };

  // Add an operation. Of several with the same key the last one counts.
  //   kInvalidArgument    key or value out of its range (db.h); nothing added
  //   kResourceExhausted  no memory; nothing added
  absl::Status Put(std::string_view key, std::string_view value);
  absl::Status Delete(std::string_view key);
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
    bool is_delete;
  };
  absl::Status Add(std::string_view key, std::optional<std::string_view> value);

  std::string bytes_;
  std::vector<Place> operations_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_WRITE_BATCH_H_
