// Records that compaction writes anew in the order of their keys.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/compaction.h"
#include "kv/exceptions.h"
#include "kv/placement.h"

namespace daxkv::kv {
namespace {

constexpr size_t kLeavesPerLook = 64;
// What the store may grow by meanwhile. Each step fills so much and then has as much given back:
// the smaller a step is, the more of the records that are still to come are moved twice.
constexpr uint64_t kLeastStepSizeBytes = 16 << 20;
constexpr uint64_t kStepPart = 8;
// A step that finds room for less is not worth its walk of the index.
constexpr uint64_t kLeastGainSizeBytes = 1 << 20;
constexpr uint64_t kLeastGainPart = 256;
constexpr absl::Duration kTurn = absl::Milliseconds(1);

absl::StatusOr<uint64_t> RecordExtentsBytes(const Space& space) {
  const absl::StatusOr<std::vector<SlotClassUsage>> usage = space.UsageByClass();
  if (!usage.ok()) return usage.status();
  uint64_t size_bytes = 0;
  for (const SlotClassUsage& of_class : *usage) {
    if (of_class.kind == SlotKind::kRecord && of_class.slot_size_bytes != 0) {
      size_bytes += of_class.size_bytes;
    }
  }
  return size_bytes;
}

// The end of the slots of the leaf that has the first.
size_t EndOfLeaf(const std::vector<Index::SlotPosition>& found, size_t first) {
  size_t end = first + 1;
  while (end < found.size() && found[end].leaf == found[first].leaf) ++end;
  return end;
}

}  // namespace

absl::Status Compactor::OrderLeaf(const CompactionTarget& target,
                                  absl::Span<const PlacedRecord> sorted, PlacementWalk* walk,
                                  MoveBatch* batch) {
  for (size_t i = 0; i < sorted.size(); ++i) {
    const PlacedRecord& record = sorted[i];
    if (record.size_bytes > kMaxSlabSlotSizeBytes) continue;
    if (i + 1 < sorted.size()) {
      PrefetchRecord(*target.space, sorted[i + 1].at.record(), sorted[i + 1].size_bytes);
    }
    const uint64_t copied_before = batch->size_bytes;
    absl::Status copied = Copy(target, record.at, Destination::kInOrder, batch);
    if (!copied.ok()) return copied;
    if (batch->size_bytes == copied_before) continue;  // It is no longer there.
    walk->NotePlaced(record.size_bytes, batch->moves.back().to);
  }
  return absl::OkStatus();
}

absl::Status Compactor::OrderSome(const CompactionTarget& target,
                                  const std::vector<Index::SlotPosition>& found,
                                  PlacementWalk* walk, CompactionResult* result) {
  const uint64_t moved_before = result->records_moved;
  MoveBatch batch;
  std::vector<PlacedRecord> sorted;
  absl::Status stopped;
  for (size_t i = 0, end; i < found.size() && stopped.ok(); i = end) {
    end = EndOfLeaf(found, i);
    SortByKey(*target.index, target.space, absl::MakeConstSpan(found).subspan(i, end - i), &sorted);
    if (walk->IsInPlace(sorted)) continue;
    stopped = OrderLeaf(target, sorted, walk, &batch);
    if (batch.size_bytes < kBatchSizeBytes) continue;
    if (absl::Status moved = FinishMoves(target, &batch, result); !moved.ok()) return moved;
  }
  absl::Status moved = FinishMoves(target, &batch, result);
  result->records_ordered += result->records_moved - moved_before;
  return moved.ok() ? stopped : moved;
}

absl::Status Compactor::OrderStep(const CompactionTarget& target, uint64_t size_bytes,
                                  std::string* from, bool* end, CompactionResult* result) {
  const auto any_record = [](Address) { return true; };
  const uint64_t moved_before = result->moved_size_bytes;
  PlacementWalk walk;
  std::vector<Index::SlotPosition> found;
  std::string next_from;
  while (!*end && result->moved_size_bytes - moved_before < size_bytes) {
    found.clear();
    bool last = false;
    absl::Status status =
        target.index->FindSlots(*from, kLeavesPerLook, any_record, &found, &next_from, &last);
    if (status.ok()) status = OrderSome(target, found, &walk, result);
    if (!status.ok()) return status;
    from->swap(next_from);
    *end = last;
  }
  return absl::OkStatus();
}

absl::Status Compactor::OrderTarget(const CompactionTarget& target,
                                    std::unique_lock<std::mutex>* passes,
                                    CompactionResult* result) {
  const absl::StatusOr<uint64_t> size_at_first = RecordExtentsBytes(*target.space);
  if (!size_at_first.ok()) return size_at_first.status();
  const uint64_t step_size_bytes = std::max(kLeastStepSizeBytes, *size_at_first / kStepPart);
  const uint64_t least_gain = std::max(kLeastGainSizeBytes, *size_at_first / kLeastGainPart);
  std::string from;
  kept_records_ = 0;
  bool packed = false;
  for (bool end = false; !end;) {
    const uint64_t moved_before = result->moved_size_bytes;
    const absl::Status ordered =
        WithoutExceptions([&] { return OrderStep(target, step_size_bytes, &from, &end, result); });
    const uint64_t moved_size_bytes = result->moved_size_bytes - moved_before;
    if (!ordered.ok() && !absl::IsResourceExhausted(ordered)) return ordered;
    if (!ordered.ok() && packed && moved_size_bytes < least_gain) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no room to order records by key: a step needs ", least_gain, " bytes free in the pool; ",
          result->records_ordered,
          " records were written in order, the others are where they were: ", ordered.message()));
    }
    // Gives back as much as the step took; or finds room for the first.
    if (moved_size_bytes > 0 || !ordered.ok()) {
      absl::Status status = Pack(target, result);
      if (!status.ok()) return status;
      packed = true;
    }
    if (kept_records_ > 0) {
      const absl::StatusOr<uint64_t> size_now = RecordExtentsBytes(*target.space);
      if (!size_now.ok()) return size_now.status();
      if (*size_now > *size_at_first + 2 * step_size_bytes) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "the order by key was given up at ", *size_now, " bytes of extents: snapshots or ",
            "iterators still show records where they were; release them and compact again. ",
            result->records_ordered, " records were written in order"));
      }
    }
    // Others wait for us to make room, or to check.
    passes->unlock();
    if (!Sleep(kTurn, [] { return false; })) return absl::CancelledError("the store is closing");
    *passes = TakePasses();
  }
  return absl::OkStatus();
}

}  // namespace daxkv::kv
