#include "kv/index.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"

namespace daxkv::kv {
namespace {

constexpr unsigned kRootLevelShift = 48;
constexpr unsigned kMaxLevel = 16;

// X6. Never 0, which unwritten nodes have.
uint64_t MakeStamp(uint64_t open_epoch) {
  std::random_device random;
  const uint64_t salt = uint64_t{random()} << 32 | random();
  return (open_epoch ^ salt) | 1;
}

}  // namespace

Index::Impl::Impl(Memory* memory_in, Snapshots* snapshots_in, uint64_t* root_word_in)
    : memory(memory_in),
      snapshots(*snapshots_in),
      root_word(root_word_in),
      stamp(MakeStamp(memory_in->open_epoch())) {}

Index::Index(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Index::~Index() = default;

absl::StatusOr<std::unique_ptr<Index>> Index::Create(Memory* memory, Snapshots* snapshots,
                                                     uint64_t* root) {
  auto impl = std::make_unique<Impl>(memory, snapshots, root);
  absl::StatusOr<Address> leaf = memory->Allocate(SlotKind::kLeaf, kLeafSizeBytes);
  if (!leaf.ok()) return leaf.status();
  OwnedSlot owned(memory, *leaf);
  LeafNode& node = impl->Leaf(*leaf);
  for (uint64_t& slot : node.slots) slot = 0;
  impl->WriteHeader(*leaf, 0, kNullAddress, /*next=*/0, /*version=*/0, /*overflow=*/0);
  memory->Flush(&node, sizeof(node));
  if (absl::Status status = impl->Drain(); !status.ok()) return status;
  auto index = std::unique_ptr<Index>(new Index(std::move(impl)));
  // Commits the empty index. Before: there is none, and the leaf's slot is free.
  owned.Release();
  StoreWord(*root, *leaf);
  memory->Flush(root, sizeof(*root));
  if (absl::Status status = index->impl_->Drain(); !status.ok()) return status;
  index->impl_->root_leaf = *leaf;
  return index;
}

absl::StatusOr<std::unique_ptr<Index>> Index::Open(Memory* memory, Snapshots* snapshots,
                                                   uint64_t* root) {
  auto impl = std::make_unique<Impl>(memory, snapshots, root);
  const uint64_t word = LoadWord(*root);
  const Address address = word & kAddressMask;
  const uint64_t level = word >> kRootLevelShift;
  if (level > kMaxLevel) {
    return absl::DataLossError(
        absl::StrCat("superblock: the root's level ", level, " is above ", kMaxLevel));
  }
  absl::Status status = impl->SetUp(address, static_cast<unsigned>(level));
  if (!status.ok()) return status;
  if (impl->Header(address).low_fence != kNullAddress) {
    return absl::DataLossError(absl::StrCat("superblock: the node at pool offset ", address,
                                            " has a low fence and so is no root"));
  }
  if (level == 0) {
    impl->root_leaf = address;
  } else {
    impl->root_frame.store(impl->FrameOf(address, static_cast<unsigned>(level)),
                           std::memory_order_release);
  }
  return std::unique_ptr<Index>(new Index(std::move(impl)));
}

namespace {

// Longer records have the processor's own prefetching, and evict more than they gain.
constexpr uint64_t kMostPrefetchedSizeBytes = 1280;
// The record that this thread found last: the next one is as long, mostly. A guess only, of any
// store.
thread_local uint64_t t_last_found_size_bytes = 1;

}  // namespace

absl::Status Index::Impl::Find(std::string_view key,
                               absl::FunctionRef<absl::Status(const RecordView&)> visit,
                               Reads reads) {
  const uint16_t tag = KeyTag(key);
  const uint64_t wanted_size_bytes =
      reads == Reads::kRecord ? t_last_found_size_bytes : kShortKeyEnd;
  return Run([&](Obstacle& obstacle) -> absl::Status {
    for (;;) {
      LeafGuess guess;
      absl::Status status = GuessLeaf(key, &guess, obstacle);
      if (!status.ok()) return status;
      PrefetchLeaf(guess.address, tag);
      LeafPosition at;
      status = GoToCoveringLeaf(key, guess, &at, obstacle);
      if (status.ok()) status = CheckLost(at);
      if (!status.ok()) return status;
      Hit hit;
      status = Probe(*at.leaf, key, tag, &hit, obstacle, wanted_size_bytes);
      if (!status.ok()) return status;
      if (hit.place >= 0) {
        t_last_found_size_bytes =
            std::min(RecordSizeBytes(hit.record.key.size(), hit.record.value.size()),
                     kMostPrefetchedSizeBytes);
        // A slot that moved right may be seen here still. Its record was current when the descent
        // read the split count: only after that could the right leaf be changed.
        status = visit(hit.record);
        return absl::IsUnavailable(status) ? obstacle.Absent(hit.record.address) : status;
      }
      // Slots are cleared only after the count moved on, so an unchanged one proves the miss.
      if (SplitCount(at.leaf->header) == at.split_count) {
        if (hit.lost != kNullAddress) return LostRecordError(hit.lost);
        return hit.damage.ok() ? absl::Status(absl::StatusCode::kNotFound, "") : hit.damage;
      }
    }
  });
}

bool Index::Impl::IsNewer(const RecordView& held, Address address) const {
  const auto* record = reinterpret_cast<const RecordHeader*>(memory->At(address));
  return held.sequence >= record->sequence && VerifyRecord(*memory, held).ok();
}

uint64_t Index::Impl::NumberOf(uint64_t slot) const {
  return reinterpret_cast<const RecordHeader*>(memory->At(SlotAddress(slot)))->sequence;
}

// Relaxed: the leaf's lock orders what concerns one key. Of other keys it does not matter.
void Index::Impl::NoteRemoved(uint64_t number) noexcept {
  if (!refuses_removed) return;
  uint64_t highest = highest_removed.load(std::memory_order_relaxed);
  while (highest < number &&
         !highest_removed.compare_exchange_weak(highest, number, std::memory_order_relaxed)) {
  }
}

bool Index::Impl::IsAboveRemoved(Address address) const {
  if (!refuses_removed) return true;
  const auto* record = reinterpret_cast<const RecordHeader*>(memory->At(address));
  return record->sequence > highest_removed.load(std::memory_order_relaxed);
}

void Index::Impl::StoreSlot(CommitWindow& window, HistoryReserve* reserve, LeafNode& leaf,
                            unsigned place, uint64_t slot, const RecordView* old) noexcept {
  rcu::ReadGuard guard;
  const Address self = leaf.header.self;
  bool kept = false;
  if (window.sees_snapshot()) {
    const uint64_t until =
        slot == 0 ? window.End() : window.Begin(reserve, self, SlotAddress(slot), NumberOf(slot));
    kept =
        old != nullptr && window.Supersede(reserve, memory, self, *old, &leaf.slots[place], until);
  }
  if (slot == 0 && old != nullptr) {
    NoteRemoved(old->sequence);
    memory->NoteRemoved();
  }
  StoreWord(leaf.slots[place], slot);
  memory->Flush(&leaf.slots[place], sizeof(slot));
  if (old == nullptr) return;
  if (kept) {
    memory->NoteKept(old->address);
    memory->CancelRetires(1);
  } else {
    memory->Retire(old->address, &leaf.slots[place]);
  }
}

absl::Status Index::Impl::CommitSlot(LeafNode& leaf, unsigned place, uint64_t slot,
                                     const RecordView* old) {
  HistoryReserve reserve;
  for (;;) {
    CommitWindow window(&snapshots);
    const bool keeps =
        window.sees_snapshot() && ((slot != 0 && window.MustKeep(NumberOf(slot))) ||
                                   (old != nullptr && window.MustKeep(old->sequence)));
    if (!keeps || !reserve.empty()) {
      StoreSlot(window, &reserve, leaf, place, slot, old);
      return absl::OkStatus();
    }
    window.Close();
    // One for the old record, one for the new.
    absl::Status status = reserve.Add(&snapshots, leaf.header.self, 2);
    if (!status.ok()) return status;
  }
}

void Index::Impl::ForgetStray(LeafNode& leaf, uint64_t slot) noexcept {
  const uint64_t overflow = LoadWord(leaf.header.volatile_overflow);
  unsigned line = HomeLine(SlotTag(slot));
  for (unsigned probe = 0; probe < kProbeLines; ++probe, line = LineAfter(line)) {
    for (unsigned i = line * kSlotsPerLine; i < (line + 1) * kSlotsPerLine; ++i) {
      if (LoadWord(leaf.slots[i]) != slot) continue;
      StoreWord(leaf.slots[i], 0);
      memory->Flush(&leaf.slots[i], sizeof(slot));
    }
    if ((overflow >> line & 1) == 0) break;
  }
}

absl::StatusOr<bool> Index::Impl::Upsert(std::string_view key, Address address,
                                         const ExpectedVersion* expected, Wait wait) {
  const uint16_t tag = KeyTag(key);
  LeafPosition at;
  LeafLock lock;
  if (absl::Status status = LockLeafFor(key, &at, &lock, tag); !status.ok()) return status;
  LeafNode& leaf = *at.leaf;
  snapshots.PrefetchHistory(at.address);  // It comes while the old record does.
  const uint64_t slot = MakeSlot(tag, address);
  ForgetStray(leaf, slot);
  Hit hit;
  if (absl::Status status = ProbeLocked(at, key, tag, &hit); !status.ok()) return status;
  // What the key's version is can't be told.
  if (expected != nullptr && hit.place < 0 && hit.lost != kNullAddress) {
    return LostRecordError(hit.lost);
  }
  if (expected != nullptr && !hit.damage.ok()) return hit.damage;
  if (!Meets(hit, expected) || (hit.place >= 0 && IsNewer(hit.record, address))) {
    return absl::Status(absl::StatusCode::kAborted, "");
  }
  if (hit.place >= 0) {
    if (absl::Status status = memory->ReserveRetires(1); !status.ok()) return status;
    // Commits. After a crash before this line is durable, the old record is the key's.
    absl::Status status = CommitSlot(leaf, static_cast<unsigned>(hit.place), slot, &hit.record);
    if (!status.ok()) return status;
  } else {
    if (!IsAboveRemoved(address)) return absl::Status(absl::StatusCode::kOutOfRange, "");
    // A damaged slot that may have been the key's stays as it is: from now on this one is found.
    const FreePlace free = FindFreePlace(leaf.slots, tag);
    if (free.place < 0) {
      lock.Unlock();
      const GroupEntry entry = {key, address, expected};
      size_t done = 0;
      uint64_t replaced = 0;
      absl::Status status = UpsertSorted(absl::MakeConstSpan(&entry, 1), &done, &replaced);
      if (!status.ok()) return status;
      return replaced > 0;
    }
    const uint64_t overflow = LoadWord(leaf.header.volatile_overflow);
    if ((free.passed & ~overflow) != 0) {
      StoreWord(leaf.header.volatile_overflow, overflow | free.passed);
    }
    // Commits. After a crash before this line is durable, the key is not there.
    absl::Status status = CommitSlot(leaf, static_cast<unsigned>(free.place), slot, nullptr);
    if (!status.ok()) return status;
  }
  // Unlocked before the drain: a later change of this line, by any thread, flushes it again.
  lock.Unlock();
  absl::Status status = wait == Wait::kDurable
                            ? Drain()
                            : AfterDrain(WithoutExceptions([&] { return memory->DropFlushes(); }));
  if (!status.ok()) return status;
  return hit.place >= 0;
}

absl::Status Index::Impl::Remove(std::string_view key, const ExpectedVersion* expected,
                                 uint64_t* removed) {
  LeafPosition at;
  LeafLock lock;
  if (absl::Status status = LockLeafFor(key, &at, &lock); !status.ok()) return status;
  Hit hit;
  absl::Status status = ProbeLocked(at, key, KeyTag(key), &hit);
  if (!status.ok()) return status;
  if (hit.place < 0) {
    if (hit.lost != kNullAddress) return LostRecordError(hit.lost);
    return hit.damage.ok() ? absl::Status(absl::StatusCode::kNotFound, "") : hit.damage;
  }
  if (!Meets(hit, expected)) return absl::Status(absl::StatusCode::kAborted, "");
  if (status = memory->ReserveRetires(1); !status.ok()) return status;
  if (removed != nullptr) *removed = hit.record.sequence;
  // Commits. After a crash before this line is durable, the key is still there.
  status = CommitSlot(*at.leaf, static_cast<unsigned>(hit.place), 0, &hit.record);
  if (!status.ok()) return status;
  lock.Unlock();
  return Drain();
}

absl::Status Index::Find(std::string_view key,
                         absl::FunctionRef<absl::Status(const RecordView&)> visit,
                         Reads reads) const {
  return WithoutExceptions([&] { return impl_->Find(key, visit, reads); });
}
void Index::FindMany(absl::Span<const std::string_view> keys,
                     absl::FunctionRef<absl::Status(size_t, const RecordView&)> visit,
                     absl::Span<absl::Status> statuses) const {
  impl_->FindMany(keys, visit, statuses);
}
absl::StatusOr<Index::RangeSample> Index::SampleRange(std::string_view from, std::string_view to,
                                                      size_t most_leaves) const {
  return WithoutExceptions([&] { return impl_->SampleRange(from, to, most_leaves); });
}
absl::Status Index::FindAt(const SnapshotEntry& snapshot, std::string_view key,
                           absl::FunctionRef<absl::Status(const RecordView&)> visit) const {
  return impl_->FindAt(snapshot.number(), key, visit);
}
absl::Status Index::ReadLeafAt(const SnapshotEntry& snapshot, const LeafTarget& target,
                               LeafContents* contents) const {
  return impl_->ReadLeafAt(snapshot.number(), target, contents);
}
void Index::PrefetchLeaf(Address leaf) const { impl_->PrefetchLeaf(leaf); }
void Index::PrefetchFor(std::string_view key) const {
  const rcu::ReadGuard guard;
  Obstacle obstacle;  // Overcome by who comes for the key in earnest.
  LeafGuess guess;
  if (impl_->GuessLeaf(key, &guess, obstacle).ok()) {
    impl_->PrefetchLeaf(guess.address, KeyTag(key));
  }
}
size_t Index::CountLeafOrders() const { return impl_->orders.size(); }
absl::StatusOr<bool> Index::Upsert(std::string_view key, Address address,
                                   const ExpectedVersion* expected, Wait wait) {
  return WithoutExceptions([&] { return impl_->Upsert(key, address, expected, wait); });
}
void Index::RefuseNumbersOfRemoved() { impl_->refuses_removed = true; }
absl::Status Index::UpsertSorted(absl::Span<const GroupEntry> entries, size_t* done,
                                 uint64_t* replaced) {
  return WithoutExceptions([&] { return impl_->UpsertSorted(entries, done, replaced); });
}
absl::Status Index::ApplyAtomically(absl::Span<const IndexEntries> changes, AtomicCommit& commit) {
  return WithoutExceptions([&] { return Impl::ApplyAtomically(changes, commit); });
}
absl::Status Index::Remove(std::string_view key, const ExpectedVersion* expected,
                           uint64_t* removed) {
  return WithoutExceptions([&] { return impl_->Remove(key, expected, removed); });
}
absl::Status Index::ScanLeaf(std::string_view from,
                             absl::FunctionRef<bool(const RecordView&)> visit,
                             std::string* next_from, bool* end) const {
  return WithoutExceptions([&] { return impl_->ScanLeaf(from, visit, next_from, end); });
}
absl::StatusOr<bool> Index::RefersToRecord(const RecordView& record) const {
  return WithoutExceptions([&] { return impl_->RefersToRecord(record); });
}
absl::StatusOr<bool> Index::RefersToNode(Address node) const {
  return WithoutExceptions([&] { return impl_->RefersToNode(node); });
}
absl::StatusOr<uint64_t> Index::Count() const {
  return WithoutExceptions([&] { return impl_->Count(); });
}
IndexStats Index::stats() const { return impl_->Stats(); }

}  // namespace daxkv::kv
