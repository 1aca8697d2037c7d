// Where Db::Backup writes to and Db::Restore reads from, and the two for whole files.
//
//   absl::StatusOr<BackupSummary> saved = BackupToFile(*db, "/mnt/safe/monday.daxkv");
//   absl::StatusOr<BackupSummary> made =
//       RestoreFromFile("/mnt/safe/monday.daxkv", "/mnt/pmem/again", Options());
//
// kv/backup_format.h has the stream to the byte.
#ifndef DAXKV_KV_BACKUP_H_
#define DAXKV_KV_BACKUP_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace daxkv::kv {

class Db;
struct Options;

// Takes a stream of bytes. Used by one thread at a time.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  // Takes all of `bytes`. A status that is not OK ends the backup with it.
  virtual absl::Status Append(std::string_view bytes) = 0;
};

// Gives a stream of bytes. Used by one thread at a time.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills a beginning of `buffer`, which is not empty, and returns its size; 0 only at the end. A
  // status that is not OK ends the restore with it.
  virtual absl::StatusOr<size_t> Read(absl::Span<char> buffer) = 0;
};

// A file descriptor, which stays the caller's: file, pipe or socket. kResourceExhausted: no space;
// kUnavailable: anything else that the system says.
class DescriptorSink final : public ByteSink {
 public:
  explicit DescriptorSink(int descriptor) : descriptor_(descriptor) {}
  absl::Status Append(std::string_view bytes) override;

 private:
  const int descriptor_;
};

class DescriptorSource final : public ByteSource {
 public:
  explicit DescriptorSource(int descriptor) : descriptor_(descriptor) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override;

 private:
  const int descriptor_;
};

// Is told how many bytes of a stream are done, about once a MiB. A status that is not OK ends it.
using StreamProgress = std::function<absl::Status(uint64_t stream_size_bytes)>;

// Pass another one's bytes on and tell how many there were.
class WatchedSink final : public ByteSink {
 public:
  WatchedSink(ByteSink* sink, StreamProgress progress)
      : sink_(sink), progress_(std::move(progress)) {}
  absl::Status Append(std::string_view bytes) override;

 private:
  ByteSink* const sink_;
  const StreamProgress progress_;
  uint64_t size_bytes_ = 0;
};

class WatchedSource final : public ByteSource {
 public:
  WatchedSource(ByteSource* source, StreamProgress progress)
      : source_(source), progress_(std::move(progress)) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override;

 private:
  ByteSource* const source_;
  const StreamProgress progress_;
  uint64_t size_bytes_ = 0;
};

// A stream of the standard library, which must outlive it. kUnavailable when it fails.
class OstreamSink final : public ByteSink {
 public:
  explicit OstreamSink(std::ostream* stream) : stream_(stream) {}
  absl::Status Append(std::string_view bytes) override;

 private:
  std::ostream* const stream_;
};

class IstreamSource final : public ByteSource {
 public:
  explicit IstreamSource(std::istream* stream) : stream_(stream) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override;

 private:
  std::istream* const stream_;
};

// Whether Restore wants the source to end with the backup, or reads not a byte past it.
enum class RestoreExtent { kWholeSource, kBackupOnly };

// What a backup holds.
struct BackupSummary {
  uint64_t keyspaces = 0;  // The default one too.
  uint64_t records = 0;
  uint64_t key_value_size_bytes = 0;
  uint64_t stream_size_bytes = 0;
  uint64_t snapshot_number = 0;  // Grows from backup to later backup of one store.
  absl::Time taken;
};

// Writes `file`.partial, makes it durable, and renames it to `file`, which is replaced; a failure
// leaves what was there. Statuses of Db::Backup and DescriptorSink.
absl::StatusOr<BackupSummary> BackupToFile(const Db& db, const std::string& file,
                                           const StreamProgress& progress = nullptr);

// Statuses of Db::Restore; kUnavailable: the file can't be read; kDataLoss also when something
// follows the backup.
absl::StatusOr<BackupSummary> RestoreFromFile(const std::string& file, const std::string& path,
                                              const Options& options,
                                              const StreamProgress& progress = nullptr);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_BACKUP_H_
