#include "kv/snapshots.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "kv/exceptions.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

constexpr unsigned kCounterBits = 40;

}  // namespace

Snapshots::Snapshots(uint64_t open_epoch) : last_number_(open_epoch << kCounterBits) {}

Snapshots::~Snapshots() {
  for (SnapshotEntry* entry = newest_.load(std::memory_order_relaxed); entry != nullptr;) {
    Version* version = entry->owned_.load(std::memory_order_acquire);
    while (version != nullptr) {
      Version* const next = version->next_owned;
      histories_.Remove(version);
      version = next;
    }
    delete std::exchange(entry, entry->older_);
  }
}

SnapshotEntry* Snapshots::Acquire() {
  auto made = std::make_unique<SnapshotEntry>();
  SnapshotEntry* entry = nullptr;
  bool settled = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    SnapshotEntry* const newest = newest_.load(std::memory_order_relaxed);
    // No number was taken since the newest one: nothing was stored since that it does not show.
    if (newest != nullptr && newest->number() == last_number_.load(std::memory_order_acquire)) {
      entry = newest;
      ++entry->references_;
      settled = entry->settled_;
    } else {
      entry = made.release();
      entry->made_ = std::chrono::steady_clock::now();
      entry->older_ = newest;
      if (newest != nullptr) newest->newer_ = entry;
      newest_.store(entry, std::memory_order_seq_cst);
      // Takes no number, but orders this among those that do (N1).
      const uint64_t number = last_number_.fetch_add(0, std::memory_order_seq_cst);
      entry->number_.store(number, std::memory_order_release);
    }
  }
  if (settled) return entry;
  windows_.WaitForAll();  // N2
  std::lock_guard<std::mutex> lock(mutex_);
  entry->settled_ = true;
  return entry;
}

SnapshotEntry* Snapshots::Share(SnapshotEntry* snapshot) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++snapshot->references_;
  return snapshot;
}

bool Snapshots::AnyBelow(uint64_t number) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const SnapshotEntry* entry = newest_.load(std::memory_order_relaxed); entry != nullptr;
         entry = entry->older_) {
      if (entry->number() < number) return true;
    }
  }
  releases_.WaitForAll();
  return false;
}

void Snapshots::Release(SnapshotEntry* snapshot) noexcept {
  const WriteWindows::Token release = releases_.Enter();
  while (snapshot != nullptr) {
    SnapshotEntry* older;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (--snapshot->references_ > 0) break;
      older = snapshot->older_;
      if (snapshot->newer_ != nullptr) {
        snapshot->newer_->older_ = older;
      } else {
        newest_.store(older, std::memory_order_seq_cst);
      }
      if (older != nullptr) {
        older->newer_ = snapshot->newer_;
        ++older->references_;  // It takes over below.
      }
    }
    // Afterwards no window knows the snapshot.
    windows_.WaitForAll();
    HandOn(*snapshot, older);
    delete snapshot;
    snapshot = older;
  }
  releases_.Leave(release);
}

void Snapshots::Own(SnapshotEntry& owner, Version* version) noexcept {
  // Releases the version to whoever takes the list.
  Version* first = owner.owned_.load(std::memory_order_relaxed);
  do {
    version->next_owned = first;
  } while (!owner.owned_.compare_exchange_weak(first, version, std::memory_order_release,
                                               std::memory_order_relaxed));
  if (version->kind == Version::Kind::kLate) return;
  owner.versions_.fetch_add(1, std::memory_order_relaxed);
  owner.size_bytes_.fetch_add(version->size_bytes, std::memory_order_relaxed);
}

void Snapshots::HandOn(SnapshotEntry& released, SnapshotEntry* older) noexcept {
  Version* version = released.owned_.exchange(nullptr, std::memory_order_acquire);
  while (version != nullptr) {
    Version* const next = version->next_owned;
    if (older != nullptr && version->since <= older->number()) {
      Own(*older, version);
    } else {
      Free(version);
    }
    version = next;
  }
}

void Snapshots::Free(Version* version) noexcept {
  rcu::ReadGuard guard;  // N4
  const Address record = version->record;
  const uint64_t* const link = version->link;
  Memory* const memory = version->memory;
  const bool superseded = version->kind == Version::Kind::kSuperseded;
  histories_.Remove(version);
  if (superseded) memory->Retire(record, link);
}

SnapshotStats Snapshots::Stats() const {
  SnapshotStats stats;
  std::lock_guard<std::mutex> lock(mutex_);
  const SnapshotEntry* oldest = nullptr;
  for (const SnapshotEntry* entry = newest_.load(std::memory_order_relaxed); entry != nullptr;
       entry = entry->older_) {
    ++stats.snapshots;
    stats.versions += entry->versions_.load(std::memory_order_relaxed);
    stats.size_bytes += entry->size_bytes_.load(std::memory_order_relaxed);
    oldest = entry;
  }
  if (oldest != nullptr) stats.oldest_age = std::chrono::steady_clock::now() - oldest->made_;
  return stats;
}

void Snapshots::ForEachKept(absl::FunctionRef<void(Address)> visit) const {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const SnapshotEntry* entry = newest_.load(std::memory_order_relaxed); entry != nullptr;
       entry = entry->older_) {
    for (const Version* version = entry->owned_.load(std::memory_order_acquire); version != nullptr;
         version = version->next_owned) {
      if (version->kind == Version::Kind::kSuperseded) visit(version->record);
    }
  }
}

// ---- HistoryReserve -----------------------------------------------------------------------------

HistoryReserve::~HistoryReserve() {
  while (spare_ != nullptr) delete Take();
  for (const Address leaf : leaves_) snapshots_->histories_.Unpin(leaf);
}

absl::Status HistoryReserve::Add(Snapshots* snapshots, Address leaf, size_t versions) {
  snapshots_ = snapshots;
  return WithoutExceptions([&] {
    for (; versions > 0; --versions) {
      auto* version = new Version;
      version->next_owned = spare_;
      spare_ = version;
    }
    leaves_.reserve(leaves_.size() + 1);
    absl::Status pinned = snapshots->histories_.Pin(leaf);
    if (pinned.ok()) leaves_.push_back(leaf);
    return pinned;
  });
}

Version* HistoryReserve::Take() noexcept { return std::exchange(spare_, spare_->next_owned); }

// ---- CommitWindow -------------------------------------------------------------------------------

CommitWindow::CommitWindow(Snapshots* snapshots) noexcept
    : snapshots_(snapshots), token_(snapshots->windows_.Enter()) {
  newest_ = snapshots->newest_.load(std::memory_order_seq_cst);
  // N3: a snapshot that is registered before the number is taken must be seen.
  for (SnapshotEntry* seen = nullptr; newest_ != seen && newest_ != nullptr;) {
    seen = newest_;
    fresh_number_ = snapshots->NextNumber();
    newest_ = snapshots->newest_.load(std::memory_order_seq_cst);
  }
}

void CommitWindow::Close() noexcept {
  if (snapshots_ == nullptr) return;
  std::exchange(snapshots_, nullptr)->windows_.Leave(token_);
}

uint64_t CommitWindow::Begin(HistoryReserve* reserve, Address leaf, Address record,
                             uint64_t number) noexcept {
  if (newest_ == nullptr) return number;
  // A snapshot without a number yet may get one on either side of ours: late suits both.
  if (!MustKeep(number)) return number;
  Version* const version = reserve->Take();
  version->kind = Version::Kind::kLate;
  version->since = number;
  version->until = fresh_number_;
  version->record = record;
  Keep(version, leaf);
  return fresh_number_;
}

bool CommitWindow::Supersede(HistoryReserve* reserve, Memory* memory, Address leaf,
                             const RecordView& old, const uint64_t* link, uint64_t until) noexcept {
  if (newest_ == nullptr) return false;
  uint64_t since = old.sequence;
  {
    rcu::ReadGuard guard;
    const LeafHistory* history = snapshots_->HistoryOf(leaf);
    if (history != nullptr) since = history->BeginOf(old);
  }
  if (!MustKeep(since)) return false;
  Version* const version = reserve->Take();
  version->kind = Version::Kind::kSuperseded;
  version->since = since;
  version->until = until;
  version->record = old.address;
  version->memory = memory;
  version->link = link;
  version->tag = KeyTag(old.key);
  version->size_bytes = static_cast<uint32_t>(
      std::min<uint64_t>(RecordSizeBytes(old.key.size(), old.value.size()), UINT32_MAX));
  Keep(version, leaf);
  return true;
}

void CommitWindow::Keep(Version* version, Address leaf) noexcept {
  snapshots_->histories_.Add(leaf, version);
  Snapshots::Own(*newest_, version);
}

void CommitWindow::MoveVersions(Address from,
                                absl::FunctionRef<Address(const Version&)> home) noexcept {
  snapshots_->histories_.MoveVersions(from, home);
}

}  // namespace daxkv::kv
