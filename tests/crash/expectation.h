// What a store may hold, while operations begin and end.
//
// Of a key, that is the value of each operation that may have been the last: one that is under way,
// or that has returned while no operation that began later than that has returned too. What a
// process that died was about is over when a store opens next: from then on it came or did not, for
// ever.
//
// Thread safety: none.
#ifndef DAXKV_TESTS_CRASH_EXPECTATION_H_
#define DAXKV_TESTS_CRASH_EXPECTATION_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {

using Model = std::map<std::string, std::string>;

class Expectation {
 public:
  explicit Expectation(Model model = {}) : settled_(std::move(model)) {}

  // Operations are known by their place; they have to stay there.
  void Begin(const Operation* operation);
  void End(const Operation* operation);
  // For people: what is under way.
  std::string InFlight() const;

  // What differs first between what may be there and what is. Empty: nothing.
  std::string Difference(const Model& found) const;

 private:
  struct Version {
    std::optional<std::string> value;
    const Operation* operation;  // Null: before all others.
    uint64_t begin, end;         // kUnderWay: not yet.
    bool certain = true;         // That it was the key's when the operation was over.
  };
  static constexpr uint64_t kUnderWay = ~uint64_t{0};

  void EndUnfinished();
  std::string Judge(const std::string& key, const std::optional<std::string>& found) const;
  std::string JudgeAtomic(const Operation& operation, const Model& found) const;

  Model settled_;  // Of keys that no operation under way changes.
  std::map<std::string, std::vector<Version>> open_;
  std::vector<const Operation*> under_way_;
  uint64_t now_ = 1;
};

// The changes done to the model, one after another.
void Apply(const std::vector<Operation::Change>& changes, Model* model);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_EXPECTATION_H_
