// What happened in a run: a latency histogram and the counts of outcomes for each kind of
// operation.
#ifndef DAXKV_BENCHMARKS_YCSB_MEASUREMENTS_H_
#define DAXKV_BENCHMARKS_YCSB_MEASUREMENTS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "benchmarks/ycsb/histogram.h"

namespace daxkv::ycsb {

enum class Operation {
  kRead,
  kUpdate,
  kInsert,
  kScan,
  kReadModifyWrite,
  kDelete,
  kVerify,
  kCleanup
};
inline constexpr size_t kOperations = 8;
// YCSB's names: "READ", "READ-MODIFY-WRITE".
std::string_view OperationName(Operation operation);

// How an operation ended, in YCSB's words.
enum class Outcome { kOk, kNotFound, kBadRequest, kNoSpace, kUnexpectedState, kError };
inline constexpr size_t kOutcomes = 6;
std::string_view OutcomeName(Outcome outcome);
Outcome OutcomeOf(const absl::Status& status);

// To read: merged from the threads'.
struct MeasurementTotals {
  struct PerOperation {
    LatencyHistogram succeeded;
    LatencyHistogram failed;  // YCSB's "[READ-FAILED]"; not found is a failure there too.
    std::array<uint64_t, kOutcomes> outcomes = {};
  };
  std::array<PerOperation, kOperations> operations;
  absl::Status first_error;  // Of those that are neither OK nor not found.

  uint64_t Count(Operation operation, Outcome outcome) const {
    return operations[static_cast<size_t>(operation)].outcomes[static_cast<size_t>(outcome)];
  }
  uint64_t CountAll(Outcome outcome) const;
};

// To write: one thread records. AddTo may run in another thread meanwhile, except that the first
// error is only added when `finished`.
class ThreadMeasurements {
 public:
  ThreadMeasurements() = default;
  ~ThreadMeasurements();
  ThreadMeasurements(const ThreadMeasurements&) = delete;
  ThreadMeasurements& operator=(const ThreadMeasurements&) = delete;

  // `times` operations that each took `ns` and ended with `status`.
  void Record(Operation operation, uint64_t ns, const absl::Status& status, uint64_t times = 1);
  void AddTo(MeasurementTotals* totals, bool finished) const;
  const absl::Status& first_error() const { return first_error_; }

 private:
  struct PerOperation {
    // Made at the first record. Release when set, acquire when another thread reads.
    std::atomic<LatencyRecorder*> succeeded{nullptr};
    std::atomic<LatencyRecorder*> failed{nullptr};
    std::array<std::atomic<uint64_t>, kOutcomes> outcomes = {};
  };
  alignas(64) std::array<PerOperation, kOperations> operations_;
  absl::Status first_error_;
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_MEASUREMENTS_H_
