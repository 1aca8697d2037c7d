#include "benchmarks/ycsb/properties.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace daxkv::ycsb {
namespace {

constexpr std::string_view kBlanks = " \t\f\r";

std::string_view TrimLeft(std::string_view text) {
  const size_t start = text.find_first_not_of(kBlanks);
  return start == std::string_view::npos ? std::string_view() : text.substr(start);
}

// Whether the line ends in an odd number of backslashes, and so goes on in the next one.
bool Continues(std::string_view line) {
  size_t backslashes = 0;
  while (backslashes < line.size() && line[line.size() - 1 - backslashes] == '\\') ++backslashes;
  return backslashes % 2 == 1;
}

void AppendUtf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xc0 | (code >> 6)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  } else {
    out->push_back(static_cast<char>(0xe0 | (code >> 12)));
    out->push_back(static_cast<char>(0x80 | ((code >> 6) & 0x3f)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3f)));
  }
}

// Resolves backslash escapes; nothing when \u lacks its four hexadecimal digits.
std::optional<std::string> Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out.push_back(text[i]);
      continue;
    }
    const char escaped = text[++i];
    if (escaped == 'u') {
      uint32_t code = 0;
      const std::string digits(text.substr(i + 1, 4));
      if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
        return std::nullopt;
      }
      code = static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
      AppendUtf8(code, &out);
      i += 4;
      continue;
    }
    constexpr std::string_view kLetters = "tnrf", kControls = "\t\n\r\f";
    const size_t letter = kLetters.find(escaped);
    out.push_back(letter == std::string_view::npos ? escaped : kControls[letter]);
  }
  return out;
}

// Splits at the first unescaped =, : or blank.
std::pair<std::string_view, std::string_view> SplitAssignment(std::string_view line) {
  size_t end = 0;
  while (end < line.size() && line[end] != '=' && line[end] != ':' &&
         kBlanks.find(line[end]) == std::string_view::npos) {
    end += line[end] == '\\' ? 2 : 1;
  }
  end = std::min(end, line.size());
  std::string_view value = TrimLeft(line.substr(end));
  if (!value.empty() && (value[0] == '=' || value[0] == ':')) value = TrimLeft(value.substr(1));
  return {line.substr(0, end), value};
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = absl::ascii_tolower(a[i - 1]) == absl::ascii_tolower(b[j - 1]);
      const size_t best = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (same ? 0 : 1)});
      diagonal = std::exchange(row[j], best);
    }
  }
  return row.back();
}

// ", did you mean X?" for the nearest known name, or nothing when none is near.
std::string Suggestion(std::string_view name, const std::vector<PropertyRule>& rules) {
  const PropertyRule* nearest = nullptr;
  size_t distance = name.size() / 3 + 2;
  for (const PropertyRule& rule : rules) {
    const size_t candidate = EditDistance(name, rule.name);
    if (candidate < distance) {
      distance = candidate;
      nearest = &rule;
    }
  }
  return nearest == nullptr ? "; ycsb --help lists the known ones"
                            : absl::StrCat("; did you mean \"", nearest->name, "\"?");
}

absl::Status BadValue(const PropertyRule& rule, const std::string& text, const std::string& origin,
                      const std::string& wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(origin, ": ", rule.name, ": \"", text, "\" is not accepted: give ", wanted));
}

}  // namespace

absl::Status Properties::ReadFile(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen(path.c_str(), "rb"), [](std::FILE* open) { return std::fclose(open); });
  std::string text;
  char chunk[4096];
  while (file != nullptr) {
    const size_t size_bytes = std::fread(chunk, 1, sizeof(chunk), file.get());
    text.append(chunk, size_bytes);
    if (size_bytes < sizeof(chunk)) break;
  }
  if (file == nullptr || std::ferror(file.get()) != 0) {
    const int error = errno;
    return absl::Status(
        absl::ErrnoToStatusCode(error),
        absl::StrCat("cannot read the property file ", path, ": ", std::strerror(error)));
  }
  return Parse(text, path.substr(path.find_last_of('/') + 1));
}

absl::Status Properties::Parse(std::string_view text, const std::string& origin) {
  int line_number = 0;
  while (!text.empty()) {
    std::string logical;
    const int first_line = line_number + 1;
    bool continues = true;
    while (continues && (!text.empty() || logical.empty())) {
      const size_t end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      ++line_number;
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      line = TrimLeft(line);
      const bool comment = logical.empty() && !line.empty() && (line[0] == '#' || line[0] == '!');
      continues = !comment && Continues(line);
      if (continues) line.remove_suffix(1);
      if (!comment) logical.append(line);
      if (logical.empty()) break;
    }
    if (logical.empty()) continue;
    const auto [raw_name, raw_value] = SplitAssignment(logical);
    const std::optional<std::string> name = Unescape(raw_name), value = Unescape(raw_value);
    const std::string place = absl::StrCat(origin, ":", first_line);
    if (!name || !value) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": \\u needs four hexadecimal digits"));
    }
    if (name->empty()) {
      return absl::InvalidArgumentError(absl::StrCat(place, ": a value without a name"));
    }
    // Java keeps blanks at a value's end; nobody means them in a workload.
    Set(*name, std::string(absl::StripTrailingAsciiWhitespace(*value)), place);
  }
  return absl::OkStatus();
}

absl::Status Properties::Set(std::string_view assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("-p \"", std::string(assignment), "\": give name=value"));
  }
  Set(std::string(assignment.substr(0, equals)), std::string(assignment.substr(equals + 1)), "-p");
  return absl::OkStatus();
}

PropertyRule TextRule(std::string name, std::string fallback, std::string help) {
  return {
      std::move(name), PropertyRule::Kind::kText, std::move(fallback), std::move(help), 0, 0, {}};
}

PropertyRule WholeRule(std::string name, std::string fallback, int64_t min, int64_t max,
                       std::string help) {
  return {std::move(name),
          PropertyRule::Kind::kWhole,
          std::move(fallback),
          std::move(help),
          min,
          max,
          {}};
}

PropertyRule RealRule(std::string name, std::string fallback, int64_t min, int64_t max,
                      std::string help) {
  return {std::move(name),
          PropertyRule::Kind::kReal,
          std::move(fallback),
          std::move(help),
          min,
          max,
          {}};
}

PropertyRule FlagRule(std::string name, bool fallback, std::string help) {
  return {std::move(name),
          PropertyRule::Kind::kFlag,
          fallback ? "true" : "false",
          std::move(help),
          0,
          0,
          {}};
}

PropertyRule ChoiceRule(std::string name, std::vector<std::string> choices, std::string help) {
  std::string fallback = choices.front();
  return {
      std::move(name),   PropertyRule::Kind::kChoice, std::move(fallback), std::move(help), 0, 0,
      std::move(choices)};
}

absl::Status Settings::Interpret(const PropertyRule& rule, Entry* entry) {
  switch (rule.kind) {
    case PropertyRule::Kind::kText:
      return absl::OkStatus();
    case PropertyRule::Kind::kWhole:
      if (absl::SimpleAtoi(entry->text, &entry->whole) && entry->whole >= rule.min &&
          entry->whole <= rule.max) {
        return absl::OkStatus();
      }
      return BadValue(rule, entry->text, entry->origin,
                      absl::StrCat("a whole number from ", rule.min, " to ", rule.max));
    case PropertyRule::Kind::kReal:
      if (absl::SimpleAtod(entry->text, &entry->real) && std::isfinite(entry->real) &&
          entry->real >= static_cast<double>(rule.min) &&
          entry->real <= static_cast<double>(rule.max)) {
        return absl::OkStatus();
      }
      return BadValue(rule, entry->text, entry->origin,
                      absl::StrCat("a number from ", rule.min, " to ", rule.max));
    case PropertyRule::Kind::kFlag:
      entry->flag = absl::AsciiStrToLower(entry->text) == "true";
      if (entry->flag || absl::AsciiStrToLower(entry->text) == "false") return absl::OkStatus();
      return BadValue(rule, entry->text, entry->origin, "true or false");
    case PropertyRule::Kind::kChoice:
      if (std::count(rule.choices.begin(), rule.choices.end(), entry->text) > 0) {
        return absl::OkStatus();
      }
      return BadValue(rule, entry->text, entry->origin,
                      absl::StrCat(rule.choices.size() > 1 ? "one of " : "",
                                   absl::StrJoin(rule.choices, ", ")));
  }
  return absl::InternalError("unknown kind of property");
}

absl::StatusOr<Settings> Settings::Make(const Properties& given,
                                        const std::vector<PropertyRule>& rules) {
  Settings settings;
  for (const PropertyRule& rule : rules) {
    Entry entry;
    entry.kind = rule.kind;
    entry.text = rule.fallback;
    entry.origin = "default";
    const auto value = given.values().find(rule.name);
    if (value != given.values().end()) {
      entry.text = value->second.text;
      entry.origin = value->second.origin;
      entry.is_set = true;
    }
    if (absl::Status status = Interpret(rule, &entry); !status.ok()) return status;
    settings.entries_[rule.name] = std::move(entry);
  }
  for (const auto& [name, value] : given.values()) {
    if (settings.entries_.count(name) > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(value.origin, ": unknown property \"", name, "\"", Suggestion(name, rules)));
  }
  return settings;
}

const Settings::Entry& Settings::Find(std::string_view name) const {
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) {
    std::fprintf(stderr, "ycsb: the property %s has no rule\n", std::string(name).c_str());
    std::abort();
  }
  return entry->second;
}

bool Settings::IsSet(std::string_view name) const { return Find(name).is_set; }
std::string Settings::Origin(std::string_view name) const { return Find(name).origin; }
const std::string& Settings::Text(std::string_view name) const { return Find(name).text; }
int64_t Settings::Whole(std::string_view name) const { return Find(name).whole; }
double Settings::Real(std::string_view name) const { return Find(name).real; }
bool Settings::Flag(std::string_view name) const { return Find(name).flag; }

}  // namespace daxkv::ycsb
