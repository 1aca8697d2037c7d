// Write: an atomic batch. Its records are written like any others, and one more that names them all;
// storing that one's address in the batch table commits the batch.
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/batch_table.h"
#include "kv/engine.h"
#include "kv/key_order.h"
#include "kv/store.h"

namespace daxkv::kv {

// The slots of one batch, and how they become the store's.
class Engine::BatchWriter final : public AtomicCommit {
 public:
  explicit BatchWriter(Engine* engine) : engine_(*engine), space_(*engine->space_) {}
  // What is not the index's goes back, unless a redo may need it.
  ~BatchWriter() override {
    if (committed_ && !finished_) return;
    for (const Slot& slot : slots_) {
      if (finished_ && slot.kind == kValueRecord) continue;
      // With process durability they go as what was unlinked goes (stamps.h, V8).
      if (finished_ && space_.has_process_durability()) {
        space_.Retire(slot.address, nullptr);
      } else {
        space_.Abandon(slot.address);
      }
    }
  }

  // Writes every record, numbers missing. Statuses of Put.
  absl::Status WriteRecords(const WriteBatch& batch) {
    const std::vector<size_t> order =
        DistinctInKeyOrder(batch.Count(), [&](size_t i) { return batch.operation(i).key; });
    if (order.size() > kMaxValueSizeBytes / sizeof(Address)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the batch has ", order.size(), " keys; at most ",
                       kMaxValueSizeBytes / sizeof(Address), " are allowed"));
    }
    slots_.reserve(order.size() + 1);
    entries_.reserve(order.size());
    std::vector<Address> addresses;
    addresses.reserve(order.size());
    for (const size_t i : order) {
      const WriteBatch::Operation operation = batch.operation(i);
      const bool puts = operation.value.has_value();
      absl::Status written = WriteOne(puts ? kValueRecord : kDeleteRecord, operation.key,
                                      operation.value.value_or(std::string_view()));
      if (!written.ok()) return written;
      addresses.push_back(slots_.back().address);
      entries_.push_back({operation.key, puts ? slots_.back().address : kNullAddress,
                          /*expected=*/nullptr, /*numbered_later=*/true});
    }
    const uint64_t count = addresses.size();
    return WriteOne(
        kBatchRecord, {reinterpret_cast<const char*>(&count), sizeof(count)},
        {reinterpret_cast<const char*>(addresses.data()), addresses.size() * sizeof(Address)});
  }

  // Applies what was written. Statuses of Put.
  absl::Status Apply() {
    word_ = engine_.store_.batch_table().Claim();
    engine_.store_.batch_table().NoteBegin(word_, engine_.snapshots_.LastNumber());
    absl::Status applied = engine_.index_->ApplyAtomically(entries_, *this);
    for (unsigned attempts = 0;
         absl::IsResourceExhausted(applied) && engine_.MakeRoom(&attempts);) {
      applied = engine_.index_->ApplyAtomically(entries_, *this);
    }
    // A word that may be set on the medium is nobody's until an open has redone its batch.
    if (!committed_ || finished_) engine_.store_.batch_table().Release(word_);
    return applied;
  }

 private:
  struct Slot {
    Address address;
    RecordKind kind;
    uint32_t body_checksum;
  };

  absl::Status WriteOne(RecordKind kind, std::string_view key, std::string_view value) {
    absl::StatusOr<Address> address =
        engine_.AllocateRecord(RecordSizeBytes(key.size(), value.size()));
    if (!address.ok()) return address.status();
    slots_.push_back(
        {*address, kind,
         WriteRecord(space_, *address, kind, /*sequence=*/0, key, value, /*of_batch=*/true)});
    return absl::OkStatus();
  }

  // The number is taken under the locks: it is higher than that of everything the leaves hold, and
  // lower than that of whatever comes there next.
  void Prepare() override {
    const uint64_t sequence = engine_.NextSequence();
    for (const Slot& slot : slots_) {
      ResealRecord(space_, slot.address, sequence, slot.body_checksum);
    }
  }

  absl::Status Commit() override {
    committed_ = true;
    return engine_.store_.batch_table().Store(word_, slots_.back().address);
  }

  absl::Status Finish() override {
    absl::Status cleared = engine_.store_.batch_table().Clear(word_);
    finished_ = cleared.ok();
    return cleared;
  }

  Engine& engine_;
  Space& space_;
  std::vector<Slot> slots_;  // In key order; the batch record is the last.
  std::vector<Index::GroupEntry> entries_;
  unsigned word_ = 0;
  bool committed_ = false;  // The table's word may be set on the medium.
  bool finished_ = false;
};

absl::Status Engine::Write(const WriteBatch& batch) {
  if (batch.Count() == 0) return absl::OkStatus();
  if (batch.Count() == 1) {
    const WriteBatch::Operation operation = batch.operation(0);
    if (operation.value.has_value()) return Put(operation.key, *operation.value);
    absl::Status deleted = Delete(operation.key);
    return absl::IsNotFound(deleted) ? absl::OkStatus() : deleted;
  }
  BatchWriter writer(this);
  absl::Status status = writer.WriteRecords(batch);
  return status.ok() ? writer.Apply() : status;
}

}  // namespace daxkv::kv
