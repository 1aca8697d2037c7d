#include "kv/leaf_orders.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "kv/exceptions.h"

namespace daxkv::kv {

uint64_t SlotsHash(const uint64_t* slots) {
  return XXH3_64bits(slots, kLeafSlots * sizeof(*slots));
}

LeafOrders::~LeafOrders() {
  while (size_ > 0) EvictOne();
}

void LeafOrders::Insert(std::unique_ptr<LeafOrder> order) noexcept {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  const uint64_t index = IndexOf(order->leaf);
  const absl::StatusOr<LeafOrder*> old = WithoutExceptions(
      [&]() -> absl::StatusOr<LeafOrder*> { return orders_.Store(index, order.get()); });
  if (!old.ok()) return;
  order.release();  // NOLINT(bugprone-unused-return-value): `orders_` has it.
  if (*old != nullptr) {
    rcu::Retire(*old);
  } else if (++size_ > most_orders_) {
    EvictOne();
  }
}

// Needs the mutex, and an order.
void LeafOrders::EvictOne() noexcept {
  std::optional<xarray::Located> found = orders_.untyped().Find(hand_);
  if (!found.has_value()) found = orders_.untyped().Find(0);
  hand_ = found->first + 1;
  --size_;
  rcu::Retire(orders_.Erase(found->first));
}

size_t LeafOrders::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return size_;
}

}  // namespace daxkv::kv
