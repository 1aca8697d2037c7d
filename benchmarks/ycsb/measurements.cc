#include "benchmarks/ycsb/measurements.h"

#include "absl/strings/str_cat.h"

namespace daxkv::ycsb {

std::string_view OperationName(Operation operation) {
  static constexpr std::string_view kNames[kOperations] = {
      "READ", "UPDATE", "INSERT", "SCAN", "READ-MODIFY-WRITE", "DELETE", "VERIFY", "CLEANUP"};
  return kNames[static_cast<size_t>(operation)];
}

std::string_view OutcomeName(Outcome outcome) {
  static constexpr std::string_view kNames[kOutcomes] = {
      "OK", "NOT_FOUND", "BAD_REQUEST", "NO_SPACE", "UNEXPECTED_STATE", "ERROR"};
  return kNames[static_cast<size_t>(outcome)];
}

Outcome OutcomeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return Outcome::kOk;
    case absl::StatusCode::kNotFound:
      return Outcome::kNotFound;
    case absl::StatusCode::kInvalidArgument:
      return Outcome::kBadRequest;
    case absl::StatusCode::kResourceExhausted:
      return Outcome::kNoSpace;
    case absl::StatusCode::kDataLoss:
      return Outcome::kUnexpectedState;
    default:
      return Outcome::kError;
  }
}

uint64_t MeasurementTotals::CountAll(Outcome outcome) const {
  uint64_t count = 0;
  for (const PerOperation& each : operations) count += each.outcomes[static_cast<size_t>(outcome)];
  return count;
}

ThreadMeasurements::~ThreadMeasurements() {
  for (PerOperation& each : operations_) {
    delete each.succeeded.load(std::memory_order_relaxed);
    delete each.failed.load(std::memory_order_relaxed);
  }
}

void ThreadMeasurements::Record(Operation operation, uint64_t ns, const absl::Status& status,
                                uint64_t times) {
  PerOperation& measured = operations_[static_cast<size_t>(operation)];
  // As in YCSB, a verification that finds a fault is still a verification done.
  const bool done = status.ok() || operation == Operation::kVerify;
  std::atomic<LatencyRecorder*>& place = done ? measured.succeeded : measured.failed;
  LatencyRecorder* recorder = place.load(std::memory_order_relaxed);
  if (recorder == nullptr) {
    recorder = new LatencyRecorder();
    place.store(recorder, std::memory_order_release);  // Pairs with the acquire in AddTo.
  }
  recorder->Record(ns, times);
  const Outcome outcome = OutcomeOf(status);
  std::atomic<uint64_t>& count = measured.outcomes[static_cast<size_t>(outcome)];
  // Relaxed and no read-modify-write: this thread is the only writer.
  count.store(count.load(std::memory_order_relaxed) + times, std::memory_order_relaxed);
  if (outcome > Outcome::kNotFound && first_error_.ok()) {
    first_error_ = absl::Status(status.code(), absl::StrCat(std::string(OperationName(operation)),
                                                            ": ", std::string(status.message())));
  }
}

void ThreadMeasurements::AddTo(MeasurementTotals* totals, bool finished) const {
  for (size_t i = 0; i < kOperations; ++i) {
    const PerOperation& from = operations_[i];
    MeasurementTotals::PerOperation& to = totals->operations[i];
    // Pairs with the release in Record.
    const LatencyRecorder* succeeded = from.succeeded.load(std::memory_order_acquire);
    const LatencyRecorder* failed = from.failed.load(std::memory_order_acquire);
    if (succeeded != nullptr) succeeded->AddTo(&to.succeeded);
    if (failed != nullptr) failed->AddTo(&to.failed);
    for (size_t outcome = 0; outcome < kOutcomes; ++outcome) {
      to.outcomes[outcome] += from.outcomes[outcome].load(std::memory_order_relaxed);
    }
  }
  if (finished && totals->first_error.ok()) totals->first_error = first_error_;
}

}  // namespace daxkv::ycsb
