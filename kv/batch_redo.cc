#include "kv/batch_redo.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kv/word_stores.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

absl::Status Damaged(Address batch_record, const char* what) {
  return absl::DataLossError(absl::StrCat("batch record at pool offset ", batch_record, ": ", what,
                                          "; the batch may be half applied"));
}

}  // namespace

absl::StatusOr<RecordView> BatchRedo::ReadRecord(Address address) const {
  for (;;) {
    absl::StatusOr<RecordView> record;
    {
      rcu::ReadGuard guard;
      record = ViewRecord(space_, address);
    }
    // Good outside the guard: nothing gives space back yet, and later the oracle keeps it.
    if (record.ok()) {
      absl::Status intact = VerifyRecord(space_, *record);
      if (!intact.ok()) return intact;
      return record;
    }
    if (!absl::IsUnavailable(record.status())) return record;
    if (absl::Status status = space_.FaultIn(address); !status.ok()) return status;
  }
}

absl::Status BatchRedo::ReadBatch(const RecordView& batch) {
  const Address batch_record = batch.address;
  if (batch.kind != kBatchRecord) return Damaged(batch_record, "it is a record of another kind");
  uint64_t count = 0;
  if (batch.key.size() == sizeof(count)) std::memcpy(&count, batch.key.data(), sizeof(count));
  if (count == 0 || batch.value.size() % sizeof(Address) != 0 ||
      batch.value.size() / sizeof(Address) != count) {
    return Damaged(batch_record, "its number of operations can't be right");
  }
  std::string_view last_key;
  for (uint64_t i = 0; i < count; ++i) {
    Address address;
    std::memcpy(&address, batch.value.data() + i * sizeof(address), sizeof(address));
    absl::StatusOr<RecordView> record = ReadRecord(address);
    if (!record.ok()) return record.status();
    if ((record->kind != kValueRecord && record->kind != kDeleteRecord) ||
        record->sequence != batch.sequence || (i > 0 && record->key <= last_key)) {
      return Damaged(batch_record, "it names a record that is not its own");
    }
    last_key = record->key;
    slots_.insert(address);
    operations_.push_back({*record, batch.sequence});
  }
  return absl::OkStatus();
}

absl::Status BatchRedo::Read(bool after_crash) {
  absl::StatusOr<std::vector<Address>> pending = table_.Pending(after_crash);
  if (!pending.ok()) return pending.status();
  std::vector<RecordView> batches;
  for (const Address address : *pending) {
    absl::StatusOr<RecordView> record = ReadRecord(address);
    if (!record.ok()) return record.status();
    slots_.insert(address);
    if (record->kind != kStoresRecord) {
      batches.push_back(*record);
      continue;
    }
    if (absl::Status stored = RedoWordStores(space_, *record); !stored.ok()) return stored;
  }
  for (const RecordView& batch : batches) {
    if (absl::Status status = ReadBatch(batch); !status.ok()) return status;
  }
  std::sort(operations_.begin(), operations_.end(),
            [](const Operation& a, const Operation& b) { return a.record.key < b.record.key; });
  // Batches under way hold their leaves' locks, so no two of them have a key in common.
  for (size_t i = 1; i < operations_.size(); ++i) {
    if (operations_[i - 1].record.key == operations_[i].record.key) {
      return absl::DataLossError("batch table: two batches have one key");
    }
  }
  return absl::OkStatus();
}

// Nobody else writes, so what is found now still holds when it is applied.
absl::Status BatchRedo::CollectEntries(std::vector<Index::GroupEntry>* entries) {
  for (const Operation& operation : operations_) {
    const RecordView& record = operation.record;
    const bool deletes = record.kind == kDeleteRecord;
    uint64_t held_sequence = 0;
    Address held = kNullAddress;
    absl::Status found = index_.Find(record.key, [&](const RecordView& current) {
      held = current.address;
      held_sequence = current.sequence;
      return absl::OkStatus();
    });
    if (!found.ok() && !absl::IsNotFound(found)) return found;
    if (held == record.address) published_.insert(held);
    if (found.ok() ? held_sequence >= operation.sequence : deletes) continue;
    entries->push_back({record.key, deletes ? kNullAddress : record.address});
    if (!deletes) published_.insert(record.address);
  }
  return absl::OkStatus();
}

absl::Status BatchRedo::Apply() {
  std::vector<Index::GroupEntry> entries;
  absl::Status status = CollectEntries(&entries);
  if (!status.ok()) return status;
  size_t done = 0;
  status = index_.UpsertSorted(entries, &done, /*replaced=*/nullptr);
  if (absl::IsResourceExhausted(status)) {
    // There was room when the batch was committed; deriving finds it again.
    status = space_.MakeRoom();
    if (!status.ok()) return status;
    size_t more = 0;
    status = index_.UpsertSorted(absl::MakeSpan(entries).subspan(done), &more, nullptr);
  }
  if (!status.ok()) return status;
  // What the process that died had stored, and we passed over, may not be durable yet: on a page
  // cache this syncs it. Elsewhere the leaves were flushed when they were set up (FlushInherited),
  // and the table's drain completes that.
  status = space_.Sync();
  return status.ok() ? table_.Forget() : status;
}

void BatchRedo::Release() {
  // Passed over in extents that have not been derived: deriving finds these slots free by itself.
  for (const Address address : slots_) {
    if (published_.count(address) == 0) space_.Retire(address, nullptr);
  }
}

}  // namespace daxkv::kv
