#include "dax/pin_tracker.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "dax/frame_table.h"

namespace daxkv::dax::internal {
namespace {

pid_t ThisThread() {
  static thread_local const pid_t thread = gettid();
  return thread;
}

// Empty if there is no such thread in this process.
std::string ThreadName(pid_t thread) {
  std::ifstream file(absl::StrCat("/proc/self/task/", thread, "/comm"));
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

absl::StatusOr<TrackedPin*> PinTracker::Add(uint64_t first_index, uint64_t pages) {
  // Relaxed: the count orders nothing.
  if (max_pins_ != 0 && pins_.fetch_add(1, std::memory_order_relaxed) >= max_pins_) {
    pins_.fetch_sub(1, std::memory_order_relaxed);
    return absl::ResourceExhaustedError(
        absl::StrCat("index ", first_index, " can't be pinned: the mapping has the ", max_pins_,
                     " pins that its option max_pins allows; release some, or allow more"));
  }
  auto* pin = new (std::nothrow) TrackedPin;
  if (pin == nullptr) {
    if (max_pins_ != 0) pins_.fetch_sub(1, std::memory_order_relaxed);
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory to track a pin of index ", first_index));
  }
  pin->tracker = this;
  pin->thread = ThisThread();
  pin->shard = static_cast<unsigned>(pin->thread) % shards_.size();
  pin->first_index = first_index;
  pin->last_index = first_index + (pages - 1);
  pin->since_ns = PinClockNs();
  Shard& shard = shards_[pin->shard];
  std::lock_guard lock(shard.mutex);
  pin->next = shard.first;
  if (pin->next != nullptr) pin->next->previous = pin;
  shard.first = pin;
  return pin;
}

void PinTracker::Remove(TrackedPin* pin) {
  PinTracker* tracker = pin->tracker;
  Shard& shard = tracker->shards_[pin->shard];
  {
    std::lock_guard lock(shard.mutex);
    (pin->previous != nullptr ? pin->previous->next : shard.first) = pin->next;
    if (pin->next != nullptr) pin->next->previous = pin->previous;
  }
  delete pin;
  if (tracker->max_pins_ != 0) tracker->pins_.fetch_sub(1, std::memory_order_relaxed);
}

std::vector<PinHolder> PinTracker::Holders(uint64_t first_index, uint64_t last_index) const {
  std::map<pid_t, std::pair<uint64_t, int64_t>> by_thread;  // Pins, and since when.
  for (const Shard& shard : shards_) {
    std::lock_guard lock(shard.mutex);
    for (const TrackedPin* pin = shard.first; pin != nullptr; pin = pin->next) {
      if (pin->last_index < first_index || pin->first_index > last_index) continue;
      auto [place, is_new] = by_thread.try_emplace(pin->thread, 0, pin->since_ns);
      ++place->second.first;
      place->second.second = std::min(place->second.second, pin->since_ns);
    }
  }
  const int64_t now_ns = PinClockNs();
  std::vector<PinHolder> holders;
  holders.reserve(by_thread.size());
  for (const auto& [thread, held] : by_thread) {
    holders.push_back({thread, ThreadName(thread), held.first,
                       absl::Nanoseconds(std::max<int64_t>(now_ns - held.second, 0))});
  }
  std::stable_sort(holders.begin(), holders.end(),
                   [](const PinHolder& a, const PinHolder& b) { return a.oldest > b.oldest; });
  return holders;
}

}  // namespace daxkv::dax::internal
