// Orders of leaves: which slots of a leaf follow which by their keys. A bounded cache in DRAM of
// leaves that were scanned, so that a scan need neither look at each record of a leaf nor sort.
// Internal to kv/.
//
// Thread safety: every method from any thread. Orders are immutable and found inside a ReadGuard.
//
// Invariant
//   O1  An order tells of its leaf as it was while its version word was `version`, at rest
//       (node.h): while it is that again, the same slots have the same keys.
#ifndef DAXKV_KV_LEAF_ORDERS_H_
#define DAXKV_KV_LEAF_ORDERS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "kv/format.h"
#include "xarray/rcu.h"
#include "xarray/typed_xarray.h"

namespace daxkv::kv {

struct LeafOrder : public rcu::Head {
  Address leaf = kNullAddress;
  uint64_t version = 0;          // O1
  uint64_t slots_hash = 0;       // SlotsHash. Damage to a slot must not go unseen.
  uint64_t newest_sequence = 0;  // The highest of the leaf's records.
  uint8_t slots_in_use = 0;
  uint8_t places[kLeafSlots];  // Of the slots in use, in ascending order of their keys.
  uint16_t heads[kLeafSlots];  // The two bytes of each key, in that order, behind what the leaf's
                               // bounds have in common; as a big-endian number.
};

// Of a leaf's slots, kLeafSlots of them.
uint64_t SlotsHash(const uint64_t* slots);

class LeafOrders {
 public:
  // 18 MiB of orders, for about four million records.
  static constexpr size_t kMostOrders = 45000;

  explicit LeafOrders(size_t most_orders = kMostOrders) : most_orders_(most_orders) {}
  ~LeafOrders();
  LeafOrders(const LeafOrders&) = delete;
  LeafOrders& operator=(const LeafOrders&) = delete;

  // Inside a ReadGuard; null: none.
  const LeafOrder* Find(Address leaf) const { return orders_.Load(IndexOf(leaf)); }
  // Replaces the leaf's. With too many of them another one goes, in turn. Never waits: without
  // memory, or while another thread inserts, nothing is kept.
  void Insert(std::unique_ptr<LeafOrder> order) noexcept;
  size_t size() const;

 private:
  static uint64_t IndexOf(Address leaf) { return leaf / kLeafSizeBytes; }
  void EvictOne() noexcept;

  const size_t most_orders_;
  mutable std::mutex mutex_;  // Held by Insert. Nobody on a reader's path waits for it.
  size_t size_ = 0;           // mutex_
  uint64_t hand_ = 0;         // mutex_: the next eviction begins here.
  xarray::TypedXArray<LeafOrder*> orders_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_LEAF_ORDERS_H_
