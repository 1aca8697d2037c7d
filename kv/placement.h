// Where records lie in the pool, compared with the order of their keys: for compaction, which places
// neighbours by key side by side, so that a scan walks memory forwards. Internal to kv/.
//
// Thread safety: none.
#ifndef DAXKV_KV_PLACEMENT_H_
#define DAXKV_KV_PLACEMENT_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kv/index.h"
#include "kv/size_classes.h"
#include "kv/space.h"

namespace daxkv::kv {

// A record that a slot of a leaf leads to.
struct PlacedRecord {
  Index::SlotPosition at;
  uint64_t size_bytes;
};

// Reads the records of slots of one leaf and sorts them by their keys. Left out are those that can't
// be read, and those whose slot has changed since it was found. Sleeps; to be called outside any
// ReadGuard.
void SortByKey(const Index& index, Space* space, absl::Span<const Index::SlotPosition> of_leaf,
               std::vector<PlacedRecord>* sorted);

// Follows the leaves in the order of their keys and tells which of them have their records in
// place: each shortly behind the one before it of its size class. Large records, which have runs of
// their own, always are.
class PlacementWalk {
 public:
  // Whether a scan of the leaf would gain little if its records were written anew. `sorted`: all of
  // them. Goes on behind them.
  bool IsInPlace(absl::Span<const PlacedRecord> sorted);
  // The record that comes next in the order lies here now.
  void NotePlaced(uint64_t size_bytes, Address address);

 private:
  // By size class; kNullAddress: none yet.
  std::array<Address, kFirstFenceClass> last_of_class_ = {};
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_PLACEMENT_H_
