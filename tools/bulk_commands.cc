// The commands that move whole stores: load and dump.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kv/db.h"
#include "tools/commands.h"
#include "tools/progress.h"
#include "tools/record_reader.h"
#include "tools/store.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

// A group is put, and made durable, at once: the limits keep it in memory and quick to lose.
constexpr size_t kRecordsPerGroup = 8192;
constexpr uint64_t kGroupSizeBytes = uint64_t{16} << 20;

struct LoadTotals {
  uint64_t records = 0;
  uint64_t replaced = 0;
  uint64_t size_bytes = 0;
  uint64_t groups = 0;
};

// Collects records and puts them a group at a time.
class GroupLoader {
 public:
  explicit GroupLoader(kv::Keyspace* keyspace) : keyspace_(keyspace) {}

  absl::Status Add(std::string key, std::string value) {
    // Said here, with the input's line known, and not when its group is put.
    if (key.empty() || key.size() > kv::kMaxKeySizeBytes)
      return absl::InvalidArgumentError(absl::StrFormat("a key of %d bytes (1..%d are possible)",
                                                        key.size(), kv::kMaxKeySizeBytes));
    if (value.size() > kv::kMaxValueSizeBytes)
      return absl::InvalidArgumentError(absl::StrFormat("a value of %d bytes (at most %d)",
                                                        value.size(), kv::kMaxValueSizeBytes));
    group_bytes_ += key.size() + value.size();
    group_.emplace_back(std::move(key), std::move(value));
    if (group_.size() < kRecordsPerGroup && group_bytes_ < kGroupSizeBytes) return absl::OkStatus();
    return Put();
  }

  absl::Status Put() {
    if (group_.empty()) return absl::OkStatus();
    std::vector<kv::KeyValue> views;
    views.reserve(group_.size());
    for (const auto& [key, value] : group_) views.push_back({key, value});
    absl::StatusOr<kv::GroupResult> result = keyspace_->PutGroup(views);
    if (!result.ok()) return result.status();
    totals_.records += group_.size();
    totals_.replaced += result->superseded + result->replaced;
    totals_.size_bytes += group_bytes_;
    ++totals_.groups;
    group_.clear();
    group_bytes_ = 0;
    return absl::OkStatus();
  }

  const LoadTotals& totals() const { return totals_; }

 private:
  kv::Keyspace* const keyspace_;
  std::vector<std::pair<std::string, std::string>> group_;
  uint64_t group_bytes_ = 0;
  LoadTotals totals_;
};

absl::Status After(const LoadTotals& totals, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(status.message(), " (", Grouped(totals.records),
                                                  " records before it are loaded)"));
}

absl::Status LoadAll(kv::Keyspace& keyspace, RecordReader& reader, uint64_t total_bytes,
                     LoadTotals* totals, absl::Duration* elapsed) {
  Progress progress("load", total_bytes, 0);
  GroupLoader loader(&keyspace);
  absl::Status status;
  std::string key;
  std::string value;
  while (status.ok() && !Interrupted()) {
    absl::StatusOr<bool> more = reader.Next(&key, &value);
    if (!more.ok() || !*more) {
      status = more.status();
      break;
    }
    status = loader.Add(std::move(key), std::move(value));
    progress.Update(loader.totals().records, reader.bytes_read());
  }
  // What was read before a malformed record is as good as any other.
  const absl::Status put = loader.Put();
  *totals = loader.totals();
  *elapsed = progress.elapsed();
  if (!status.ok()) return After(*totals, status);
  if (!put.ok()) return After(*totals, put);
  if (Interrupted()) return After(*totals, absl::CancelledError("interrupted"));
  return absl::OkStatus();
}

absl::Status PrintLoaded(kv::Db& db, const RecordReader& reader, const LoadTotals& totals,
                         absl::Duration elapsed) {
  absl::StatusOr<kv::Info> info = db.GetInfo();
  if (!info.ok()) return info.status();
  const double seconds = std::max(1e-6, absl::ToDoubleSeconds(elapsed));
  std::string text = absl::StrFormat(
      "loaded %s records (%s of keys met before), %s of keys and values, in %.2f s: %s records/s\n",
      Grouped(totals.records), Grouped(totals.replaced), HumanBytes(totals.size_bytes), seconds,
      Grouped(static_cast<uint64_t>(static_cast<double>(totals.records) / seconds)));
  absl::StrAppendFormat(&text, "synced in %d groups of up to %d records; medium %s: %s\n",
                        totals.groups, kRecordsPerGroup,
                        dax::MediaClassName(info->media.media_class),
                        dax::MediaPromise(info->media));
  if (reader.skipped() > 0)
    absl::StrAppendFormat(&text, "skipped %d stanzas without a package name or version\n",
                          reader.skipped());
  if (absl::Status status = WriteTo(stdout, text); !status.ok()) return status;
  return FlushTo(stdout);
}

absl::Status DumpTo(kv::Keyspace& keyspace, std::FILE* stream) {
  absl::StatusOr<uint64_t> all = keyspace.Count();
  if (!all.ok()) return all.status();
  Progress progress("dump", 0, *all);
  const std::unique_ptr<kv::Iterator> it = keyspace.NewIterator();
  uint64_t records = 0;
  uint64_t size_bytes = 0;
  std::string line;
  for (it->SeekToFirst(); it->Valid() && !Interrupted(); it->Next()) {
    line.clear();
    AppendEscaped(it->key(), &line);
    line.push_back('\t');
    AppendEscaped(it->value(), &line);
    line.push_back('\n');
    if (absl::Status status = WriteTo(stream, line); !status.ok()) return status;
    ++records;
    size_bytes += line.size();
    progress.Update(records, size_bytes);
  }
  if (!it->status().ok()) return it->status();
  if (Interrupted()) return absl::CancelledError("interrupted");
  return FlushTo(stream);
}

// Dumps beside `file`, then renames: a dump that fails leaves what was there.
absl::Status DumpToFile(kv::Keyspace& keyspace, const std::string& file) {
  const std::string partial = absl::StrCat(file, ".partial");
  const auto failed = [&](const char* what) {
    return absl::UnavailableError(absl::StrCat(what, " ", partial, ": ", std::strerror(errno)));
  };
  std::FILE* stream = std::fopen(partial.c_str(), "wb");
  if (stream == nullptr) return failed("cannot create");
  auto discard = absl::MakeCleanup([&] {
    if (stream != nullptr) std::fclose(stream);
    unlink(partial.c_str());
  });
  if (absl::Status status = DumpTo(keyspace, stream); !status.ok()) return status;
  if (fsync(fileno(stream)) != 0) return failed("cannot sync");
  const int closed = std::fclose(std::exchange(stream, nullptr));
  if (closed != 0) return failed("cannot write");
  if (std::rename(partial.c_str(), file.c_str()) != 0) return failed("cannot rename");
  std::move(discard).Cancel();
  return absl::OkStatus();
}

}  // namespace

absl::Status Load(const StoreArgs& store, const LoadArgs& args) {
  const bool is_stdin = args.file == "-";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(
      is_stdin ? nullptr : std::fopen(args.file.c_str(), "rb"),
      [](std::FILE* stream) { return stream == nullptr ? 0 : std::fclose(stream); });
  if (!is_stdin && opened == nullptr)
    return absl::UnavailableError(
        absl::StrCat("cannot open ", args.file, ": ", std::strerror(errno)));
  std::FILE* stream = is_stdin ? stdin : opened.get();
  absl::StatusOr<std::unique_ptr<RecordReader>> reader = NewRecordReader(args.format, stream);
  if (!reader.ok()) return reader.status();
  struct stat status_of_file = {};
  const bool regular =
      fstat(fileno(stream), &status_of_file) == 0 && S_ISREG(status_of_file.st_mode);
  const uint64_t total_bytes = regular ? static_cast<uint64_t>(status_of_file.st_size) : 0;
  CatchInterrupts();
  return WithKeyspace(
      store, IfMissing::kCreate, [&](kv::Db& db, kv::Keyspace& keyspace) -> absl::Status {
        LoadTotals totals;
        absl::Duration elapsed;
        if (absl::Status status = LoadAll(keyspace, **reader, total_bytes, &totals, &elapsed);
            !status.ok())
          return absl::Status(status.code(), absl::StrCat(args.file, ": ", status.message()));
        return PrintLoaded(db, **reader, totals, elapsed);
      });
}

absl::Status Dump(const StoreArgs& store, const std::string& file) {
  CatchInterrupts();
  return WithKeyspace(store, IfMissing::kFail, [&](kv::Db&, kv::Keyspace& keyspace) {
    return file == "-" ? DumpTo(keyspace, stdout) : DumpToFile(keyspace, file);
  });
}

}  // namespace daxkv::tools
