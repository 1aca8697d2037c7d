// LevelDB: a log-structured merge tree. A put is in the log, written to its file, when it returns.
#include <leveldb/cache.h>
#include <leveldb/db.h>
#include <leveldb/filter_policy.h>
#include <leveldb/options.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/peers/peer_store.h"

namespace daxkv::ycsb {
namespace {

absl::Status ToStatus(const leveldb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("leveldb: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::InternalError(message);
}

leveldb::Slice ToSlice(std::string_view bytes) { return {bytes.data(), bytes.size()}; }
std::string_view ToView(const leveldb::Slice& slice) { return {slice.data(), slice.size()}; }

class LeveldbSession final : public Session {
 public:
  LeveldbSession(leveldb::DB* db, bool sync) : db_(db) { write_options_.sync = sync; }

  absl::Status Read(std::string_view key, std::string_view* record) override {
    const leveldb::Status status = db_->Get(read_options_, ToSlice(key), &value_);
    *record = value_;
    return ToStatus(status);
  }

  absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) override {
    const std::unique_ptr<leveldb::Iterator> it(db_->NewIterator(read_options_));
    for (it->Seek(ToSlice(start)); count > 0 && it->Valid(); --count) {
      sink->Add(ToView(it->key()), ToView(it->value()));
      if (count > 1) it->Next();
    }
    return ToStatus(it->status());
  }

  absl::Status Insert(std::string_view key, std::string_view record) override {
    return ToStatus(db_->Put(write_options_, ToSlice(key), ToSlice(record)));
  }
  absl::Status Update(std::string_view key, std::string_view record) override {
    return Insert(key, record);
  }
  absl::Status Delete(std::string_view key) override {
    return ToStatus(db_->Delete(write_options_, ToSlice(key)));
  }

 private:
  leveldb::DB* const db_;
  const leveldb::ReadOptions read_options_;
  leveldb::WriteOptions write_options_;
  std::string value_;
};

// In the order in which they are needed: the database goes first.
struct LeveldbParts {
  std::unique_ptr<const leveldb::FilterPolicy> filter;
  std::unique_ptr<leveldb::Cache> cache;
  std::unique_ptr<leveldb::DB> db;
};

class LeveldbEngine final : public Engine {
 public:
  LeveldbEngine(const Settings& settings, uint64_t cache_size_bytes, LeveldbParts parts)
      : path_(settings.Text("leveldb.path")),
        sync_(settings.Flag("leveldb.sync")),
        cache_size_bytes_(cache_size_bytes),
        parts_(std::move(parts)) {}

  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<LeveldbSession>(parts_.db.get(), sync_);
  }
  absl::StatusOr<std::vector<ReportLine>> Report() override {
    return std::vector<ReportLine>{
        {"LEVELDB", "Promise", FilePromise(path_, sync_)},
        {"LEVELDB", "FileSystem", FileSystemName(path_)},
        {"LEVELDB", "Path", path_},
        {"LEVELDB", "Sync", sync_ ? "true" : "false"},
        {"LEVELDB", "Compression", "none"},
        {"LEVELDB", "Cache(bytes)", absl::StrCat(cache_size_bytes_)},
        {"LEVELDB", "Version", absl::StrCat(leveldb::kMajorVersion, ".", leveldb::kMinorVersion)}};
  }
  absl::Status Compact() override {
    parts_.db->CompactRange(nullptr, nullptr);
    return absl::OkStatus();
  }
  absl::Status Close() override {
    parts_.db.reset();
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  const bool sync_;
  const uint64_t cache_size_bytes_;
  LeveldbParts parts_;
};

absl::StatusOr<std::unique_ptr<Engine>> OpenLeveldb(const Settings& settings, Phase phase) {
  const std::string& path = settings.Text("leveldb.path");
  if (absl::Status status = PrepareDirectory(path, "leveldb.path", phase); !status.ok()) {
    return status;
  }
  const uint64_t cache_size_bytes = CacheSizeBytes(settings, "leveldb.cache");
  constexpr int kBloomBitsPerKey = 10;
  LeveldbParts parts;
  parts.filter.reset(leveldb::NewBloomFilterPolicy(kBloomBitsPerKey));
  parts.cache.reset(leveldb::NewLRUCache(cache_size_bytes));
  leveldb::Options options;
  options.create_if_missing = phase == Phase::kLoad;
  options.compression = leveldb::kNoCompression;
  options.write_buffer_size = static_cast<size_t>(settings.Whole("leveldb.writebuffer"));
  options.block_cache = parts.cache.get();
  options.filter_policy = parts.filter.get();
  leveldb::DB* db;
  if (leveldb::Status status = leveldb::DB::Open(options, path, &db); !status.ok()) {
    return ToStatus(status);
  }
  parts.db.reset(db);
  return std::make_unique<LeveldbEngine>(settings, cache_size_bytes, std::move(parts));
}

const EngineRegistration kRegistration(
    {"leveldb",
     "LevelDB: a log-structured merge tree",
     {
         TextRule("leveldb.path", "./ycsb-leveldb.db", "the store's directory"),
         FlagRule("leveldb.sync", false, "puts wait until the log is on the medium"),
         WholeRule("leveldb.cache", "0", 0, INT64_C(1) << 44,
                   "bytes of the block cache; 0: more than all data"),
         WholeRule("leveldb.writebuffer", absl::StrCat(64 << 20), 1 << 16, INT64_C(1) << 30,
                   "bytes of the table in memory"),
     },
     OpenLeveldb});

}  // namespace
}  // namespace daxkv::ycsb
