// PinTracker: who holds which pins since when, and how many there may be: the part of pinning that
// costs too much to be always on. Private to the mapping.
//
// Thread safety: everything from any thread.
#ifndef DAXKV_DAX_PIN_TRACKER_H_
#define DAXKV_DAX_PIN_TRACKER_H_

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "dax/pinned.h"

namespace daxkv::dax::internal {

class PinTracker;

// One pin. In its shard's list, under the shard's mutex.
struct TrackedPin {
  PinTracker* tracker = nullptr;
  unsigned shard = 0;
  pid_t thread = 0;
  uint64_t first_index = 0;
  uint64_t last_index = 0;
  int64_t since_ns = 0;  // By PinClockNs.
  TrackedPin* previous = nullptr;
  TrackedPin* next = nullptr;
};

class PinTracker {
 public:
  // `max_pins`: how many there may be at a time; 0: as many as they like.
  explicit PinTracker(uint64_t max_pins) : max_pins_(max_pins) {}
  // There are no pins any more.
  ~PinTracker() = default;
  PinTracker(const PinTracker&) = delete;
  PinTracker& operator=(const PinTracker&) = delete;

  // Notes a pin of this thread.
  //   kResourceExhausted  there are max_pins, or no memory
  absl::StatusOr<TrackedPin*> Add(uint64_t first_index, uint64_t pages);
  // Forgets it.
  static void Remove(TrackedPin* pin);

  // The holders of pins that touch [first_index, last_index], the oldest pin first.
  std::vector<PinHolder> Holders(uint64_t first_index, uint64_t last_index) const;

 private:
  // Threads are spread over them; its own cache lines each.
  struct alignas(128) Shard {
    mutable std::mutex mutex;
    TrackedPin* first = nullptr;
  };

  const uint64_t max_pins_;
  std::atomic<uint64_t> pins_{0};  // Counted if there is a limit only.
  std::array<Shard, 16> shards_;
};

}  // namespace daxkv::dax::internal

#endif  // DAXKV_DAX_PIN_TRACKER_H_
