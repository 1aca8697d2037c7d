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

absl::Status CheckInterrupt() {
  return Interrupted() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

// Sinks and sources that stop at an interrupt.
class StoppableSink : public kv::ByteSink {
 public:
  explicit StoppableSink(int descriptor) : sink_(descriptor) {}
  absl::Status Append(std::string_view bytes) override {
    absl::Status status = CheckInterrupt();
    return status.ok() ? sink_.Append(bytes) : status;
  }

 private:
  kv::DescriptorSink sink_;
};

class StoppableSource : public kv::ByteSource {
 public:
  explicit StoppableSource(int descriptor) : source_(descriptor) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    absl::Status status = CheckInterrupt();
    if (!status.ok()) return status;
    return source_.Read(buffer);
  }

 private:
  kv::DescriptorSource source_;
};

std::string Report(const char* done, const kv::BackupSummary& summary, absl::Duration elapsed) {
  const double seconds = std::max(1e-6, absl::ToDoubleSeconds(elapsed));
  return absl::StrFormat(
      "%s %s records, %s of keys and values, as of %s (number %d), in %.2f s: %s/s\n", done,
      Grouped(summary.records), HumanBytes(summary.key_value_size_bytes),
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", summary.taken, absl::UTCTimeZone()),
      summary.snapshot_number, seconds,
      HumanBytes(static_cast<uint64_t>(
          static_cast<double>(summary.key_value_size_bytes) / seconds)));
}

}  // namespace
