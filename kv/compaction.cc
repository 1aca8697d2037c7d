#include "kv/compaction.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "kv/exceptions.h"
#include "kv/record.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// Leaves looked at, and bytes copied, between two waits for the medium. The copies of one batch are
// what a full pool must have room for.
constexpr size_t kLeavesPerBatch = 256;
constexpr uint64_t kBatchSizeBytes = 4 << 20;

// On demand an extent is emptied if that gives back a fifth of it.
constexpr double kDemandUsedShare = 0.8;
constexpr unsigned kMostPasses = 8;
// The background moves less than it gains, and a bounded amount at a time: while they are emptied,
// extents are lost to writers.
constexpr double kBackgroundUsedShare = 0.5;
constexpr uint64_t kBackgroundSizeBytes = 64 << 20;
constexpr uint64_t kLeastBackgroundGainBytes = 4 << 20;
constexpr absl::Duration kBackgroundPause = absl::Seconds(2);

}  // namespace

// Spreads work over time.
class Compactor::Throttle {
 public:
  Throttle(Compactor* compactor, uint64_t bytes_per_second)
      : compactor_(compactor), bytes_per_second_(bytes_per_second) {}

  // After work on so many bytes. False: the compactor stops.
  bool Wait(uint64_t size_bytes) {
    if (bytes_per_second_ == 0) return true;
    return compactor_->Sleep(
        absl::Seconds(static_cast<double>(size_bytes) / static_cast<double>(bytes_per_second_)));
  }

 private:
  Compactor* const compactor_;
  const uint64_t bytes_per_second_;
};

Compactor::Compactor(dax::Pool* pool, CompactionTargets* targets, uint64_t bytes_per_second)
    : pool_(pool), targets_(targets), bytes_per_second_(bytes_per_second) {
  if (bytes_per_second_ != 0) background_ = std::thread([this] { BackgroundLoop(); });
}

Compactor::~Compactor() {
  {
    std::lock_guard<std::mutex> lock(stop_mutex_);
    stopping_.store(true, std::memory_order_relaxed);
  }
  stop_wakeup_.notify_all();
  if (background_.joinable()) background_.join();
}

bool Compactor::Sleep(absl::Duration duration) {
  std::unique_lock<std::mutex> lock(stop_mutex_);
  return !stop_wakeup_.wait_for(lock, absl::ToChronoNanoseconds(duration),
                                [this] { return stopping_.load(std::memory_order_relaxed); });
}

absl::StatusOr<CompactionResult> Compactor::Compact(absl::Time deadline) {
  std::lock_guard<std::mutex> lock(passes_);
  CompactionResult result;
  absl::Status status = targets_->ForEachTarget(
      /*open=*/false,
      [&](const CompactionTarget& target) { return CompactTarget(target, &result); });
  if (!status.ok()) return status;
  // Waits for pins only when nothing else is left to be done.
  status = targets_->ForEachTarget(/*open=*/true, [&](const CompactionTarget& target) {
    absl::StatusOr<uint64_t> pinned = Reclaim(target, deadline, &result);
    if (pinned.ok()) result.extents_pinned += *pinned;
    return pinned.status();
  });
  if (!status.ok()) return status;
  absl::StatusOr<uint64_t> trimmed = pool_->Trim();
  if (!trimmed.ok()) return trimmed.status();
  result.trimmed_size_bytes = *trimmed;
  return result;
}

absl::StatusOr<uint64_t> Compactor::Reclaim(const CompactionTarget& target, absl::Time deadline,
                                            CompactionResult* result) {
  absl::StatusOr<ReclaimResult> reclaimed = target.space->Reclaim(deadline);
  if (!reclaimed.ok()) return reclaimed.status();
  result->extents_freed += reclaimed->extents_freed;
  result->size_bytes_freed += reclaimed->size_bytes_freed;
  return reclaimed->extents_pinned;
}

absl::Status Compactor::CompactTarget(const CompactionTarget& target, CompactionResult* result) {
  // What is empty already makes room for the copies.
  absl::Status status = Reclaim(target, absl::InfinitePast(), result).status();
  Throttle throttle(this, /*bytes_per_second=*/0);
  Space::EmptyingLimits limits;
  limits.max_used_share = kDemandUsedShare;
  bool gained = true;
  for (unsigned pass = 0; status.ok() && gained && pass < kMostPasses; ++pass) {
    status = Pass(target, limits, &throttle, result, &gained);
  }
  return status;
}

absl::Status Compactor::Pass(const CompactionTarget& target, const Space::EmptyingLimits& limits,
                             Throttle* throttle, CompactionResult* result, bool* gained) {
  *gained = false;
  absl::StatusOr<uint64_t> to_move = target.space->BeginEmptying(limits);
  if (!to_move.ok()) return to_move.status();
  absl::Status moved;
  if (*to_move > 0) moved = WithoutExceptions([&] { return MoveAll(target, throttle, result); });
  // Also after an error: what was chosen takes part in allocation again.
  absl::StatusOr<ReclaimResult> ended = target.space->EndEmptying();
  // A pool without room for the next copies has some now, or there is nothing to be had.
  if (!moved.ok() && !absl::IsResourceExhausted(moved)) return moved;
  if (!ended.ok()) return ended.status();
  *gained = ended->extents_freed > 0;
  result->extents_freed += ended->extents_freed;
  result->size_bytes_freed += ended->size_bytes_freed;
  return absl::OkStatus();
}

absl::Status Compactor::MoveAll(const CompactionTarget& target, Throttle* throttle,
                                CompactionResult* result) {
  const auto emptying = [&](Address address) { return target.space->IsEmptying(address); };
  std::vector<Index::SlotPosition> found;
  std::string from, next_from;
  for (bool end = false; !end; from.swap(next_from)) {
    found.clear();
    absl::Status status =
        target.index->FindSlots(from, kLeavesPerBatch, emptying, &found, &next_from, &end);
    if (!status.ok()) return status;
    const uint64_t moved_before = result->moved_size_bytes;
    status = MoveSome(target, found, result);
    if (!status.ok()) return status;
    const uint64_t leaves_size_bytes = kLeavesPerBatch * kLeafSizeBytes;
    if (!throttle->Wait(leaves_size_bytes + 2 * (result->moved_size_bytes - moved_before))) break;
  }
  return absl::OkStatus();
}

absl::Status Compactor::MoveSome(const CompactionTarget& target,
                                 const std::vector<Index::SlotPosition>& found,
                                 CompactionResult* result) {
  std::vector<Index::Move> moves;
  std::vector<OwnedSlot> copies;  // Of the moves, in their order.
  std::vector<bool> moved;
  absl::Status stopped;
  for (size_t i = 0; i < found.size() && stopped.ok();) {
    moves.clear();
    copies.clear();
    uint64_t size_bytes = 0;
    for (; i < found.size() && size_bytes < kBatchSizeBytes; ++i) {
      absl::StatusOr<Copied> copied = Copy(target.space, found[i].record());
      // A damaged record stays where it is, for check to tell of, and keeps its extent.
      if (absl::IsDataLoss(copied.status())) continue;
      stopped = copied.status();
      if (!stopped.ok()) break;
      moves.push_back({found[i], copied->slot.address()});
      copies.push_back(std::move(copied->slot));
      size_bytes += copied->size_bytes;
    }
    moved.assign(moves.size(), false);
    absl::Status status = target.space->Drain();
    if (status.ok()) status = target.index->Relocate(moves, &moved);
    for (size_t k = 0; k < moves.size(); ++k) {
      // After a failed drain nobody knows which copies the medium's index leads to: they stay.
      if (moved[k] || absl::IsInternal(status)) copies[k].Release();
      result->records_moved += moved[k];
    }
    if (!status.ok()) return status;
    result->moved_size_bytes += size_bytes;
  }
  return stopped;
}

// Outside of any ReadGuard: extents that are being emptied keep what they hold.
absl::StatusOr<Compactor::Copied> Compactor::Copy(Space* space, Address from) {
  absl::StatusOr<RecordView> record = [&] {
    rcu::ReadGuard guard;
    return ViewRecord(*space, from);
  }();
  if (!record.ok()) return record.status();
  const uint64_t size_bytes = RecordSizeBytes(record->key.size(), record->value.size());
  absl::StatusOr<Address> to = space->AllocateForMove(size_bytes);
  if (!to.ok()) return to.status();
  OwnedSlot slot(space, *to);
  WriteRecord(*space, *to, record->kind, record->sequence, record->key, record->value);
  // A copy of a damaged record must not get a checksum that is right. Asked afterwards: a page that
  // is lost turns to zeros at any moment, and never back.
  if (absl::Status intact = VerifyRecord(*space, *record); !intact.ok()) return intact;
  return Copied{std::move(slot), size_bytes};
}

void Compactor::BackgroundLoop() {
  Throttle throttle(this, bytes_per_second_);
  Space::EmptyingLimits limits;
  limits.max_used_share = kBackgroundUsedShare;
  limits.max_size_bytes = kBackgroundSizeBytes;
  limits.least_gain_bytes = kLeastBackgroundGainBytes;
  limits.derive = false;
  while (Sleep(kBackgroundPause)) {
    std::lock_guard<std::mutex> lock(passes_);
    CompactionResult result;
    bool gained;
    // What fails here fails for a caller, too, who is then told.
    targets_
        ->ForEachTarget(/*open=*/true,
                        [&](const CompactionTarget& target) {
                          if (stopping_.load(std::memory_order_relaxed)) return absl::OkStatus();
                          WithoutExceptions([&] {
                            return Pass(target, limits, &throttle, &result, &gained);
                          }).IgnoreError();
                          return absl::OkStatus();
                        })
        .IgnoreError();
  }
}

}  // namespace daxkv::kv
