#include "kv/leaf_history.h"

#include <memory>

namespace daxkv::kv {

uint64_t LeafHistory::BeginOf(const RecordView& record) const {
  // Its address may be used again while a late version is here, even for an older record that
  // compaction moves: the number tells them apart.
  for (const Version* version = late_.load(std::memory_order_acquire); version != nullptr;
       version = version->next.load(std::memory_order_acquire)) {
    if (version->record == record.address && version->since == record.sequence) {
      return version->until;
    }
  }
  return record.sequence;
}

bool LeafHistory::Holds(Address record) const {
  for (const std::atomic<Version*>& list : superseded_) {
    for (const Version* version = list.load(std::memory_order_acquire); version != nullptr;
         version = version->next.load(std::memory_order_acquire)) {
      if (version->record == record) return true;
    }
  }
  return false;
}

absl::Status LeafHistories::Pin(Address leaf) {
  std::lock_guard<std::mutex> lock(StripeOf(leaf));
  LeafHistory* history = histories_.Load(IndexOf(leaf));
  if (history == nullptr) {
    auto made = std::make_unique<LeafHistory>();
    absl::Status inserted = histories_.Insert(IndexOf(leaf), made.get());
    if (!inserted.ok()) return inserted;
    history = made.release();
  }
  ++history->pins_;
  return absl::OkStatus();
}

void LeafHistories::Unpin(Address leaf) noexcept {
  std::lock_guard<std::mutex> lock(StripeOf(leaf));
  LeafHistory* history = histories_.Load(IndexOf(leaf));
  --history->pins_;
  EraseIfEmpty(leaf, history);
}

void LeafHistories::EraseIfEmpty(Address leaf, LeafHistory* history) {
  if (history->pins_ != 0 || history->versions_ != 0) return;
  histories_.Erase(IndexOf(leaf));
  rcu::Retire(history);
}

void LeafHistories::Link(LeafHistory& history, Version* version) {
  std::atomic<Version*>& list = history.ListOf(*version);
  // Relaxed: the mutex orders all changes. Readers that came to the version while it was in another
  // list acquire its new successor.
  version->next.store(list.load(std::memory_order_relaxed), std::memory_order_release);
  // Readers acquire the version with all that it says.
  list.store(version, std::memory_order_release);
  ++history.versions_;
}

void LeafHistories::Unlink(LeafHistory& history, const Version* version) {
  std::atomic<Version*>* link = &history.ListOf(*version);
  while (link->load(std::memory_order_relaxed) != version) {
    link = &link->load(std::memory_order_relaxed)->next;
  }
  link->store(version->next.load(std::memory_order_relaxed), std::memory_order_release);
  --history.versions_;
}

void LeafHistories::Add(Address leaf, Version* version) noexcept {
  std::lock_guard<std::mutex> lock(StripeOf(leaf));
  version->leaf.store(leaf, std::memory_order_relaxed);
  Link(*histories_.Load(IndexOf(leaf)), version);
}

void LeafHistories::Move(Version* version, Address to) noexcept {
  // Only the holder of the leaf's lock, our caller, moves versions.
  const Address from = version->leaf.load(std::memory_order_relaxed);
  if (from == kNullAddress) return;  // Removed meanwhile.
  std::unique_lock<std::mutex> from_lock(StripeOf(from), std::defer_lock);
  std::unique_lock<std::mutex> to_lock(StripeOf(to), std::defer_lock);
  if (&StripeOf(from) == &StripeOf(to)) {
    from_lock.lock();
  } else {
    std::lock(from_lock, to_lock);
  }
  if (version->leaf.load(std::memory_order_relaxed) != from) return;  // Removed just now.
  LeafHistory* const left = histories_.Load(IndexOf(from));
  Unlink(*left, version);
  version->leaf.store(to, std::memory_order_relaxed);
  Link(*histories_.Load(IndexOf(to)), version);
  EraseIfEmpty(from, left);
}

void LeafHistories::Remove(Version* version) noexcept {
  for (;;) {
    const Address leaf = version->leaf.load(std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(StripeOf(leaf));
    // A split may have moved it.
    if (version->leaf.load(std::memory_order_relaxed) != leaf) continue;
    LeafHistory* const history = histories_.Load(IndexOf(leaf));
    Unlink(*history, version);
    version->leaf.store(kNullAddress, std::memory_order_relaxed);
    EraseIfEmpty(leaf, history);
    break;
  }
  rcu::Retire(version);
}

}  // namespace daxkv::kv
