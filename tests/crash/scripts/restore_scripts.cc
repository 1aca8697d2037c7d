// Restores of backups: when the store appears at its path, all of it is durable.
#include <sstream>
#include <vector>

#include "kv/backup.h"
#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

using Changes = std::vector<Operation::Change>;

// Of a backup of another store, beside, that holds what changes.
Operation Restore(Operation puts) {
  puts.name = "restore";
  puts.atomic = true;
  puts.run = [](Store& store, const Changes& changes) {
    const StoreFiles beside(store.files().path() + ".source", store.files().shape());
    Store source(beside);
    std::stringstream stream;
    absl::Status status = source.Open();
    for (const Operation::Change& change : changes) {
      if (status.ok()) status = source.db().Put(change.key, *change.value);
    }
    if (!status.ok()) return status;
    kv::OstreamSink sink(&stream);
    status = source.db().Backup(&sink).status();
    if (status.ok()) status = source.Close();
    if (!status.ok()) return status;
    kv::IstreamSource from(&stream);
    return kv::Db::Restore(&from, store.files().path(), store.MakeOptions()).status();
  };
  return puts;
}

std::vector<Script> Scripts() {
  Operation many = PutGroup(Keys(0, 300), 60);
  for (const Operation& large : Puts(Keys(1000, 3), 200000)) {
    many.changes.push_back(large.changes[0]);
  }
  Script restore{"Restore",
                 {},
                 std::vector{Restore(many), Open()} + Puts(Keys(0, 10), 100) +
                     Deletes(Keys(20, 4)) + CrashAndOpen() + Puts(Keys(20, 4), 50)};
  restore.share = 0.3;
  return {restore, OnPages(restore)};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
