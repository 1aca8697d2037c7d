// The commands of kvctl, one function each. They print results to stdout and return a status;
// kvctl.cc parses the command line and turns the status into an exit code and a line on stderr.
#ifndef DAXKV_TOOLS_COMMANDS_H_
#define DAXKV_TOOLS_COMMANDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace daxkv::tools {

// Which store, and how keys and values on the command line are written.
struct StoreArgs {
  std::string path = "./daxkv.db";
  std::string durability = "power";     // "power" or "process".
  bool escaped = false;                 // Keys and values given as arguments have C escapes.
  std::optional<std::string> keyspace;  // Nullopt: the default one.
};

struct CreateArgs {
  std::string fixed_size;  // Empty: a directory that grows; else the file's size ("1G").
  std::string max_size;    // Empty: the default.
};

struct PutArgs {
  std::string key;
  std::optional<std::string> value;
  std::string value_file;  // "-" is stdin.
  bool if_absent = false;  // Only where the key has no value.
};

struct CasArgs {
  std::string key;
  std::optional<std::string> expected;          // Nullopt: no value.
  std::optional<std::string> desired;           // Nullopt: delete.
  bool expect_absent = false, deletes = false;  // As given; said twice or not at all is an error.
};

struct RangeArgs {
  std::optional<std::string> from;  // Inclusive.
  std::optional<std::string> to;    // Exclusive.
};

struct DelArgs {
  std::vector<std::string> keys;
  RangeArgs range;
};

struct ScanArgs {
  RangeArgs range;
  std::optional<std::string> prefix;
  std::optional<uint64_t> limit;
  bool keys_only = false;
};

struct LoadArgs {
  std::string file;  // "-" is stdin.
  std::string format;
};

absl::Status Create(const StoreArgs& store, const CreateArgs& args);
absl::Status Put(const StoreArgs& store, const PutArgs& args);
absl::Status Get(const StoreArgs& store, const std::string& key);
absl::Status Cas(const StoreArgs& store, const CasArgs& args);
// Does all lines of a file (put KEY VALUE, del KEY; tabs between) or none. "-" is stdin.
absl::Status Batch(const StoreArgs& store, const std::string& file);
// About how much lies in a range.
absl::Status Estimate(const StoreArgs& store, const RangeArgs& range);
absl::Status Del(const StoreArgs& store, const DelArgs& args);
absl::Status Scan(const StoreArgs& store, const ScanArgs& args);
absl::Status Count(const StoreArgs& store);
absl::Status Load(const StoreArgs& store, const LoadArgs& args);
absl::Status Dump(const StoreArgs& store, const std::string& file);
// Keyspaces: one is made, or dropped with all it holds; all names, each in a line, escaped.
absl::Status CreateKeyspace(const StoreArgs& store, const std::string& name);
absl::Status DropKeyspace(const StoreArgs& store, const std::string& name);
absl::Status ListKeyspaces(const StoreArgs& store);
// Writes a snapshot to a file or stdout ("-"); reads one of a file or stdin into a new store.
absl::Status Backup(const StoreArgs& store, const std::string& file);
absl::Status Restore(const StoreArgs& store, const std::string& file, const CreateArgs& args);
absl::Status PrintInfo(const StoreArgs& store, bool json);
absl::Status Check(const StoreArgs& store);
// Mends what is damaged, then checks. kDataLoss also when something was lost.
absl::Status Repair(const StoreArgs& store);
// Verifies checksums alone.
absl::Status Scrub(const StoreArgs& store);
absl::Status Compact(const StoreArgs& store, bool order_by_key);
// Shows what daxkv does on real input, in a temporary folder; under a minute.
absl::Status Quickstart();

}  // namespace daxkv::tools

#endif  // DAXKV_TOOLS_COMMANDS_H_
