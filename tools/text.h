// Text for people and pipes: escapes for arbitrary bytes, sizes, rates.
#ifndef DAXKV_TOOLS_TEXT_H_
#define DAXKV_TOOLS_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace daxkv::tools {

// Appends `bytes` to *out with backslash, tab, newline, carriage return and every byte outside
// 0x20..0x7e as C escapes: \\ \t \n \r, otherwise \xHH with exactly two digits. UTF-8 is escaped
// byte by byte, so that the output is plain ASCII and one line.
void AppendEscaped(std::string_view bytes, std::string* out);
std::string Escaped(std::string_view bytes);

// Undoes AppendEscaped; accepts what C does besides: \a \b \f \v \e \" \' \? and octal \0..\377.
//   kInvalidArgument  an unknown or cut escape (message: which, at which byte)
absl::StatusOr<std::string> Unescaped(std::string_view text);

// "17 B", "3.4 MiB".
std::string HumanBytes(uint64_t size_bytes);
// "1,234,567".
std::string Grouped(uint64_t number);
// "12M", "1g", "4096", "2 GiB" in bytes. kInvalidArgument otherwise, and beyond 2^63.
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);

}  // namespace daxkv::tools

#endif  // DAXKV_TOOLS_TEXT_H_
