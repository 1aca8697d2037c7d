// The engines floor-serial and floor-parallel: what the memory and the copying alone cost, over the
// workload's own keys (benchmarks/ycsb/floor_store.h says what they do). They differ in groups of
// reads (multiget): floor-serial does one after the other.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/floor_store.h"
#include "benchmarks/ycsb/record.h"

namespace daxkv::ycsb {
namespace {

class FloorSession final : public Session {
 public:
  FloorSession(FloorStore* store, bool parallel) : store_(store), parallel_(parallel) {}

  absl::Status Read(std::string_view key, std::string_view* record) override {
    absl::Status status = store_->Read(key, &copy_);
    *record = copy_;
    return status;
  }
  absl::Status ReadGroup(absl::Span<const std::string_view> keys, RecordSink* sink) override {
    if (!parallel_) return Session::ReadGroup(keys, sink);
    return store_->ReadGroup(keys, &copy_, [&](size_t index, std::string_view record) {
      sink->Add(keys[index], record);
    });
  }
  absl::Status Scan(std::string_view, size_t, RecordSink*) override {
    return absl::UnimplementedError("floor: keeps no order: it cannot scan");
  }
  absl::Status Insert(std::string_view key, std::string_view record) override {
    return store_->Insert(key, record);
  }
  absl::Status Update(std::string_view key, std::string_view record) override {
    return store_->Update(key, record);
  }
  absl::Status Delete(std::string_view) override {
    return absl::UnimplementedError("floor: cannot delete");
  }

 private:
  FloorStore* const store_;
  const bool parallel_;
  std::string copy_;
};

class FloorEngine final : public Engine {
 public:
  FloorEngine(const Settings& settings, std::string name, bool parallel,
              std::unique_ptr<FloorStore> store)
      : name_(std::move(name)),
        path_(settings.Text("floor.path")),
        stores_(settings.Text("floor.stores")),
        parallel_(parallel),
        store_(std::move(store)) {
    store_->set_streaming(stores_ == "streaming");
  }

  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<FloorSession>(store_.get(), parallel_);
  }
  absl::StatusOr<std::vector<ReportLine>> Report() override {
    const std::string section = absl::AsciiStrToUpper(name_);
    return std::vector<ReportLine>{
        {section, "Promise", "none: bytes are flushed and fenced, but nothing recovers them"},
        {section, "Path", path_},
        {section, "Stores", stores_},
        {section, "Records", absl::StrCat(store_->records())},
        {section, "File(bytes)", absl::StrCat(store_->file_size_bytes())}};
  }
  absl::Status Close() override {
    store_.reset();
    return absl::OkStatus();
  }

 private:
  const std::string name_, path_, stores_;
  const bool parallel_;
  std::unique_ptr<FloorStore> store_;
};

FloorStore::Geometry GeometryFor(const Settings& settings) {
  constexpr uint64_t kKeyBytes = 23;  // "user" and 19 digits.
  FloorStore::Geometry geometry;
  const uint64_t told = static_cast<uint64_t>(settings.Whole("floor.capacity"));
  const uint64_t records = static_cast<uint64_t>(settings.Whole("recordcount"));
  geometry.capacity_records = told > 0 ? told : records + records / 4 + 1000;
  geometry.max_key_bytes =
      std::max(kKeyBytes, static_cast<uint64_t>(settings.Whole("zeropadding")) + 4);
  geometry.max_record_bytes =
      static_cast<uint64_t>(settings.Whole("fieldcount")) *
      (kFieldLengthSizeBytes + static_cast<uint64_t>(settings.Whole("fieldlength")));
  return geometry;
}

absl::StatusOr<std::unique_ptr<Engine>> OpenFloor(const Settings& settings, Phase phase,
                                                  bool parallel) {
  const std::string& path = settings.Text("floor.path");
  absl::StatusOr<std::unique_ptr<FloorStore>> store =
      phase == Phase::kLoad ? FloorStore::Create(path, GeometryFor(settings))
                            : FloorStore::Open(path);
  if (!store.ok()) return store.status();
  return std::make_unique<FloorEngine>(settings, parallel ? "floor-parallel" : "floor-serial",
                                       parallel, *std::move(store));
}

const EngineRegistration kSerial(
    {"floor-serial",
     "no store: one dependent miss and a copy; stores, flushes, a fence",
     {
         TextRule("floor.path", "./ycsb-floor", "the floors' file"),
         ChoiceRule("floor.stores", {"cached", "streaming"},
                    "writes store into the cache and flush, or past the cache"),
         WholeRule("floor.capacity", "0", 0, INT64_C(1) << 32,
                   "records that there is room for, when the load makes it; 0: a quarter more than "
                   "recordcount"),
     },
     [](const Settings& settings, Phase phase) { return OpenFloor(settings, phase, false); }});
const EngineRegistration kParallel(
    {"floor-parallel",
     "no store: as floor-serial, but the misses of a group of reads overlap",
     {},
     [](const Settings& settings, Phase phase) { return OpenFloor(settings, phase, true); }});

}  // namespace
}  // namespace daxkv::ycsb
