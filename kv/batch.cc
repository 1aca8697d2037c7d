// Write: an atomic batch. Its records are written like any others, and one more that names them
// all; storing that one's address in the batch table commits the batch.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/batch_table.h"
#include "kv/engine.h"
#include "kv/key_order.h"
#include "kv/store.h"

namespace daxkv::kv {

// The slots of one batch, and how they become the store's.
class Store::BatchWriter final : public AtomicCommit {
 public:
  explicit BatchWriter(Store* store) : store_(*store) {}
  // What is not the index's goes back, unless a redo may need it.
  ~BatchWriter() override {
    if (committed_ && !finished_) return;
    for (const Slot& slot : slots_) {
      if (finished_ && slot.kind == kValueRecord) continue;
      // With process durability they go as what was unlinked goes (stamps.h, V8).
      Space& space = slot.engine->space();
      if (finished_ && space.has_process_durability()) {
        space.Retire(slot.address, nullptr);
      } else {
        space.Abandon(slot.address);
      }
    }
  }

  // Keeps the batch's keyspaces from being dropped until the batch is done.
  //   kNotFound  one was dropped;  kInvalidArgument  one is another store's
  absl::Status Enter(const WriteBatch& batch) {
    operations_.reserve(batch.Count());
    for (size_t i = 0; i < batch.Count(); ++i) {
      const WriteBatch::Operation operation = batch.operation(i);
      Engine* engine =
          operation.keyspace != nullptr ? operation.keyspace->get() : &store_.default_keyspace();
      if (engine == nullptr || engine->is_shut()) return ShutError(engine);
      if (&engine->store() != &store_) {
        return absl::InvalidArgumentError(
            "the batch has an operation in a keyspace of another store");
      }
      operations_.push_back({engine, operation.key, operation.value});
      if (engines_.emplace(engine->id(), engine).second) {
        passes_.push_back(std::make_unique<Gate::Pass>(engine->gate()));
        if (passes_.back()->refused()) return engine->Refusal();
      }
    }
    return absl::OkStatus();
  }

  // Writes every record, numbers missing. Statuses of Put.
  absl::Status WriteRecords() {
    const std::vector<size_t> order = DistinctInKeyOrder(operations_.size(), [&](size_t i) {
      return std::make_pair(operations_[i].engine->id(), operations_[i].key);
    });
    if (order.size() > kMaxValueSizeBytes / sizeof(Address)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the batch has ", order.size(), " keys; at most ",
                       kMaxValueSizeBytes / sizeof(Address), " are allowed"));
    }
    slots_.reserve(order.size() + 1);
    std::vector<Address> addresses;
    addresses.reserve(order.size());
    for (const size_t i : order) {
      const Operation& operation = operations_[i];
      const bool puts = operation.value.has_value();
      absl::Status written = WriteOne(operation.engine, puts ? kValueRecord : kDeleteRecord,
                                      operation.key, operation.value.value_or(std::string_view()));
      if (!written.ok()) return written;
      addresses.push_back(slots_.back().address);
      entries_[operation.engine->id()].push_back({operation.key,
                                                  puts ? slots_.back().address : kNullAddress,
                                                  /*expected=*/nullptr, /*numbered_later=*/true});
    }
    const uint64_t count = addresses.size();
    return WriteOne(
        &store_.default_keyspace(), kBatchRecord,
        {reinterpret_cast<const char*>(&count), sizeof(count)},
        {reinterpret_cast<const char*>(addresses.data()), addresses.size() * sizeof(Address)});
  }

  // Applies what was written. Statuses of Put.
  absl::Status Apply() {
    std::vector<Index::IndexEntries> changes;
    for (const auto& [id, entries] : entries_) {
      changes.push_back({&engines_.at(id)->index(), entries});
    }
    word_ = store_.batch_table().Claim();
    store_.batch_table().NoteBegin(word_, store_.snapshots().LastNumber());
    absl::Status applied = Index::ApplyAtomically(changes, *this);
    Engine& any = *engines_.begin()->second;  // Makes room in all keyspaces.
    for (unsigned attempts = 0; absl::IsResourceExhausted(applied) && any.MakeRoom(&attempts);) {
      applied = Index::ApplyAtomically(changes, *this);
    }
    // A word that may be set on the medium is nobody's until an open has redone its batch.
    if (!committed_ || finished_) store_.batch_table().Release(word_);
    return applied;
  }

 private:
  struct Operation {
    Engine* engine;
    std::string_view key;
    std::optional<std::string_view> value;
  };
  struct Slot {
    Engine* engine;
    Address address;
    RecordKind kind;
    uint32_t body_checksum;
  };

  static absl::Status ShutError(const Engine* engine) {
    return engine == nullptr ? absl::InvalidArgumentError("a keyspace of the batch was moved away")
                             : engine->Refusal();
  }

  absl::Status WriteOne(Engine* engine, RecordKind kind, std::string_view key,
                        std::string_view value) {
    absl::StatusOr<Address> address =
        engine->AllocateRecord(RecordSizeBytes(key.size(), value.size()));
    if (!address.ok()) return address.status();
    slots_.push_back(
        {engine, *address, kind,
         WriteRecord(engine->space(), *address, kind, /*sequence=*/0, key, value, kOfBatchFlag)});
    return absl::OkStatus();
  }

  // The number is taken under the locks: it is higher than that of everything the leaves hold, and
  // lower than that of whatever comes there next.
  void Prepare() override {
    const uint64_t sequence = store_.snapshots().NextNumber();
    for (const Slot& slot : slots_) {
      ResealRecord(slot.engine->space(), slot.address, sequence, slot.body_checksum);
    }
  }

  absl::Status Commit() override {
    // The extent of the batch record may be new (Space, E1), which only its keyspace's drains
    // commit.
    if (engines_.count(kDefaultKeyspace) == 0) {
      absl::Status drained = store_.default_keyspace().space().DrainRest();
      if (!drained.ok()) return drained;
    }
    committed_ = true;
    return store_.batch_table().Store(word_, slots_.back().address);
  }

  // What it deletes must not come back once nothing redoes it (recent_puts.h, R6).
  absl::Status Finish() override {
    RecentPuts* const recent = store_.recent_puts();
    const bool deletes = std::any_of(slots_.begin(), slots_.end(),
                                     [](const Slot& slot) { return slot.kind == kDeleteRecord; });
    if (deletes && recent != nullptr) {
      absl::Status settled = recent->SettleAll();
      if (!settled.ok()) return settled;
    }
    absl::Status cleared = store_.batch_table().Clear(word_);
    finished_ = cleared.ok();
    return cleared;
  }

  Store& store_;
  std::vector<Operation> operations_;
  std::map<KeyspaceId, Engine*> engines_;
  std::vector<std::unique_ptr<Gate::Pass>> passes_;
  std::vector<Slot> slots_;  // By keyspace and key; the batch record is the last.
  std::map<KeyspaceId, std::vector<Index::GroupEntry>> entries_;
  unsigned word_ = 0;
  bool committed_ = false;  // The table's word may be set on the medium.
  bool finished_ = false;
};

absl::Status Store::Write(const WriteBatch& batch) {
  if (batch.Count() == 0) return absl::OkStatus();
  BatchWriter writer(this);
  absl::Status status = writer.Enter(batch);
  if (!status.ok()) return status;
  if (batch.Count() == 1) {
    const WriteBatch::Operation operation = batch.operation(0);
    Engine& engine = operation.keyspace != nullptr ? **operation.keyspace : default_keyspace();
    if (operation.value.has_value()) return engine.Put(operation.key, *operation.value);
    absl::Status deleted = engine.Delete(operation.key);
    return absl::IsNotFound(deleted) ? absl::OkStatus() : deleted;
  }
  status = writer.WriteRecords();
  return status.ok() ? writer.Apply() : status;
}

}  // namespace daxkv::kv
