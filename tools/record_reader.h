// Readers of the formats that `kvctl load` takes, one record at a time.
//
//   tsv     a record a line: key, tab, value, both with C escapes (what `kvctl scan` prints)
//   debian  the stanzas that `apt-cache dumpavail` prints: key = package name, "/", version;
//           value = the stanza without its last newline
#ifndef DAXKV_TOOLS_RECORD_READER_H_
#define DAXKV_TOOLS_RECORD_READER_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace daxkv::tools {

// Lines of a stream, counted.
class LineReader {
 public:
  // `file` stays the caller's.
  explicit LineReader(std::FILE* file) : file_(file) {}
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its newline, good until the next call; false at the end.
  //   kUnavailable  the stream can't be read (message: errno's text)
  absl::StatusOr<bool> Next(std::string_view* line);
  uint64_t line_number() const { return line_number_; }  // Of the last line; from 1.
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  std::FILE* file_;
  char* buffer_ = nullptr;
  size_t capacity_bytes_ = 0;
  uint64_t line_number_ = 0;
  uint64_t bytes_read_ = 0;
};

class RecordReader {
 public:
  virtual ~RecordReader() = default;
  // Reads the next record into *key and *value; false at the end.
  //   kInvalidArgument  malformed input (message: line number and what is wrong)
  //   kUnavailable      the stream can't be read
  virtual absl::StatusOr<bool> Next(std::string* key, std::string* value) = 0;
  uint64_t bytes_read() const { return lines_.bytes_read(); }
  // Stanzas without a package name or version; always 0 for tsv.
  uint64_t skipped() const { return skipped_; }

 protected:
  explicit RecordReader(std::FILE* file) : lines_(file) {}
  LineReader lines_;
  uint64_t skipped_ = 0;
};

// `format` is "tsv" or "debian"; kInvalidArgument otherwise. `file` stays the caller's.
absl::StatusOr<std::unique_ptr<RecordReader>> NewRecordReader(std::string_view format,
                                                              std::FILE* file);

}  // namespace daxkv::tools

#endif  // DAXKV_TOOLS_RECORD_READER_H_
