// Keyspaces: created, dropped, and both again with the same name and id; batches across them.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/crash/script.h"
#include "tests/crash/scripts/keyspace_operations.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 5), 100);
  const std::vector<Operation> two = some + Create("a") + Create("b") + PutIn("a", "old", 30);
  const std::string key = Keys(0, 1)[0];
  // The first keyspace of a store makes the table.
  const Script lifecycle{
      "Keyspaces", some,
      std::vector{Create("a"), PutIn("a", "k", 100), Create("b"), PutIn("b", "k", 50000),
                  Drop("a", {"k"}), Create("a"), PutIn("a", "other", 20), Drop("b", {"k"}),
                  Drop("a", {"other"}), Put(key, 10), Create("c")}};
  const Script sessions{"KeyspaceSessions", some,
                        std::vector{Create("a"), PutIn("a", "k", 60)} + CrashAndOpen() +
                            std::vector{PutIn("a", "k", 70), Create("b"), PutIn("b", "k", 10)} +
                            CloseAndOpen() + std::vector{Drop("a", {"k"})} + CrashAndOpen() +
                            std::vector{Create("a"), PutIn("a", "new", 30)} + CloseAndOpen() +
                            Drop("b", {"k"})};
  const Script batches{"KeyspaceBatches",
                       two,
                       {BatchAcross({key, In("a", "x"), In("b", "x")}, 60),
                        BatchAcross({In("a", "x"), In("b", "y")}, 40, {In("b", "x"), key}),
                        BatchAcross(In("a", Keys(0, 60)), 30, {In("b", "y")}), Drop("b", {}),
                        BatchAcross({key, In("a", "x")}, 20)}};
  // An entry of two cache lines.
  const std::string long_name(kv::kMaxKeyspaceNameSizeBytes, 'n');
  const Script long_names{"KeyspaceNames", some,
                          std::vector{Create(long_name), PutIn(long_name, "k", 40), Create("short"),
                                      Drop(long_name, {"k"}), Create(long_name)} +
                              CloseAndOpen() + PutIn(long_name, "k", 50)};
  // The process dies at each fence of a creation, a drop, a batch: the table's words and the batch
  // table's may be in the caches only.
  std::vector<Operation> created, dropped, batched;
  for (unsigned fence = 0; fence < 6; ++fence) {
    const std::string name(1, static_cast<char>('m' + fence));
    created = created + Killed(Create(name), fence) + Open() + Put(key, 10 + fence);
    dropped = dropped + Create(name) + PutIn(name, "k", 40) + Killed(Drop(name, {"k"}), fence) +
              Open() + Put(key, 20 + fence);
    batched =
        batched +
        Killed(
            BatchAcross({In("a", absl::StrCat("x", fence)), In("b", absl::StrCat("x", fence))}, 30),
            fence) +
        Open() + PutIn("b", "last", 50 + fence);
  }
  // The process dies when it has stored that the keyspace lives, and before that is durable; the
  // next one puts into it.
  constexpr unsigned kCommitFence = 6;
  std::vector<Operation> used;
  for (const char* name : {"m", "n", "o"}) {
    used = used + Killed(Create(name), kCommitFence) + DelayOfGracePeriods(300) + Open() +
           PutIn(name, "k", 40) + DelayOfGracePeriods(0);
  }
  const Script killed_create_used{"KilledKeyspaceCreateUsed", some + Create("first"), used};
  const Script killed_creates{"KilledKeyspaceCreates", some, created};
  const Script killed_drops{"KilledKeyspaceDrops", some + Create("first"), dropped};
  const Script killed_batches{"KilledKeyspaceBatches", two, batched};
  std::vector<Script> all = {lifecycle,           OnPages(lifecycle), long_names,
                             OnPages(long_names), sessions,           batches,
                             OnPages(batches),    killed_creates,     killed_drops,
                             killed_batches,      killed_create_used};
  // Each image is judged by a keyspace made and dropped, too.
  for (Script& script : all) script.share = 0.25;
  return all;
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
