// Db::Backup: one snapshot, walked by an iterator, as a stream.
#include "kv/backup.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "dax/file_descriptor.h"
#include "kv/backup_stream.h"
#include "kv/engine.h"
#include "kv/exceptions.h"
#include "kv/store.h"

namespace daxkv::kv {
namespace {

absl::Status AddRecords(const Engine& engine, Iterator& it, BackupWriter* writer) {
  for (it.SeekToFirst(); it.Valid(); it.Next()) {
    absl::Status status = writer->AddRecord(it.key(), it.value());
    // The iterator has verified the bytes before they were copied. Were they there to the end?
    if (status.ok()) status = engine.CheckLost(it.key());
    if (status.ok()) status = WithKey(engine.CheckLost(it.value()), it.key());
    if (!status.ok()) return status;
  }
  return it.status();
}

absl::Status AddKeyspace(std::string_view name, const Keyspace& keyspace, const Engine& engine,
                         const IteratorOptions& options, BackupWriter* writer) {
  const std::unique_ptr<Iterator> it = keyspace.NewIterator(options);
  if (it == nullptr) return absl::ResourceExhaustedError("out of memory");
  absl::Status begun = writer->BeginKeyspace(name);
  return begun.ok() ? AddRecords(engine, *it, writer) : begun;
}

// A snapshot, and the keyspaces that there were when it was taken, by name. They are opened before
// it, so that a drop leaves them to it; if some came or went meanwhile, it is taken again.
absl::StatusOr<Snapshot> SnapshotOfKeyspaces(const Db& db,
                                             std::map<std::string, Keyspace>* keyspaces) {
  for (;;) {
    keyspaces->clear();
    const absl::StatusOr<std::vector<std::string>> before = db.ListKeyspaces();
    if (!before.ok()) return before.status();
    bool gone = false;
    for (const std::string& name : *before) {
      absl::StatusOr<Keyspace> keyspace = db.OpenKeyspace(name);
      gone = absl::IsNotFound(keyspace.status());
      if (gone) break;
      if (!keyspace.ok()) return keyspace.status();
      keyspaces->emplace(name, *std::move(keyspace));
    }
    if (gone) continue;
    absl::StatusOr<Snapshot> snapshot = db.GetSnapshot();
    if (!snapshot.ok()) return snapshot.status();
    const absl::StatusOr<std::vector<std::string>> after = db.ListKeyspaces();
    if (!after.ok()) return after.status();
    if (*after != *before) continue;
    // One of the same name may have taken the place of another.
    const bool same = std::all_of(keyspaces->begin(), keyspaces->end(), [&](const auto& entry) {
      return !absl::IsNotFound(entry.second.ApproximateRange("", "").status());
    });
    if (same) return snapshot;
  }
}

// Syncs the directory that `file` is in.
absl::Status SyncDirectoryOf(const std::string& file) {
  const size_t slash = file.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : file.substr(0, slash + 1);
  const dax::FileDescriptor opened(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (opened.valid() && fsync(opened.get()) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cannot sync the directory ", directory, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<BackupSummary> Db::Backup(ByteSink* sink) const {
  if (store_ == nullptr) return absl::FailedPreconditionError("the store is closed");
  return WithoutExceptions([&]() -> absl::StatusOr<BackupSummary> {
    std::map<std::string, Keyspace> keyspaces;
    const absl::StatusOr<Snapshot> snapshot = SnapshotOfKeyspaces(*this, &keyspaces);
    if (!snapshot.ok()) return snapshot.status();
    BackupSummary summary;
    summary.snapshot_number = snapshot->entry_->number();
    const int64_t taken_us = absl::ToUnixMicros(absl::Now());
    summary.taken = absl::FromUnixMicros(taken_us);

    IteratorOptions options;
    options.snapshot = &*snapshot;
    options.always_verify = true;
    const dax::SurviveMediaErrors survive;
    BackupWriter writer(sink);
    absl::Status status = writer.Begin(summary.snapshot_number, static_cast<uint64_t>(taken_us));
    if (status.ok()) status = AddKeyspace("", *this, store_->default_keyspace(), options, &writer);
    for (const auto& [name, keyspace] : keyspaces) {
      if (status.ok()) status = AddKeyspace(name, keyspace, *keyspace.engine_, options, &writer);
    }
    if (status.ok()) status = writer.End();
    if (!status.ok()) return status;
    summary.keyspaces = writer.totals().keyspaces;
    summary.records = writer.totals().records;
    summary.key_value_size_bytes = writer.totals().key_value_size_bytes;
    summary.stream_size_bytes = writer.stream_size_bytes();
    return summary;
  });
}

absl::StatusOr<BackupSummary> BackupToFile(const Db& db, const std::string& file,
                                           const StreamProgress& progress) {
  return WithoutExceptions([&]() -> absl::StatusOr<BackupSummary> {
    const std::string partial = file + ".partial";
    const auto failed = [](const char* action, const std::string& path) {
      return absl::UnavailableError(
          absl::StrCat("cannot ", action, " ", path, ": ", std::strerror(errno)));
    };
    dax::FileDescriptor opened(
        open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!opened.valid()) return failed("create", partial);
    auto discard = absl::MakeCleanup([&] { unlink(partial.c_str()); });
    DescriptorSink sink(opened.get());
    WatchedSink watched(&sink, progress);
    absl::StatusOr<BackupSummary> summary = db.Backup(&watched);
    if (!summary.ok()) return summary.status();
    if (fsync(opened.get()) != 0) return failed("sync", partial);
    if (std::rename(partial.c_str(), file.c_str()) != 0) return failed("rename to", file);
    std::move(discard).Cancel();
    absl::Status synced = SyncDirectoryOf(file);
    if (!synced.ok()) return synced;
    return summary;
  });
}

}  // namespace daxkv::kv
