// Giving space back, and proving that none leaked.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kv/space_impl.h"

namespace daxkv::kv {
namespace {

// How long Reclaim waits before it looks at pinned extents again.
constexpr absl::Duration kFirstNap = absl::Milliseconds(1);
constexpr absl::Duration kLongestNap = absl::Milliseconds(50);

}  // namespace

bool Space::Impl::IsEmpty(const ExtentFrame& frame) {
  return frame.used_count() == frame.held.size() + LostCount(frame);
}

// A pin's holder may itself wait for `maintenance`, to make room: it is not held between tries.
absl::StatusOr<ReclaimResult> Space::Reclaim(absl::Time deadline) {
  uint64_t extents_before, size_bytes_before;
  absl::Duration nap = kFirstNap;
  for (bool first = true;; first = false) {
    {
      std::lock_guard<std::mutex> lock(impl_->maintenance);
      if (first) {
        extents_before = impl_->truncated_extents;
        size_bytes_before = impl_->truncated_size_bytes;
      }
      const absl::StatusOr<uint64_t> pinned = WithoutExceptions([&] { return impl_->Reclaim(); });
      if (!pinned.ok()) return pinned.status();
      if (*pinned == 0 || absl::Now() >= deadline) {
        ReclaimResult result;
        result.extents_freed = impl_->truncated_extents - extents_before;
        result.size_bytes_freed = impl_->truncated_size_bytes - size_bytes_before;
        result.extents_pinned = *pinned;
        return result;
      }
    }
    // Nobody tells us that a pin went.
    absl::SleepFor(std::min(nap, deadline - absl::Now()));
    nap = std::min(nap * 2, kLongestNap);
  }
}

absl::StatusOr<uint64_t> Space::Impl::Reclaim() {
  absl::Status status = DeriveAll();
  if (!status.ok()) return status;
  RetireAllNow();
  std::vector<ExtentFrame*> empty = Frames();
  empty.erase(std::remove_if(empty.begin(), empty.end(),
                             [&](ExtentFrame* frame) {
                               if (!IsEmpty(*frame)) return true;
                               if (frame->is_large()) return false;
                               if (!Detach(frame)) return true;
                               if (IsEmpty(*frame)) return false;
                               Attach(frame);
                               return true;
                             }),
              empty.end());
  status = TruncateExtents(&empty);
  for (ExtentFrame* frame : empty) {
    if (!frame->is_large()) Attach(frame);
  }
  if (!status.ok()) return status;
  return empty.size();
}

absl::Status Space::MakeRoom() {
  return WithoutExceptions([this] { return impl_->MakeRoom(); });
}

absl::Status Space::Impl::MakeRoom() {
  const uint64_t rounds_seen = make_room_rounds.load(std::memory_order_relaxed);
  std::lock_guard<std::mutex> lock(maintenance);
  // Two rounds ended while we waited: the second began after our call.
  if (make_room_rounds.load(std::memory_order_relaxed) >= rounds_seen + 2) return absl::OkStatus();
  absl::Status status = Reclaim().status();
  make_room_rounds.fetch_add(1, std::memory_order_relaxed);
  return status;
}

absl::StatusOr<uint64_t> Space::Audit(const std::function<bool(Address)>& reachable,
                                      const std::function<void(std::string)>& report) {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  return WithoutExceptions([&] { return impl_->Audit(reachable, report); });
}

absl::StatusOr<uint64_t> Space::Impl::Audit(const std::function<bool(Address)>& reachable,
                                            const std::function<void(std::string)>& report) {
  const absl::Status status = DeriveAll();
  if (!status.ok()) return status;
  RetireAllNow();
  for (const auto& [extent, reason] : damaged) {
    report(absl::StrCat("extent at pool offset ", extent, " is unusable: ", reason));
  }
  uint64_t compared = 0;
  for (const ExtentFrame* frame : Frames()) {
    for (uint32_t slot = 0; slot < frame->slot_count(); ++slot) {
      const Address address = frame->SlotAddress(slot);
      const bool used = frame->IsUsed(slot) && frame->held.count(slot) == 0;
      const bool reached = reachable(address);
      ++compared;
      if (used == reached) continue;
      // Dead, or taken for live as it can't be read (E6).
      if (!reached && IsLostSlot(*frame, slot)) continue;
      report(absl::StrCat("slot at pool offset ", address, " (", frame->layout().slot_size_bytes,
                          " bytes) ",
                          used ? "is used but not reachable: leaked" : "is reachable but free"));
    }
  }
  return compared;
}

}  // namespace daxkv::kv
