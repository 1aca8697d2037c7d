#include "tools/batch_file.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

// Adds one line.
absl::Status AddToBatch(std::string_view line, kv::WriteBatch* batch) {
  std::vector<std::string> fields;
  for (;;) {
    const size_t tab = line.find('\t');
    absl::StatusOr<std::string> field = Unescaped(line.substr(0, tab));
    if (!field.ok()) return field.status();
    fields.push_back(*std::move(field));
    if (tab == line.npos) break;
    line.remove_prefix(tab + 1);
  }
  if (fields[0] == "put" && fields.size() == 3) return batch->Put(fields[1], fields[2]);
  if (fields[0] == "del" && fields.size() == 2) return batch->Delete(fields[1]);
  return absl::InvalidArgumentError("neither put, key, value nor del, key (tabs between)");
}

}  // namespace

absl::Status ParseBatch(std::string_view text, kv::WriteBatch* batch) {
  for (uint64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const absl::Status added = AddToBatch(text.substr(0, end), batch);
    if (!added.ok())
      return absl::Status(added.code(), absl::StrCat("line ", number, ": ", added.message()));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return absl::OkStatus();
}

}  // namespace daxkv::tools
