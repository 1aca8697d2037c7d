#include "kv/batch_redo.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kv/extent_header.h"
#include "kv/recent_puts.h"
#include "kv/store.h"
#include "kv/word_stores.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

absl::Status Damaged(Address batch_record, const char* what) {
  return absl::DataLossError(absl::StrCat("batch record at pool offset ", batch_record, ": ", what,
                                          "; the batch may be half applied"));
}

}  // namespace

absl::StatusOr<RecordView> BatchRedo::ReadRecord(Engine& engine, Address address) const {
  Space& space = engine.space();
  for (;;) {
    absl::StatusOr<RecordView> record;
    {
      rcu::ReadGuard guard;
      record = ViewRecord(space, address);
    }
    // Good outside the guard: nothing gives space back yet, and later the oracle keeps it.
    if (record.ok()) {
      absl::Status intact = VerifyRecord(space, *record);
      if (!intact.ok()) return intact;
      return record;
    }
    if (!absl::IsUnavailable(record.status())) return record;
    if (absl::Status status = space.FaultIn(address); !status.ok()) return status;
  }
}

// The extent tells whose a record is.
absl::StatusOr<BatchRedo::Part*> BatchRedo::PartOf(Address address) {
  const absl::StatusOr<dax::Run> run =
      store_.pool().FindRun((address & kAddressMask) >> dax::kPageShift);
  if (!run.ok() || !UseOf(*run).is_extent()) {
    return absl::DataLossError(
        absl::StrCat("no extent at pool offset ", address,
                     ", where a batch has a record; it may be half applied"));
  }
  const KeyspaceId id = UseOf(*run).keyspace;
  const auto known = parts_.find(id);
  if (known != parts_.end()) return &known->second;
  Part part;
  if (id == kDefaultKeyspace) {
    part.engine = store_.shared_default_keyspace();
  } else {
    absl::StatusOr<std::shared_ptr<Engine>> engine = store_.keyspaces().OpenById(id);
    if (!engine.ok()) return engine.status();
    part.engine = *std::move(engine);
  }
  return &parts_.emplace(id, std::move(part)).first->second;
}

absl::Status BatchRedo::ReadOperation(const RecordView& batch, Address address) {
  absl::StatusOr<Part*> part = PartOf(address);
  if (!part.ok()) return part.status();
  // All that it holds goes anyway.
  if ((*part)->engine == nullptr) return absl::OkStatus();
  absl::StatusOr<RecordView> record = ReadRecord(*(*part)->engine, address);
  if (!record.ok()) return record.status();
  if ((record->kind != kValueRecord && record->kind != kDeleteRecord) ||
      record->sequence != batch.sequence) {
    return Damaged(batch.address, "it names a record that is not its own");
  }
  slots_.emplace(address, (*part)->engine.get());
  (*part)->operations.push_back({*record, batch.sequence});
  return absl::OkStatus();
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
  for (uint64_t i = 0; i < count; ++i) {
    Address address;
    std::memcpy(&address, batch.value.data() + i * sizeof(address), sizeof(address));
    absl::Status status = ReadOperation(batch, address);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status BatchRedo::Read(bool after_crash) {
  absl::StatusOr<std::vector<Address>> pending = store_.batch_table().Pending(after_crash);
  if (!pending.ok()) return pending.status();
  pending_ = !pending->empty();
  std::vector<RecordView> batches;
  for (const Address address : *pending) {
    absl::StatusOr<Part*> part = PartOf(address);
    if (!part.ok()) return part.status();
    Engine* const engine = (*part)->engine.get();
    if (engine == nullptr) continue;  // Of a keyspace that is being dropped.
    absl::StatusOr<RecordView> record = ReadRecord(*engine, address);
    if (!record.ok()) return record.status();
    slots_.emplace(address, engine);
    if (record->kind != kStoresRecord) {
      batches.push_back(*record);
      continue;
    }
    absl::Status stored = RedoWordStores(engine->space(), *record);
    if (!stored.ok()) return stored;
  }
  for (const RecordView& batch : batches) {
    if (absl::Status status = ReadBatch(batch); !status.ok()) return status;
  }
  for (auto& [id, part] : parts_) {
    std::vector<Operation>& operations = part.operations;
    std::sort(operations.begin(), operations.end(),
              [](const Operation& a, const Operation& b) { return a.record.key < b.record.key; });
    // A batch has a key once, and those under way hold their leaves' locks.
    const auto same_key = [](const Operation& a, const Operation& b) {
      return a.record.key == b.record.key;
    };
    if (std::adjacent_find(operations.begin(), operations.end(), same_key) != operations.end()) {
      return absl::DataLossError("batch table: two operations have one key");
    }
  }
  return ReadRecent();
}

// Whether there still is an extent does not matter: nothing of it is missed if there is not (R2, R3).
absl::Status BatchRedo::ReadRecent() {
  const RecentPuts::Pending recent = RecentPuts::Read(store_.pool());
  if (recent.empty()) return absl::OkStatus();
  pending_ = true;
  const auto read = [&](const dax::Run& run) {
    ReadRecentOf(run, recent.settled);
    return absl::OkStatus();
  };
  if (recent.everywhere) return store_.pool().ForEachRun(read);
  std::unordered_set<uint64_t> seen;
  for (const uint64_t region : recent.regions) {
    const uint64_t end = (region + (uint64_t{1} << kRegionShift)) >> dax::kPageShift;
    for (uint64_t page = region >> dax::kPageShift; page < end;) {
      const absl::StatusOr<dax::Run> run = store_.pool().FindRun(page);
      page = run.ok() ? run->first_page + run->pages : page + 1;
      if (run.ok() && run->live && seen.insert(run->first_page).second)
        ReadRecentOf(*run, recent.settled);
    }
  }
  return absl::OkStatus();
}

// Bytes that are no record with a right checksum were never a put that returned.
void BatchRedo::ReadRecentOf(const dax::Run& run, uint64_t settled) {
  const RunUse use = UseOf(run);
  if (use.kind != RunUse::Kind::kSlab || SlotKindOf(use.size_class) != SlotKind::kRecord) return;
  dax::Pool& pool = store_.pool();
  const absl::StatusOr<SlotLayout> layout = CheckExtent(pool, run);
  const absl::StatusOr<Part*> part = PartOf(run.offset());
  if (!layout.ok() || !part.ok() || (*part)->engine == nullptr) return;
  Engine& engine = *(*part)->engine;
  for (uint32_t slot = 0; slot < layout->slot_count; ++slot) {
    const Address address =
        run.offset() + layout->first_slot_offset + uint64_t{slot} * layout->slot_size_bytes;
    const auto* header = reinterpret_cast<const RecordHeader*>(pool.At(address));
    if ((KindAndFlags(*header) & kSelfPublishedFlag) == 0 || header->sequence <= settled) continue;
    const absl::StatusOr<RecordView> record = ReadRecord(engine, address);
    if (!record.ok() || record->kind != kValueRecord) continue;
    slots_.emplace(address, &engine);
    RecordView& newest = (*part)->recent[record->key];
    if (record->sequence > newest.sequence) newest = *record;
  }
}

// Nobody else writes, so what is found now still holds when it is applied.
absl::Status BatchRedo::CollectEntries(const Part& part, std::vector<Index::GroupEntry>* entries) {
  for (const Operation& operation : part.operations) {
    const RecordView& record = operation.record;
    const bool deletes = record.kind == kDeleteRecord;
    uint64_t held_sequence = 0;
    Address held = kNullAddress;
    absl::Status found = part.engine->index().Find(record.key, [&](const RecordView& current) {
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

absl::Status BatchRedo::ApplyPart(const Part& part) {
  std::vector<Index::GroupEntry> entries;
  absl::Status status = CollectEntries(part, &entries);
  if (!status.ok()) return status;
  if (entries.empty()) return absl::OkStatus();
  Index& index = part.engine->index();
  size_t done = 0;
  status = index.UpsertSorted(entries, &done, /*replaced=*/nullptr);
  if (!absl::IsResourceExhausted(status)) return status;
  // There was room when the batch was committed; deriving finds it again.
  status = part.engine->space().MakeRoom();
  if (!status.ok()) return status;
  size_t more = 0;
  return index.UpsertSorted(absl::MakeSpan(entries).subspan(done), &more, nullptr);
}

// After the batches: what one of them deletes now is of higher number than every put before. Keys
// whose leaf is damaged are left to whoever meets that.
absl::Status BatchRedo::ApplyRecent(const Part& part) {
  std::unordered_map<std::string_view, uint64_t> deleted;
  for (const Operation& operation : part.operations) {
    if (operation.record.kind == kDeleteRecord) {
      deleted[operation.record.key] = operation.sequence;
    }
  }
  Index& index = part.engine->index();
  for (const auto& [key, record] : part.recent) {
    const auto gone = deleted.find(key);
    if (gone != deleted.end() && gone->second > record.sequence) continue;
    RecordView held;
    absl::Status status = index.Find(key, [&](const RecordView& current) {
      held = current;
      return absl::OkStatus();
    });
    if (status.ok() && held.sequence >= record.sequence) {
      if (held.address == record.address) published_.insert(record.address);
      continue;
    }
    if (status.ok() || absl::IsNotFound(status)) {
      status = index.Upsert(key, record.address).status();
      if (absl::IsResourceExhausted(status)) {
        // There was room when the put returned; deriving finds it again.
        status = part.engine->space().MakeRoom();
        if (status.ok()) status = index.Upsert(key, record.address).status();
      }
    }
    if (!status.ok() && !absl::IsDataLoss(status)) return status;
    published_.insert(record.address);
  }
  return absl::OkStatus();
}

absl::Status BatchRedo::ApplyAll() {
  for (const auto& [id, part] : parts_) {
    if (part.engine == nullptr) continue;
    absl::Status status = ApplyPart(part);
    if (status.ok()) status = ApplyRecent(part);
    if (!status.ok()) return status;
  }
  // What the process that died had stored, and we passed over, may not be durable yet: on a page
  // cache this syncs it. Elsewhere the leaves were flushed when they were set up (FlushInherited),
  // and the table's drain completes that.
  absl::Status status = store_.Sync();
  // Before the table is: once that forgets a batch, nothing else says what the batch deleted (R6).
  if (status.ok() && !RecentPuts::Read(store_.pool()).empty()) {
    status = RecentPuts(&store_.pool(), &store_.snapshots()).Begin();
  }
  return status.ok() ? store_.batch_table().Forget() : status;
}

void BatchRedo::SetRedo(const BatchRedo* redo) {
  store_.default_keyspace().SetBatchRedo(redo);
  for (const auto& [id, part] : parts_) {
    if (part.engine != nullptr && id != kDefaultKeyspace) part.engine->SetBatchRedo(redo);
  }
}

absl::Status BatchRedo::Apply() {
  SetRedo(this);
  absl::Status status = ApplyAll();
  // Waits until this is no longer asked.
  SetRedo(nullptr);
  if (status.ok()) Release();
  return status;
}

void BatchRedo::Release() {
  // Passed over in extents that have not been derived: deriving finds these slots free by itself.
  for (const auto& [address, engine] : slots_) {
    if (published_.count(address) == 0) engine->space().Retire(address, nullptr);
  }
}

}  // namespace daxkv::kv
