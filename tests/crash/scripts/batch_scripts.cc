// Atomic batches: commit, redo, splits, several at once.
#include <string>
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  const std::vector<Operation> leaves = {PutGroup(Keys(0, 400, 10), 40)};
  const Script batches{
      "Batch",
      some,
      {Batch(Keys(0, 2), 100), Batch(Keys(1, 3), 50, Keys(10, 2)), Batch({}, 0, Keys(0, 5)),
       Batch(Keys(100, 4), 20, {"none", "here"}), Put("between", 30),
       Batch(Keys(0, 4), 70, {"between"}), Delete("key000001"), Batch(Keys(0, 6), 300)}};
  // Old records of every leaf, new ones among them, new leaves; and what follows a batch at once.
  const Script splits{
      "BatchSplits",
      leaves,
      {Batch(Keys(0, 100, 40), 60, Keys(10, 50, 80)), Batch(Keys(3, 150, 20), 40),
       Batch(Keys(5, 40, 100), 30, Keys(20, 30, 70)), Delete("key000003"), Put("key000005", 40)}};
  const Script large{"BatchLarge",
                     some,
                     {Batch(Keys(0, 2), 50000), Batch(Keys(1, 2), 40, Keys(0, 1)),
                      Batch(Keys(0, 3), 200000), Batch(Keys(0, 1), 3, Keys(1, 2))}};
  // The next session, and the one after a crash, finds the table clear.
  const Script sessions{"BatchSessions", some,
                        std::vector{Batch(Keys(0, 5), 60, Keys(5, 2))} + CrashAndOpen() +
                            Deletes(Keys(0, 2)) + Batch(Keys(1, 3), 50) + CloseAndOpen() +
                            Delete("key000001") + CrashAndOpen() + Put("key000001", 20)};
  // The process dies at each fence of a batch: what it stored, the table's word too, may be in the
  // caches only. Each batch has keys of its own: all of it or nothing, for ever.
  std::vector<Operation> each_fence;
  for (unsigned fence = 0; fence < 6; ++fence) {
    const int first = static_cast<int>(5 * fence);
    each_fence = each_fence + Killed(Batch(Keys(first, 3), 60, Keys(first + 3, 2)), fence) +
                 InOtherThread(Open()) + Deletes(Keys(first, 1)) + Put("key000100", 50) +
                 Delete("key000100") + Put(Keys(first + 3, 1)[0], 40);
  }
  // Of removals alone: they have no records that the redo would wait for.
  each_fence = each_fence + PutGroup(Keys(200, 12), 30);
  for (unsigned fence = 1; fence < 3; ++fence) {
    each_fence = each_fence +
                 Killed(Batch({}, 0, Keys(200 + 6 * static_cast<int>(fence - 1), 6)), fence) +
                 InOtherThread(Open()) + Put("key000100", 50) + Delete("key000100");
  }
  const Script killed{"KilledBatches", Puts(Keys(0, 30), 100), each_fence};
  // What the redo of a batch has made durable, or not: nothing that comes for a while does.
  std::vector<Operation> redone;
  for (unsigned fence = 1; fence < 4; ++fence) {
    redone = redone +
             Killed(Batch(Keys(static_cast<int>(fence), 60, 30), 40, Keys(600, 3)), fence) +
             InOtherThread(Open());
    for (int i = 0; i < 6; ++i) redone.push_back(Read("key000000"));
    redone.push_back(PutGroup(Keys(600, 3), 40));
  }
  const Script killed_redone{"KilledBatchesRedone", leaves + PutGroup(Keys(600, 3), 40), redone};
  std::vector<Operation> splits_killed;
  for (unsigned fence = 1; fence < 8; ++fence) {
    const int first = static_cast<int>(fence);
    splits_killed = splits_killed + Killed(Batch(Keys(first, 60, 30), 40), fence) + Open() +
                    Put("key000001", 40) + Delete("key000001");
  }
  const Script killed_splits{"KilledBatchSplits", leaves, splits_killed};
  const Script threads{
      "ThreadsBatches",
      leaves,
      {},
      {std::vector{Batch(Keys(0, 30, 20), 50), Batch(Keys(10, 30, 20), 50, Keys(0, 10, 20)),
                   Batch(Keys(0, 20, 10), 20)},
       std::vector{Batch(Keys(5, 40, 20), 50), Batch(Keys(0, 10, 20), 40, Keys(5, 20, 20))},
       Puts(Keys(0, 8, 20), 30) + IfThere(Delete("key000020")) + IfThere(Delete("key000040")) +
           IfThere(Delete("key000060")) + Puts(Keys(3, 8, 10), 60)}};
  return {batches,         OnPages(batches), splits,        OnPages(splits),
          large,           sessions,         threads,       killed,
          OnPages(killed), killed_splits,    killed_redone, OnPages(killed_redone)};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
