// Snapshots that are held while the power fails: they are in memory only, so what they kept goes
// with them, all of it.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  const Script held{"SnapshotHeld", some,
                    std::vector{TakeSnapshot()} + Puts(Keys(0, 4), 120) + Deletes(Keys(4, 3)) +
                        TakeSnapshot() + Puts(Keys(0, 2), 60) + Batch(Keys(2, 3), 80, Keys(7, 2)) +
                        ReleaseSnapshot() + Puts(Keys(0, 2), 40) + Put("large", 100000) +
                        TakeSnapshot() + Delete("large") + ReleaseSnapshot() + ReleaseSnapshot() +
                        Puts(Keys(0, 3), 120)};
  // The next session has none; and one that closes has let them go.
  const Script sessions{"SnapshotSessions", some,
                        std::vector{TakeSnapshot()} + Puts(Keys(0, 3), 100) + Deletes(Keys(3, 3)) +
                            CrashAndOpen() + TakeSnapshot() + Puts(Keys(0, 3), 100) +
                            PutGroup(Keys(6, 6), 100) + CloseAndOpen() + Puts(Keys(20, 6), 100)};
  // Leaves split while they have versions.
  const Script splits{
      "SnapshotSplits",
      {PutGroup(Keys(0, 100, 10), 40)},
      {TakeSnapshot(), PutGroup(Keys(0, 80, 5), 40), DeleteGroup(Keys(10, 20, 10)), TakeSnapshot(),
       PutGroup(Keys(3, 90, 10), 40), ReleaseSnapshot(), DeleteGroup(Keys(3, 10, 10)),
       Batch(Keys(7, 40, 20), 30), ReleaseSnapshot(), PutGroup(Keys(0, 30, 10), 40)}};
  const Script threads{
      "ThreadsSnapshots",
      some,
      {},
      {{TakeSnapshot(), TakeSnapshot(), Put("key000100", 40), ReleaseSnapshot(), TakeSnapshot(),
        Put("key000101", 40), ReleaseSnapshot(), Compact()},
       Puts(Keys(0, 12), 80) + Batch(Keys(0, 6), 60) + Deletes(Keys(6, 4)) +
           IfThere(Delete("key000010")) + IfThere(Delete("key000011")),
       std::vector{PutGroup(Keys(0, 20), 70), DeleteGroup(Keys(10, 8))} + Puts(Keys(30, 6), 100)}};
  const Script killed{"KilledWithSnapshot", some,
                      std::vector{TakeSnapshot()} + Puts(Keys(0, 6), 100) +
                          Killed(Delete("key000007"), 0) + Open() + Puts(Keys(40, 8), 100) +
                          TakeSnapshot() + Killed(PutGroup(Keys(0, 12), 100), 1) + Open() +
                          Puts(Keys(50, 8), 100)};
  return {held,   OnPages(held),   sessions, OnPages(sessions), splits, OnPages(splits),
          killed, OnPages(killed), threads};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
