#include "kv/compaction.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "kv/exceptions.h"
#include "kv/record.h"
#include "kv/word_stores.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// Leaves looked at between two waits for the medium.
constexpr size_t kLeavesPerBatch = 256;

// On demand an extent is emptied if that gives back a fifth of it.
constexpr double kDemandUsedShare = 0.8;
constexpr unsigned kMostPasses = 8;
// The background moves less than it gains, and a bounded amount at a time: while they are emptied,
// extents are lost to writers.
constexpr double kBackgroundUsedShare = 0.5;
constexpr uint64_t kBackgroundSizeBytes = 64 << 20;
constexpr uint64_t kLeastBackgroundGainBytes = 4 << 20;
constexpr absl::Duration kBackgroundPause = absl::Seconds(2);
// While runs are made, how often it is looked whether more came: growth takes blocks for up to a
// third of the pool ahead, which would lie idle behind a load.
constexpr absl::Duration kTrimPause = absl::Milliseconds(250);
// Half of what a leaf that a split made holds.
constexpr double kSparseRecordsPerLeaf = 40;
// After leaves were looked at in vain: how much sparser they must be to be looked at again.
constexpr double kSparserShare = 0.8;

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
        absl::Seconds(static_cast<double>(size_bytes) / static_cast<double>(bytes_per_second_)),
        [this] { return compactor_->waiting_ > 0; });
  }

 private:
  Compactor* const compactor_;
  const uint64_t bytes_per_second_;
};

// What a rewrite of leaves needs: slots, and the commit of its stores.
class Compactor::Rewriter final : public LeafRewriter {
 public:
  // `word`, claimed before any leaf is locked (BatchTable, T1), goes back with the rewriter.
  Rewriter(Space* space, BatchTable* table, unsigned word)
      : space_(*space), table_(*table), word_(word) {}
  ~Rewriter() override {
    // What a redo may need is nobody's until then.
    if (begun_) {
      record_.Release();
    } else {
      table_.Release(word_);
    }
  }

  bool MustMove(Address leaf) const override { return space_.IsEmptying(leaf); }

  absl::StatusOr<Address> AllocateLeaf() override {
    if (record_.address() == kNullAddress) {
      absl::StatusOr<Address> record =
          space_.AllocateForMove(SlotKind::kRecord, WordStoresSizeBytes(kMostStores));
      if (!record.ok()) return record;
      record_ = OwnedSlot(&space_, *record);
    }
    return space_.AllocateForMove(SlotKind::kLeaf, kLeafSizeBytes);
  }

  absl::Status Commit(absl::Span<const WordStore> stores, bool* begun) override {
    WriteWordStores(space_, record_.address(), stores);
    if (absl::Status status = space_.Drain(); !status.ok()) return status;
    *begun = begun_ = true;
    return table_.Store(word_, record_.address());
  }

  absl::Status Finish() override {
    absl::Status cleared = table_.Clear(word_);
    begun_ = !cleared.ok();
    return cleared;
  }

 private:
  Space& space_;
  BatchTable& table_;
  const unsigned word_;
  OwnedSlot record_;
  bool begun_ = false;  // The word may be set on the medium.
};

namespace {

// How many records there are for each leaf; nullopt: too few leaves to be worth a look.
std::optional<double> RecordsPerLeaf(const Space& space) {
  const absl::StatusOr<std::vector<SlotClassUsage>> usage = space.UsageByClass();
  if (!usage.ok()) return std::nullopt;
  uint64_t records = 0, leaves = 0;
  for (const SlotClassUsage& of_class : *usage) {
    if (of_class.kind == SlotKind::kRecord) records += of_class.used_slots;
    if (of_class.kind == SlotKind::kLeaf) leaves += of_class.used_slots;
  }
  if (leaves * kLeafSizeBytes < kLeastBackgroundGainBytes) return std::nullopt;
  return static_cast<double>(records) / static_cast<double>(leaves);
}

}  // namespace

Compactor::Compactor(dax::Pool* pool, CompactionTargets* targets, BatchTable* table,
                     uint64_t bytes_per_second)
    : pool_(pool), targets_(targets), table_(table), bytes_per_second_(bytes_per_second) {
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

bool Compactor::Sleep(absl::Duration duration, absl::FunctionRef<bool()> wakes) {
  std::unique_lock<std::mutex> lock(stop_mutex_);
  const auto stops = [this] { return stopping_.load(std::memory_order_relaxed); };
  stop_wakeup_.wait_for(lock, absl::ToChronoNanoseconds(duration),
                        [&] { return stops() || wakes(); });
  return !stops();
}

std::unique_lock<std::mutex> Compactor::TakePasses() {
  {
    std::lock_guard<std::mutex> lock(stop_mutex_);
    ++waiting_;
  }
  stop_wakeup_.notify_all();
  std::unique_lock<std::mutex> passes(passes_);
  std::lock_guard<std::mutex> lock(stop_mutex_);
  --waiting_;
  return passes;
}

absl::StatusOr<CompactionResult> Compactor::Compact(const CompactOptions& options) {
  std::unique_lock<std::mutex> lock = TakePasses();
  CompactionResult result;
  // Nothing moves on a medium that failed, and the caller hears of it though nothing had to.
  absl::Status status = pool_->Drain();
  if (!status.ok()) return status;
  status = targets_->ForEachTarget(
      /*open=*/false,
      [&](const CompactionTarget& target) { return CompactTarget(target, &result); });
  bool ordered_some = false;
  if (status.ok() && options.order_by_key) {
    status = targets_->ForEachTarget(/*open=*/true, [&](const CompactionTarget& target) {
      absl::Status ordered = OrderTarget(target, &lock, &result);
      target.space->EndOrdering();
      return ordered;
    });
    ordered_some = result.records_ordered > 0;
  }
  if (!status.ok()) return status;
  // Waits for pins only when nothing else is left to be done, and keeps nobody from making room: he
  // may hold the pin.
  lock.unlock();
  status = targets_->ForEachTarget(/*open=*/true, [&](const CompactionTarget& target) {
    absl::StatusOr<uint64_t> pinned = Reclaim(target, options.deadline, &result);
    if (pinned.ok()) result.extents_pinned += *pinned;
    if (ordered_some) target.space->UseHugePages();
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
    status = Pass(target, limits, /*merge_leaves=*/true, &throttle, result, &gained);
  }
  return status;
}

absl::Status Compactor::Pack(const CompactionTarget& target, CompactionResult* result) {
  absl::Status status = Reclaim(target, absl::InfinitePast(), result).status();
  if (!status.ok()) return status;
  Throttle throttle(this, /*bytes_per_second=*/0);
  bool gained;
  return Pass(target, Space::EmptyingLimits(), /*merge_leaves=*/false, &throttle, result, &gained);
}

bool Compactor::MakeRoom() {
  const uint64_t rounds_seen = room_rounds_.load(std::memory_order_relaxed);
  const std::unique_lock<std::mutex> lock = TakePasses();
  // Somebody has made room while we waited.
  if (room_rounds_.load(std::memory_order_relaxed) != rounds_seen) return true;
  Throttle throttle(this, /*bytes_per_second=*/0);
  Space::EmptyingLimits limits;
  limits.max_used_share = kDemandUsedShare;
  limits.max_size_bytes = kBackgroundSizeBytes;
  bool gained_any = false;
  targets_
      ->ForEachTarget(/*open=*/true,
                      [&](const CompactionTarget& target) {
                        CompactionResult result;
                        bool gained = false;
                        WithoutExceptions([&] {
                          return Pass(target, limits, /*merge_leaves=*/false, &throttle, &result,
                                      &gained);
                        }).IgnoreError();
                        gained_any |= gained;
                        return absl::OkStatus();
                      })
      .IgnoreError();
  if (gained_any) room_rounds_.fetch_add(1, std::memory_order_relaxed);
  return gained_any;
}

absl::Status Compactor::Pass(const CompactionTarget& target, const Space::EmptyingLimits& limits,
                             bool merge_leaves, Throttle* throttle, CompactionResult* result,
                             bool* gained) {
  *gained = false;
  absl::StatusOr<uint64_t> to_move = target.space->BeginEmptying(limits);
  if (!to_move.ok()) return to_move.status();
  absl::Status moved;
  if (*to_move > 0) moved = WithoutExceptions([&] { return MoveAll(target, throttle, result); });
  bool merged = false;
  if (merge_leaves || *to_move > 0) {
    // Also when there was no room for all copies: there may be some for leaves.
    const absl::Status rewritten =
        WithoutExceptions([&] { return RewriteAll(target, throttle, result, &merged); });
    if (moved.ok() || absl::IsResourceExhausted(moved)) moved = rewritten;
  }
  // Also after an error: what was chosen takes part in allocation again.
  absl::StatusOr<ReclaimResult> ended = target.space->EndEmptying();
  // A pool without room for the next copies has some now, or there is nothing to be had.
  if (!moved.ok() && !absl::IsResourceExhausted(moved)) return moved;
  if (!ended.ok()) return ended.status();
  *gained = ended->extents_freed > 0 || merged;
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

absl::Status Compactor::RewriteAll(const CompactionTarget& target, Throttle* throttle,
                                   CompactionResult* result, bool* merged) {
  // Batches that wait for us to make room may have them all: another time, then.
  const std::optional<unsigned> word = table_->TryClaim();
  if (!word.has_value()) return absl::OkStatus();
  Rewriter rewriter(target.space, table_, *word);
  Index::RewriteResult rewritten;
  absl::Status status;
  std::string from, next_from;
  for (bool end = false; !end && status.ok(); from.swap(next_from)) {
    const uint64_t seen_before = rewritten.leaves_seen;
    status = target.index->RewriteLeaves(from, rewriter, &rewritten, &next_from, &end);
    if (!throttle->Wait((rewritten.leaves_seen - seen_before) * kLeafSizeBytes)) break;
  }
  *merged = rewritten.leaves_freed > rewritten.leaves_written;
  result->leaves_merged += rewritten.leaves_freed - rewritten.leaves_written;
  return status;
}

absl::Status Compactor::MoveSome(const CompactionTarget& target,
                                 const std::vector<Index::SlotPosition>& found,
                                 CompactionResult* result) {
  MoveBatch batch;
  std::vector<PlacedRecord> sorted;
  absl::Status stopped;
  for (size_t i = 0, end; i < found.size() && stopped.ok(); i = end) {
    end = i + 1;
    while (end < found.size() && found[end].leaf == found[i].leaf) ++end;
    // Neighbours by key become neighbours, if free slots are.
    SortByKey(*target.index, target.space, absl::MakeConstSpan(found).subspan(i, end - i), &sorted);
    for (size_t k = 0; k < sorted.size() && stopped.ok(); ++k) {
      stopped = Copy(target, sorted[k].at, Destination::kAnywhere, &batch);
    }
    if (batch.size_bytes < kBatchSizeBytes) continue;
    if (absl::Status moved = FinishMoves(target, &batch, result); !moved.ok()) return moved;
  }
  absl::Status moved = FinishMoves(target, &batch, result);
  return moved.ok() ? stopped : moved;
}

// In the ReadGuard in which the slot is seen to lead to it a record does not change.
absl::Status Compactor::Copy(const CompactionTarget& target, const Index::SlotPosition& at,
                             Destination destination, MoveBatch* batch) {
  Space& space = *target.space;
  const auto view = [&]() -> absl::StatusOr<RecordView> {
    if (!target.index->Holds(at)) return absl::Status(absl::StatusCode::kNotFound, "");
    return ViewRecord(space, at.record());
  };
  const auto stays = [](const absl::Status& status) {
    return absl::IsNotFound(status) || absl::IsDataLoss(status);
  };
  const auto size_of = [](const RecordView& record) {
    return RecordSizeBytes(record.key.size(), record.value.size());
  };
  absl::StatusOr<RecordView> record = [&] {
    rcu::ReadGuard guard;
    return view();
  }();
  if (!record.ok()) return stays(record.status()) ? absl::OkStatus() : record.status();
  const uint64_t size_bytes = size_of(*record);
  absl::StatusOr<Address> to = destination == Destination::kInOrder
                                   ? space.AllocateInOrder(size_bytes)
                                   : space.AllocateForMove(SlotKind::kRecord, size_bytes);
  if (!to.ok()) return to.status();
  OwnedSlot slot(&space, *to);
  rcu::ReadGuard guard;
  record = view();
  if (!record.ok()) return stays(record.status()) ? absl::OkStatus() : record.status();
  if (size_of(*record) != size_bytes) return absl::OkStatus();  // Another one.
  WriteRecord(space, *to, record->kind, record->sequence, record->key, record->value,
              record->of_batch ? kOfBatchFlag : uint8_t{0});
  // A copy of a damaged record must not get a checksum that is right. Asked afterwards: a page that
  // is lost turns to zeros at any moment, and never back.
  if (!VerifyRecord(space, *record).ok()) return absl::OkStatus();
  batch->moves.push_back({at, *to, record->sequence});
  batch->copies.push_back(std::move(slot));
  batch->size_bytes += size_bytes;
  return absl::OkStatus();
}

absl::Status Compactor::FinishMoves(const CompactionTarget& target, MoveBatch* batch,
                                    CompactionResult* result) {
  std::vector<bool> moved(batch->moves.size(), false);
  absl::Status status = target.space->Drain();
  if (status.ok()) status = target.index->Relocate(batch->moves, &moved, &kept_records_);
  for (size_t i = 0; i < moved.size(); ++i) {
    // After a failed drain nobody knows which copies the medium's index leads to: they stay.
    if (moved[i] || absl::IsInternal(status)) batch->copies[i].Release();
    result->records_moved += moved[i];
  }
  if (status.ok()) result->moved_size_bytes += batch->size_bytes;
  *batch = MoveBatch();
  return status;
}

// What fails here fails for a caller of Compact, too, who is then told.
absl::Status Compactor::BackgroundPass(const CompactionTarget& target, Throttle* throttle) {
  Space::EmptyingLimits limits;
  limits.max_used_share = kBackgroundUsedShare;
  limits.max_size_bytes = kBackgroundSizeBytes;
  limits.least_gain_bytes = kLeastBackgroundGainBytes;
  limits.derive = false;
  const std::optional<double> records_per_leaf = RecordsPerLeaf(*target.space);
  double& below = merge_below_.emplace(target.space, kSparseRecordsPerLeaf).first->second;
  if (records_per_leaf.value_or(0) >= kSparseRecordsPerLeaf) below = kSparseRecordsPerLeaf;
  const bool merge = records_per_leaf.has_value() && *records_per_leaf < below;
  CompactionResult result;
  bool gained;
  absl::Status passed = Pass(target, limits, merge, throttle, &result, &gained);
  if (merge && result.leaves_merged == 0) below = *records_per_leaf * kSparserShare;
  return passed;
}

bool Compactor::TrimIfIdle() {
  const uint64_t runs = pool_->runs_allocated();
  const bool idle = runs == runs_seen_;
  if (idle && runs != runs_trimmed_) {
    pool_->TrimSpare().IgnoreError();
    runs_trimmed_ = runs;
  }
  runs_seen_ = runs;
  return idle;
}

void Compactor::BackgroundLoop() {
  Throttle throttle(this, bytes_per_second_);
  const auto pass = [&](const CompactionTarget& target) {
    if (stopping_.load(std::memory_order_relaxed)) return absl::OkStatus();
    WithoutExceptions([&] { return BackgroundPass(target, &throttle); }).IgnoreError();
    return absl::OkStatus();
  };
  absl::Duration pause = kBackgroundPause, since_pass;
  while (Sleep(pause, [] { return false; })) {
    since_pass += pause;
    pause = TrimIfIdle() ? kBackgroundPause : kTrimPause;
    if (since_pass < kBackgroundPause) continue;
    since_pass = absl::ZeroDuration();
    std::lock_guard<std::mutex> lock(passes_);
    targets_->ForEachTarget(/*open=*/true, pass).IgnoreError();
  }
}

}  // namespace daxkv::kv
