// What kvctl reads: escapes, sizes, tsv and Debian's stanzas, batch files.
#include <cstdio>
#include <memory>

#include "kv/db.h"
#include "kv/write_batch.h"
#include "tests/fuzz/fuzz_target.h"
#include "tools/batch_file.h"
#include "tools/record_reader.h"
#include "tools/text.h"

namespace daxkv::fuzz {
namespace {

void ReadEscapes(std::string_view text) {
  const std::string escaped = tools::Escaped(text);
  for (char c : escaped) Require(c >= 0x20 && c <= 0x7e, "an escaped byte that is not printable");
  const absl::StatusOr<std::string> back = tools::Unescaped(escaped);
  Require(back.ok() && *back == text, "escaping and unescaping changes bytes");
  const absl::StatusOr<std::string> plain = tools::Unescaped(text);
  Require(plain.ok() || absl::IsInvalidArgument(plain.status()), "Unescaped: a wrong status");
  Require(!plain.ok() || plain->size() <= text.size(), "unescaping makes text longer");
}

void ReadSize(std::string_view text) {
  const absl::StatusOr<uint64_t> size_bytes = tools::ParseBytes(text);
  Require(size_bytes.ok() ? *size_bytes >> 63 == 0 : absl::IsInvalidArgument(size_bytes.status()),
          "ParseBytes");
}

void ReadRecords(const char* format, std::string_view text) {
  if (text.empty()) return;
  std::string bytes(text);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      fmemopen(bytes.data(), bytes.size(), "rb"), std::fclose);
  Require(file != nullptr, "fmemopen");
  absl::StatusOr<std::unique_ptr<tools::RecordReader>> reader =
      tools::NewRecordReader(format, file.get());
  Require(reader.ok(), "NewRecordReader");
  std::string key, value;
  for (;;) {
    const absl::StatusOr<bool> more = (*reader)->Next(&key, &value);
    Require(more.ok() || absl::IsInvalidArgument(more.status()), "a wrong status of a reader");
    if (!more.ok() || !*more) break;
    // What a dump would print of it is read back the same.
    std::string line = tools::Escaped(key) + "\t" + tools::Escaped(value);
    Require(line.find('\n') == std::string::npos, "a record of two lines");
  }
}

void ReadBatch(std::string_view text) {
  kv::WriteBatch batch;
  const absl::Status parsed = tools::ParseBatch(text, &batch);
  Require(parsed.ok() || absl::IsInvalidArgument(parsed), "a wrong status of ParseBatch");
  for (size_t i = 0; i < batch.Count(); ++i) {
    const kv::WriteBatch::Operation operation = batch.operation(i);
    Require(!operation.key.empty() && operation.key.size() <= kv::kMaxKeySizeBytes,
            "a batch with a key out of its range");
  }
}

}  // namespace
}  // namespace daxkv::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size_bytes) {
  using namespace daxkv::fuzz;
  const std::string_view text(reinterpret_cast<const char*>(bytes), size_bytes);
  ReadEscapes(text);
  ReadSize(text);
  ReadRecords("tsv", text);
  ReadRecords("debian", text);
  ReadBatch(text);
  return 0;
}
