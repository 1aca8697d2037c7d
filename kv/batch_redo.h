// What an open does about atomic batches that a crash cut short. Internal to kv/.
//
// Not thread-safe: before anybody else can change the store.
#ifndef DAXKV_KV_BATCH_REDO_H_
#define DAXKV_KV_BATCH_REDO_H_

#include <cstdint>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "kv/batch_table.h"
#include "kv/index.h"
#include "kv/record.h"
#include "kv/space.h"

namespace daxkv::kv {

class BatchRedo {
 public:
  BatchRedo(Space* space, Index* index, BatchTable* table)
      : space_(*space), index_(*index), table_(*table) {}

  // Reads the batches that the table names, and verifies every record of theirs. Makes the stores that
  // it names (word_stores.h): nothing may have been read of the index but its root.
  //   kDataLoss  the table, or one of their records, is damaged: the batch may be half applied and
  //              can't be completed
  absl::Status Read(bool after_crash);
  bool empty() const { return slots_.empty(); }
  // Slots that are live until Apply is done, whatever the index says.
  bool Needs(Address address) const { return slots_.count(address) != 0; }

  // Applies them and clears the table. A crash meanwhile leaves the table as it is, and the next
  // open does the same again. Statuses of Index::UpsertSorted; kInternal.
  absl::Status Apply();
  // Afterwards, with an oracle that no longer calls them live: gives the slots back.
  void Release();

 private:
  struct Operation {
    RecordView record;
    uint64_t sequence;
  };
  absl::Status ReadBatch(const RecordView& batch);
  // A record that stays, faulted in and verified.
  absl::StatusOr<RecordView> ReadRecord(Address address) const;
  // What still has to be done for `operations_`.
  absl::Status CollectEntries(std::vector<Index::GroupEntry>* entries);

  Space& space_;
  Index& index_;
  BatchTable& table_;
  std::vector<Operation> operations_;
  std::unordered_set<Address> slots_;
  std::unordered_set<Address> published_;  // Those that the index refers to afterwards.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_BATCH_REDO_H_
