#include "tests/crash/scripts/keyspace_operations.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace daxkv::crash {
namespace {

using Changes = std::vector<Operation::Change>;

// "@NAME/KEY" in two.
std::pair<std::string, std::string> Split(const std::string& key) {
  const size_t slash = key.find('/');
  return {key.substr(1, slash - 1), key.substr(slash + 1)};
}

}  // namespace

std::string In(const std::string& name, const std::string& key) {
  return absl::StrCat("@", name, "/", key);
}

std::vector<std::string> In(const std::string& name, std::vector<std::string> keys) {
  for (std::string& key : keys) key = In(name, key);
  return keys;
}

Operation Create(const std::string& name) {
  return {"create keyspace", {{absl::StrCat("@", name), ""}}, [name](Store& store, const Changes&) {
            return store.db().CreateKeyspace(name).status();
          }};
}

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

Operation BatchAcross(const std::vector<std::string>& put, size_t size_bytes,
                      const std::vector<std::string>& deleted) {
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
  Operation put = BatchAcross({In(name, key)}, size_bytes);
  put.name = "put in keyspace";
  return put;
}

}  // namespace daxkv::crash
