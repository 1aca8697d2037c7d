// Records that compaction moves: scattered deletes leave extents sparse, Compact copies what is
// left in them, makes the leaves lead to the copies and truncates the extents. Puts that come after
// take the places that became free.
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
  // Batches that change what is being moved, and go to the same leaves.
  Script and_batches{"MoveRecordsAndBatches",
                     SparseStore(),
                     {},
                     {{Compact(), Compact()},
                      {Batch(Keys(9, 6, 100), 300, Keys(19, 6, 100)), Batch(Keys(29, 8, 100), 100),
                       Batch(Keys(700, 30), 300, Keys(9, 6, 100))},
                      Puts(Keys(39, 6, 100), 300) + Deletes(Keys(49, 6, 100))}};
  // Versions that a snapshot holds stay where they are, or move with their leaves.
  Script and_snapshots{
      "MoveRecordsAndSnapshots",
      SparseStore(),
      {TakeSnapshot(), Batch(Keys(9, 10, 50), 300, Keys(19, 5, 100)), TakeSnapshot(), Compact(),
       PutGroup(Keys(29, 20, 10), 200), ReleaseSnapshot(), Compact(), DeleteRange(Keys(29, 10, 10)),
       ReleaseSnapshot(), PutGroup(Keys(700, 60), 300), Compact(), Put("key000009", 300)}};
  // A place that a snapshot has held comes free long after its record was moved.
  Script and_reuse{"MoveRecordsAndReuse", SparseStore(),
                   std::vector{TakeSnapshot(), InOtherThread(Compact()), ReleaseSnapshot()} +
                       Puts(Keys(1000, 6), 300) + PutGroup(Keys(700, 60), 300)};
  // Records that lie in no order of their keys are written anew in it, and then what is left between
  // their old places is packed. Puts take the places that became free.
  std::vector<Operation> shuffled;
  for (int first : {3, 7, 0, 5, 2, 9, 4, 8, 1, 6}) {
    shuffled = shuffled + PutGroup(Keys(first, 30, 10), first % 2 == 0 ? 300 : 200);
  }
  Script in_order{"OrderRecords", shuffled,
                  std::vector{CompactInOrder()} + Puts(Keys(1000, 4), 300) +
                      Puts(Keys(9, 4, 10), 200) + Deletes(Keys(49, 3, 10)) + CompactInOrder()};
  Script in_order_after_crash{
      "OrderRecordsAfterCrash", shuffled + CrashAndOpen(),
      std::vector{CompactInOrder()} + Puts(Keys(1000, 4), 300) + CrashAndOpen() + Compact()};
  Script in_order_beside{
      "OrderRecordsAndWriters",
      shuffled,
      {},
      {{CompactInOrder(), CompactInOrder()},
       {Batch(Keys(9, 6, 50), 300, Keys(19, 6, 50)), Batch(Keys(700, 20), 200)},
       Puts(Keys(33, 6, 50), 300) + Deletes(Keys(44, 5, 50)) + Puts(Keys(44, 5, 50), 200)}};
  Script in_order_at_snapshots{
      "OrderRecordsAndSnapshots", shuffled,
      std::vector{TakeSnapshot(), Batch(Keys(9, 10, 20), 300, Keys(18, 5, 20)), CompactInOrder()} +
          PutGroup(Keys(29, 10, 10), 200) + ReleaseSnapshot() + Puts(Keys(700, 6), 300) +
          CompactInOrder() + Put("key000009", 300)};
  in_order_after_crash.share = in_order_beside.share = in_order_at_snapshots.share = 0.5;
  and_reuse.share = and_batches.share = and_snapshots.share = 0.5;
  return {move,
          OnPages(move),
          after_crash,
          and_close,
          and_batches,
          OnPages(and_batches),
          and_snapshots,
          OnPages(and_snapshots),
          and_reuse,
          in_order,
          OnPages(in_order),
          in_order_after_crash,
          in_order_beside,
          in_order_at_snapshots};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
