// A backup's stream as frames: written with checksums, read without trusting a byte. Internal.
//
// Thread safety: none.
#ifndef DAXKV_KV_BACKUP_STREAM_H_
#define DAXKV_KV_BACKUP_STREAM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kv/backup.h"
#include "kv/backup_format.h"

namespace daxkv::kv {

// XXH3-64 of a stream, piece by piece.
class StreamHash {
 public:
  StreamHash();
  ~StreamHash();
  void Add(std::string_view bytes);
  uint64_t Value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class BackupWriter {
 public:
  explicit BackupWriter(ByteSink* sink);

  // First of all.
  absl::Status Begin(uint64_t snapshot_number, uint64_t taken_us);
  absl::Status BeginKeyspace(std::string_view name);
  // A record's key and value, in ascending order of the keys.
  absl::Status AddRecord(std::string_view key, std::string_view value);
  // Last of all.
  absl::Status End();

  // Bytes that have left for the sink.
  uint64_t stream_size_bytes() const { return stream_size_bytes_; }
  const BackupEnd& totals() const { return totals_; }

 private:
  absl::Status AddLargeRecord(std::string_view key, std::string_view value);
  void AppendSizes(std::string_view key, std::string_view value);
  // Sends the frame at hand, if it holds anything.
  absl::Status FlushRecords();
  absl::Status SendFrame(BackupFrameKind kind);
  absl::Status Send(std::string_view bytes);

  ByteSink* const sink_;
  std::string frame_;  // Header, to be filled in, and payload.
  uint32_t frame_number_ = 0;
  uint64_t stream_size_bytes_ = 0;
  BackupEnd totals_ = {};
  StreamHash hash_;
};

class BackupReader {
 public:
  struct Frame {
    BackupFrameKind kind;
    std::string payload;
    uint64_t payload_offset;  // In the stream.
  };

  explicit BackupReader(ByteSource* source) : source_(source) {}

  // Statuses of both: kDataLoss naming the stream offset (damage, or the stream ends too early),
  // and those of the source.
  //   kFailedPrecondition  the format is newer
  absl::StatusOr<BackupHeader> ReadHeader();
  // The next frame, bounds and checksum checked. `frame->payload` is used again. The end frame's
  // offset and hash are checked too; its other totals are the caller's to check.
  absl::Status ReadFrame(Frame* frame);

  uint64_t offset() const { return offset_; }

 private:
  // Fills `buffer`.
  absl::Status ReadAll(absl::Span<char> buffer);
  absl::Status CheckEnd(const Frame& frame, uint64_t hash, uint64_t offset) const;

  ByteSource* const source_;
  uint64_t offset_ = 0;
  uint32_t frame_number_ = 0;
  StreamHash hash_;
};

// Takes a varint off the front; false if there is none.
bool TakeVarint(std::string_view* bytes, uint32_t* value);

// kDataLoss: the backup is damaged at this offset.
template <typename... Parts>
absl::Status BackupDamaged(uint64_t offset, const Parts&... parts) {
  return absl::DataLossError(
      absl::StrCat("the backup is damaged at byte ", offset, ": ", parts...));
}

}  // namespace daxkv::kv

#endif  // DAXKV_KV_BACKUP_STREAM_H_
