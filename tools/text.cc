#include "tools/text.h"

#include <array>
#include <cctype>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace daxkv::tools {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";

// The byte that a one-letter escape stands for, or -1.
int SimpleEscape(char letter) {
  switch (letter) {
    case '\\':
    case '"':
    case '\'':
    case '?':
      return letter;
    case 't':
      return '\t';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case 'e':
      return 0x1b;
    default:
      return -1;
  }
}

bool IsOctal(char c) { return c >= '0' && c <= '7'; }

absl::Status BadEscape(std::string_view text, size_t at) {
  return absl::InvalidArgumentError(
      absl::StrFormat("bad escape at byte %d: '%s' (use \\\\, \\t, \\n, \\r or \\xHH)", at,
                      Escaped(text.substr(at, 4))));
}

// Decodes the escape that begins with the backslash at text[*at]; moves *at past it.
absl::StatusOr<char> DecodeEscape(std::string_view text, size_t* at) {
  const size_t begin = *at;
  if (begin + 1 >= text.size()) return BadEscape(text, begin);
  const char letter = text[begin + 1];
  if (const int simple = SimpleEscape(letter); simple >= 0) {
    *at = begin + 2;
    return static_cast<char>(simple);
  }
  if (letter == 'x') {
    const std::string_view digits = text.substr(begin + 2, 2);
    if (digits.size() != 2 || !absl::ascii_isxdigit(digits[0]) || !absl::ascii_isxdigit(digits[1]))
      return BadEscape(text, begin);
    *at = begin + 4;
    return static_cast<char>(std::stoi(std::string(digits), nullptr, 16));
  }
  if (!IsOctal(letter)) return BadEscape(text, begin);
  unsigned value = 0;
  size_t end = begin + 1;
  while (end < text.size() && end < begin + 4 && IsOctal(text[end]))
    value = value * 8 + (text[end++] - '0');
  if (value > 0xff) return BadEscape(text, begin);
  *at = end;
  return static_cast<char>(value);
}

}  // namespace

void AppendEscaped(std::string_view bytes, std::string* out) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '\\':
        out->append("\\\\");
        break;
      case '\t':
        out->append("\\t");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      default:
        if (byte >= 0x20 && byte <= 0x7e) {
          out->push_back(c);
        } else {
          out->append("\\x");
          out->push_back(kHexDigits[byte >> 4]);
          out->push_back(kHexDigits[byte & 15]);
        }
    }
  }
}

std::string Escaped(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  AppendEscaped(bytes, &out);
  return out;
}

absl::StatusOr<std::string> Unescaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t backslash = std::min(text.find('\\', at), text.size());
    out.append(text.substr(at, backslash - at));
    at = backslash;
    if (at == text.size()) break;
    absl::StatusOr<char> byte = DecodeEscape(text, &at);
    if (!byte.ok()) return byte.status();
    out.push_back(*byte);
  }
  return out;
}

std::string HumanBytes(uint64_t size_bytes) {
  constexpr std::array<const char*, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(size_bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.*f %s", unit == 0 || value >= 100 ? 0 : 1, value, kUnits[unit]);
}

std::string Grouped(uint64_t number) {
  std::string digits = absl::StrCat(number);
  for (size_t at = digits.size(); at > 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  const auto bad = [&text] {
    return absl::InvalidArgumentError(
        absl::StrCat("not a size: '", Escaped(text),
                     "' (a whole number, with K, M, G or T for powers of 1024)"));
  };
  size_t digits = 0;
  while (digits < text.size() && absl::ascii_isdigit(text[digits])) ++digits;
  uint64_t number = 0;
  if (digits == 0 || digits > 19) return bad();
  for (const char c : text.substr(0, digits)) number = number * 10 + static_cast<uint64_t>(c - '0');
  std::string unit(text.substr(digits));
  absl::RemoveExtraAsciiWhitespace(&unit);
  absl::AsciiStrToLower(&unit);
  unsigned shift = 0;
  if (!unit.empty() && unit != "b") {
    const size_t power = std::string_view("kmgt").find(unit[0]);
    const std::string rest = unit.substr(1);
    if (power == std::string_view::npos || (!rest.empty() && rest != "b" && rest != "ib"))
      return bad();
    shift = static_cast<unsigned>(10 * (power + 1));
  }
  if (number > (uint64_t{std::numeric_limits<int64_t>::max()} >> shift)) return bad();
  return number << shift;
}

}  // namespace daxkv::tools
