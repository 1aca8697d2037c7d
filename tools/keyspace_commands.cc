// The commands on keyspaces as a whole.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/db.h"
#include "tools/commands.h"
#include "tools/store.h"
#include "tools/text.h"

namespace daxkv::tools {

absl::Status CreateKeyspace(const StoreArgs& store, const std::string& name_argument) {
  absl::StatusOr<std::string> name = ArgumentBytes(store, name_argument);
  if (!name.ok()) return name.status();
  return WithStore(store, IfMissing::kCreate,
                   [&](kv::Db& db) { return db.CreateKeyspace(*name).status(); });
}

absl::Status DropKeyspace(const StoreArgs& store, const std::string& name_argument) {
  absl::StatusOr<std::string> name = ArgumentBytes(store, name_argument);
  if (!name.ok()) return name.status();
  return WithStore(store, IfMissing::kFail, [&](kv::Db& db) { return db.DropKeyspace(*name); });
}

absl::Status ListKeyspaces(const StoreArgs& store) {
  return WithStore(store, IfMissing::kFail, [](kv::Db& db) -> absl::Status {
    const absl::StatusOr<std::vector<std::string>> names = db.ListKeyspaces();
    if (!names.ok()) return names.status();
    for (const std::string& name : *names) {
      absl::Status written = WriteTo(stdout, absl::StrCat(Escaped(name), "\n"));
      if (!written.ok()) return written;
    }
    return FlushTo(stdout);
  });
}

}  // namespace daxkv::tools
