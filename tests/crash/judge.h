// Opens the image of a crash as a store and says what is wrong with it.
//
// Thread safety: none.
#ifndef DAXKV_TESTS_CRASH_JUDGE_H_
#define DAXKV_TESTS_CRASH_JUDGE_H_

#include <string>
#include <vector>

#include "tests/crash/expectation.h"
#include "tests/crash/script.h"

namespace daxkv::crash {

// Empty when all is well; then *found is what the store holds.
std::string CompareStore(kv::Db& db, const Expectation& expected, Model* found);
enum class Damage { kNone, kSome, kLossless };  // Script::repairs, Script::lossless

// Opens the store, if it is damaged after its repair.
absl::Status Recover(Damage damage, Store& store);
// Recovers the store, compares, writes to it, and compares again.
std::string JudgeImage(Damage damage, const StoreFiles& files, const Expectation& expected);

// A few writes that any recovered store has to take.
std::vector<Operation> WritesAfterRecovery(const Model& found);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_JUDGE_H_
