// YCSB's core workload: a mix of reads, updates, inserts, scans and read-modify-writes over
// records with numbered keys.
//
//   CoreWorkload workload   what all threads share: options, the counters of inserted keys
//   Worker                  one thread's share: generators, buffers, an engine's session
//
// What an operation does and costs
//   READ    one Session::Read; the record is decoded, the wanted fields looked up.
//   UPDATE  one random field: Read, the field replaced, Session::Update with the whole record, as
//           any binding of a store without fields has to. With fieldcount=1 or writeallfields=true
//           the whole record is new, and the update is one Session::Update alone. Two threads
//           that update different fields of one record at a time may lose one of the two.
//   INSERT  one Session::Insert of a new record. In the load phase with groups every record of a
//           group counts with the latency of its group.
//   SCAN    Session::Scan; every record is copied into one result buffer and decoded.
//   READ-MODIFY-WRITE  a READ and an UPDATE as above, which are counted too.
//   DELETE  one Session::Delete, in the delete phase only: the keys of the load phase with the same
//           properties, in the same order.
// With multiget=N a run of reads only asks for N records at a time by Session::ReadGroup; each of
// them counts with the latency of its group.
// With dataintegrity the records of READ and SCAN are compared with what belongs to their keys, and
// [VERIFY] tells the outcome.
#ifndef DAXKV_BENCHMARKS_YCSB_CORE_WORKLOAD_H_
#define DAXKV_BENCHMARKS_YCSB_CORE_WORKLOAD_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/generators.h"
#include "benchmarks/ycsb/measurements.h"
#include "benchmarks/ycsb/properties.h"
#include "benchmarks/ycsb/random.h"
#include "benchmarks/ycsb/record.h"

namespace daxkv::ycsb {

// The properties that the workload reads.
std::vector<PropertyRule> CoreWorkloadRules();

class CoreWorkload {
 public:
  // kInvalidArgument, naming the properties, when they don't fit together.
  static absl::StatusOr<std::unique_ptr<CoreWorkload>> Make(const Settings& settings, Phase phase);

  // Records to insert or delete in these phases, or operations in the run phase (0: until time is
  // up).
  uint64_t operations() const { return operations_; }

 private:
  friend class Worker;
  explicit CoreWorkload(const Settings& settings);
  absl::Status MakeKeyChooser(const Settings& settings, int64_t last_key);

  uint64_t operations_ = 0;
  int64_t first_key_;
  uint64_t seed_;
  size_t field_count_;
  std::vector<std::string> field_names_;
  LengthGenerator field_length_;
  LengthGenerator scan_length_;
  size_t multiget_;
  bool read_all_fields_, write_all_fields_, data_integrity_, hashed_;
  int zero_padding_;
  double operation_limits_[5];  // Cumulated proportions of kRead..kReadModifyWrite; the last is 1.
  std::unique_ptr<KeyChooser> key_chooser_;  // Cloned for each worker.
  std::atomic<int64_t> load_sequence_;
  AcknowledgedCounter inserted_;  // Brings its own alignment.
};

class Worker {
 public:
  // `workload`, `session` and `measurements` must outlive it. `index` tells threads apart.
  Worker(CoreWorkload* workload, Session* session, ThreadMeasurements* measurements,
         uint64_t index);
  ~Worker();

  // Inserts the next `count` records of the load phase, as a group when there are several.
  absl::Status Load(size_t count);
  // Deletes the next key, in the order in which the load phase inserts.
  absl::Status Delete();
  // Does one operation of the mix, or with multiget a group of up to `at_most` reads; at_most >= 1.
  // Returns how many operations it was. Failures are only measured.
  uint64_t Transact(uint64_t at_most);
  // Reads every `step`th record from the `first` on, and measures nothing. What is missing or wrong
  // the run itself will tell.
  void ReadAll(size_t first, size_t step);
  // Updates a record of the request distribution.
  void UpdateAny();

 private:
  using Clock = std::chrono::steady_clock;
  // Copies a scan's records into one buffer.
  class ScanResult;
  // Decodes the records of a group of reads as they come.
  class GroupReader;

  int64_t NextKey();
  Operation NextOperation();
  // A record all new, into *record.
  void BuildRecord(std::string_view key, std::string* record);
  std::string_view BuildField(std::string_view key, size_t field, size_t length);
  absl::Status ReadAndDecode(std::string_view key);
  absl::Status UpdateField(std::string_view key);
  absl::Status Verify(std::string_view key);
  void Measure(Operation operation, Clock::time_point start, const absl::Status& status,
               uint64_t times = 1);

  // These return what they have measured.
  absl::Status Read(std::string_view key);
  void ReadGroup(size_t count);
  absl::Status Update(std::string_view key);
  void Insert();
  void Scan(std::string_view key);
  void ReadModifyWrite(std::string_view key);

  CoreWorkload* const workload_;
  Session* const session_;
  ThreadMeasurements* const measurements_;
  Random random_;
  RandomBytes random_bytes_;
  KeyNamer namer_;
  std::unique_ptr<KeyChooser> key_chooser_;
  LengthGenerator field_length_, scan_length_;
  std::vector<std::string_view> fields_;      // Of the record last decoded or built.
  std::vector<std::string> expected_fields_;  // dataintegrity: the bytes of built fields.
  std::string record_;                        // To be written.
  std::unique_ptr<ScanResult> scan_result_;
  std::vector<std::string> group_keys_, group_records_;
  std::vector<std::string_view> group_views_;
  std::vector<KeyRecord> group_;
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_CORE_WORKLOAD_H_
