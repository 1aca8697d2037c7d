// Sessions: creation, close and open, the open epoch, crashes of the process.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  Script create{"Create", {}, std::vector{Open()} + Puts(Keys(0, 3), 50)};
  create.share = 0.3;
  // No later fence of the creating thread helps.
  Script create_aside{
      "CreateInOtherThread", {}, std::vector{InOtherThread(Open())} + Puts(Keys(0, 3), 50)};
  create_aside.share = 0.3;
  const Script close{"CloseAndOpen", some,
                     Puts(Keys(0, 3), 100) + CloseAndOpen() + Puts(Keys(0, 3), 200) +
                         Deletes(Keys(4, 3)) + CloseAndOpen() + CloseAndOpen() +
                         Puts(Keys(7, 3), 100)};
  // What a process that died had stored and not flushed lies in the caches still.
  const Script crash{"CrashAndOpen", some,
                     Puts(Keys(0, 3), 100) + CrashAndOpen() + Puts(Keys(0, 3), 100) +
                         CrashAndOpen() + Deletes(Keys(4, 3)) + CrashAndOpen() +
                         Puts(Keys(4, 3), 100)};
  // Maps that a close has saved are replaced by the next.
  const Script maps{
      "SavedMaps", some + CloseAndOpen() + Deletes(Keys(0, 4)) + CloseAndOpen(),
      Puts(Keys(100, 3), 100) + Deletes(Keys(5, 2)) + CloseAndOpen() + Puts(Keys(110, 2), 100)};
  // After a crash the maps of old must not count again, whatever comes later.
  const Script old_maps{"MapsBeforeCrash", some + CloseAndOpen(),
                        CrashAndOpen() + Puts(Keys(100, 3), 100) + Deletes(Keys(5, 2)) +
                            CloseAndOpen() + Puts(Keys(110, 2), 100)};
  // Records in the free slots of an old map; the session that dies then is followed by one that
  // has no need to look at those slots, and by one that takes what the old map says.
  const std::vector<Operation> over_old_map = Puts(Keys(100, 6), 100) + Crash() +
                                              InOtherThread(Open()) + CloseAndOpen() +
                                              Puts(Keys(200, 6), 100);
  const Script stale_maps{"StaleMaps", some + CloseAndOpen(), over_old_map};
  // A tree that has grown by a level, closed at once: before a grace period completes what nobody
  // has waited for.
  const Script grown{
      "SplitAndClose",
      {PutGroup(Keys(0, 100, 10), 40)},
      std::vector{DelayOfGracePeriods(300), InOtherThread(PutGroup(Keys(1, 60, 10), 40)), Close(),
                  DelayOfGracePeriods(0), Open()} +
          Puts(Keys(2, 2), 40) + CloseAndOpen()};
  // A process that dies in the middle leaves stores that nobody ever flushed.
  const Script killed{"Killed", Puts(Keys(0, 40), 100),
                      std::vector{Killed(Delete("key000003"), 0), Open()} + Deletes(Keys(10, 3)) +
                          Compact() + Puts(Keys(100, 6), 100) + Killed(Put("key000004", 100), 1) +
                          Open() + Puts(Keys(110, 6), 100) + Killed(DeleteGroup(Keys(20, 10)), 0) +
                          Open() + Deletes(Keys(5, 1)) + Compact() + Puts(Keys(120, 8), 100)};
  // At each fence of a split, in a leaf of its own.
  std::vector<Operation> split_killed;
  for (unsigned fence = 1; fence < 5; ++fence) {
    const int first = 1000 * static_cast<int>(fence);
    split_killed = split_killed + Killed(PutGroup(Keys(first + 1, 60, 10), 40), fence) + Open() +
                   Puts(Keys(first + 2, 3, 200), 40) + Deletes(Keys(first, 3, 200));
  }
  const Script each_split{
      "KilledSplitsAtEachFence", {PutGroup(Keys(0, 500, 10), 40)}, split_killed + CloseAndOpen()};
  const Script killed_split{
      "KilledSplits",
      {PutGroup(Keys(0, 100, 10), 40)},
      std::vector{Killed(PutGroup(Keys(1, 40, 10), 40), 1), Open()} + Puts(Keys(2, 4, 200), 40) +
          Killed(PutGroup(Keys(401, 40, 10), 40), 2) + Open() + Puts(Keys(3, 4, 200), 40) +
          Compact() + CloseAndOpen() + Puts(Keys(4, 4, 200), 40)};
  // What a dead process had unlinked, and only the caches know of, is taken by others.
  const Script unlinked{"KilledAndReused",
                        {PutGroup(Keys(0, 400), 40)},
                        std::vector{Killed(DeleteGroup(Keys(0, 100)), 0), Open()} +
                            Puts(Keys(400, 4), 40) + Killed(DeleteGroup(Keys(100, 100)), 0) +
                            InOtherThread(Open()) + Puts(Keys(410, 4), 40)};
  return {
      create_aside, OnPages(create_aside), unlinked,   OnPages(unlinked),   maps,   old_maps,
      stale_maps,   OnPages(stale_maps),   grown,      OnPages(grown),      killed, OnPages(killed),
      killed_split, OnPages(killed_split), each_split, OnPages(each_split), create, OnPages(create),
      close,        OnPages(close),        crash,      OnPages(crash)};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
