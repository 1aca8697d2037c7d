// RocksDB: a log-structured merge tree. A put is in the write-ahead log, written to its file, when
// it returns. Reads pin the block cache's bytes; groups of reads are its MultiGet.
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/peers/peer_store.h"

namespace daxkv::ycsb {
namespace {

absl::Status ToStatus(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("rocksdb: ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

rocksdb::Slice ToSlice(std::string_view bytes) { return {bytes.data(), bytes.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

class RocksdbSession final : public Session {
 public:
  RocksdbSession(rocksdb::DB* db, bool sync) : db_(db) { write_options_.sync = sync; }

  absl::Status Read(std::string_view key, std::string_view* record) override {
    value_.Reset();
    const rocksdb::Status status =
        db_->Get(read_options_, db_->DefaultColumnFamily(), ToSlice(key), &value_);
    *record = ToView(value_);
    return ToStatus(status);
  }

  absl::Status ReadGroup(absl::Span<const std::string_view> keys, RecordSink* sink) override {
    slices_.clear();
    for (const std::string_view key : keys) slices_.push_back(ToSlice(key));
    std::vector<rocksdb::PinnableSlice> values(keys.size());
    statuses_.assign(keys.size(), rocksdb::Status());
    db_->MultiGet(read_options_, db_->DefaultColumnFamily(), slices_.size(), slices_.data(),
                  values.data(), statuses_.data());
    for (size_t i = 0; i < keys.size(); ++i) {
      if (!statuses_[i].ok()) return ToStatus(statuses_[i]);
      sink->Add(keys[i], ToView(values[i]));
    }
    return absl::OkStatus();
  }

  absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) override {
    const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(read_options_));
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
  rocksdb::DB* const db_;
  rocksdb::ReadOptions read_options_;
  rocksdb::WriteOptions write_options_;
  rocksdb::PinnableSlice value_;
  std::vector<rocksdb::Slice> slices_;
  std::vector<rocksdb::Status> statuses_;
};

class RocksdbEngine final : public Engine {
 public:
  RocksdbEngine(const Settings& settings, uint64_t cache_size_bytes, rocksdb::DB* db)
      : path_(settings.Text("rocksdb.path")),
        sync_(settings.Flag("rocksdb.sync")),
        cache_size_bytes_(cache_size_bytes),
        db_(db) {}

  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<RocksdbSession>(db_.get(), sync_);
  }

  absl::StatusOr<std::vector<ReportLine>> Report() override {
    uint64_t records = 0;
    db_->GetIntProperty(rocksdb::DB::Properties::kEstimateNumKeys, &records);
    return std::vector<ReportLine>{{"ROCKSDB", "Promise", FilePromise(path_, sync_)},
                                   {"ROCKSDB", "FileSystem", FileSystemName(path_)},
                                   {"ROCKSDB", "Path", path_},
                                   {"ROCKSDB", "Sync", sync_ ? "true" : "false"},
                                   {"ROCKSDB", "Compression", "none"},
                                   {"ROCKSDB", "Cache(bytes)", absl::StrCat(cache_size_bytes_)},
                                   {"ROCKSDB", "EstimatedRecords", absl::StrCat(records)},
                                   {"ROCKSDB", "Version", rocksdb::GetRocksVersionAsString()}};
  }

  absl::Status Compact() override {
    return ToStatus(db_->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr));
  }
  absl::Status Close() override {
    const rocksdb::Status status = db_->Close();
    db_.reset();
    return ToStatus(status);
  }

 private:
  const std::string path_;
  const bool sync_;
  const uint64_t cache_size_bytes_;
  std::unique_ptr<rocksdb::DB> db_;
};

absl::StatusOr<std::unique_ptr<Engine>> OpenRocksdb(const Settings& settings, Phase phase) {
  const std::string& path = settings.Text("rocksdb.path");
  if (absl::Status status = PrepareDirectory(path, "rocksdb.path", phase); !status.ok()) {
    return status;
  }
  const uint64_t cache_size_bytes = CacheSizeBytes(settings, "rocksdb.cache");
  constexpr double kBloomBitsPerKey = 10;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(cache_size_bytes);
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerKey));
  rocksdb::Options options;
  options.create_if_missing = phase == Phase::kLoad;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = static_cast<size_t>(settings.Whole("rocksdb.writebuffer"));
  options.max_background_jobs = static_cast<int>(settings.Whole("rocksdb.backgroundjobs"));
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  rocksdb::DB* db;
  if (rocksdb::Status status = rocksdb::DB::Open(options, path, &db); !status.ok()) {
    return ToStatus(status);
  }
  return std::make_unique<RocksdbEngine>(settings, cache_size_bytes, db);
}

const EngineRegistration kRegistration(
    {"rocksdb",
     "RocksDB: a log-structured merge tree",
     {
         TextRule("rocksdb.path", "./ycsb-rocksdb.db", "the store's directory"),
         FlagRule("rocksdb.sync", false, "puts wait until the log is on the medium"),
         WholeRule("rocksdb.cache", "0", 0, INT64_C(1) << 44,
                   "bytes of the block cache; 0: more than all data"),
         WholeRule("rocksdb.writebuffer", absl::StrCat(64 << 20), 1 << 16, INT64_C(1) << 34,
                   "bytes of a table in memory"),
         WholeRule("rocksdb.backgroundjobs", "2", 1, 1024, "flushes and compactions at a time"),
     },
     OpenRocksdb});

}  // namespace
}  // namespace daxkv::ycsb
