#include "kv/backup_stream.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "kv/record.h"

namespace daxkv::kv {
namespace {

constexpr size_t kFrameHeaderSizeBytes = sizeof(BackupFrameHeader);

template <typename T>
std::string_view BytesOf(const T& object) {
  return std::string_view(reinterpret_cast<const char*>(&object), sizeof(object));
}

void AppendVarint(uint32_t value, std::string* bytes) {
  for (; value >= 0x80; value >>= 7) bytes->push_back(static_cast<char>(value | 0x80));
  bytes->push_back(static_cast<char>(value));
}

uint32_t ChecksumOf(const BackupHeader& header) {
  const char* bytes = reinterpret_cast<const char*>(&header);
  return Crc32c(Crc32c(0, bytes, offsetof(BackupHeader, checksum)),
                bytes + offsetof(BackupHeader, snapshot_number),
                sizeof(header) - offsetof(BackupHeader, snapshot_number));
}

uint32_t ChecksumOf(const BackupFrameHeader& header, std::string_view payload) {
  constexpr size_t kFirst = offsetof(BackupFrameHeader, payload_size_bytes);
  const char* bytes = reinterpret_cast<const char*>(&header);
  return Crc32c(Crc32c(0, bytes + kFirst, sizeof(header) - kFirst), payload.data(), payload.size());
}

}  // namespace

bool TakeVarint(std::string_view* bytes, uint32_t* value) {
  uint64_t result = 0;
  for (size_t i = 0; i < 5 && i < bytes->size(); ++i) {
    const auto byte = static_cast<unsigned char>((*bytes)[i]);
    result |= uint64_t{byte & 0x7fu} << (7 * i);
    if ((byte & 0x80) != 0) continue;
    if (result > UINT32_MAX) return false;
    bytes->remove_prefix(i + 1);
    *value = static_cast<uint32_t>(result);
    return true;
  }
  return false;
}

struct StreamHash::State {
  XXH3_state_t* state = XXH3_createState();
  ~State() { XXH3_freeState(state); }
};

StreamHash::StreamHash() : state_(std::make_unique<State>()) {
  if (state_->state == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(state_->state);
}
StreamHash::~StreamHash() = default;
void StreamHash::Add(std::string_view bytes) {
  XXH3_64bits_update(state_->state, bytes.data(), bytes.size());
}
uint64_t StreamHash::Value() const { return XXH3_64bits_digest(state_->state); }

// ---- Writing ------------------------------------------------------------------------------------

BackupWriter::BackupWriter(ByteSink* sink) : sink_(sink), frame_(kFrameHeaderSizeBytes, '\0') {
  frame_.reserve(kFrameHeaderSizeBytes + kMaxFrameSizeBytes);
}

absl::Status BackupWriter::Begin(uint64_t snapshot_number, uint64_t taken_us) {
  BackupHeader header = {kBackupMagic, kBackupVersion, 0, snapshot_number, taken_us};
  header.checksum = ChecksumOf(header);
  return Send(BytesOf(header));
}

absl::Status BackupWriter::BeginKeyspace(std::string_view name) {
  absl::Status status = FlushRecords();
  if (!status.ok()) return status;
  ++totals_.keyspaces;
  frame_.append(name);
  return SendFrame(kKeyspaceFrame);
}

void BackupWriter::AppendSizes(std::string_view key, std::string_view value) {
  AppendVarint(static_cast<uint32_t>(key.size()), &frame_);
  AppendVarint(static_cast<uint32_t>(value.size()), &frame_);
}

absl::Status BackupWriter::AddRecord(std::string_view key, std::string_view value) {
  constexpr size_t kMostSizesSizeBytes = 10;
  ++totals_.records;
  totals_.key_value_size_bytes += key.size() + value.size();
  const size_t most_size_bytes = kMostSizesSizeBytes + key.size() + value.size();
  if (most_size_bytes > kMaxFrameSizeBytes) return AddLargeRecord(key, value);
  if (frame_.size() + most_size_bytes > kFrameHeaderSizeBytes + kMaxFrameSizeBytes) {
    absl::Status status = FlushRecords();
    if (!status.ok()) return status;
  }
  AppendSizes(key, value);
  frame_.append(key).append(value);
  return absl::OkStatus();
}

absl::Status BackupWriter::AddLargeRecord(std::string_view key, std::string_view value) {
  absl::Status status = FlushRecords();
  if (!status.ok()) return status;
  AppendSizes(key, value);
  frame_.append(key);
  for (BackupFrameKind kind = kLargeFrame; status.ok() && !value.empty(); kind = kValueFrame) {
    const size_t room = kFrameHeaderSizeBytes + kMaxFrameSizeBytes - frame_.size();
    const size_t piece = std::min(room, value.size());
    frame_.append(value.substr(0, piece));
    value.remove_prefix(piece);
    status = SendFrame(kind);
  }
  return status;
}

absl::Status BackupWriter::FlushRecords() {
  return frame_.size() == kFrameHeaderSizeBytes ? absl::OkStatus() : SendFrame(kRecordsFrame);
}

absl::Status BackupWriter::End() {
  absl::Status status = FlushRecords();
  if (!status.ok()) return status;
  totals_.stream_size_bytes = stream_size_bytes_;
  totals_.stream_hash = hash_.Value();
  frame_.append(BytesOf(totals_));
  return SendFrame(kEndFrame);
}

absl::Status BackupWriter::SendFrame(BackupFrameKind kind) {
  const std::string_view payload = std::string_view(frame_).substr(kFrameHeaderSizeBytes);
  BackupFrameHeader header = {
      0, static_cast<uint32_t>(payload.size()), frame_number_++, kind, {0, 0, 0}};
  header.checksum = ChecksumOf(header, payload);
  std::memcpy(frame_.data(), &header, sizeof(header));
  absl::Status sent = Send(frame_);
  frame_.resize(kFrameHeaderSizeBytes);
  return sent;
}

absl::Status BackupWriter::Send(std::string_view bytes) {
  hash_.Add(bytes);
  stream_size_bytes_ += bytes.size();
  return sink_->Append(bytes);
}

// ---- Reading ------------------------------------------------------------------------------------

absl::Status BackupReader::ReadAll(absl::Span<char> buffer) {
  const uint64_t begin = offset_;
  while (!buffer.empty()) {
    const absl::StatusOr<size_t> got = source_->Read(buffer);
    if (!got.ok()) return got.status();
    if (*got == 0) {
      return absl::DataLossError(absl::StrCat("the backup is cut short: it ends at byte ", offset_,
                                              ", inside what begins", " at byte ", begin,
                                              "; take it from a whole copy"));
    }
    const size_t size_bytes = std::min(*got, buffer.size());
    offset_ += size_bytes;
    buffer.remove_prefix(size_bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<BackupHeader> BackupReader::ReadHeader() {
  BackupHeader header;
  absl::Status read = ReadAll(absl::MakeSpan(reinterpret_cast<char*>(&header), sizeof(header)));
  if (!read.ok()) return read;
  if (header.magic != kBackupMagic) return BackupDamaged(0, "it does not begin as a backup does");
  if (header.format_version > kBackupVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the backup has format version ", header.format_version,
                     "; this program knows up to ", kBackupVersion, ": use a newer one"));
  }
  if (header.checksum != ChecksumOf(header) || header.format_version == 0) {
    return BackupDamaged(0, "its header's checksum does not hold");
  }
  hash_.Add(BytesOf(header));
  return header;
}

absl::Status BackupReader::ReadFrame(Frame* frame) {
  const uint64_t begin = offset_;
  BackupFrameHeader header;
  absl::Status read = ReadAll(absl::MakeSpan(reinterpret_cast<char*>(&header), sizeof(header)));
  if (!read.ok()) return read;
  if (header.payload_size_bytes > kMaxFrameSizeBytes) {
    return BackupDamaged(begin, "a frame of ", header.payload_size_bytes, " bytes");
  }
  frame->payload.resize(header.payload_size_bytes);
  frame->payload_offset = offset_;
  read = ReadAll(absl::MakeSpan(frame->payload));
  if (!read.ok()) return read;
  if (header.checksum != ChecksumOf(header, frame->payload)) {
    return BackupDamaged(begin, "a frame's checksum does not hold");
  }
  if (header.number != frame_number_) {
    return BackupDamaged(begin, "frame ", header.number, " where frame ", frame_number_,
                         " is expected");
  }
  if (header.kind < kKeyspaceFrame || header.kind > kEndFrame) {
    return BackupDamaged(begin, "a frame of unknown kind ", unsigned{header.kind});
  }
  ++frame_number_;
  frame->kind = static_cast<BackupFrameKind>(header.kind);
  if (frame->kind == kEndFrame) return CheckEnd(*frame, hash_.Value(), begin);
  hash_.Add(BytesOf(header));
  hash_.Add(frame->payload);
  return absl::OkStatus();
}

absl::Status BackupReader::CheckEnd(const Frame& frame, uint64_t hash, uint64_t offset) const {
  BackupEnd end;
  if (frame.payload.size() != sizeof(end)) {
    return BackupDamaged(offset, "an end of ", frame.payload.size(), " bytes");
  }
  std::memcpy(&end, frame.payload.data(), sizeof(end));
  if (end.stream_size_bytes != offset || end.stream_hash != hash) {
    return BackupDamaged(offset, "the hash of all before it does not hold");
  }
  return absl::OkStatus();
}

}  // namespace daxkv::kv
