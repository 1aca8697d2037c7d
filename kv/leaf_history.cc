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
      // Acquire: pairs with the release in Remove, after which the record may be retired.
      if (version->record == record && !version->removed.load(std::memory_order_acquire)) {
        return true;
      }
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
  Tidy(leaf, history);
}

void LeafHistories::Link(LeafHistory& history, Version* version) {
  std::atomic<Version*>& list = history.ListOf(*version);
  // Relaxed: the mutex orders all changes. A reader that stands on a version which moves goes on in
  // its new list, and learns of the split afterwards (H1).
  version->next.store(list.load(std::memory_order_relaxed), std::memory_order_release);
  // Readers acquire the version with all that it says.
  list.store(version, std::memory_order_release);
  ++history.versions_;
}

template <typename Visit>
void LeafHistories::ForEachList(LeafHistory& history, Visit visit) {
  for (std::atomic<Version*>& list : history.superseded_) visit(list);
  visit(history.late_);
}

template <typename Wanted>
void LeafHistories::TakeOut(LeafHistory& history, Wanted wanted) {
  ForEachList(history, [&](std::atomic<Version*>& list) {
    std::atomic<Version*>* link = &list;
    while (Version* const version = link->load(std::memory_order_relaxed)) {
      // Before `wanted`, which may use it for something else.
      Version* const next = version->next.load(std::memory_order_relaxed);
      if (wanted(version)) {
        link->store(next, std::memory_order_release);
        --history.versions_;
      } else {
        link = &version->next;
      }
    }
  });
}

void LeafHistories::Tidy(Address leaf, LeafHistory* history) {
  if (history->removed_ > 0 && history->removed_ * 2 >= history->versions_) {
    TakeOut(*history, [history](Version* version) {
      if (!version->removed.load(std::memory_order_relaxed)) return false;
      --history->removed_;
      rcu::Retire(version);
      return true;
    });
  }
  if (history->pins_ != 0 || history->versions_ != 0) return;
  histories_.Erase(IndexOf(leaf));
  rcu::Retire(history);
}

void LeafHistories::Add(Address leaf, Version* version) noexcept {
  std::lock_guard<std::mutex> lock(StripeOf(leaf));
  version->leaf.store(leaf, std::memory_order_relaxed);
  Link(*histories_.Load(IndexOf(leaf)), version);
}

void LeafHistories::MoveVersions(Address leaf,
                                 absl::FunctionRef<Address(const Version&)> home) noexcept {
  rcu::ReadGuard guard;
  LeafHistory* const history = histories_.Load(IndexOf(leaf));
  if (history == nullptr) return;
  // Without the mutex: it looks at the record. Removed ones may have none any more.
  ForEachList(*history, [&](std::atomic<Version*>& list) {
    for (Version* version = list.load(std::memory_order_acquire); version != nullptr;
         version = version->next.load(std::memory_order_acquire)) {
      const bool removed = version->removed.load(std::memory_order_acquire);
      version->destination = removed ? leaf : home(*version);
    }
  });
  Version* moving = nullptr;
  {
    std::lock_guard<std::mutex> lock(StripeOf(leaf));
    // Gone, if its versions have gone meanwhile.
    if (histories_.Load(IndexOf(leaf)) != history) return;
    TakeOut(*history, [&](Version* version) {
      if (version->destination == leaf || version->removed.load(std::memory_order_relaxed)) {
        return false;
      }
      version->leaf.store(version->destination, std::memory_order_relaxed);
      version->next.store(moving, std::memory_order_release);
      moving = version;
      return true;
    });
    Tidy(leaf, history);
  }
  while (moving != nullptr) {
    Version* const version = moving;
    moving = version->next.load(std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(StripeOf(version->destination));
    Link(*histories_.Load(IndexOf(version->destination)), version);
  }
}

void LeafHistories::Remove(Version* version) noexcept {
  for (;;) {
    const Address leaf = version->leaf.load(std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(StripeOf(leaf));
    // A split may have moved it.
    if (version->leaf.load(std::memory_order_relaxed) != leaf) continue;
    version->removed.store(true, std::memory_order_release);
    LeafHistory* const history = histories_.Load(IndexOf(leaf));
    ++history->removed_;
    return Tidy(leaf, history);
  }
}

}  // namespace daxkv::kv
