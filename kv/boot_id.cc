#include "kv/boot_id.h"

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kv/record.h"

namespace daxkv::kv {

absl::StatusOr<uint32_t> ReadBootId(const std::string& file) {
  const std::string& path = file.empty() ? kBootIdFile : file;
  std::string text;
  std::ifstream stream(path);
  std::getline(stream, text);
  absl::StripTrailingAsciiWhitespace(&text);
  if (text.empty()) {
    return absl::UnavailableError(
        absl::StrCat("cannot read the kernel's boot id in ", path,
                     ", without which process durability can't tell a power cut; open the store ",
                     "with durability power"));
  }
  return Crc32c(0, text.data(), text.size());
}

}  // namespace daxkv::kv
