// What the tests of compaction share.
#ifndef DAXKV_TESTS_KV_COMPACTION_TESTING_H_
#define DAXKV_TESTS_KV_COMPACTION_TESTING_H_

#include <cstdint>
#include <map>
#include <string>

#include "tests/kv/store_fixture.h"

namespace daxkv::kv {

using Model = std::map<std::string, std::string>;

inline Model NumberedModel(int records, size_t size_bytes) {
  Model model;
  for (int i = 0; i < records; ++i) {
    const std::string key = NumberedKey(i);
    model[key] = ValueFor(key, 0, size_bytes);
  }
  return model;
}

// Bytes of the extents that hold records (in a small store the index weighs too much).
inline uint64_t RecordExtentsBytes(const Db& db) {
  uint64_t size_bytes = 0;
  const absl::StatusOr<Info> info = db.GetInfo();
  for (const SlotClassUsage& usage : info->slot_classes) {
    if (usage.kind == SlotKind::kRecord) size_bytes += usage.size_bytes;
  }
  return size_bytes;
}

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_COMPACTION_TESTING_H_
