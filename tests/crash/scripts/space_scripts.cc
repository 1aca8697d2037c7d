// Space that comes and goes: large values, growth, truncated extents and punched holes.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  Script large{"LargeValues", some,
               Puts(Keys(100, 3), 50000) + Puts(Keys(100, 3), 300000) + Puts(Keys(100, 1), 10) +
                   Deletes(Keys(101, 2)) + Puts(Keys(0, 2), 70000)};
  large.share = 0.5;
  Script growth{"Growth", some, Puts(Keys(100, 6), 2000000)};
  growth.share = 0.3;
  // A process that dies between the choice of new extents and their commit leaves words that tell
  // of them. What the next session puts there is larger, and has one of these words inside.
  std::vector<Operation> reserved;
  for (int first = 100; first < 118; first += 6) {
    reserved = reserved + Killed(PutGroup(Keys(first, 4), 30000), 0) + InOtherThread(Open()) +
               Put(Keys(first + 4, 1)[0], 250000) + Put(Keys(first + 5, 1)[0], 400000);
  }
  Script killed_extents{"KilledNewExtents", some, reserved};
  killed_extents.share = 0.3;
  // Several such words, which have come to the medium, as lines of a cache may at any time; one run
  // takes the place of all.
  std::vector<Operation> written_back, looked_for;
  for (int first = 100; first < 175; first += 25) {
    Operation of_many_sizes = PutGroup(Keys(first, 1), 280);
    for (int i = 1; i < 20; ++i) {
      const auto size_bytes = static_cast<size_t>(280 + 40 * i);
      of_many_sizes.changes.push_back(Put(Keys(first + i, 1)[0], size_bytes).changes[0]);
    }
    written_back = written_back + Killed(of_many_sizes, 0) + WriteBackOfCaches() +
                   InOtherThread(Open()) + Put(Keys(first + 20, 1)[0], 600000) +
                   Put(Keys(first + 21, 1)[0], 50);
    looked_for = looked_for + Killed(of_many_sizes, 0) + WriteBackOfCaches() + Open() +
                 InOtherThread(BeginValue("begun", 2000)) + Put(Keys(first + 20, 1)[0], 600000) +
                 Put(Keys(first + 21, 1)[0], 50);
  }
  Script killed_extents_there{"KilledNewExtentsWrittenBack", some, written_back};
  killed_extents_there.share = 0.3;
  // The same where another thread than the put's has looked for free pages.
  Script killed_extents_found{"KilledNewExtentsFoundByOther", some, looked_for};
  killed_extents_found.share = 0.3;
  Script compact{"Compact", Puts(Keys(0, 6), 200000) + PutGroup(Keys(10, 1500), 400),
                 Deletes(Keys(0, 3)) + Compact() + DeleteGroup(Keys(10, 1400)) + Compact() +
                     Puts(Keys(0, 3), 30000)};
  compact.share = 0.3;
  // Runs that deletes have freed are truncated by a close, too.
  Script truncate{"TruncateAndClose", Puts(Keys(0, 4), 100000) + Puts(Keys(10, 10), 100),
                  Deletes(Keys(0, 4)) + CloseAndOpen() + Puts(Keys(0, 2), 60000) +
                      Deletes(Keys(0, 2)) + Compact() + Puts(Keys(20, 5), 100)};
  truncate.share = 0.5;
  Script fixed{"FixedPool", some,
               Puts(Keys(100, 5), 100) + Puts(Keys(0, 5), 300) + Deletes(Keys(5, 5)) +
                   Puts(Keys(200, 2), 200000) + Deletes(Keys(200, 1)) + Compact() + CloseAndOpen() +
                   Puts(Keys(5, 3), 100) + CrashAndOpen() + Puts(Keys(8, 3), 100)};
  fixed.shape = dax::PoolShape::kFixed;
  Script create_fixed{"CreateFixedPool", {}, std::vector{Open()} + Puts(Keys(0, 3), 50)};
  create_fixed.shape = dax::PoolShape::kFixed;
  create_fixed.share = 0.3;
  return {large,
          killed_extents,
          OnPages(killed_extents),
          killed_extents_there,
          OnPages(killed_extents_there),
          killed_extents_found,
          OnPages(large),
          growth,
          compact,
          OnPages(compact),
          truncate,
          fixed,
          OnPages(fixed),
          create_fixed};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
