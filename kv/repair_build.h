// A new index, written aside in runs of its own, from keys in ascending order. Internal to kv/.
//
// Until its root word is stored, nothing refers to it: a crash leaves runs without a reachable
// slot, which deriving finds empty.
//
// Not thread-safe.
#ifndef DAXKV_KV_REPAIR_BUILD_H_
#define DAXKV_KV_REPAIR_BUILD_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/memory.h"
#include "kv/node.h"
#include "kv/size_classes.h"

namespace daxkv::kv {

class TreeBuilder {
 public:
  TreeBuilder(dax::Pool* pool, KeyspaceId keyspace) : pool_(*pool), keyspace_(keyspace) {}
  // Gives back everything, unless Release was called.
  ~TreeBuilder();

  // `record`: of this key, which is above the one before. kResourceExhausted.
  absl::Status Add(std::string_view key, Address record);
  // Completes the index, durably; returns its root word. kResourceExhausted, kInternal.
  absl::StatusOr<uint64_t> Finish();
  // The index belongs to the store.
  void Release() { runs_.clear(); }
  // About how much an index of so many records takes.
  static uint64_t EstimateSizeBytes(uint64_t records, uint64_t key_size_bytes);

 private:
  class Slots;  // Memory, for WriteRecord.
  struct Current {
    dax::Run run;
    SlotLayout layout;
    uint32_t next_slot = 0;
  };
  struct Child {
    Address address, low_fence;
  };

  absl::StatusOr<Address> Allocate(uint16_t size_class);
  absl::Status BeginLeaf(std::string_view first_key);
  void WriteLeaf(Address next);
  absl::Status BuildLevel(unsigned level);

  dax::Pool& pool_;
  const KeyspaceId keyspace_;
  std::vector<dax::Run> runs_;
  std::map<uint16_t, Current> current_;
  // The leaf that is being filled.
  Child leaf_ = {kNullAddress, kNullAddress};
  LeafImage image_;
  unsigned held_ = 0;
  std::string last_key_;
  std::vector<Child> level_;  // The nodes of the level that was built last.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_REPAIR_BUILD_H_
