// What the driver asks of a key-value store. A binding is one .cc file that implements Engine and
// Session and registers itself:
//
//   const EngineRegistration kRegistration({"lmdb", "LMDB, no sync", {...property rules...},
//   Open});
//
// built as a library with alwayslink, so that linking it is all it takes to have the engine.
//
// A record (benchmarks/ycsb/record.h) is one value. An engine never looks into it: the driver
// merges the fields of an update, so that this costs every engine the same.
#ifndef DAXKV_BENCHMARKS_YCSB_ENGINE_H_
#define DAXKV_BENCHMARKS_YCSB_ENGINE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "benchmarks/ycsb/properties.h"
#include "benchmarks/ycsb/report.h"

namespace daxkv::ycsb {

enum class Phase { kLoad, kRun, kDelete };

struct KeyRecord {
  std::string_view key;
  std::string_view record;
};

// Receives the records of a scan or of a group of reads; the views are good during the call only.
class RecordSink {
 public:
  virtual ~RecordSink() = default;
  virtual void Add(std::string_view key, std::string_view record) = 0;
};

// One thread's access to the engine.
class Session {
 public:
  virtual ~Session() = default;

  // kNotFound when there is none. `record` is good until the session's next call.
  virtual absl::Status Read(std::string_view key, std::string_view* record) = 0;
  // Adds the records of all keys, in the order of `keys`, read in one go where the engine can.
  // kNotFound when one is missing.
  virtual absl::Status ReadGroup(absl::Span<const std::string_view> keys, RecordSink* sink);
  // Up to `count` records in key order, from the first key >= `start`. Fewer at the end.
  // kUnimplemented: the engine keeps no order.
  virtual absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) = 0;
  // Write the whole record, as durable on return as the engine's report says.
  virtual absl::Status Insert(std::string_view key, std::string_view record) = 0;
  virtual absl::Status Update(std::string_view key, std::string_view record) = 0;
  // As durable on return as Insert; kNotFound, where the engine can tell, when there was none.
  virtual absl::Status Delete(std::string_view key) = 0;
  // Inserts all, in one go where the engine can.
  virtual absl::Status InsertGroup(absl::Span<const KeyRecord> records);
};

// An open store. Methods are called by one thread; sessions are used by one thread each.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual absl::StatusOr<std::unique_ptr<Session>> NewSession() = 0;
  // How many records the load phase hands to InsertGroup at a time; 1: Insert each.
  virtual size_t load_group_records() const { return 1; }
  // Lines about the store and its durability, after the operations and before Close.
  virtual absl::StatusOr<std::vector<ReportLine>> Report() = 0;
  // Gives back the space that updates and deletes left behind. Sessions are gone by then.
  // kUnimplemented: the engine cannot be asked to.
  virtual absl::Status Compact();
  // Sessions are gone by then.
  virtual absl::Status Close() = 0;
};

struct EngineType {
  std::string name;     // On the command line.
  std::string summary;  // One line for the usage text.
  std::vector<PropertyRule> rules;
  absl::StatusOr<std::unique_ptr<Engine>> (*open)(const Settings& settings, Phase phase);
};

// Registers at static initialisation.
class EngineRegistration {
 public:
  explicit EngineRegistration(EngineType type);
};

// An engine that this program could have and has not: its library was not there at the build.
struct MissingEngine {
  std::string name;
  std::string remedy;  // What to do to have it, for messages.
};
class MissingEngineRegistration {
 public:
  explicit MissingEngineRegistration(MissingEngine missing);
};
const std::vector<MissingEngine>& MissingEngines();

// All that were linked in, by name.
const std::vector<EngineType>& RegisteredEngines();
// kInvalidArgument, listing the known ones, when there is none of that name; with the remedy when
// it is a missing one.
absl::StatusOr<const EngineType*> FindEngine(std::string_view name);

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_ENGINE_H_
