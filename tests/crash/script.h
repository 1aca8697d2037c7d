// Scripts: what is done to a store while its trace is recorded. What the store must hold at any
// time follows from what each operation says it changes (expectation.h).
//
// A feature brings its script in a file of its own in tests/crash/scripts, by a few lines:
//
//   const bool added = AddScripts([] {
//     return std::vector<Script>{
//         {"Rename", /*setup=*/Puts(Keys(0, 20), 100), /*operations=*/{Rename("key000003")}}};
//   });
//
// where Rename returns an Operation: a name, what it changes, and how it is done.
#ifndef DAXKV_TESTS_CRASH_SCRIPT_H_
#define DAXKV_TESTS_CRASH_SCRIPT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kv/db.h"
#include "tests/crash/interposer.h"
#include "tests/crash/store_files.h"

namespace daxkv::crash {

// A store that operations are done to.
class Store {
 public:
  explicit Store(StoreFiles files) : files_(std::move(files)) {}
  absl::Status Open();
  // Of a store that is closed. kDataLoss: it is `lossless`, and something is reported to be lost.
  // Otherwise that is not asked: after a crash of the store it may fear for keys that are there.
  absl::Status Repair(bool lossless);
  absl::Status Close();
  // What a crash leaves of the process.
  void Abandon();
  kv::Db& db() { return *db_; }
  const StoreFiles& files() const { return files_; }
  kv::Options MakeOptions() const;  // Of this store.
  // Those that the script holds. They go before the store closes; a process that dies leaves them.
  std::vector<std::unique_ptr<kv::Snapshot>>& snapshots() { return snapshots_; }
  std::vector<std::unique_ptr<kv::ValueWriter>>& writers() { return writers_; }

 private:
  const StoreFiles files_;
  std::unique_ptr<kv::Db> db_;
  std::vector<std::unique_ptr<kv::Snapshot>> snapshots_;
  std::vector<std::unique_ptr<kv::ValueWriter>> writers_;
};

struct Operation {
  struct Change {
    std::string key;
    std::optional<std::string> value;  // Nullopt: deleted. Unlike all other values of the script.
  };
  std::string name;  // Of its kind; figures are summed up by it.
  std::vector<Change> changes;
  // Does it; called once in each recording. An error ends the script.
  std::function<absl::Status(Store&, const std::vector<Change>&)> run;
  // Whether all changes come or none. Else each comes or not by itself.
  bool atomic = false;
  // Whether it never returns to its caller.
  bool unfinished = false;
  // Whether a store is open when it returns that was not before.
  bool opens = false;
  // Whether a store that was damaged is well when it returns.
  bool heals = false;
};

struct Script {
  std::string name;
  std::vector<Operation> setup;  // Not recorded. Empty: neither is there a store at first.
  std::vector<Operation> operations = {};
  // Lists of operations that threads do at the same time, after `operations`.
  std::vector<std::vector<Operation>> threads = {};
  Platform platform = Platform::kCacheLines;
  dax::PoolShape shape = dax::PoolShape::kDirectory;
  // Of the images that other scripts get: big stores take long to check.
  double share = 1;
  // The setup leaves a damaged store: who opens an image repairs it first, until an operation has
  // healed it.
  bool repairs = false;
  // All can be found again, and so says each repair, whatever became of those before it.
  bool lossless = false;

  // All that is recorded, as the trace numbers them.
  std::vector<const Operation*> Recorded() const;
};

// Called before main, and returns true. Scripts are made when all are.
bool AddScripts(std::vector<Script> (*make)());
// All that were added, in the order of their names.
std::vector<Script> AllScripts();
// The script on an ordinary file. Its name ends so.
Script OnPages(Script script);

// ---- To write scripts with ----

Operation Put(const std::string& key, size_t size_bytes);
Operation Delete(const std::string& key);
// The same where another thread may have come first: that the key is not there is no fault.
Operation IfThere(Operation change);
// Sets up what it meets on its way, and makes nothing durable by itself.
Operation Read(const std::string& key);
Operation PutGroup(const std::vector<std::string>& keys, size_t size_bytes);
Operation DeleteGroup(const std::vector<std::string>& keys);
// An atomic batch: puts the ones, deletes the others.
Operation Batch(const std::vector<std::string>& put, size_t size_bytes,
                const std::vector<std::string>& deleted = {});
// Of keys that are all there, from the first to the last.
Operation DeleteRange(const std::vector<std::string>& keys);
Operation Compact();
Operation CompactInOrder();  // By key.
// Begins a value that the script holds, and never finishes.
Operation BeginValue(const std::string& key, size_t size_bytes);
// Takes a snapshot and holds it; lets the oldest one go.
Operation TakeSnapshot();
Operation ReleaseSnapshot();
Operation Open();
Operation Close();
// The hardware's, not the store's doing: caches may write back at any time, and here they do.
Operation WriteBackOfCaches();
Operation Crash();  // Of the process: what it stored stays in the caches, and may be lost later.
// The operation, during which the process dies: at its fence of that number, from 0. (Of a group's
// fences the first makes records durable, the second what refers to them.) Open comes next.
Operation Killed(Operation operation, unsigned fence);
// The operation, done by a thread that ends then: nobody's fence completes what it has flushed
// last.
Operation InOtherThread(Operation operation);
// The operation, whose fences wait so long before they take effect: for what other threads do
// meanwhile.
Operation Slowed(Operation operation, unsigned wait_ms);
// From here on each grace period begins so much later: what it completes, nothing else does.
Operation DelayOfGracePeriods(unsigned wait_ms);
std::vector<Operation> CloseAndOpen();
std::vector<Operation> CrashAndOpen();
// "key" and the numbers, in this order.
std::vector<std::string> Keys(int first, int count, int step = 1);
// One after another.
std::vector<Operation> operator+(std::vector<Operation> a, const std::vector<Operation>& b);
std::vector<Operation> operator+(std::vector<Operation> a, Operation b);
std::vector<Operation> Puts(const std::vector<std::string>& keys, size_t size_bytes);
std::vector<Operation> Deletes(const std::vector<std::string>& keys);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_SCRIPT_H_
