// Db::Restore: a stream that anybody may have written becomes a store, or nothing.
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dax/file_descriptor.h"
#include "kv/backup_stream.h"
#include "kv/db.h"
#include "kv/exceptions.h"
#include "kv/staged_store.h"

namespace daxkv::kv {
namespace {

// Records are put in groups of so many frames.
constexpr size_t kGroupFrames = 16;

// Puts the records of a stream into a new store.
class Restorer {
 public:
  Restorer(BackupReader* reader, Db* db) : reader_(reader), db_(db), keyspace_(db) {}

  // All frames, to the end one.
  absl::Status Run();
  const BackupEnd& totals() const { return totals_; }

 private:
  using Frame = BackupReader::Frame;

  absl::Status BeginKeyspace(const Frame& frame);
  // Takes the frame's payload.
  absl::Status AddRecords(Frame* frame);
  absl::Status AddLargeRecord(Frame* frame);
  absl::Status CheckEnd(const Frame& frame) const;
  // The sizes and the key of the record that begins `*rest`, whose end is that of the frame.
  absl::Status TakeKey(std::string_view* rest, uint64_t end_offset, std::string_view previous,
                       std::string_view* key, uint32_t* value_size_bytes);
  absl::Status PutGroup();

  BackupReader* const reader_;
  Db* const db_;
  std::optional<Keyspace> named_;
  Keyspace* keyspace_;         // That the records go to.
  std::string last_keyspace_;  // Its name.
  BackupEnd totals_ = {};      // What was met so far.
  std::string last_key_;       // Of this keyspace.
  std::array<std::string, kGroupFrames> payloads_;
  size_t payload_count_ = 0;
  std::vector<KeyValue> group_;  // Views of the payloads.
};

absl::Status Restorer::Run() {
  Frame frame;
  for (;;) {
    absl::Status status = reader_->ReadFrame(&frame);
    if (!status.ok()) return status;
    if (totals_.keyspaces == 0 && frame.kind != kKeyspaceFrame) {
      return BackupDamaged(frame.payload_offset, "it does not begin with a keyspace");
    }
    switch (frame.kind) {
      case kKeyspaceFrame:
        status = BeginKeyspace(frame);
        break;
      case kRecordsFrame:
        status = AddRecords(&frame);
        break;
      case kLargeFrame:
        status = AddLargeRecord(&frame);
        break;
      case kValueFrame:
        status = BackupDamaged(frame.payload_offset, "a piece of a value without its beginning");
        break;
      case kEndFrame:
        status = PutGroup();
        return status.ok() ? CheckEnd(frame) : status;
    }
    if (!status.ok()) return status;
  }
}

absl::Status Restorer::BeginKeyspace(const Frame& frame) {
  if (frame.payload.size() > kMaxKeyspaceNameSizeBytes) {
    return BackupDamaged(frame.payload_offset, "a keyspace's name of ", frame.payload.size(),
                         " bytes");
  }
  if (frame.payload.empty() != (totals_.keyspaces == 0)) {
    return BackupDamaged(frame.payload_offset, "the default keyspace is not the first");
  }
  absl::Status put = PutGroup();
  if (!put.ok()) return put;
  if (!frame.payload.empty()) {
    if (frame.payload <= last_keyspace_) {
      return BackupDamaged(frame.payload_offset, "keyspaces are out of order");
    }
    absl::StatusOr<Keyspace> made = db_->CreateKeyspace(frame.payload);
    if (!made.ok()) return made.status();
    named_ = *std::move(made);
    keyspace_ = &*named_;
    last_keyspace_ = frame.payload;
  }
  ++totals_.keyspaces;
  last_key_.clear();
  return absl::OkStatus();
}

absl::Status Restorer::TakeKey(std::string_view* rest, uint64_t end_offset,
                               std::string_view previous, std::string_view* key,
                               uint32_t* value_size_bytes) {
  const uint64_t offset = end_offset - rest->size();
  uint32_t key_size_bytes = 0;
  if (!TakeVarint(rest, &key_size_bytes) || !TakeVarint(rest, value_size_bytes)) {
    return BackupDamaged(offset, "a record's sizes are cut off");
  }
  if (key_size_bytes == 0 || key_size_bytes > kMaxKeySizeBytes ||
      *value_size_bytes > kMaxValueSizeBytes) {
    return BackupDamaged(offset, "a record with a key of ", key_size_bytes,
                         " bytes and a value of ", *value_size_bytes);
  }
  if (key_size_bytes > rest->size()) return BackupDamaged(offset, "a record's key is cut off");
  *key = rest->substr(0, key_size_bytes);
  rest->remove_prefix(key_size_bytes);
  if (*key <= previous) return BackupDamaged(offset, "keys are out of order");
  ++totals_.records;
  totals_.key_value_size_bytes += uint64_t{key_size_bytes} + *value_size_bytes;
  return absl::OkStatus();
}

absl::Status Restorer::AddRecords(Frame* frame) {
  std::string& payload = payloads_[payload_count_++];
  payload.swap(frame->payload);
  std::string_view rest = payload;
  const uint64_t end_offset = frame->payload_offset + payload.size();
  std::string_view key = last_key_;
  do {
    uint32_t value_size_bytes = 0;
    absl::Status taken = TakeKey(&rest, end_offset, key, &key, &value_size_bytes);
    if (!taken.ok()) return taken;
    if (value_size_bytes > rest.size()) {
      return BackupDamaged(end_offset - rest.size(), "a record's value is cut off");
    }
    group_.push_back({key, rest.substr(0, value_size_bytes)});
    rest.remove_prefix(value_size_bytes);
  } while (!rest.empty());
  last_key_.assign(key);
  return payload_count_ == kGroupFrames ? PutGroup() : absl::OkStatus();
}

absl::Status Restorer::AddLargeRecord(Frame* frame) {
  std::string_view rest = frame->payload;
  const uint64_t end_offset = frame->payload_offset + rest.size();
  std::string_view key;
  uint32_t value_size_bytes = 0;
  absl::Status taken = TakeKey(&rest, end_offset, last_key_, &key, &value_size_bytes);
  if (!taken.ok()) return taken;
  if (rest.size() > value_size_bytes) {
    return BackupDamaged(end_offset - rest.size(), "more bytes than the value has");
  }
  last_key_.assign(key);
  absl::StatusOr<ValueWriter> writer = keyspace_->NewValueWriter(last_key_, value_size_bytes);
  if (!writer.ok()) return writer.status();
  const absl::Span<char> bytes = writer->bytes();
  std::copy(rest.begin(), rest.end(), bytes.begin());
  for (size_t filled = rest.size(); filled < bytes.size(); filled += frame->payload.size()) {
    absl::Status status = reader_->ReadFrame(frame);
    if (!status.ok()) return status;
    const std::string& piece = frame->payload;
    if (frame->kind != kValueFrame || piece.empty() || piece.size() > bytes.size() - filled) {
      return BackupDamaged(frame->payload_offset, "the value of ", value_size_bytes,
                           " bytes before it is not complete");
    }
    std::copy(piece.begin(), piece.end(), bytes.begin() + filled);
  }
  return writer->Commit();
}

absl::Status Restorer::PutGroup() {
  absl::Status status = group_.empty() ? absl::OkStatus() : keyspace_->PutGroup(group_).status();
  group_.clear();
  payload_count_ = 0;
  return status;
}

absl::Status Restorer::CheckEnd(const Frame& frame) const {
  BackupEnd end;
  std::memcpy(&end, frame.payload.data(), sizeof(end));
  if (end.keyspaces == totals_.keyspaces && end.records == totals_.records &&
      end.key_value_size_bytes == totals_.key_value_size_bytes) {
    return absl::OkStatus();
  }
  return BackupDamaged(frame.payload_offset, "it has ", totals_.records, " records and says ",
                       end.records);
}

absl::StatusOr<BackupSummary> RestoreInto(ByteSource* source, const std::string& path,
                                          const Options& options) {
  BackupReader reader(source);
  const absl::StatusOr<BackupHeader> header = reader.ReadHeader();
  if (!header.ok()) return header.status();
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, options);
  if (!db.ok()) return db.status();
  Restorer restorer(&reader, db->get());
  absl::Status status = restorer.Run();
  if (status.ok()) status = (*db)->Close();
  if (!status.ok()) return status;
  BackupSummary summary;
  summary.keyspaces = restorer.totals().keyspaces;
  summary.records = restorer.totals().records;
  summary.key_value_size_bytes = restorer.totals().key_value_size_bytes;
  summary.stream_size_bytes = reader.offset();
  summary.snapshot_number = header->snapshot_number;
  summary.taken = absl::FromUnixMicros(static_cast<int64_t>(header->taken_us));
  return summary;
}

// Passes a source on, unless something is left of it.
absl::Status CheckAtEnd(ByteSource* source, uint64_t offset) {
  char byte;
  const absl::StatusOr<size_t> got = source->Read(absl::MakeSpan(&byte, 1));
  if (!got.ok()) return got.status();
  return *got == 0 ? absl::OkStatus() : BackupDamaged(offset, "something follows its end");
}

}  // namespace

absl::StatusOr<BackupSummary> Db::Restore(ByteSource* source, const std::string& path,
                                          Options options, RestoreExtent extent) {
  return WithoutExceptions([&]() -> absl::StatusOr<BackupSummary> {
    absl::StatusOr<std::unique_ptr<StagedStore>> staged = StagedStore::Begin(path);
    if (!staged.ok()) return staged.status();
    options.create_if_missing = true;
    options.error_if_exists = true;
    absl::StatusOr<BackupSummary> summary = RestoreInto(source, (*staged)->store_path(), options);
    if (!summary.ok()) return summary.status();
    absl::Status status = absl::OkStatus();
    if (extent == RestoreExtent::kWholeSource) {
      status = CheckAtEnd(source, summary->stream_size_bytes);
    }
    if (status.ok()) status = (*staged)->Commit();
    if (!status.ok()) return status;
    return summary;
  });
}

absl::StatusOr<BackupSummary> RestoreFromFile(const std::string& file, const std::string& path,
                                              const Options& options,
                                              const StreamProgress& progress) {
  return WithoutExceptions([&]() -> absl::StatusOr<BackupSummary> {
    const dax::FileDescriptor opened(open(file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened.valid()) {
      return absl::UnavailableError(absl::StrCat("cannot open ", file, ": ", std::strerror(errno)));
    }
    DescriptorSource source(opened.get());
    WatchedSource watched(&source, progress);
    absl::StatusOr<BackupSummary> summary =
        Db::Restore(&watched, path, options, RestoreExtent::kWholeSource);
    if (summary.ok()) return summary;
    return absl::Status(summary.status().code(),
                        absl::StrCat(file, ": ", summary.status().message()));
  });
}

}  // namespace daxkv::kv
