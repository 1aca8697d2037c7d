#include "kv/power_cut.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/boot_id.h"
#include "kv/exceptions.h"
#include "kv/extent_header.h"
#include "kv/record.h"
#include "kv/repair_survey.h"
#include "kv/stamps.h"
#include "kv/superblock.h"
#include "xarray/rcu.h"

namespace daxkv::kv {

class PowerCutRecovery::Impl {
 public:
  Impl(dax::Pool* pool, Snapshots* snapshots, Roots roots)
      : pool_(*pool), snapshots_(*snapshots), roots_(std::move(roots)) {
    const Superblock& superblock = *SuperblockOf(pool_);
    horizon_ = std::min(superblock.horizon, ~superblock.horizon_complement);
  }

  absl::Status Begin() {
    absl::Status status = FindExtents();
    if (status.ok()) status = DropOldIndexes();
    if (status.ok()) FindBatches();
    return status;
  }

  absl::StatusOr<std::unique_ptr<Index>> Recover(KeyspaceId keyspace, Space* space) {
    auto index = Index::Create(space, &snapshots_, roots_.at(keyspace));
    if (!index.ok()) return index.status();
    index_ = *std::move(index);
    deletes_.clear();
    absl::Status status = TakeRecords(keyspace);
    if (status.ok()) status = ApplyDeletes();
    // Its new extents are committed while the space knows of them.
    if (status.ok()) status = space->Drain();
    if (!status.ok()) return status;
    return std::move(index_);
  }

  absl::StatusOr<PowerCutReport> Finish() {
    // What does not count must be gone before the horizon says that all batches up to here do.
    absl::Status status = pool_.Sync();
    if (status.ok()) status = RaiseHorizon();
    if (!status.ok()) return status;
    for (const Address address : of_batches_) StampDead(pool_, address);
    status = pool_.Sync();
    if (!status.ok()) return status;
    report_.batches_dropped = dropped_batches_.size();
    return report_;
  }

 private:
  struct Extent {
    dax::Run run;
    SlotLayout layout;

    Address SlotAddress(uint32_t slot) const {
      return run.offset() + layout.first_slot_offset + uint64_t{slot} * layout.slot_size_bytes;
    }
  };

  // The keyspace's record in [address, end), if it verifies.
  std::optional<RecordView> Verified(KeyspaceId keyspace, Address address, Address end) const {
    if (pool_.IsLost(address, end - address)) return std::nullopt;
    std::optional<RecordView> record = ParseRecord(pool_, address, end);
    if (record.has_value() && !IsIntact(*record, keyspace)) record.reset();
    return record;
  }
  std::optional<RecordView> Verified(const Extent& extent, uint32_t slot) const {
    const Address address = extent.SlotAddress(slot);
    return Verified(UseOf(extent.run).keyspace, address, address + extent.layout.slot_size_bytes);
  }
  bool IsUnlinked(Address address) const {
    const auto* header = reinterpret_cast<const RecordHeader*>(pool_.At(address));
    return (KindAndFlags(*header) & kUnlinkedFlag) != 0;
  }

  absl::Status FindExtents() {
    std::vector<dax::Run> dropped;
    absl::Status status = pool_.ForEachRun([&](const dax::Run& run) {
      const RunUse use = UseOf(run);
      if (!use.is_extent() || roots_.count(use.keyspace) == 0) return absl::OkStatus();
      if (use.kind == RunUse::Kind::kSlab && SlotKindOf(use.size_class) != SlotKind::kRecord) {
        old_index_.push_back(run);
        return absl::OkStatus();
      }
      if (std::optional<SlotLayout> layout = LayoutOf(run)) {
        by_keyspace_[use.keyspace].push_back(extents_.size());
        extents_.push_back({run, *layout});
      } else {
        dropped.push_back(run);
      }
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    report_.extents_dropped = dropped.size();
    return pool_.ReleaseRuns(dropped);
  }

  // A run may be live before its header came: what it holds is whole or it does not verify.
  std::optional<SlotLayout> LayoutOf(const dax::Run& run) {
    if (absl::StatusOr<SlotLayout> layout = CheckExtent(pool_, run); layout.ok()) return *layout;
    const RunUse use = UseOf(run);
    if (use.kind == RunUse::Kind::kLarge) {
      const Address address = run.offset() + kLargeRecordOffset;
      const std::optional<RecordView> record =
          Verified(use.keyspace, address, run.offset() + run.size_bytes());
      if (!record.has_value()) return std::nullopt;
      WriteLargeHeader(pool_, run, RecordSizeBytes(record->key.size(), record->value.size()));
    } else {
      if (run.pages < SmallRunPages(use.size_class) || run.pages > dax::kHugePages) {
        return std::nullopt;
      }
      const Extent extent{run, SlabLayout(use.size_class, run.pages)};
      uint32_t slot = 0;
      while (slot < extent.layout.slot_count && !Verified(extent, slot).has_value()) ++slot;
      if (slot == extent.layout.slot_count) return std::nullopt;
      WriteSlabHeader(pool_, run);
    }
    FlushHeader(pool_, run);
    const absl::StatusOr<SlotLayout> layout = CheckExtent(pool_, run);
    return layout.ok() ? std::optional<SlotLayout>(*layout) : std::nullopt;
  }

  // Nothing of it is needed, and a full pool needs the room. A crash leaves a root to nowhere, and
  // the durability word, so that the next open comes here again.
  absl::Status DropOldIndexes() {
    for (const auto& [keyspace, root] : roots_) {
      *root = 0;
      pool_.Flush(root, sizeof(*root));
    }
    std::memset(pool_.root_area() + kBatchTableOffset, 0, kBatchTableWords * sizeof(uint64_t));
    pool_.Flush(pool_.root_area(), kBatchTableOffset + kBatchTableWords * sizeof(uint64_t));
    absl::Status status = pool_.Sync();
    return status.ok() ? pool_.ReleaseRuns(old_index_) : status;
  }

  // Slots of a keyspace that are not stamped.
  template <typename Visit>
  void ForEachSlot(KeyspaceId keyspace, Visit visit) {
    for (const size_t number : by_keyspace_[keyspace]) {
      const Extent& extent = extents_[number];
      for (uint32_t slot = 0; slot < extent.layout.slot_count; ++slot) {
        if (!IsStampedDead(pool_, extent.SlotAddress(slot))) visit(extent, slot);
      }
    }
  }

  // The record that begins at an address which may be anything.
  std::optional<RecordView> Find(Address address) const {
    auto after = std::upper_bound(extents_.begin(), extents_.end(), address,
                                  [](Address at, const Extent& e) { return at < e.run.offset(); });
    if (after == extents_.begin()) return std::nullopt;
    const Extent& extent = *--after;
    const Address first = extent.SlotAddress(0);
    if (address < first || (address - first) % extent.layout.slot_size_bytes != 0) {
      return std::nullopt;
    }
    const uint64_t slot = (address - first) / extent.layout.slot_size_bytes;
    if (slot >= extent.layout.slot_count) return std::nullopt;
    return Verified(extent, static_cast<uint32_t>(slot));
  }

  // Batches above the horizon of which everything is there (V8), in whatever keyspace.
  void FindBatches() {
    ForEachSlot(kDefaultKeyspace, [&](const Extent& extent, uint32_t slot) {
      const auto* header =
          reinterpret_cast<const RecordHeader*>(pool_.At(extent.SlotAddress(slot)));
      if (KindOf(KindAndFlags(*header)) != kBatchRecord) return;
      const std::optional<RecordView> batch = Verified(extent, slot);
      if (!batch.has_value() || batch->sequence <= horizon_) return;
      for (size_t i = 0; i < batch->value.size() / sizeof(Address); ++i) {
        Address member;
        std::memcpy(&member, batch->value.data() + i * sizeof(member), sizeof(member));
        const std::optional<RecordView> record = Find(member);
        if (!record.has_value() || !record->of_batch || record->sequence != batch->sequence) return;
      }
      whole_.insert(batch->sequence);
    });
  }

  enum class Role { kValue, kDelete, kKeep, kDead };
  Role RoleOf(const RecordView& record) {
    // Written, and not yet numbered.
    if (record.sequence == 0) return Role::kDead;
    const bool settled = record.sequence <= horizon_;
    const bool whole = whole_.count(record.sequence) != 0;
    if (record.of_batch && !settled && !whole) {
      dropped_batches_.insert(record.sequence);
      return Role::kDead;
    }
    if (IsUnlinked(record.address)) return Role::kDead;
    if (record.kind == kValueRecord) return Role::kValue;
    // What it deletes is stamped before it is.
    if (record.kind == kDeleteRecord) return Role::kDelete;
    return record.of_batch && !settled ? Role::kKeep : Role::kDead;
  }

  absl::Status TakeRecords(KeyspaceId keyspace) {
    absl::Status status;
    ForEachSlot(keyspace, [&](const Extent& extent, uint32_t slot) {
      if (!status.ok()) return;
      const Address address = extent.SlotAddress(slot);
      const std::optional<RecordView> record = Verified(extent, slot);
      if (!record.has_value()) {
        ++report_.slots_torn;
        if (!pool_.IsLost(address, sizeof(RecordHeader))) StampDead(pool_, address);
        return;
      }
      const Role role = RoleOf(*record);
      if (role == Role::kValue) {
        status = Take(*record);
      } else if (role == Role::kDead) {
        Reject(address);
      } else {
        of_batches_.push_back(address);
        if (role == Role::kDelete) deletes_.push_back(address);
      }
    });
    return status;
  }

  void Reject(Address address) {
    ++report_.records_stamped;
    StampDead(pool_, address);
  }

  // What the index has of a key: null address if nothing.
  absl::StatusOr<ExpectedVersion> HeldOf(std::string_view key) const {
    ExpectedVersion held;
    absl::Status found = index_->Find(key, [&](const RecordView& record) {
      held = {record.address, record.sequence};
      return absl::OkStatus();
    });
    if (!found.ok() && !absl::IsNotFound(found)) return found;
    return held;
  }

  absl::Status Take(const RecordView& record) {
    const absl::StatusOr<ExpectedVersion> held = HeldOf(record.key);
    if (!held.ok()) return held.status();
    if (held->address != kNullAddress && held->sequence >= record.sequence) {
      Reject(record.address);
      return absl::OkStatus();
    }
    const absl::Status published = index_->Upsert(record.key, record.address).status();
    if (!published.ok()) return published;
    if (held->address == kNullAddress) {
      ++report_.records;
    } else {
      Reject(held->address);
    }
    return absl::OkStatus();
  }

  absl::Status ApplyDeletes() {
    for (const Address address : deletes_) {
      const std::optional<RecordView> record_there = Find(address);
      if (!record_there.has_value()) continue;
      const RecordView& record = *record_there;
      const absl::StatusOr<ExpectedVersion> held = HeldOf(record.key);
      if (!held.ok()) return held.status();
      if (held->address == kNullAddress || held->sequence >= record.sequence) continue;
      absl::Status removed = index_->Remove(record.key);
      if (!removed.ok()) return removed;
      --report_.records;
      Reject(held->address);
    }
    return absl::OkStatus();
  }

  absl::Status RaiseHorizon() {
    Superblock& superblock = *SuperblockOf(pool_);
    superblock.horizon = snapshots_.LastNumber();
    superblock.horizon_complement = ~superblock.horizon;
    pool_.Flush(&superblock, sizeof(superblock));
    return pool_.Sync();
  }

  dax::Pool& pool_;
  Snapshots& snapshots_;
  const Roots roots_;
  PowerCutReport report_;
  uint64_t horizon_;
  std::vector<Extent> extents_;                            // In ascending order.
  std::map<KeyspaceId, std::vector<size_t>> by_keyspace_;  // Of extents_.
  std::vector<dax::Run> old_index_;
  std::unordered_set<uint64_t> whole_, dropped_batches_;  // Sequence numbers.
  std::vector<Address> of_batches_;
  // Of the keyspace that is being recovered.
  std::vector<Address> deletes_;
  std::unique_ptr<Index> index_;
};

PowerCutRecovery::PowerCutRecovery(dax::Pool* pool, Snapshots* snapshots, Roots roots)
    : impl_(std::make_unique<Impl>(pool, snapshots, std::move(roots))) {}

PowerCutRecovery::~PowerCutRecovery() = default;

absl::Status PowerCutRecovery::Begin() {
  return WithoutExceptions([&] { return impl_->Begin(); });
}

absl::StatusOr<std::unique_ptr<Index>> PowerCutRecovery::Recover(KeyspaceId keyspace,
                                                                 Space* space) {
  return WithoutExceptions([&] { return impl_->Recover(keyspace, space); });
}

absl::StatusOr<PowerCutReport> PowerCutRecovery::Finish() {
  return WithoutExceptions([&] { return impl_->Finish(); });
}

uint64_t DurabilityWord(uint32_t boot_id) { return dax::Pool::SealEpoch(boot_id); }

absl::StatusOr<bool> HasProcessDurability(const Superblock& superblock, uint32_t* boot_id) {
  if (superblock.durability == 0) return false;
  const std::optional<uint64_t> word = dax::Pool::UnsealEpoch(superblock.durability);
  if (!word.has_value()) {
    return absl::DataLossError("the superblock's durability word is damaged");
  }
  if (boot_id != nullptr) *boot_id = static_cast<uint32_t>(*word);
  return true;
}

absl::StatusOr<bool> MetPowerCut(const dax::Pool& pool, const std::string& boot_id_file) {
  uint32_t last_boot_id = 0;
  const absl::StatusOr<bool> process = HasProcessDurability(*SuperblockOf(pool), &last_boot_id);
  if (!process.ok() || !*process) return process;
  // A repair waits for the medium.
  if (!WasOpenSinceCleanClose(pool)) return false;
  const absl::StatusOr<uint32_t> boot_id = ReadBootId(boot_id_file);
  if (!boot_id.ok()) return boot_id.status();
  return last_boot_id != *boot_id;
}

}  // namespace daxkv::kv
