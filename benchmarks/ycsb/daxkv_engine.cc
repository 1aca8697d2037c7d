// daxkv under the driver. Loads and updates are Put (each durable before it returns, as far as the
// medium's promise goes), or with daxkv.loadgroup PutGroup; reads are Get into a reused buffer, or
// with daxkv.read=pin views of the bytes in the pool; groups of reads are MultiGet; scans are an
// Iterator.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "dax/media.h"
#include "kv/db.h"

namespace daxkv::ycsb {
namespace {

// How records are read; with daxkv.pinverify=later nobody verifies what was pinned.
enum class ReadMode { kCopy, kPin, kPinUnverified };

std::string_view ReadModeName(ReadMode mode) {
  if (mode == ReadMode::kCopy) return "copy";
  return mode == ReadMode::kPin ? "pin" : "pin, not verified";
}

class DaxkvSession final : public Session {
 public:
  DaxkvSession(kv::Db* db, ReadMode mode) : db_(db), mode_(mode) {}

  absl::Status Read(std::string_view key, std::string_view* record) override {
    if (mode_ != ReadMode::kCopy) {
      absl::StatusOr<kv::PinnedValue> pinned =
          db_->Pin(key, mode_ == ReadMode::kPin ? kv::PinVerify::kNow : kv::PinVerify::kLater);
      if (!pinned.ok()) return pinned.status();
      pinned_ = *std::move(pinned);
      *record = pinned_.value();
      return absl::OkStatus();
    }
    absl::Status status = db_->Get(key, &copy_);
    *record = copy_;
    return status;
  }

  absl::Status ReadGroup(absl::Span<const std::string_view> keys, RecordSink* sink) override {
    values_.resize(keys.size());
    statuses_.resize(keys.size());
    absl::Status status = db_->MultiGet(keys, absl::MakeSpan(values_), absl::MakeSpan(statuses_));
    for (size_t i = 0; status.ok() && i < keys.size(); ++i) {
      status = statuses_[i];
      if (status.ok()) sink->Add(keys[i], values_[i]);
    }
    return status;
  }

  absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) override {
    const std::unique_ptr<kv::Iterator> it = db_->NewIterator();
    it->Seek(start);
    for (; count > 0 && it->Valid(); --count) {
      sink->Add(it->key(), it->value());
      if (count > 1) it->Next();
    }
    return it->status();
  }

  absl::Status Insert(std::string_view key, std::string_view record) override {
    return db_->Put(key, record);
  }
  absl::Status Update(std::string_view key, std::string_view record) override {
    return db_->Put(key, record);
  }
  absl::Status Delete(std::string_view key) override { return db_->Delete(key); }
  absl::Status InsertGroup(absl::Span<const KeyRecord> records) override {
    group_.clear();
    for (const KeyRecord& record : records) group_.push_back({record.key, record.record});
    return db_->PutGroup(group_).status();
  }

 private:
  kv::Db* const db_;
  const ReadMode mode_;
  std::string copy_;
  kv::PinnedValue pinned_;
  std::vector<kv::KeyValue> group_;
  std::vector<std::string> values_;
  std::vector<absl::Status> statuses_;
};

class DaxkvEngine final : public Engine {
 public:
  DaxkvEngine(std::unique_ptr<kv::Db> db, ReadMode read_mode, bool order, size_t load_group)
      : db_(std::move(db)), read_mode_(read_mode), order_(order), load_group_(load_group) {}

  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<DaxkvSession>(db_.get(), read_mode_);
  }
  size_t load_group_records() const override { return load_group_; }

  absl::StatusOr<std::vector<ReportLine>> Report() override {
    absl::StatusOr<kv::Info> info = db_->GetInfo();
    if (!info.ok()) return info.status();
    std::vector<ReportLine> lines;
    const auto add = [&lines](std::string_view measurement, std::string value) {
      lines.push_back({"DAXKV", std::string(measurement), std::move(value)});
    };
    const dax::MediaInfo& media = info->media;
    add("MediaClass", absl::StrCat(std::string(dax::MediaClassName(media.media_class)),
                                   media.forced ? " (forced)" : ""));
    add("Durability", std::string(dax::DurabilityName(media.durability)));
    if (info->writeback.has_value()) {
      add("Writebacks", absl::StrCat(info->writeback->completed));
      add("LastWriteback(ms)", absl::StrCat(absl::ToInt64Milliseconds(info->writeback->last_took)));
    }
    add("FileSystem", media.file_system);
    add("Promise", std::string(dax::MediaPromise(media)));
    add("Path", info->path);
    add("LoadGroup(records)", absl::StrCat(load_group_));
    add("Read", std::string(ReadModeName(read_mode_)));
    add("Records", absl::StrCat(info->records));
    add("IndexHeight", absl::StrCat(info->index_height));
    add("IndexView(bytes)", absl::StrCat(info->index_view_size_bytes));
    add("PoolFile(bytes)", absl::StrCat(info->dax.pool.file_size_bytes));
    add("PoolBlocks(bytes)", absl::StrCat(info->dax.pool.file_blocks_bytes));
    add("PoolLive(pages)", absl::StrCat(info->dax.pool.live_pages));
    add("PoolFree(pages)", absl::StrCat(info->dax.pool.free_pages));
    return lines;
  }
  absl::Status Compact() override {
    kv::CompactOptions options;
    options.order_by_key = order_;
    return db_->Compact(options).status();
  }
  absl::Status Close() override { return db_->Close(); }

 private:
  const std::unique_ptr<kv::Db> db_;
  const ReadMode read_mode_;
  const bool order_;
  const size_t load_group_;
};

ReadMode ReadModeOf(const Settings& settings) {
  if (settings.Text("daxkv.read") == "copy") return ReadMode::kCopy;
  return settings.Text("daxkv.pinverify") == "now" ? ReadMode::kPin : ReadMode::kPinUnverified;
}

absl::StatusOr<std::unique_ptr<Engine>> OpenDaxkv(const Settings& settings, Phase phase) {
  kv::Options options;
  options.create_if_missing = phase == Phase::kLoad;
  options.verify_checksums = settings.Flag("daxkv.verifychecksums");
  if (settings.Text("daxkv.durability") == "process") {
    options.durability = dax::Durability::kProcess;
  }
  options.writeback_interval = absl::Milliseconds(settings.Whole("daxkv.writebackinterval"));
  options.huge_pages = settings.Flag("daxkv.hugepages");
  options.max_size_bytes = static_cast<uint64_t>(settings.Whole("daxkv.maxsize"));
  const int64_t fixed_size = settings.Whole("daxkv.fixedsize");
  if (fixed_size > 0) {
    options.shape = dax::PoolShape::kFixed;
    options.fixed_size_bytes = static_cast<uint64_t>(fixed_size);
  }
  const std::string& path = settings.Text("daxkv.path");
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, options);
  if (absl::IsNotFound(db.status())) {
    return absl::NotFoundError(absl::StrCat("no store at ", path, ": make one with ycsb load, or ",
                                            "name another with -p daxkv.path=PATH"));
  }
  if (!db.ok()) return db.status();
  return std::make_unique<DaxkvEngine>(*std::move(db), ReadModeOf(settings),
                                       settings.Flag("daxkv.orderbykey"),
                                       static_cast<size_t>(settings.Whole("daxkv.loadgroup")));
}

const EngineRegistration kRegistration(
    {"daxkv",
     "this repository's store",
     {
         TextRule("daxkv.path", "./ycsb.db", "the store: a directory, or a file or device"),
         WholeRule("daxkv.loadgroup", "1", 1, 1'000'000,
                   "load: records to put at a time; each is durable when its group is"),
         ChoiceRule("daxkv.read", {"copy", "pin"},
                    "reads copy the record, or look at it in the pool"),
         ChoiceRule("daxkv.pinverify", {"now", "later"},
                    "daxkv.read=pin checks the record's CRC32C, or leaves that out"),
         ChoiceRule("daxkv.durability", {"power", "process"},
                    "what a put survives on an ordinary file"),
         WholeRule("daxkv.writebackinterval", "1000", 1, 3'600'000,
                   "milliseconds between writebacks with process durability"),
         FlagRule("daxkv.verifychecksums", true, "reads check the record's CRC32C"),
         FlagRule("daxkv.orderbykey", false,
                  "compactatend also writes records in the order of their keys"),
         FlagRule("daxkv.hugepages", false, "asks for huge pages where the medium has a choice"),
         WholeRule("daxkv.fixedsize", "0", 0, INT64_C(1) << 44,
                   "bytes of a store in one file, when the load makes it; 0: a directory"),
         WholeRule("daxkv.maxsize", absl::StrCat(INT64_C(1) << 40), INT64_C(1) << 26,
                   INT64_C(1) << 46, "bytes that a directory may grow to, when the load makes it"),
     },
     OpenDaxkv});

}  // namespace
}  // namespace daxkv::ycsb
