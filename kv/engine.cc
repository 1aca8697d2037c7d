#include "kv/engine.h"

#include <sched.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kv/batch_redo.h"
#include "kv/exceptions.h"
#include "kv/power_cut.h"
#include "kv/recent_puts.h"
#include "kv/stamps.h"
#include "kv/store.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

constexpr size_t kMaxKeyInMessageSizeBytes = 64;
constexpr unsigned kMostAttemptsForRoom = 10;

}  // namespace

class Engine::IndexOracle final : public LivenessOracle {
 public:
  // `redo` may be null.
  IndexOracle(const Memory& memory, const Index& index, const BatchRedo* redo)
      : memory_(memory), index_(index), redo_(redo) {}

  absl::StatusOr<bool> IsLive(SlotKind kind, Address address) override {
    if (IsNode(kind)) return index_.RefersToNode(address);
    if (redo_ != nullptr && redo_->Needs(address)) return true;
    absl::StatusOr<RecordView> record = View(address);
    // The slot may hold anything: bytes that can't be a record are no record.
    if (absl::IsDataLoss(record.status())) return false;
    if (!record.ok()) return record.status();
    // Good outside the guard too: the extent stays while it is being derived.
    return index_.RefersToRecord(*record);
  }

 private:
  absl::StatusOr<RecordView> View(Address address) const {
    rcu::ReadGuard guard;
    return ViewRecord(memory_, address);
  }

  const Memory& memory_;
  const Index& index_;
  const BatchRedo* const redo_;
};

absl::Status CheckKey(std::string_view key) {
  if (!key.empty() && key.size() <= kMaxKeySizeBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the key has ", key.size(), " bytes; 1 to ", kMaxKeySizeBytes, " are allowed"));
}

absl::Status CheckValueSize(uint64_t size_bytes) {
  if (size_bytes <= kMaxValueSizeBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the value has ", size_bytes, " bytes; at most ",
                                                 kMaxValueSizeBytes, " are allowed"));
}

absl::Status WithKey(absl::Status status, std::string_view key) {
  if (!absl::IsDataLoss(status)) return status;
  return absl::DataLossError(absl::StrCat(
      "key \"", absl::CHexEscape(std::string(key.substr(0, kMaxKeyInMessageSizeBytes))),
      key.size() > kMaxKeyInMessageSizeBytes ? "\"...: " : "\": ", status.message()));
}

Engine::Engine(Store* store, KeyspaceId id)
    : verify_checksums_(store->options().verify_checksums),
      store_(*store),
      pool_(&store->pool()),
      snapshots_(store->snapshots()),
      id_(id) {}

Engine::~Engine() { Shut(); }

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Store* store, KeyspaceId id,
                                                       uint64_t* root) {
  return OpenOrCreate(store, id, root, /*create=*/true);
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(Store* store, KeyspaceId id, uint64_t* root) {
  return OpenOrCreate(store, id, root, /*create=*/false);
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Recover(Store* store, KeyspaceId id,
                                                        PowerCutRecovery* recovery) {
  return OpenWith(store, id, [&](Space* space) { return recovery->Recover(id, space); });
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::OpenOrCreate(Store* store, KeyspaceId id,
                                                             uint64_t* root, bool create) {
  return OpenWith(store, id, [&](Space* space) {
    return create ? Index::Create(space, &store->snapshots(), root)
                  : Index::Open(space, &store->snapshots(), root);
  });
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::OpenWith(
    Store* store, KeyspaceId id,
    absl::FunctionRef<absl::StatusOr<std::unique_ptr<Index>>(Space*)> make_index) {
  std::unique_ptr<Engine> engine(new Engine(store, id));
  absl::StatusOr<std::unique_ptr<Space>> space =
      Space::Open(&store->pool(), id, store->options().mapping, &store->space_worker());
  if (!space.ok()) return space.status();
  engine->space_ = *std::move(space);
  absl::StatusOr<std::unique_ptr<Index>> index = make_index(engine->space_.get());
  if (!index.ok()) return index.status();
  engine->index_ = *std::move(index);
  engine->SetBatchRedo(nullptr);
  return engine;
}

void Engine::SetBatchRedo(const BatchRedo* redo) {
  auto oracle = std::make_unique<IndexOracle>(*space_, *index_, redo);
  space_->SetLivenessOracle(oracle.get());
  oracle_ = std::move(oracle);
}

absl::Status Engine::Refusal() const {
  // Acquire pairs with the release in BeginDrop.
  if (dropped_since_.load(std::memory_order_acquire) == UINT64_MAX) {
    return absl::FailedPreconditionError("the store is closed");
  }
  return absl::NotFoundError(
      absl::StrCat("the keyspace \"", absl::CHexEscape(name_), "\" was dropped"));
}

// A snapshot that is taken after BeginDrop took its number sees what was stored before that.
bool Engine::IsSeenBy(const SnapshotEntry& snapshot) const {
  for (;;) {
    const uint64_t since = dropped_since_.load(std::memory_order_acquire);
    if (since != kNotKnown) return snapshot.number() < since;
    sched_yield();
  }
}

void Engine::BeginDrop() {
  dropped_since_.store(kNotKnown, std::memory_order_release);
  dropped_since_.store(snapshots_.NextNumber(), std::memory_order_release);
  gate_.Close();
}

// Calls that were inside the gate may have left versions to snapshots taken since the drop, too.
bool Engine::IsUnusedSinceDrop() {
  if (!gate_.IsEmpty() || reserved_values_.load(std::memory_order_acquire) != 0) return false;
  if (nothing_owned_since_ == 0) nothing_owned_since_ = snapshots_.NextNumber();
  return !snapshots_.AnyBelow(nothing_owned_since_);
}

void Engine::AwaitCalls() {
  gate_.Close();
  while (!gate_.IsEmpty()) sched_yield();
}

void Engine::Shut() {
  gate_.Close();
  shut_.store(true, std::memory_order_relaxed);
  if (space_ == nullptr) return;
  space_->SetLivenessOracle(nullptr);  // The worker may be asking the index.
  index_.reset();
  space_.reset();
}

absl::Status Engine::CheckUnused() const {
  const uint64_t pins = space_->mapping().stats().pins;
  if (pins != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(pins, " pins are still held; release every PinnedValue and iterator first"));
  }
  const uint64_t writers = reserved_values_.load(std::memory_order_relaxed);
  if (writers == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(writers, " ValueWriters are still there; commit or destroy them first"));
}

absl::Status Engine::Close() { return space_->Close(); }

absl::Status Engine::Verify(const RecordView& record) const {
  if (!verify_checksums_ && !record.lost) return absl::OkStatus();
  return VerifyRecord(*space_, record);
}

absl::Status Engine::Verify(const RecordView& record, PinVerify verify) const {
  if (verify == PinVerify::kLater && !record.lost) return absl::OkStatus();
  return Verify(record);
}

absl::Status Engine::VerifyPinned(std::string_view value, uint64_t key_size_bytes) const {
  RecordView record;
  record.key = std::string_view(value.data() - key_size_bytes, key_size_bytes);
  record.value = value;
  record.address = pool_->OffsetOf(record.key.data()) - sizeof(RecordHeader);
  record.lost = space_->AnyLost() &&
                space_->IsLost(record.address, RecordSizeBytes(key_size_bytes, value.size()));
  return WithKey(VerifyRecord(*space_, record), record.key);
}

absl::Status Engine::WrongSnapshot(bool of_another_store) {
  return absl::InvalidArgumentError(
      of_another_store ? "the snapshot is one of another store; take one of this store"
                       : "the snapshot was moved from; use the one that it was moved to");
}

absl::Status Engine::CheckLost(std::string_view bytes) const {
  space_->SettleMediaErrors();
  const uint64_t offset = pool_->OffsetOf(bytes.data());
  if (!pool_->IsLost(offset, bytes.size())) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("a media error took some of the ", bytes.size(),
                                          " bytes at pool offset ", offset));
}

absl::StatusOr<Address> Engine::AllocateRecord(uint64_t size_bytes) {
  space_->LimitRetired(size_bytes);
  absl::StatusOr<Address> address = space_->Allocate(SlotKind::kRecord, size_bytes);
  for (unsigned attempts = 0; absl::IsResourceExhausted(address.status()) && MakeRoom(&attempts);) {
    address = space_->Allocate(SlotKind::kRecord, size_bytes);
  }
  if (address.ok()) PrefetchSlot(*space_, *address, size_bytes);
  return address;
}

bool Engine::MakeRoom(unsigned* attempts) noexcept {
  bool made_room = false;
  WithoutExceptions([&] {
    const unsigned attempt = (*attempts)++;
    if (attempt == 0) {
      made_room = space_->MakeRoom().ok();
    } else {
      made_room = (attempt == 1 && store_.MakeRoom(*this)) ||
                  (attempt < kMostAttemptsForRoom && store_.MakeRoomByMoving());
    }
    return absl::OkStatus();
  }).IgnoreError();  // Of memory there is none either.
  return made_room;
}

absl::Status Engine::Put(std::string_view key, std::string_view value) {
  return PutIf(key, value, /*expected=*/nullptr);
}

absl::Status Engine::PutIf(std::string_view key, std::string_view value,
                           const ExpectedVersion* expected) {
  absl::Status valid = CheckKey(key);
  if (valid.ok()) valid = CheckValue(value);
  if (!valid.ok()) return valid;
  // The slot comes while the leaf is looked for, and that while the record is written.
  absl::StatusOr<Address> address = AllocateRecord(RecordSizeBytes(key.size(), value.size()));
  if (!address.ok()) return address.status();
  index_->PrefetchFor(key);
  if (expected == nullptr && store_.recent_puts() != nullptr) {
    std::optional<absl::Status> put = PutRecent(key, value, *address);
    if (put.has_value()) return *std::move(put);
  }
  const uint32_t body_checksum =
      WriteRecord(*space_, *address, kValueRecord, NextSequence(), key, value);
  return Publish(key, *address, body_checksum, expected);
}

// Of a large record the second wait does not matter; after a media error each page is asked for.
std::optional<absl::Status> Engine::PutRecent(std::string_view key, std::string_view value,
                                              Address address) {
  RecentPuts& recent = *store_.recent_puts();
  if (RecordSizeBytes(key.size(), value.size()) > kMaxSlabSlotSizeBytes || space_->AnyLost()) {
    return std::nullopt;
  }
  const std::optional<RecentPuts::Ticket> ticket = recent.Enter(address);
  if (!ticket) return std::nullopt;
  RecentPut recent_put = {NextSequence()};
  const uint32_t body_checksum = WriteRecord(*space_, address, kValueRecord, recent_put.number, key,
                                             value, kSelfPublishedFlag);
  absl::Status put = WithoutExceptions(
      [&] { return Publish(key, address, body_checksum, /*expected=*/nullptr, &recent_put); });
  if (!recent_put.ended) {
    recent.Fail();
  } else if (!recent.Leave(*ticket, recent_put.number) && put.ok()) {
    put = pool_->Sync();
  }
  return put;
}

// R4: a redo would take it for one that was done. A record on a lost page is gone as well.
bool Engine::Destroy(Address address) noexcept {
  return WithoutExceptions([&] {
           StampDead(*pool_, address);
           const absl::Status drained = space_->Drain();
           return absl::IsDataLoss(drained) ? absl::OkStatus() : drained;
         })
      .ok();
}

absl::Status Engine::SettleRemoved(uint64_t number) {
  RecentPuts* const recent = store_.recent_puts();
  return recent != nullptr ? recent->Settle(number) : absl::OkStatus();
}

absl::Status Engine::Publish(std::string_view key, Address address, uint32_t body_checksum,
                             const ExpectedVersion* expected, RecentPut* recent) {
  const Index::Wait wait = recent != nullptr ? Index::Wait::kLater : Index::Wait::kDurable;
  for (unsigned attempts = 0;;) {
    absl::Status published = index_->Upsert(key, address, expected, wait).status();
    if (published.ok()) {
      if (recent != nullptr) recent->ended = true;
      return published;
    }
    if (absl::IsOutOfRange(published) || (absl::IsAborted(published) && expected == nullptr)) {
      // A put that overlapped this one has published a higher sequence number (K2).
      const uint64_t number = NextSequence();
      ResealRecord(*space_, address, number, body_checksum);
      if (recent != nullptr) recent->number = number;
      continue;
    }
    if (absl::IsResourceExhausted(published) && MakeRoom(&attempts)) continue;
    if (!absl::IsInternal(published)) {
      if (recent != nullptr) recent->ended = Destroy(address);
      space_->Abandon(address);
    }
    // After kInternal the index may refer to the slot.
    return WithKey(std::move(published), key);
  }
}

absl::Status Engine::Get(std::string_view key, std::string* value) const {
  absl::Status valid = CheckKey(key);
  if (!valid.ok()) return valid;
  bool copied = false;
  absl::Status found = index_->Find(key, [&](const RecordView& record) -> absl::Status {
    copied = record.value.size() <= kMaxGuardedCopySizeBytes;
    if (!copied) return absl::OkStatus();
    absl::Status intact = Verify(record);
    if (intact.ok()) value->assign(record.value.data(), record.value.size());
    return intact;
  });
  if (!found.ok()) return WithKey(std::move(found), key);
  if (copied) return absl::OkStatus();
  PinnedRecord pinned;
  absl::Status status = Pin(key, PinVerify::kNow, &pinned);
  if (status.ok()) value->assign(pinned.record.value.data(), pinned.record.value.size());
  return status;
}

absl::Status Engine::PinExtents(Address address, uint64_t size_bytes, PinMode mode,
                                Pins* pins) const {
  dax::Mapping& mapping = space_->mapping();
  const uint64_t end_page = (address + size_bytes + dax::kPageSizeBytes - 1) >> dax::kPageShift;
  for (uint64_t page = address >> dax::kPageShift; page < end_page;) {
    absl::StatusOr<dax::Pinned> pinned =
        mode == PinMode::kTry ? mapping.TryPin(page) : mapping.Pin(page, dax::Access::kRead);
    if (!pinned.ok()) {
      pins->clear();
      return pinned.status();
    }
    page = pinned->first_index() + (pinned->size_bytes() >> dax::kPageShift);
    pins->push_back(*std::move(pinned));
  }
  return absl::OkStatus();
}

absl::Status Engine::Pin(std::string_view key, PinVerify verify, PinnedRecord* pinned) const {
  absl::Status valid = CheckKey(key);
  if (!valid.ok()) return valid;
  Pins& pins = pinned->pins;
  pins.clear();
  const auto reads =
      verify == PinVerify::kNow && verify_checksums_ ? Index::Reads::kRecord : Index::Reads::kKey;
  Address wanted = kNullAddress;  // What the pins hold, or what could not be pinned.
  uint64_t wanted_size_bytes = 0;
  absl::Status waited;
  for (;;) {
    bool held = false;
    const auto hold = [&](const RecordView& record) -> absl::Status {
      const uint64_t size_bytes = RecordSizeBytes(record.key.size(), record.value.size());
      const bool same = record.address == wanted && size_bytes == wanted_size_bytes;
      // The wait for this very record failed, and the index still refers to it.
      if (same && !waited.ok()) return waited;
      if (!same) {
        pins.clear();
        wanted = record.address;
        wanted_size_bytes = size_bytes;
      }
      if (pins.empty()) {
        absl::Status tried = PinExtents(wanted, size_bytes, PinMode::kTry, &pins);
        if (absl::IsUnavailable(tried)) return absl::OkStatus();
        if (!tried.ok()) return tried;
      }
      held = true;
      pinned->record = record;
      return absl::OkStatus();
    };
    absl::Status found = index_->Find(key, hold, reads);
    if (!found.ok()) return WithKey(std::move(found), key);
    if (held) break;
    // Somebody has an extent locked, or it has just left. Pinned outside the guard it may belong
    // to anybody: only the next look-up tells whether it is still this record's (K4).
    waited = PinExtents(wanted, wanted_size_bytes, PinMode::kWait, &pins);
  }
  return WithKey(Verify(pinned->record, verify), key);
}

absl::Status Engine::Contains(std::string_view key) const {
  absl::Status valid = CheckKey(key);
  if (!valid.ok()) return valid;
  const auto visit = [](const RecordView&) { return absl::OkStatus(); };
  return WithKey(index_->Find(key, visit, Index::Reads::kKey), key);
}

absl::Status Engine::Delete(std::string_view key) {
  absl::Status valid = CheckKey(key);
  if (!valid.ok()) return valid;
  uint64_t removed = 0;
  absl::Status status = index_->Remove(key, /*expected=*/nullptr, &removed);
  if (status.ok()) status = SettleRemoved(removed);
  return WithKey(std::move(status), key);
}

}  // namespace daxkv::kv
