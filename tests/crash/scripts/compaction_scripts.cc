// Records that compaction moves: scattered deletes leave extents sparse, Compact copies what is left
// in them, makes the leaves lead to the copies and truncates the extents. Puts that come after take
// the places that became free.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

// Several small extents of records, of which a tenth is left at random places.
std::vector<Operation> SparseStore() {
  std::vector<Operation> operations = {PutGroup(Keys(0, 600), 300)};
  for (int first = 0; first < 9; ++first) {
    operations = operations + DeleteGroup(Keys(first, 60, 10));
  }
  return operations;
}

std::vector<Script> Scripts() {
  Script move{"MoveRecords", SparseStore(),
              std::vector{Compact()} + Puts(Keys(1000, 4), 300) + Puts(Keys(9, 4, 10), 300) +
                  Deletes(Keys(49, 3, 10)) + Compact()};
  Script after_crash{
      "MoveRecordsAfterCrash", SparseStore() + CrashAndOpen(),
      std::vector{Compact()} + Puts(Keys(1000, 4), 300) + CrashAndOpen() + Compact()};
  Script and_close{
      "MoveRecordsAndClose", SparseStore(),
      std::vector{Compact()} + CloseAndOpen() + Puts(Keys(1000, 4), 300) + CloseAndOpen()};
  after_crash.share = and_close.share = 0.5;
  return {move, OnPages(move), after_crash, and_close};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
