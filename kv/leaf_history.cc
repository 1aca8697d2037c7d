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
  // Relaxed: the mutex orders all changes.
  if (history->pins_ != 0 || history->late_.load(std::memory_order_relaxed) != nullptr) return;
  for (const std::atomic<Version*>& list : history->superseded_) {
    if (list.load(std::memory_order_relaxed) != nullptr) return;
  }
  histories_.Erase(IndexOf(leaf));
  rcu::Retire(history);
}

void LeafHistories::Link(LeafHistory& history, Version* version) {
  std::atomic<Version*>& list = history.ListOf(*version);
  Version* const first = list.load(std::memory_order_relaxed);
  version->previous = &list;
  version->next.store(first, std::memory_order_release);
  if (first != nullptr) first->previous = &version->next;
  // Readers acquire the version with all that it says.
  list.store(version, std::memory_order_release);
}

void LeafHistories::Unlink(Version* version) {
  Version* const next = version->next.load(std::memory_order_relaxed);
  version->previous->store(next, std::memory_order_release);
  if (next != nullptr) next->previous = version->previous;
  version->previous = nullptr;
}

void LeafHistories::Add(Address leaf, Version* version) noexcept {
  std::lock_guard<std::mutex> lock(StripeOf(leaf));
  version->leaf.store(leaf, std::memory_order_relaxed);
  Link(*histories_.Load(IndexOf(leaf)), version);
}

void LeafHistories::Move(Version* version, Address to) noexcept {
  // Only the holder of the leaf's lock, our caller, moves versions.
  const Address from = version->leaf.load(std::memory_order_relaxed);
  std::unique_lock<std::mutex> from_lock(StripeOf(from), std::defer_lock);
  std::unique_lock<std::mutex> to_lock(StripeOf(to), std::defer_lock);
  if (&StripeOf(from) == &StripeOf(to)) {
    from_lock.lock();
  } else {
    std::lock(from_lock, to_lock);
  }
  if (version->previous == nullptr) return;  // Removed meanwhile.
  Unlink(version);
  version->leaf.store(to, std::memory_order_relaxed);
  Link(*histories_.Load(IndexOf(to)), version);
  EraseIfEmpty(from, histories_.Load(IndexOf(from)));
}

void LeafHistories::Remove(Version* version) noexcept {
  for (;;) {
    const Address leaf = version->leaf.load(std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(StripeOf(leaf));
    // A split may have moved it.
    if (version->leaf.load(std::memory_order_relaxed) != leaf) continue;
    Unlink(version);
    EraseIfEmpty(leaf, histories_.Load(IndexOf(leaf)));
    break;
  }
  rcu::Retire(version);
}

}  // namespace daxkv::kv
