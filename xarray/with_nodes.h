// WithNodes: how plain calls get the nodes that they lack. Internal to the array.
#ifndef DAXKV_XARRAY_WITH_NODES_H_
#define DAXKV_XARRAY_WITH_NODES_H_

#include <mutex>

#include "absl/status/status.h"

namespace daxkv::xarray {

// Runs `change` under the lock, and again whenever the nodes that it lacks could be allocated.
template <typename Array, typename Cursor, typename Change>
auto WithNodes(Array& array, Cursor& cursor, Change change) -> decltype(change()) {
  for (;;) {
    std::unique_lock<Array> lock(array);
    auto result = change();
    lock.unlock();
    if (!cursor.NeedsReserve()) return result;
    if (absl::Status status = cursor.Reserve(); !status.ok()) return status;
  }
}

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_WITH_NODES_H_
