// Properties: what a benchmark run is told, as YCSB takes it from property files and -p options.
//
//   Properties given;
//   status = given.ReadFile("benchmarks/workloads/workloada");  // Later settings win.
//   status = given.Set("recordcount=1000000");
//   absl::StatusOr<Settings> settings = Settings::Make(given, rules);
//   settings->Whole("recordcount");
//
// Every name must have a rule, and every value must obey it, before anything runs: a misspelt
// property never silently becomes its default. All errors are kInvalidArgument and name the place
// (file:line, or -p); a file that can't be read is kNotFound, kPermissionDenied or kInternal.
//
// Thread safety: const methods from any thread.
#ifndef DAXKV_BENCHMARKS_YCSB_PROPERTIES_H_
#define DAXKV_BENCHMARKS_YCSB_PROPERTIES_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace daxkv::ycsb {

// Names and values as given, with the place of each.
class Properties {
 public:
  struct Value {
    std::string text;
    std::string origin;  // "workloada:12", "-p".
  };

  // Reads Java's property format: `name = value` with =, : or white space between; lines that
  // begin with # or ! are comments; a backslash joins lines and escapes t, n, r, f, uXXXX or the
  // character itself.
  absl::Status ReadFile(const std::string& path);
  // The same from memory; `origin` stands for the file's name in messages.
  absl::Status Parse(std::string_view text, const std::string& origin);
  // `name=value`, the argument of -p.
  absl::Status Set(std::string_view assignment);
  void Set(const std::string& name, const std::string& value, const std::string& origin) {
    values_[name] = {value, origin};
  }

  const std::map<std::string, Value>& values() const { return values_; }

 private:
  std::map<std::string, Value> values_;
};

// What one property may be.
struct PropertyRule {
  enum class Kind { kText, kWhole, kReal, kFlag, kChoice };

  std::string name;
  Kind kind = Kind::kText;
  std::string fallback;              // The value when none is given.
  std::string help;                  // One line.
  int64_t min = 0, max = 0;          // kWhole, kReal: the accepted range, both inclusive.
  std::vector<std::string> choices;  // kChoice.
};

PropertyRule TextRule(std::string name, std::string fallback, std::string help);
PropertyRule WholeRule(std::string name, std::string fallback, int64_t min, int64_t max,
                       std::string help);
PropertyRule RealRule(std::string name, std::string fallback, int64_t min, int64_t max,
                      std::string help);
PropertyRule FlagRule(std::string name, bool fallback, std::string help);
PropertyRule ChoiceRule(std::string name, std::vector<std::string> choices, std::string help);

// Properties that obey their rules, so that reading one can't fail. Asking for a name without a
// rule, or of another kind, is a mistake in the program and ends it.
class Settings {
 public:
  static absl::StatusOr<Settings> Make(const Properties& given,
                                       const std::vector<PropertyRule>& rules);

  // Whether the property was given.
  bool IsSet(std::string_view name) const;
  // "workloada:12", or "default".
  std::string Origin(std::string_view name) const;

  const std::string& Text(std::string_view name) const;  // kText, kChoice.
  int64_t Whole(std::string_view name) const;
  double Real(std::string_view name) const;
  bool Flag(std::string_view name) const;

 private:
  struct Entry {
    PropertyRule::Kind kind;
    std::string text;
    std::string origin;
    int64_t whole = 0;
    double real = 0;
    bool flag = false;
    bool is_set = false;
  };
  static absl::Status Interpret(const PropertyRule& rule, Entry* entry);
  const Entry& Find(std::string_view name) const;

  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_PROPERTIES_H_
