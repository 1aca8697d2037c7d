#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/core_workload.h"

namespace daxkv::ycsb {

class Worker::ScanResult final : public RecordSink {
 public:
  struct Row {
    size_t key_size, record_size;  // Bytes, in this order in bytes_.
  };
  void Clear() {
    bytes_.clear();
    rows_.clear();
  }
  void Add(std::string_view key, std::string_view record) override {
    bytes_.append(key).append(record);
    rows_.push_back({key.size(), record.size()});
  }
  // Calls `visit(key, record)` for each row until one is not OK.
  template <typename Visit>
  absl::Status ForEach(Visit visit) const {
    std::string_view rest = bytes_;
    for (const Row& row : rows_) {
      const std::string_view key = rest.substr(0, row.key_size);
      const std::string_view record = rest.substr(row.key_size, row.record_size);
      rest.remove_prefix(row.key_size + row.record_size);
      if (absl::Status status = visit(key, record); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  std::string bytes_;
  std::vector<Row> rows_;
};

class Worker::GroupReader final : public RecordSink {
 public:
  explicit GroupReader(Worker* worker) : worker_(worker) {}
  void Add(std::string_view key, std::string_view record) override {
    absl::Status decoded = DecodeRecord(record, &worker_->fields_);
    // The compiler must believe that somebody wants the field.
    asm volatile("" : : "r"(worker_->fields_[0].data()) : "memory");
    if (decoded.ok() && worker_->workload_->data_integrity_) decoded = worker_->Verify(key);
    status_.Update(decoded);
  }
  // Of all records so far: the first that is not OK.
  const absl::Status& status() const { return status_; }

 private:
  Worker* const worker_;
  absl::Status status_;
};

Worker::Worker(CoreWorkload* workload, Session* session, ThreadMeasurements* measurements,
               uint64_t index)
    : workload_(workload),
      session_(session),
      measurements_(measurements),
      random_(workload->seed_, index + 1),
      random_bytes_(workload->seed_ + index,
                    workload->field_count_ * static_cast<size_t>(workload->field_length_.max())),
      namer_(workload->hashed_, workload->zero_padding_),
      key_chooser_(workload->key_chooser_ ? workload->key_chooser_->Clone() : nullptr),
      field_length_(workload->field_length_),
      scan_length_(workload->scan_length_),
      fields_(workload->field_count_),
      expected_fields_(workload->data_integrity_ ? workload->field_count_ : 0),
      scan_result_(std::make_unique<ScanResult>()) {}

Worker::~Worker() = default;

int64_t Worker::NextKey() {
  int64_t key;
  do {
    key = key_chooser_->Next(&random_);
  } while (key > workload_->inserted_.last() || key < 0);
  return key;
}

Operation Worker::NextOperation() {
  const double choice = random_.NextDouble();
  size_t operation = 0;
  while (operation < 4 && choice >= workload_->operation_limits_[operation]) ++operation;
  return static_cast<Operation>(operation);
}

void Worker::Measure(Operation operation, Clock::time_point start, const absl::Status& status,
                     uint64_t times) {
  const auto ns = std::chrono::nanoseconds(Clock::now() - start).count();
  measurements_->Record(operation, static_cast<uint64_t>(ns), status, times);
}

std::string_view Worker::BuildField(std::string_view key, size_t field, size_t length) {
  if (!workload_->data_integrity_) return random_bytes_.Take(length, &random_);
  DeterministicValue(key, workload_->field_names_[field], length, &expected_fields_[field]);
  return expected_fields_[field];
}

void Worker::BuildRecord(std::string_view key, std::string* record) {
  if (workload_->data_integrity_) {
    for (size_t i = 0; i < fields_.size(); ++i) {
      fields_[i] = BuildField(key, i, static_cast<size_t>(field_length_.max()));
    }
  } else {
    // One random place for the whole record: its fields follow one another there.
    std::string_view rest =
        random_bytes_.Take(fields_.size() * static_cast<size_t>(field_length_.max()), &random_);
    for (std::string_view& field : fields_) {
      field = rest.substr(0, static_cast<size_t>(field_length_.Next(&random_)));
      rest.remove_prefix(field.size());
    }
  }
  EncodeRecord(fields_, record);
}

absl::Status Worker::Load(size_t count) {
  group_keys_.resize(count);
  group_records_.resize(count);
  group_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const int64_t number = workload_->load_sequence_.fetch_add(1, std::memory_order_relaxed);
    group_keys_[i] = namer_.Name(number);
    BuildRecord(group_keys_[i], &group_records_[i]);
    group_[i] = {group_keys_[i], group_records_[i]};
  }
  const Clock::time_point start = Clock::now();
  const absl::Status status = count == 1 ? session_->Insert(group_[0].key, group_[0].record)
                                         : session_->InsertGroup(group_);
  Measure(Operation::kInsert, start, status, count);
  return status;
}

absl::Status Worker::Delete() {
  const int64_t number = workload_->load_sequence_.fetch_add(1, std::memory_order_relaxed);
  const std::string_view key = namer_.Name(number);
  const Clock::time_point start = Clock::now();
  const absl::Status status = session_->Delete(key);
  Measure(Operation::kDelete, start, status);
  return status;
}

uint64_t Worker::Transact(uint64_t at_most) {
  if (workload_->multiget_ > 1) {
    const uint64_t count = std::min<uint64_t>(workload_->multiget_, at_most);
    ReadGroup(count);
    return count;
  }
  switch (NextOperation()) {
    case Operation::kUpdate:
      UpdateAny();
      break;
    case Operation::kInsert:
      Insert();
      break;
    case Operation::kScan:
      Scan(namer_.Name(NextKey()));
      break;
    case Operation::kReadModifyWrite:
      ReadModifyWrite(namer_.Name(NextKey()));
      break;
    default:
      Read(namer_.Name(NextKey())).IgnoreError();  // Measured there.
  }
  return 1;
}

void Worker::ReadAll(size_t first, size_t step) {
  std::string_view record;
  const int64_t last = workload_->inserted_.last();
  for (int64_t number = workload_->first_key_ + static_cast<int64_t>(first); number <= last;
       number += static_cast<int64_t>(step)) {
    if (!session_->Read(namer_.Name(number), &record).ok() || record.empty()) continue;
    // The compiler must believe that somebody wants the bytes: mapped ones are touched here only.
    for (size_t byte = 0; byte < record.size(); byte += 64) {
      asm volatile("" : : "r"(record[byte]) : "memory");
    }
  }
}

void Worker::UpdateAny() {
  Update(namer_.Name(NextKey())).IgnoreError();  // Measured there.
}

void Worker::ReadGroup(size_t count) {
  group_keys_.resize(count);
  group_views_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    group_keys_[i] = namer_.Name(NextKey());
    group_views_[i] = group_keys_[i];
  }
  GroupReader reader(this);
  const Clock::time_point start = Clock::now();
  const absl::Status status = session_->ReadGroup(group_views_, &reader);
  Measure(Operation::kRead, start, status, count);
  if (status.ok() && (workload_->data_integrity_ || !reader.status().ok())) {
    Measure(Operation::kVerify, start, reader.status(), count);
  }
}

absl::Status Worker::ReadAndDecode(std::string_view key) {
  std::string_view record;
  if (absl::Status status = session_->Read(key, &record); !status.ok()) return status;
  return DecodeRecord(record, &fields_);
}

// Compares the decoded record with what belongs to `key`.
absl::Status Worker::Verify(std::string_view key) {
  for (size_t i = 0; i < fields_.size(); ++i) {
    const std::string_view read = fields_[i];
    const std::string_view expected = BuildField(key, i, static_cast<size_t>(field_length_.max()));
    if (read == expected) continue;
    return absl::DataLossError(absl::StrCat("the record of ", std::string(key),
                                            " has a wrong value in ", workload_->field_names_[i]));
  }
  return absl::OkStatus();
}

absl::Status Worker::Read(std::string_view key) {
  const size_t wanted =
      workload_->read_all_fields_ ? 0 : static_cast<size_t>(random_.Below(fields_.size()));
  const Clock::time_point start = Clock::now();
  const absl::Status status = ReadAndDecode(key);
  Measure(Operation::kRead, start, status);
  if (!status.ok()) return status;
  // The compiler must believe that somebody wants the field.
  asm volatile("" : : "r"(fields_[wanted].data()) : "memory");
  if (!workload_->data_integrity_) return status;
  const Clock::time_point verify_start = Clock::now();
  Measure(Operation::kVerify, verify_start, Verify(key));
  return status;
}

absl::Status Worker::UpdateField(std::string_view key) {
  if (absl::Status status = ReadAndDecode(key); !status.ok()) return status;
  const size_t field = static_cast<size_t>(random_.Below(fields_.size()));
  fields_[field] = BuildField(key, field, static_cast<size_t>(field_length_.Next(&random_)));
  EncodeRecord(fields_, &record_);
  return session_->Update(key, record_);
}

absl::Status Worker::Update(std::string_view key) {
  const bool whole = workload_->write_all_fields_ || fields_.size() == 1;
  if (whole) BuildRecord(key, &record_);
  const Clock::time_point start = Clock::now();
  const absl::Status status = whole ? session_->Update(key, record_) : UpdateField(key);
  Measure(Operation::kUpdate, start, status);
  return status;
}

void Worker::ReadModifyWrite(std::string_view key) {
  const Clock::time_point start = Clock::now();
  absl::Status status = Read(key);
  const absl::Status updated = Update(key);
  if (status.ok()) status = updated;
  Measure(Operation::kReadModifyWrite, start, status);
}

void Worker::Insert() {
  const int64_t number = workload_->inserted_.Next();
  const std::string_view key = namer_.Name(number);
  BuildRecord(key, &record_);
  const Clock::time_point start = Clock::now();
  Measure(Operation::kInsert, start, session_->Insert(key, record_));
  // A failed one too, or readers would never see those behind it.
  workload_->inserted_.Acknowledge(number);
}

void Worker::Scan(std::string_view key) {
  const size_t count = static_cast<size_t>(scan_length_.Next(&random_));
  const auto decode = [this](std::string_view, std::string_view record) {
    return DecodeRecord(record, &fields_);
  };
  scan_result_->Clear();
  const Clock::time_point start = Clock::now();
  absl::Status status = session_->Scan(key, count, scan_result_.get());
  if (status.ok()) status = scan_result_->ForEach(decode);
  Measure(Operation::kScan, start, status);
  if (!status.ok() || !workload_->data_integrity_) return;

  const Clock::time_point verify_start = Clock::now();
  std::string_view previous;
  status = scan_result_->ForEach([&](std::string_view row_key, std::string_view record) {
    if (row_key < key || (!previous.empty() && row_key <= previous)) {
      return absl::DataLossError(absl::StrCat("a scan from ", std::string(key), " gave ",
                                              std::string(row_key), " out of order"));
    }
    previous = row_key;
    absl::Status decoded = DecodeRecord(record, &fields_);
    return decoded.ok() ? Verify(row_key) : decoded;
  });
  Measure(Operation::kVerify, verify_start, status);
}

}  // namespace daxkv::ycsb
