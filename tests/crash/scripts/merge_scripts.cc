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
  // A tree of one leaf grows and shrinks: the leaf that was the root goes.
  Script grown{"GrownAndMerged",
               {PutGroup(Keys(0, 100, 10), 20)},
               std::vector{InOtherThread(PutGroup(Keys(1, 60, 10), 20)),
                           InOtherThread(DeleteGroup(Keys(0, 95, 10))),
                           InOtherThread(DeleteGroup(Keys(1, 55, 10))), Compact()} +
                   PutGroup(Keys(2, 200, 4), 20) + Puts(Keys(3, 4, 4), 20)};
  grown.share = merge.share = after_crash.share = 0.2;
  return {merge, OnPages(merge), after_crash, grown, OnPages(grown)};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
