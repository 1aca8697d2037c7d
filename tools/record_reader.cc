#include "tools/record_reader.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/text.h"

namespace daxkv::tools {

LineReader::~LineReader() { std::free(buffer_); }

absl::StatusOr<bool> LineReader::Next(std::string_view* line) {
  errno = 0;
  const ssize_t size_bytes = getline(&buffer_, &capacity_bytes_, file_);
  if (size_bytes < 0) {
    if (std::ferror(file_) != 0)
      return absl::UnavailableError(
          absl::StrCat("reading the input failed: ", std::strerror(errno)));
    return false;
  }
  ++line_number_;
  bytes_read_ += static_cast<uint64_t>(size_bytes);
  *line = std::string_view(buffer_, static_cast<size_t>(size_bytes));
  if (!line->empty() && line->back() == '\n') line->remove_suffix(1);
  return true;
}

namespace {

class TsvReader : public RecordReader {
 public:
  explicit TsvReader(std::FILE* file) : RecordReader(file) {}

  absl::StatusOr<bool> Next(std::string* key, std::string* value) override {
    std::string_view line;
    absl::StatusOr<bool> more = lines_.Next(&line);
    if (!more.ok() || !*more) return more;
    const size_t tab = line.find('\t');
    if (tab == std::string_view::npos) return Bad("no tab between key and value");
    if (line.find('\t', tab + 1) != std::string_view::npos)
      return Bad("more than one tab (write a tab inside a value as \\t)");
    absl::StatusOr<std::string> decoded = Unescaped(line.substr(0, tab));
    if (!decoded.ok()) return Bad(absl::StrCat("in the key: ", decoded.status().message()));
    *key = *std::move(decoded);
    decoded = Unescaped(line.substr(tab + 1));
    if (!decoded.ok()) return Bad(absl::StrCat("in the value: ", decoded.status().message()));
    *value = *std::move(decoded);
    return true;
  }

 private:
  absl::Status Bad(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrFormat("line %d: %s", lines_.line_number(), what));
  }
};

class DebianReader : public RecordReader {
 public:
  explicit DebianReader(std::FILE* file) : RecordReader(file) {}

  absl::StatusOr<bool> Next(std::string* key, std::string* value) override {
    while (true) {
      absl::StatusOr<bool> more = NextStanza(value);
      if (!more.ok() || !*more) return more;
      if (!package_.empty() && !version_.empty()) break;
      ++skipped_;
    }
    *key = absl::StrCat(package_, "/", version_);
    return true;
  }

 private:
  absl::StatusOr<bool> NextStanza(std::string* stanza) {
    stanza->clear();
    package_.clear();
    version_.clear();
    std::string_view line;
    while (true) {
      absl::StatusOr<bool> more = lines_.Next(&line);
      if (!more.ok()) return more;
      if (!*more) return !stanza->empty();
      if (line.empty()) {
        if (stanza->empty()) continue;
        return true;
      }
      if (!stanza->empty()) stanza->push_back('\n');
      stanza->append(line);
      TakeField(line, "Package:", &package_);
      TakeField(line, "Version:", &version_);
    }
  }

  static void TakeField(std::string_view line, std::string_view name, std::string* field) {
    if (line.substr(0, name.size()) != name) return;
    line.remove_prefix(name.size());
    while (!line.empty() && absl::ascii_isspace(line.front())) line.remove_prefix(1);
    while (!line.empty() && absl::ascii_isspace(line.back())) line.remove_suffix(1);
    *field = std::string(line);
  }

  std::string package_;
  std::string version_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RecordReader>> NewRecordReader(std::string_view format,
                                                              std::FILE* file) {
  if (format == "tsv") return std::make_unique<TsvReader>(file);
  if (format == "debian") return std::make_unique<DebianReader>(file);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown format '", Escaped(format), "' (tsv or debian)"));
}

}  // namespace daxkv::tools
