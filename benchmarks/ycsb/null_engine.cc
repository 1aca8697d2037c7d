// The engine that keeps nothing: writes are dropped, every read gives the same record. What a run
// on it takes is the driver's own cost.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/random.h"
#include "benchmarks/ycsb/record.h"

namespace daxkv::ycsb {
namespace {

class NullSession final : public Session {
 public:
  explicit NullSession(const std::string& record) : record_(record) {}
  absl::Status Read(std::string_view, std::string_view* record) override {
    *record = record_;
    return absl::OkStatus();
  }
  absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) override {
    for (size_t i = 0; i < count; ++i) sink->Add(start, record_);
    return absl::OkStatus();
  }
  absl::Status Insert(std::string_view, std::string_view) override { return absl::OkStatus(); }
  absl::Status Update(std::string_view, std::string_view) override { return absl::OkStatus(); }
  absl::Status Delete(std::string_view) override { return absl::OkStatus(); }

 private:
  const std::string& record_;
};

class NullEngine final : public Engine {
 public:
  explicit NullEngine(std::string record) : record_(std::move(record)) {}
  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<NullSession>(record_);
  }
  absl::StatusOr<std::vector<ReportLine>> Report() override {
    return std::vector<ReportLine>{{"NULL", "Promise", "none: nothing is stored"},
                                   {"NULL", "Note", "these figures are the driver's own cost"}};
  }
  absl::Status Close() override { return absl::OkStatus(); }

 private:
  const std::string record_;
};

absl::StatusOr<std::unique_ptr<Engine>> OpenNull(const Settings& settings, Phase) {
  const size_t length = static_cast<size_t>(settings.Whole("fieldlength"));
  Random random(static_cast<uint64_t>(settings.Whole("seed")));
  const RandomBytes bytes(random.Next(), length);
  std::vector<std::string_view> fields(static_cast<size_t>(settings.Whole("fieldcount")));
  for (std::string_view& field : fields) field = bytes.Take(length, &random);
  std::string record;
  EncodeRecord(fields, &record);
  return std::make_unique<NullEngine>(std::move(record));
}

const EngineRegistration kRegistration(
    {"null", "keeps nothing: shows the driver's own cost", {}, OpenNull});

}  // namespace
}  // namespace daxkv::ycsb
