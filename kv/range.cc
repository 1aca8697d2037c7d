// DeleteRange and ApproximateRange.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/engine.h"

namespace daxkv::kv {
namespace {

// Of one round of deletes: enough to share its waits for the medium, little enough to keep.
constexpr size_t kMaxRoundKeys = 16384;
constexpr size_t kMaxRoundSizeBytes = 16 << 20;

// Leaves that an estimate reads: with even keys it is then good to some percent.
constexpr size_t kSampledLeaves = 64;

absl::Status CheckRange(std::string_view from, std::string_view to) {
  if (to.empty() || from <= to) return absl::OkStatus();
  return absl::InvalidArgumentError("the range ends before it begins");
}

// The sum of many numbers, of which some were looked at.
struct Estimate {
  uint64_t sum;
  uint64_t error;  // Two standard errors.
};

// Sampling `numbers` out of `population`, without replacement.
Estimate EstimateSum(const std::vector<double>& numbers, uint64_t population) {
  if (numbers.empty()) return {0, 0};
  const double n = static_cast<double>(numbers.size());
  const double all = static_cast<double>(population);
  double mean = 0;
  for (const double number : numbers) mean += number / n;
  double squares = 0;
  for (const double number : numbers) squares += (number - mean) * (number - mean);
  const double variance = n > 1 ? squares / (n - 1) : mean * mean;
  const double error = 2 * all * std::sqrt(variance / n * (1 - n / all));
  return {static_cast<uint64_t>(std::llround(mean * all)), static_cast<uint64_t>(std::ceil(error))};
}

}  // namespace

absl::StatusOr<uint64_t> Engine::DeleteRange(std::string_view from, std::string_view to) {
  absl::Status status = CheckRange(from, to);
  if (!status.ok()) return status;
  uint64_t deleted = 0;
  std::string next(from);
  bool end = !to.empty() && from == to;
  while (!end) {
    // The keys' bytes lie in `bytes`, which may move while they come: views are made at the end.
    std::string bytes;
    std::vector<size_t> sizes;
    while (!end && sizes.size() < kMaxRoundKeys && bytes.size() < kMaxRoundSizeBytes) {
      bool past_end = false;
      status = index_->ScanLeaf(
          next,
          [&](const RecordView& record) {
            past_end = !to.empty() && record.key >= to;
            if (past_end) return false;
            bytes.append(record.key);
            sizes.push_back(record.key.size());
            return true;
          },
          &next, &end);
      if (!status.ok()) break;
      end = end || past_end || (!to.empty() && next >= to);
    }
    std::vector<Index::GroupEntry> entries;
    entries.reserve(sizes.size());
    size_t offset = 0;
    for (const size_t size : sizes) {
      entries.push_back({std::string_view(bytes).substr(offset, size), kNullAddress});
      offset += size;
    }
    size_t done = 0;
    absl::Status removed = index_->UpsertSorted(entries, &done, &deleted);
    removed.Update(SettleRemoved(snapshots_.LastNumber()));
    if (!removed.ok()) status = removed;
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(status.message(), " (", deleted,
                                                      " keys of the range were deleted)"));
    }
  }
  return deleted;
}

absl::StatusOr<RangeEstimate> Engine::ApproximateRange(std::string_view from,
                                                       std::string_view to) const {
  absl::Status valid = CheckRange(from, to);
  if (!valid.ok()) return valid;
  absl::StatusOr<Index::RangeSample> sample = index_->SampleRange(from, to, kSampledLeaves);
  if (!sample.ok()) return sample.status();
  std::vector<double> records, size_bytes;
  for (const auto& [leaf_records, leaf_size_bytes] : sample->records_and_size_bytes) {
    records.push_back(static_cast<double>(leaf_records));
    size_bytes.push_back(static_cast<double>(leaf_size_bytes));
  }
  const uint64_t between = sample->leaves < 2 ? 0 : sample->leaves - 2;
  const Estimate records_between = EstimateSum(records, between);
  const Estimate size_between = EstimateSum(size_bytes, between);
  RangeEstimate estimate;
  estimate.records = sample->edge_records + records_between.sum;
  estimate.records_error = records_between.error;
  estimate.size_bytes = sample->edge_size_bytes + size_between.sum;
  estimate.size_bytes_error = size_between.error;
  return estimate;
}

}  // namespace daxkv::kv
