// Sinks and sources of backups.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <istream>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "kv/backup.h"

namespace daxkv::kv {
namespace {

// write(2) and read(2) take no more at once.
constexpr size_t kMaxCallSizeBytes = size_t{1} << 30;

absl::Status Failed(int error, const char* action) {
  const bool no_space = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return absl::Status(
      no_space ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kUnavailable,
      absl::StrCat(action, " the backup failed: ", std::strerror(error)));
}

}  // namespace

absl::Status DescriptorSink::Append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = write(descriptor_, bytes.data(), std::min(bytes.size(), kMaxCallSizeBytes));
    if (put > 0) bytes.remove_prefix(static_cast<size_t>(put));
    if (put == 0) return Failed(EIO, "writing");
    if (put < 0 && errno != EINTR) return Failed(errno, "writing");
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> DescriptorSource::Read(absl::Span<char> buffer) {
  for (;;) {
    const ssize_t got =
        read(descriptor_, buffer.data(), std::min(buffer.size(), kMaxCallSizeBytes));
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) return Failed(errno, "reading");
  }
}

absl::Status WatchedSink::Append(std::string_view bytes) {
  absl::Status status = sink_->Append(bytes);
  size_bytes_ += bytes.size();
  if (!status.ok() || progress_ == nullptr) return status;
  return progress_(size_bytes_);
}

absl::StatusOr<size_t> WatchedSource::Read(absl::Span<char> buffer) {
  absl::StatusOr<size_t> got = source_->Read(buffer);
  if (!got.ok() || progress_ == nullptr) return got;
  absl::Status status = progress_(size_bytes_ += *got);
  if (!status.ok()) return status;
  return got;
}

absl::Status OstreamSink::Append(std::string_view bytes) {
  stream_->write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (stream_->good()) return absl::OkStatus();
  return absl::UnavailableError("writing the backup failed: the stream is in a failed state");
}

absl::StatusOr<size_t> IstreamSource::Read(absl::Span<char> buffer) {
  stream_->read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
  if (!stream_->bad()) return static_cast<size_t>(stream_->gcount());
  return absl::UnavailableError("reading the backup failed: the stream is in a failed state");
}

}  // namespace daxkv::kv
