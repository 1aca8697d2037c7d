#include "kv/scrub.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "dax/media_guard.h"
#include "kv/engine.h"
#include "kv/exceptions.h"
#include "kv/node.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

constexpr size_t kLeavesPerStep = 16;
constexpr size_t kMostFaults = 1000;
constexpr size_t kMostFaultsKept = 100;
constexpr absl::Duration kBetweenRounds = absl::Seconds(10);
// A record that changed while it was looked at looks well a moment later.
constexpr absl::Duration kSecondLook = absl::Milliseconds(5);

bool AnyRecord(Address) { return true; }

// Whether the leaf still has the slot. Inside a ReadGuard, in which the record then stays.
bool StillThere(const Space& space, const Index::SlotPosition& at) {
  if (space.PresentUntil(at.leaf) == kNullAddress) return false;
  const auto* leaf = reinterpret_cast<const LeafNode*>(space.At(at.leaf));
  return LoadWord(leaf->slots[at.place]) == at.slot &&
         (LoadWord(leaf->header.volatile_version) & kDeadBit) == 0;
}

}  // namespace

Scrubber::Scrubber(CompactionTargets* targets, uint64_t bytes_per_second)
    : targets_(targets), bytes_per_second_(bytes_per_second) {
  if (bytes_per_second_ != 0) background_ = std::thread([this] { BackgroundLoop(); });
}

Scrubber::~Scrubber() {
  {
    std::lock_guard<std::mutex> lock(stop_mutex_);
    stopping_.store(true, std::memory_order_relaxed);
  }
  stop_wakeup_.notify_all();
  if (background_.joinable()) background_.join();
}

bool Scrubber::Sleep(absl::Duration duration) {
  std::unique_lock<std::mutex> lock(stop_mutex_);
  return !stop_wakeup_.wait_for(lock, absl::ToChronoNanoseconds(duration),
                                [this] { return stopping_.load(std::memory_order_relaxed); });
}

void Scrubber::BackgroundLoop() {
  const dax::SurviveMediaErrors survive;
  do {
    std::lock_guard<std::mutex> lock(rounds_);
    ScrubReport report;
    // What can't be read is in the statistics.
    WithoutExceptions([&] { return Round(bytes_per_second_, &report); }).IgnoreError();
  } while (Sleep(kBetweenRounds));
}

absl::StatusOr<ScrubReport> Scrubber::Scrub() {
  std::lock_guard<std::mutex> lock(rounds_);
  ScrubReport report;
  absl::Status done = Round(/*bytes_per_second=*/0, &report);
  if (!done.ok()) return done;
  return report;
}

ScrubStats Scrubber::stats() const {
  std::lock_guard<std::mutex> lock(stats_mutex_);
  return stats_;
}

absl::Status Scrubber::Round(uint64_t bytes_per_second, ScrubReport* report) {
  absl::Status done = targets_->ForEachTarget(/*open=*/false, [&](const CompactionTarget& target) {
    return RoundOf(target, bytes_per_second, report);
  });
  if (absl::IsDataLoss(done)) {
    AddFault(std::string(done.message()), report);  // A keyspace that can't be opened.
    done = absl::OkStatus();
  }
  std::lock_guard<std::mutex> lock(stats_mutex_);
  if (done.ok()) ++stats_.rounds;
  return done;
}

absl::Status Scrubber::RoundOf(const CompactionTarget& target, uint64_t bytes_per_second,
                               ScrubReport* report) {
  std::vector<Index::SlotPosition> found;
  std::string from, next_from;
  for (bool end = false; !end; from.swap(next_from)) {
    found.clear();
    target.space->SettleMediaErrors();
    absl::Status walked =
        target.index->FindSlots(from, kLeavesPerStep, AnyRecord, &found, &next_from, &end);
    if (absl::IsDataLoss(walked)) {
      AddFault(absl::StrCat("the index: ", walked.message()), report);
      return absl::OkStatus();
    }
    if (!walked.ok()) return walked;
    const uint64_t size_bytes_before = report->size_bytes;
    for (const Index::SlotPosition& at : found) VerifyRecordAt(target, at, report);
    const uint64_t size_bytes = report->size_bytes - size_bytes_before;
    {
      std::lock_guard<std::mutex> lock(stats_mutex_);
      stats_.size_bytes += size_bytes;
    }
    if (bytes_per_second == 0) continue;
    const double seconds = static_cast<double>(size_bytes + kLeavesPerStep * kLeafSizeBytes) /
                           static_cast<double>(bytes_per_second);
    if (!Sleep(absl::Seconds(seconds))) return absl::CancelledError("the store is being closed");
  }
  return absl::OkStatus();
}

void Scrubber::AddFault(std::string fault, ScrubReport* report) {
  {
    std::lock_guard<std::mutex> lock(stats_mutex_);
    ++stats_.faults;
    if (stats_.first_faults.size() < kMostFaultsKept) stats_.first_faults.push_back(fault);
  }
  if (report->faults.size() < kMostFaults) report->faults.push_back(std::move(fault));
}

void Scrubber::VerifyRecordAt(const CompactionTarget& target, const Index::SlotPosition& at,
                              ScrubReport* report) {
  std::optional<std::string> key;
  uint64_t size_bytes = 0;
  absl::Status intact = TryVerify(target, at, &key, &size_bytes);
  if (absl::IsDataLoss(intact)) {
    absl::SleepFor(kSecondLook);
    target.space->SettleMediaErrors();
    intact = TryVerify(target, at, &key, &size_bytes);
  }
  if (size_bytes != 0) {
    ++report->records;
    report->size_bytes += size_bytes;
  }
  if (intact.ok()) return;
  if (key.has_value()) intact = WithKey(std::move(intact), *key);
  AddFault(std::string(intact.message()), report);
}

absl::Status Scrubber::TryVerify(const CompactionTarget& target, const Index::SlotPosition& at,
                                 std::optional<std::string>* key, uint64_t* size_bytes) const {
  Space& space = *target.space;
  dax::Mapping& mapping = space.mapping();
  Pins pins;
  for (;;) {
    pins.clear();
    std::optional<uint64_t> busy_page;
    absl::Status status;
    RecordView record;
    {
      rcu::ReadGuard guard;
      if (!StillThere(space, at)) return absl::OkStatus();
      absl::StatusOr<RecordView> viewed = ViewRecord(space, at.record());
      status = viewed.status();
      if (viewed.ok()) {
        record = *viewed;
        *key = std::string(record.key.substr(0, 256));
        *size_bytes = RecordSizeBytes(record.key.size(), record.value.size());
        if (*size_bytes <= kMaxGuardedCopySizeBytes) return VerifyRecord(space, record);
        const uint64_t end_page = (at.record() + *size_bytes - 1) / dax::kPageSizeBytes + 1;
        for (uint64_t page = at.record() >> dax::kPageShift; page < end_page;) {
          absl::StatusOr<dax::Pinned> pinned = mapping.TryPin(page);
          if (absl::IsUnavailable(pinned.status())) {
            busy_page = page;
            break;
          }
          if (!pinned.ok()) return pinned.status();
          page = pinned->first_index() + (pinned->size_bytes() >> dax::kPageShift);
          pins.push_back(*std::move(pinned));
        }
      }
    }
    if (absl::IsUnavailable(status)) {
      status = space.FaultIn(at.record());
      if (!status.ok()) return status;
      continue;
    }
    if (!status.ok()) return status;
    if (!busy_page.has_value()) return VerifyRecord(space, record);
    // Somebody has it locked, or it has just left.
    absl::StatusOr<dax::Pinned> pinned = mapping.Pin(*busy_page, dax::Access::kRead);
    if (!pinned.ok() && !absl::IsNotFound(pinned.status())) return pinned.status();
  }
}

}  // namespace daxkv::kv
