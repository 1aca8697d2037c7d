// What an open does about atomic batches that a crash cut short, and about recent puts whose slots
// it may have cost (recent_puts.h). Internal to kv/.
//
// Not thread-safe: before anybody else can change the store.
#ifndef DAXKV_KV_BATCH_REDO_H_
#define DAXKV_KV_BATCH_REDO_H_

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "kv/engine.h"
#include "kv/index.h"
#include "kv/record.h"

namespace daxkv::kv {

class BatchRedo {
 public:
  // The store's pool, batch table and default keyspace are open.
  explicit BatchRedo(Store* store) : store_(*store) {}

  // Reads the batches that the table names, opens their keyspaces, and verifies every record of
  // theirs. Makes the stores that it names (word_stores.h): nothing may have been read of their
  // indexes but the roots. What was to be done in a keyspace that was dropped since is passed over.
  // Then looks for recent records.
  //   kDataLoss  the table, or one of their records, is damaged: the batch may be half applied and
  //              can't be completed
  absl::Status Read(bool after_crash);
  bool empty() const { return !pending_; }
  // Slots that are live until Apply is done, whatever the index says.
  bool Needs(Address address) const { return slots_.count(address) != 0; }

  // Applies them, clears the table and gives slots back that are no longer needed. A crash
  // meanwhile leaves the table as it is, and the next open does the same again. Statuses of
  // Index::UpsertSorted; kInternal.
  absl::Status Apply();

 private:
  struct Operation {
    RecordView record;
    uint64_t sequence;
  };
  // What is to be done in one keyspace.
  struct Part {
    std::shared_ptr<Engine> engine;  // Null: the keyspace is being dropped.
    std::vector<Operation> operations;
    // Of each key the one with the highest number.
    std::unordered_map<std::string_view, RecordView> recent;
  };
  absl::Status ReadBatch(const RecordView& batch);
  absl::Status ReadOperation(const RecordView& batch, Address address);
  absl::Status ReadRecent();
  void ReadRecentOf(const dax::Run& run, uint64_t settled);
  absl::StatusOr<Part*> PartOf(Address address);
  // A record that stays, faulted in and verified.
  absl::StatusOr<RecordView> ReadRecord(Engine& engine, Address address) const;
  // What still has to be done for the part.
  absl::Status CollectEntries(const Part& part, std::vector<Index::GroupEntry>* entries);
  absl::Status ApplyPart(const Part& part);
  absl::Status ApplyRecent(const Part& part);
  absl::Status ApplyAll();
  // Sets or ends that the engines' slots are asked for here.
  void SetRedo(const BatchRedo* redo);
  // With an oracle that no longer calls them live.
  void Release();

  Store& store_;
  bool pending_ = false;  // The table is not clear.
  std::map<KeyspaceId, Part> parts_;
  std::unordered_map<Address, Engine*> slots_;
  std::unordered_set<Address> published_;  // Those that an index refers to afterwards.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_BATCH_REDO_H_
