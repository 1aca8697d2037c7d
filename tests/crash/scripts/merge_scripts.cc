// Leaves that compaction merges and moves: many small records fill several leaves, of which deletes
// leave little. Puts that come after split what was merged.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Operation> SparseLeaves() {
  std::vector<Operation> operations = {PutGroup(Keys(0, 900), 20)};
  for (int first = 0; first < 9; ++first) {
    operations = operations + DeleteGroup(Keys(first, 90, 10));
  }
  return operations;
}

std::vector<Script> Scripts() {
  const std::vector<Operation> split = {PutGroup(Keys(2000, 100), 20), PutGroup(Keys(0, 150), 24)};
  Script merge{"MergeLeaves", SparseLeaves(),
               std::vector{Compact()} + Puts(Keys(9, 3, 10), 20) + split +
                   Deletes(Keys(49, 3, 10)) + Compact()};
  Script after_crash{"MergeLeavesAfterCrash", SparseLeaves() + CrashAndOpen(),
                     std::vector{Compact()} + split + CrashAndOpen() + Compact()};
  merge.share = after_crash.share = 0.2;
  return {merge, OnPages(merge), after_crash};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
