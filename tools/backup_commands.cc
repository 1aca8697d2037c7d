// The commands for backups: backup and restore.
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kv/backup.h"
#include "kv/db.h"
#include "tools/commands.h"
#include "tools/progress.h"
#include "tools/store.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

// Draws, and stops at an interrupt.
kv::StreamProgress Watch(Progress* progress) {
  return [progress](uint64_t stream_size_bytes) {
    progress->Update(0, stream_size_bytes);
    return Interrupted() ? absl::CancelledError("interrupted") : absl::OkStatus();
  };
}

absl::Status PrintReport(const char* done, const kv::BackupSummary& summary,
                         absl::Duration elapsed) {
  const double seconds = std::max(1e-6, absl::ToDoubleSeconds(elapsed));
  const std::string text = absl::StrFormat(
      "%s %s records, %s of keys and values, as of %s (number %d), in %.2f s: %s/s\n", done,
      Grouped(summary.records), HumanBytes(summary.key_value_size_bytes),
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", summary.taken, absl::UTCTimeZone()),
      summary.snapshot_number, seconds,
      HumanBytes(
          static_cast<uint64_t>(static_cast<double>(summary.key_value_size_bytes) / seconds)));
  absl::Status written = WriteTo(stdout, text);
  return written.ok() ? FlushTo(stdout) : written;
}

}  // namespace

absl::Status Backup(const StoreArgs& store, const std::string& file) {
  CatchInterrupts();
  return WithStore(store, IfMissing::kFail, [&](kv::Db& db) -> absl::Status {
    Progress progress("backup", 0, 0);
    if (file == "-") {
      kv::DescriptorSink stdout_sink(STDOUT_FILENO);
      kv::WatchedSink sink(&stdout_sink, Watch(&progress));
      return db.Backup(&sink).status();
    }
    absl::StatusOr<kv::BackupSummary> summary = kv::BackupToFile(db, file, Watch(&progress));
    if (!summary.ok()) return summary.status();
    return PrintReport("backed up", *summary, progress.elapsed());
  });
}

absl::Status Restore(const StoreArgs& store, const std::string& file, const CreateArgs& args) {
  CatchInterrupts();
  absl::StatusOr<kv::Options> options = OptionsOf(args);
  if (!options.ok()) return options.status();
  Progress progress("restore", 0, 0);
  absl::StatusOr<kv::BackupSummary> summary;
  if (file == "-") {
    kv::DescriptorSource stdin_source(STDIN_FILENO);
    kv::WatchedSource source(&stdin_source, Watch(&progress));
    summary = kv::Db::Restore(&source, store.path, *options, kv::RestoreExtent::kWholeSource);
  } else {
    summary = kv::RestoreFromFile(file, store.path, *options, Watch(&progress));
  }
  if (!summary.ok()) return summary.status();
  return PrintReport("restored", *summary, progress.elapsed());
}

}  // namespace daxkv::tools
