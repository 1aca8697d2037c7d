// pmemkv's cmap: a concurrent hash map in one libpmemobj pool; keeps no order. Every put is a
// transaction of libpmemobj and flushed when it returns.
//
// On tmpfs libpmem knows no persistent memory and calls msync instead, unless the environment has
// PMEM_IS_PMEM_FORCE=1 when the program starts: then it flushes cache lines as on persistent memory
// (and as daxkv does on tmpfs without being told). Compare with it set.
#include <libpmemkv.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/peers/peer_store.h"

namespace daxkv::ycsb {
namespace {

absl::Status ToStatus(int code, std::string_view what) {
  if (code == PMEMKV_STATUS_OK) return absl::OkStatus();
  const std::string message = absl::StrCat("pmemkv: ", std::string(what), ": ", pmemkv_errormsg());
  switch (code) {
    case PMEMKV_STATUS_NOT_FOUND:
      return absl::NotFoundError(message);
    case PMEMKV_STATUS_OUT_OF_MEMORY:
      return absl::ResourceExhaustedError(
          absl::StrCat(message, ": give more with -p pmemkv.size=BYTES"));
    default:
      return absl::InternalError(message);
  }
}

class PmemkvSession final : public Session {
 public:
  explicit PmemkvSession(pmemkv_db* db) : db_(db) {}

  absl::Status Read(std::string_view key, std::string_view* record) override {
    const int code = pmemkv_get(db_, key.data(), key.size(), &CopyOut, &value_);
    *record = value_;
    return ToStatus(code, "a read fails");
  }
  absl::Status Scan(std::string_view, size_t, RecordSink*) override {
    return absl::UnimplementedError("pmemkv: cmap keeps no order: it cannot scan");
  }
  absl::Status Insert(std::string_view key, std::string_view record) override {
    return ToStatus(pmemkv_put(db_, key.data(), key.size(), record.data(), record.size()),
                    "a put fails");
  }
  absl::Status Update(std::string_view key, std::string_view record) override {
    return Insert(key, record);
  }
  absl::Status Delete(std::string_view key) override {
    return ToStatus(pmemkv_remove(db_, key.data(), key.size()), "a delete fails");
  }

 private:
  // Runs under the element's lock, so the bytes must be copied.
  static void CopyOut(const char* value, size_t size_bytes, void* copy) {
    static_cast<std::string*>(copy)->assign(value, size_bytes);
  }

  pmemkv_db* const db_;
  std::string value_;
};

class PmemkvEngine final : public Engine {
 public:
  PmemkvEngine(std::string path, pmemkv_db* db) : path_(std::move(path)), db_(db) {}
  ~PmemkvEngine() override {
    if (db_ != nullptr) pmemkv_close(db_);
  }

  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<PmemkvSession>(db_);
  }
  absl::StatusOr<std::vector<ReportLine>> Report() override {
    const char* const force = std::getenv("PMEM_IS_PMEM_FORCE");
    const bool forced = force != nullptr && std::string_view(force) == "1";
    size_t records = 0;
    if (const int code = pmemkv_count_all(db_, &records); code != PMEMKV_STATUS_OK) {
      return ToStatus(code, "cannot count the records");
    }
    std::error_code error;
    const uint64_t size_bytes = std::filesystem::file_size(path_, error);
    return std::vector<ReportLine>{
        {"PMEMKV", "Promise", FilePromise(path_, !forced)},
        {"PMEMKV", "FileSystem", FileSystemName(path_)},
        {"PMEMKV", "Path", path_},
        {"PMEMKV", "Flushes", forced ? "cache lines (PMEM_IS_PMEM_FORCE=1)" : "as libpmem probes"},
        {"PMEMKV", "Compression", "none"},
        {"PMEMKV", "Records", absl::StrCat(records)},
        {"PMEMKV", "PoolFile(bytes)", absl::StrCat(error ? 0 : size_bytes)}};
  }
  absl::Status Close() override {
    pmemkv_close(std::exchange(db_, nullptr));
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  pmemkv_db* db_;
};

// libpmemobj's chunks, the map's nodes and buckets, and updates that need room for both versions.
uint64_t PoolSizeBytes(const Settings& settings) {
  const int64_t told = settings.Whole("pmemkv.size");
  if (told > 0) return static_cast<uint64_t>(told);
  constexpr uint64_t kPerRecord = 256, kLeast = uint64_t{128} << 20;
  const uint64_t data = ExpectedDataBytes(settings) + kPerRecord * ExpectedRecords(settings);
  return std::max(kLeast, data / 2 * 3);
}

absl::StatusOr<std::unique_ptr<Engine>> OpenPmemkv(const Settings& settings, Phase phase) {
  const std::string& path = settings.Text("pmemkv.path");
  std::error_code error;
  const bool create = phase == Phase::kLoad && !std::filesystem::exists(path, error);
  if (phase != Phase::kLoad && !std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat("no store at ", path, ": make one with ycsb load, or ",
                                            "name another with -p pmemkv.path=PATH"));
  }
  pmemkv_config* const config = pmemkv_config_new();
  if (config == nullptr) return absl::ResourceExhaustedError("pmemkv: no memory");
  pmemkv_config_put_path(config, path.c_str());
  if (create) {
    pmemkv_config_put_size(config, PoolSizeBytes(settings));
    pmemkv_config_put_force_create(config, true);
  }
  pmemkv_db* db;
  // Takes the configuration over, also when it fails.
  if (const int code = pmemkv_open("cmap", config, &db); code != PMEMKV_STATUS_OK) {
    return ToStatus(code, absl::StrCat("cannot open ", path));
  }
  return std::make_unique<PmemkvEngine>(path, db);
}

const EngineRegistration kRegistration(
    {"pmemkv",
     "pmemkv's cmap: a hash map in persistent memory; no scans",
     {
         TextRule("pmemkv.path", "./ycsb-pmemkv.pool", "the store's file"),
         WholeRule("pmemkv.size", "0", 0, INT64_C(1) << 44,
                   "bytes of the file, when the load makes it; 0: what the records need"),
     },
     OpenPmemkv});

}  // namespace
}  // namespace daxkv::ycsb
