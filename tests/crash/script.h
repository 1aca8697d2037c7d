// Scripts: what is done to a store while its trace is recorded, and what it must hold at any time.
#ifndef DAXKV_TESTS_CRASH_SCRIPT_H_
#define DAXKV_TESTS_CRASH_SCRIPT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kv/db.h"
#include "tests/crash/interposer.h"

namespace daxkv::crash {

using Model = std::map<std::string, std::string>;

struct Operation {
  enum class Kind { kPut, kDelete, kPutGroup, kDeleteGroup, kCompact, kOpen, kClose, kCrash };
  struct Change {
    std::string key;
    std::optional<std::string> value;  // Nullopt: deleted.
  };
  Kind kind = Kind::kPut;
  std::vector<Change> changes;
};

const char* KindName(Operation::Kind kind);

// `changes` done to `model`.
void Change(const Operation& operation, Model* model);

struct Script {
  std::string name;
  Platform platform = Platform::kCacheLines;
  std::vector<Operation> setup;  // Not recorded. Empty: neither is there a store at first.
  std::vector<Operation> operations;
  // Of the images that other scripts get: big stores take long to check.
  double share = 1;
};

// A store that operations are done to.
class Store {
 public:
  explicit Store(std::string path) : path_(std::move(path)) {}
  absl::Status Do(const Operation& operation);
  absl::Status Open();
  kv::Db& db() { return *db_; }

 private:
  const std::string path_;
  std::unique_ptr<kv::Db> db_;
};

// ---- To write scripts with: every value is unlike all others ----

Operation Put(const std::string& key, size_t size_bytes);
Operation Delete(const std::string& key);
Operation PutGroup(const std::vector<std::string>& keys, size_t size_bytes);
Operation DeleteGroup(const std::vector<std::string>& keys);
Operation Do(Operation::Kind kind);  // kCompact, kOpen, kClose, kCrash.
// "key" and the numbers, in this order.
std::vector<std::string> Keys(int first, int count, int step = 1);
// One after another.
std::vector<Operation> operator+(std::vector<Operation> a, const std::vector<Operation>& b);
std::vector<Operation> Puts(const std::vector<std::string>& keys, size_t size_bytes);
std::vector<Operation> Deletes(const std::vector<std::string>& keys);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_SCRIPT_H_
