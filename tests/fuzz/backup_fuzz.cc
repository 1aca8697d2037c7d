// Restoring from hostile streams. The first byte of the input says what the rest is:
//   even  the stream itself
//   odd   frames: kind, size (2 bytes), payload; they get numbers, checksums, and an end with the
//         right hash, so that what is behind those checks is reached
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

#include "kv/backup_format.h"
#include "kv/backup_stream.h"
#include "kv/db.h"
#include "kv/record.h"
#include "tests/fuzz/fuzz_target.h"

namespace daxkv::fuzz {
namespace {

namespace fs = std::filesystem;

class StringSource : public kv::ByteSource {
 public:
  explicit StringSource(std::string_view bytes) : rest_(bytes) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    const size_t size = std::min(buffer.size(), rest_.size());
    std::copy_n(rest_.begin(), size, buffer.begin());
    rest_.remove_prefix(size);
    return size;
  }

 private:
  std::string_view rest_;
};

void AppendFrame(kv::BackupFrameKind kind, std::string_view payload, uint32_t number,
                 std::string* stream) {
  kv::BackupFrameHeader header = {0, static_cast<uint32_t>(payload.size()), number, kind, {}};
  const char* bytes = reinterpret_cast<const char*>(&header);
  header.checksum = kv::Crc32c(kv::Crc32c(0, bytes + 4, 12), payload.data(), payload.size());
  stream->append(bytes, sizeof(header)).append(payload);
}

// A stream of the frames that the input names.
std::string Sealed(Input input) {
  kv::BackupHeader header = {kv::kBackupMagic, kv::kBackupVersion, 0, 7, 8};
  const char* bytes = reinterpret_cast<const char*>(&header);
  header.checksum = kv::Crc32c(kv::Crc32c(0, bytes, 12), bytes + 16, 16);
  std::string stream(bytes, sizeof(header));
  kv::BackupEnd end = {};
  end.keyspaces = input.Take<uint8_t>();
  end.records = input.Take<uint8_t>();
  end.key_value_size_bytes = input.Take<uint16_t>();
  uint32_t number = 0;
  while (!input.empty()) {
    const auto kind = static_cast<kv::BackupFrameKind>(input.Take<uint8_t>());
    const uint16_t size_bytes = input.Take<uint16_t>();
    AppendFrame(kind, input.TakeBytes(size_bytes), number++, &stream);
  }
  kv::StreamHash hash;
  hash.Add(stream);
  end.stream_size_bytes = stream.size();
  end.stream_hash = hash.Value();
  AppendFrame(kv::kEndFrame, std::string_view(reinterpret_cast<const char*>(&end), sizeof(end)),
              number, &stream);
  return stream;
}

void CheckRestored(const std::string& path, const kv::BackupSummary& summary) {
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  Require(db.ok(), "what was restored does not open");
  const absl::StatusOr<kv::CheckReport> report = (*db)->Check();
  Require(report.ok() && report->faults.empty(), "what was restored is not clean");
  Require(report->records == summary.records &&
              report->record_size_bytes == summary.key_value_size_bytes,
          "what was restored is not what the summary says");
  Require((*db)->Close().ok(), "close");
}

}  // namespace
}  // namespace daxkv::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size_bytes) {
  using namespace daxkv::fuzz;
  namespace kv = daxkv::kv;
  static const std::string path =
      "/dev/shm/daxkv_backup_fuzz_" + std::to_string(getpid()) + "/store";
  Input input(bytes, size_bytes);
  const bool sealed = input.Take<uint8_t>() % 2 == 1;
  const std::string stream = sealed ? Sealed(input) : std::string(input.TakeBytes(size_bytes));
  fs::create_directory(fs::path(path).parent_path());
  kv::Options options;
  options.max_size_bytes = 64 << 20;  // A value of a gigabyte does not fit.
  options.compaction_bytes_per_second = 0;
  StringSource source(stream);
  const absl::StatusOr<kv::BackupSummary> restored =
      kv::Db::Restore(&source, path, options, kv::RestoreExtent::kWholeSource);
  if (restored.ok()) {
    CheckRestored(path, *restored);
  } else {
    const absl::StatusCode code = restored.status().code();
    Require(code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kFailedPrecondition ||
                code == absl::StatusCode::kUnimplemented ||
                code == absl::StatusCode::kResourceExhausted,
            restored.status().ToString());
    Require(!fs::exists(path), "a restore that failed left a store");
  }
  Require(!fs::exists(path + ".restoring"), "a restore left its staging directory");
  fs::remove_all(fs::path(path).parent_path());
  return 0;
}
