// Sessions: creation, close and open, the open epoch, crashes of the process.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  Script create{"Create", {}, std::vector{Open()} + Puts(Keys(0, 3), 50)};
  create.share = 0.3;
  const Script close{"CloseAndOpen", some,
                     Puts(Keys(0, 3), 100) + CloseAndOpen() + Puts(Keys(0, 3), 200) +
                         Deletes(Keys(4, 3)) + CloseAndOpen() + CloseAndOpen() +
                         Puts(Keys(7, 3), 100)};
  // What a process that died had stored and not flushed lies in the caches still.
  const Script crash{"CrashAndOpen", some,
                     Puts(Keys(0, 3), 100) + CrashAndOpen() + Puts(Keys(0, 3), 100) +
                         CrashAndOpen() + Deletes(Keys(4, 3)) + CrashAndOpen() +
                         Puts(Keys(4, 3), 100)};
  return {create, OnPages(create), close, OnPages(close), crash, OnPages(crash)};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
