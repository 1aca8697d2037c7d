// Keyspaces: created, dropped, and both again with the same name and id; batches across them.
//
// In a model (script.h) a keyspace is the key "@NAME" with an empty value, and its records are the keys
// "@NAME/KEY" (judge.cc).
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

using Changes = std::vector<Operation::Change>;

std::string In(const std::string& name, const std::string& key) {
  return absl::StrCat("@", name, "/", key);
}

std::vector<std::string> In(const std::string& name, std::vector<std::string> keys) {
  for (std::string& key : keys) key = In(name, key);
  return keys;
}

// "@NAME/KEY" in two.
std::pair<std::string, std::string> Split(const std::string& key) {
  const size_t slash = key.find('/');
  return {key.substr(1, slash - 1), key.substr(slash + 1)};
}

Operation Create(const std::string& name) {
  return {"create keyspace", {{absl::StrCat("@", name), ""}}, [name](Store& store, const Changes&) {
            return store.db().CreateKeyspace(name).status();
          }};
}

// With the keys that it has.
Operation Drop(const std::string& name, const std::vector<std::string>& keys) {
  Operation drop{"drop keyspace",
                 {{absl::StrCat("@", name), std::nullopt}},
                 [name](Store& store, const Changes&) {
                   absl::Status dropped = store.db().DropKeyspace(name);
                   // What comes back in the background is recorded here.
                   if (!dropped.ok()) return dropped;
                   return store.db().Compact(absl::Now() + absl::Seconds(1)).status();
                 },
                 /*atomic=*/true};
  for (const std::string& key : keys) drop.changes.push_back({In(name, key), std::nullopt});
  return drop;
}

// Of keys as In makes them, and of others.
Operation Batch(const std::vector<std::string>& put, size_t size_bytes,
                const std::vector<std::string>& deleted = {}) {
  Operation batch{"batch across keyspaces", {}, nullptr, /*atomic=*/true};
  for (const std::string& key : put) batch.changes.push_back(Put(key, size_bytes).changes[0]);
  for (const std::string& key : deleted) batch.changes.push_back({key, std::nullopt});
  batch.run = [](Store& store, const Changes& changes) {
    kv::WriteBatch writes;
    for (const Operation::Change& change : changes) {
      absl::Status added;
      if (change.key[0] != '@') {
        added = change.value ? writes.Put(change.key, *change.value) : writes.Delete(change.key);
      } else {
        const auto [name, key] = Split(change.key);
        const absl::StatusOr<kv::Keyspace> keyspace = store.db().OpenKeyspace(name);
        if (!keyspace.ok()) return keyspace.status();
        added = change.value ? writes.Put(*keyspace, key, *change.value)
                             : writes.Delete(*keyspace, key);
      }
      if (!added.ok()) return added;
    }
    return store.db().Write(writes);
  };
  return batch;
}

Operation PutIn(const std::string& name, const std::string& key, size_t size_bytes) {
  Operation put = Batch({In(name, key)}, size_bytes);
  put.name = "put in keyspace";
  return put;
}

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
                       {Batch({key, In("a", "x"), In("b", "x")}, 60),
                        Batch({In("a", "x"), In("b", "y")}, 40, {In("b", "x"), key}),
                        Batch(In("a", Keys(0, 60)), 30, {In("b", "y")}), Drop("b", {}),
                        Batch({key, In("a", "x")}, 20)}};
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
        Killed(Batch({In("a", absl::StrCat("x", fence)), In("b", absl::StrCat("x", fence))}, 30),
               fence) +
        Open() + PutIn("b", "last", 50 + fence);
  }
  const Script killed_creates{"KilledKeyspaceCreates", some, created};
  const Script killed_drops{"KilledKeyspaceDrops", some + Create("first"), dropped};
  const Script killed_batches{"KilledKeyspaceBatches", two, batched};
  std::vector<Script> all = {lifecycle,        OnPages(lifecycle), sessions,     batches,
                             OnPages(batches), killed_creates,     killed_drops, killed_batches};
  // Each image is judged by a keyspace made and dropped, too.
  for (Script& script : all) script.share = 0.25;
  return all;
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
