// Giving space back, and proving that none leaked.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kv/space_impl.h"

namespace daxkv::kv {

bool Space::Impl::IsEmpty(const ExtentFrame& frame) {
  return frame.used_count() == frame.held.size() + LostCount(frame);
}

absl::StatusOr<ReclaimResult> Space::Reclaim(absl::Time deadline) {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  return impl_->Reclaim(deadline);
}

absl::StatusOr<ReclaimResult> Space::Impl::Reclaim(absl::Time deadline) {
  const uint64_t extents_before = truncated_extents;
  const uint64_t size_bytes_before = truncated_size_bytes;
  absl::Status status = DeriveAll();
  if (!status.ok()) return status;
  RetireRound();
  ReclaimResult result;
  for (ExtentFrame* frame : Frames()) {
    if (!IsEmpty(*frame)) continue;
    if (!frame->is_large() && !Detach(frame)) continue;
    status.Update(TruncateIfEmpty(frame, deadline, &result));
  }
  if (!status.ok()) return status;
  result.extents_freed = truncated_extents - extents_before;
  result.size_bytes_freed = truncated_size_bytes - size_bytes_before;
  return result;
}

// The frame takes part in allocation again if the extent stays.
absl::Status Space::Impl::TruncateIfEmpty(ExtentFrame* frame, absl::Time deadline,
                                          ReclaimResult* result) {
  absl::Status status;
  if (IsEmpty(*frame)) {
    const size_t held = frame->held.size();
    status = TruncateExtent(frame, deadline);
    if (status.ok()) {
      if (held == 0) return status;
      held_count.fetch_sub(held, std::memory_order_relaxed);
      held_frames.erase(std::find(held_frames.begin(), held_frames.end(), frame));
      return status;
    }
    if (absl::IsDeadlineExceeded(status)) {
      ++result->extents_pinned;
      status = absl::OkStatus();
    }
  }
  if (!frame->is_large()) Attach(frame);
  return status;
}

absl::Status Space::MakeRoom() { return impl_->MakeRoom(); }

absl::Status Space::Impl::MakeRoom() {
  const uint64_t rounds_seen = make_room_rounds.load(std::memory_order_relaxed);
  std::lock_guard<std::mutex> lock(maintenance);
  // Two rounds ended while we waited: the second began after our call.
  if (make_room_rounds.load(std::memory_order_relaxed) >= rounds_seen + 2) return absl::OkStatus();
  absl::Status status = Reclaim(absl::InfinitePast()).status();
  make_room_rounds.fetch_add(1, std::memory_order_relaxed);
  return status;
}

absl::StatusOr<uint64_t> Space::Audit(const std::function<bool(Address)>& reachable,
                                      const std::function<void(std::string)>& report) {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  const absl::Status status = impl_->DeriveAll();
  if (!status.ok()) return status;
  impl_->RetireRound();
  for (const auto& [extent, reason] : impl_->damaged) {
    report(absl::StrCat("extent at pool offset ", extent, " is unusable: ", reason));
  }
  uint64_t compared = 0;
  for (const ExtentFrame* frame : impl_->Frames()) {
    for (uint32_t slot = 0; slot < frame->slot_count(); ++slot) {
      const Address address = frame->SlotAddress(slot);
      const bool used = frame->IsUsed(slot) && frame->held.count(slot) == 0;
      const bool reached = reachable(address);
      ++compared;
      if (used == reached) continue;
      // Dead, or taken for live as it can't be read (E6).
      if (!reached && impl_->IsLostSlot(*frame, slot)) continue;
      report(absl::StrCat("slot at pool offset ", address, " (", frame->layout().slot_size_bytes,
                          " bytes) ",
                          used ? "is used but not reachable: leaked" : "is reachable but free"));
    }
  }
  return compared;
}

}  // namespace daxkv::kv
