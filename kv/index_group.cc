// Many entries at once, and commits of leaf splits.
//
// A round locks up to kLeavesPerRound leaves in ascending order, plans all of them, and then
// changes the medium in three steps, each made durable by one drain:
//   1  new leaves and fences are written (and the group's records become durable)
//   2  links and slots are stored: each store commits its split, insertion, update or removal
//   3  slots that moved are cleared on the left, and keys that needed their places are stored
// Without a split, step 3 is left out. After a crash behind step 2, the flag in a left leaf's link
// makes its first toucher do the clearing.
#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "kv/index_impl.h"

namespace daxkv::kv {
namespace {

constexpr size_t kLeavesPerRound = 256;

}  // namespace

// How many of `entries` lie below the leaf's right neighbour's fence. The caller holds the lock.
absl::StatusOr<size_t> Index::Impl::EntriesWithin(absl::Span<const GroupEntry> entries,
                                                  const LeafPosition& at) {
  if (entries.size() == 1) return 1;
  const Address next = NextOf(LoadWord(at.leaf->header.next));
  if (next == kNullAddress) return entries.size();
  if (absl::Status status = SetUp(next, 0); !status.ok()) return status;
  absl::StatusOr<std::string_view> fence = LowFence(Header(next));
  if (!fence.ok()) return fence.status();
  const auto end = std::lower_bound(entries.begin(), entries.end(), *fence,
                                    [](const GroupEntry& entry, std::string_view key) {
                                      return std::string_view(entry.key) < key;
                                    });
  return static_cast<size_t>(end - entries.begin());
}

// What each entry does to the leaf. *taken: how many of them; the status says what kept the next
// one from it.
absl::Status Index::Impl::PlanEntries(absl::Span<const GroupEntry> entries, LeafPlan* plan,
                                      size_t* taken) {
  for (*taken = 0; *taken < entries.size(); ++*taken) {
    const GroupEntry& entry = entries[*taken];
    const uint16_t tag = KeyTag(entry.key);
    Hit hit;
    absl::Status status = ProbeLocked(plan->at, entry.key, tag, &hit);
    if (!status.ok()) return status;
    const bool looks = entry.address == kNullAddress || entry.expected != nullptr;
    if (hit.place < 0 && looks && hit.lost != kNullAddress) return LostRecordError(hit.lost);
    if (entry.expected != nullptr && !hit.damage.ok()) return hit.damage;
    if (!Meets(hit, entry.expected)) return absl::Status(absl::StatusCode::kAborted, "");
    const bool removes = entry.address == kNullAddress;
    const uint64_t slot = removes ? 0 : MakeSlot(tag, entry.address);
    if (hit.place < 0) {
      if (removes && !hit.damage.ok()) return hit.damage;
      if (!removes && !entry.numbered_later && !IsAboveRemoved(entry.address)) {
        return absl::Status(absl::StatusCode::kOutOfRange, "");
      }
      if (!removes) plan->insertions.push_back({entry.key, slot});
      continue;
    }
    if (!removes && !entry.numbered_later && IsNewer(hit.record, entry.address)) {
      return absl::Status(absl::StatusCode::kAborted, "");
    }
    plan->replacements.push_back({static_cast<unsigned>(hit.place), slot, hit.record});
    plan->image.slots[hit.place] = slot;
    ++plan->existed;
  }
  return absl::OkStatus();
}

// Plans what the leaf plan->at, which is locked, takes of `entries`. If an entry can't be had, the
// plan ends before it and the status says why; a plan of no entries is void.
absl::Status Index::Impl::PlanLeaf(absl::Span<const GroupEntry> entries, LeafPlan* plan) {
  absl::StatusOr<size_t> within = EntriesWithin(entries, plan->at);
  if (!within.ok()) return within.status();
  entries = entries.first(*within);
  for (const GroupEntry& entry : entries) {
    if (entry.address != kNullAddress) {
      ForgetStray(*plan->at.leaf, MakeSlot(KeyTag(entry.key), entry.address));
    }
  }
  plan->image = LeafImage::Of(*plan->at.leaf);
  size_t taken;
  absl::Status stopped = PlanEntries(entries, plan, &taken);
  const LeafImage without_insertions = plan->image;
  const bool fits = std::all_of(
      plan->insertions.begin(), plan->insertions.end(),
      [plan](const Insertion& insertion) { return plan->image.Place(insertion.slot) >= 0; });
  if (!fits) {
    plan->image = without_insertions;
    if (absl::Status status = PlanSplit(plan); !status.ok()) return status;
  }
  plan->entries = taken;
  return stopped;
}

// Locks and plans leaves, as many as a round may have. If a leaf can't be had, those before it are
// planned and the status says why.
absl::Status Index::Impl::PlanRound(absl::Span<const GroupEntry> entries,
                                    std::vector<LeafPlan>* plans, size_t* planned) {
  *planned = 0;
  absl::Status stopped;
  while (*planned < entries.size() && plans->size() < kLeavesPerRound && stopped.ok()) {
    LeafPlan plan;
    stopped = WithoutExceptions([&] {
      absl::Status locked = LockLeafFor(entries[*planned].key, &plan.at, &plan.lock);
      return locked.ok() ? PlanLeaf(entries.subspan(*planned), &plan) : locked;
    });
    if (plan.entries == 0) break;
    const size_t taken = plan.entries;
    plans->push_back(std::move(plan));
    *planned += taken;
  }
  return stopped;
}

absl::Status Index::Impl::UpsertSorted(absl::Span<const GroupEntry> entries, size_t* done,
                                       uint64_t* replaced) {
  *done = 0;
  while (*done < entries.size()) {
    RoundPart part = {this, {}};
    size_t planned = 0;
    const absl::Status stopped = PlanRound(entries.subspan(*done), &part.plans, &planned);
    if (!part.plans.empty()) {
      const absl::Status status = CommitRound(absl::MakeSpan(&part, 1), /*atomic=*/nullptr);
      if (absl::IsResourceExhausted(status)) return status;
      *done += planned;
      for (const LeafPlan& plan : part.plans) {
        if (replaced != nullptr) *replaced += plan.existed;
      }
      if (!status.ok()) return status;
    }
    if (!stopped.ok()) return stopped;
  }
  return absl::OkStatus();
}

// Writes the plan's new leaves and their fences, linked to each other and to the right neighbour.
// Each is born locked. Nothing leads to them yet.
void Index::Impl::WriteNewLeaves(const LeafPlan& plan) noexcept {
  for (size_t i = 0; i < plan.rights.size(); ++i) {
    const NewLeaf& right = plan.rights[i];
    WriteRecord(*memory, right.fence.address(), kFenceRecord, /*sequence=*/0, right.separator,
                std::string_view(reinterpret_cast<const char*>(&right.address), sizeof(Address)));
    const uint64_t next = i + 1 < plan.rights.size() ? plan.rights[i + 1].address
                                                     : NextOf(LoadWord(plan.at.leaf->header.next));
    WriteHeader(right.address, 0, right.fence.address(), next, NewLockedVersion(),
                right.image.overflow);
    LeafNode& leaf = Leaf(right.address);
    std::memcpy(leaf.slots, right.image.slots, sizeof(leaf.slots));
    memory->Flush(&leaf, sizeof(leaf));
  }
}

// Updates go in place even where their slots move: the old record must be unlinked when it is
// retired.
void Index::Impl::StoreReplacements(const LeafPlan& plan, CommitWindow& window,
                                    HistoryReserve* reserve) noexcept {
  for (const Replacement& replacement : plan.replacements) {
    StoreSlot(window, reserve, *plan.at.leaf, replacement.place, replacement.slot,
              &replacement.old);
  }
}

namespace {

// The leaf that covers `key` once the plan's split is done.
Address HomeOf(const LeafPlan& plan, std::string_view key) {
  Address home = plan.at.address;
  for (const NewLeaf& right : plan.rights) {
    if (key < right.separator) break;
    home = right.address;
  }
  return home;
}

// The leaf whose slots will lead to `record`.
Address HolderOf(const LeafPlan& plan, Address record) {
  for (const NewLeaf& right : plan.rights) {
    const auto leads_there = [record](uint64_t slot) { return SlotAddress(slot) == record; };
    if (std::any_of(std::begin(right.image.slots), std::end(right.image.slots), leads_there)) {
      return right.address;
    }
  }
  return plan.at.address;
}

}  // namespace

// Commits a split: with this store the right leaves exist and hold what is at or above their
// fences. The count is odd around it (X4), so that nobody takes the old bounds for the new ones.
// Versions follow their keys before that (leaf_history.h, H1).
void Index::Impl::LinkNewLeaves(LeafPlan& plan, CommitWindow& window,
                                HistoryReserve* reserve) noexcept {
  LeafNode& leaf = *plan.at.leaf;
  for (NewLeaf& right : plan.rights) {
    right.leaf.Release();
    right.fence.Release();
  }
  StepSplitCount(leaf);
  if (window.sees_snapshot()) {
    for (const Insertion& insertion : plan.insertions) {
      const Address home = HomeOf(plan, insertion.key);
      if (home == plan.at.address) continue;  // StoreImage stores it.
      window.Begin(reserve, home, SlotAddress(insertion.slot), NumberOf(insertion.slot));
    }
  }
  window.MoveVersions(plan.at.address, [&](const Version& version) {
    // A late version follows the slot that it tells of, and no longer matters without one.
    if (version.kind == Version::Kind::kLate) return HolderOf(plan, version.record);
    const absl::StatusOr<RecordView> record = ViewRecord(*memory, version.record);
    return record.ok() ? HomeOf(plan, record->key) : plan.at.address;
  });
  StoreWord(leaf.header.next, plan.rights.front().address | kSplitUnfinished);
  StepSplitCount(leaf);
  memory->Flush(&leaf.header, sizeof(leaf.header));
}

// Brings the leaf's slots to the plan's image. Each store commits an insertion, or clears a slot
// that moved.
void Index::Impl::StoreImage(const LeafPlan& plan, CommitWindow& window,
                             HistoryReserve* reserve) noexcept {
  LeafNode& leaf = *plan.at.leaf;
  // While slots change, lookups go as far as either overflow word says.
  const uint64_t before = LoadWord(leaf.header.volatile_overflow);
  StoreWord(leaf.header.volatile_overflow, before | plan.image.overflow);
  for (unsigned line = 0; line < kLeafLines; ++line) {
    bool changed = false;
    for (unsigned i = line * kSlotsPerLine; i < (line + 1) * kSlotsPerLine; ++i) {
      const uint64_t slot = plan.image.slots[i];
      if (LoadWord(leaf.slots[i]) == slot) continue;
      if (slot != 0 && window.sees_snapshot()) {
        window.Begin(reserve, plan.at.address, SlotAddress(slot), NumberOf(slot));
      }
      StoreWord(leaf.slots[i], slot);
      changed = true;
    }
    if (changed) {
      memory->Flush(leaf.slots + size_t{line} * kSlotsPerLine, kSlotsPerLine * sizeof(uint64_t));
    }
  }
  StoreWord(leaf.header.volatile_overflow, plan.image.overflow);
}

// The slots that moved are durably gone, so the flag may go, whenever this line becomes durable.
void Index::Impl::FinishSplit(const LeafPlan& plan) noexcept {
  NodeHeader& header = plan.at.leaf->header;
  StoreWord(header.next, NextOf(LoadWord(header.next)));
  memory->Flush(&header, sizeof(header));
}

absl::Status Index::Impl::ReserveHistory(const std::vector<LeafPlan>& plans, bool snapshots_seen,
                                         HistoryReserve* reserve) {
  for (const LeafPlan& plan : plans) {
    // The leaf is locked, so without a snapshot it gets none.
    if (!snapshots_seen && !snapshots.HasHistory(plan.at.address)) continue;
    for (const NewLeaf& right : plan.rights) {
      absl::Status status = reserve->Add(&snapshots, right.address, 0);
      if (!status.ok()) return status;
    }
    if (!snapshots_seen) continue;
    absl::Status status = reserve->Add(&snapshots, plan.at.address,
                                       2 * plan.replacements.size() + plan.insertions.size());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Without snapshots the whole round has one window: whoever takes the first one waits for it. With
// snapshots each leaf has its own, except that an atomic change is seen by later ones whole.
absl::Status Index::Impl::CommitRound(absl::Span<RoundPart> parts, AtomicCommit* atomic) {
  for (const RoundPart& part : parts) {
    size_t retires = 0;
    for (const LeafPlan& plan : part.plans) retires += plan.replacements.size();
    absl::Status status = part.index->memory->ReserveRetires(retires);
    if (!status.ok()) return status;
  }
  Snapshots& snapshots = parts.front().index->snapshots;
  HistoryReserve reserve;
  std::optional<CommitWindow> round(std::in_place, &snapshots);
  const bool snapshots_seen = round->sees_snapshot();
  if (snapshots_seen) round.reset();
  for (const RoundPart& part : parts) {
    absl::Status status = part.index->ReserveHistory(part.plans, snapshots_seen, &reserve);
    if (!status.ok()) return status;
  }
  if (snapshots_seen && atomic != nullptr) round.emplace(&snapshots);
  return CommitPlans(parts, atomic, round.has_value() ? &*round : nullptr, &reserve);
}

// What fails for one index fails for all: nobody knows what is durable.
absl::Status Index::Impl::AllAfterDrain(absl::Span<RoundPart> parts,
                                        const absl::Status& drained) noexcept {
  if (drained.ok()) return drained;
  for (const RoundPart& part : parts.subspan(1)) part.index->AfterDrain(drained).IgnoreError();
  return parts.front().index->AfterDrain(drained);
}

// The indexes are of one pool.
absl::Status Index::Impl::DrainAll(absl::Span<RoundPart> parts) noexcept {
  absl::Status status = WithoutExceptions([&] { return parts.front().index->memory->Drain(); });
  for (const RoundPart& part : parts.subspan(1)) {
    if (!status.ok()) break;
    status = WithoutExceptions([&] { return part.index->memory->DrainRest(); });
  }
  return AllAfterDrain(parts, status);
}

// Steps 2 and 3.
absl::Status Index::Impl::StorePlans(absl::Span<RoundPart> parts, CommitWindow* round,
                                     HistoryReserve* reserve) noexcept {
  Snapshots& snapshots = parts.front().index->snapshots;
  const auto in_window = [&](auto store) {
    if (round != nullptr) {
      store(*round);
    } else {
      CommitWindow window(&snapshots);
      store(window);
    }
  };
  bool splits = false;
  for (RoundPart& part : parts) {
    Impl& index = *part.index;
    for (LeafPlan& plan : part.plans) {
      in_window([&](CommitWindow& window) {
        index.StoreReplacements(plan, window, reserve);
        if (plan.rights.empty()) {
          index.StoreImage(plan, window, reserve);
        } else {
          index.LinkNewLeaves(plan, window, reserve);
          splits = true;
        }
      });
    }
  }
  absl::Status status = DrainAll(parts);
  if (!status.ok() || !splits) return status;
  for (const RoundPart& part : parts) {
    for (const LeafPlan& plan : part.plans) {
      if (plan.rights.empty()) continue;
      in_window([&](CommitWindow& window) { part.index->StoreImage(plan, window, reserve); });
    }
  }
  status = DrainAll(parts);
  // After a failed drain the leaves stay as they are, for readers; no writer changes them again.
  if (!status.ok()) return status;
  for (const RoundPart& part : parts) {
    for (const LeafPlan& plan : part.plans) {
      if (!plan.rights.empty()) part.index->FinishSplit(plan);
    }
  }
  return status;
}

bool Index::Impl::LeadsToNewRecords(absl::Span<RoundPart> parts) {
  const auto leads_to_new = [](const LeafPlan& plan) {
    return !plan.rights.empty() || !plan.insertions.empty() ||
           std::any_of(plan.replacements.begin(), plan.replacements.end(),
                       [](const Replacement& replacement) { return replacement.slot != 0; });
  };
  return std::any_of(parts.begin(), parts.end(), [&](const RoundPart& part) {
    return std::any_of(part.plans.begin(), part.plans.end(), leads_to_new);
  });
}

absl::Status Index::Impl::CommitPlans(absl::Span<RoundPart> parts, AtomicCommit* atomic,
                                      CommitWindow* round, HistoryReserve* reserve) noexcept {
  const auto also = [&](absl::Status (AtomicCommit::*step)()) {
    return AllAfterDrain(parts, WithoutExceptions([&] { return (atomic->*step)(); }));
  };
  for (const RoundPart& part : parts) {
    for (const LeafPlan& plan : part.plans) part.index->WriteNewLeaves(plan);
  }
  // Removals alone lead to nothing new.
  absl::Status status =
      atomic != nullptr || LeadsToNewRecords(parts) ? DrainAll(parts) : absl::OkStatus();
  if (status.ok() && atomic != nullptr) status = also(&AtomicCommit::Commit);
  if (!status.ok()) return status;  // Nothing leads to the new leaves: they go back.
  status = StorePlans(parts, round, reserve);
  if (status.ok() && atomic != nullptr) status = also(&AtomicCommit::Finish);
  for (RoundPart& part : parts) {
    Impl& index = *part.index;
    for (LeafPlan& plan : part.plans) {
      plan.lock.Unlock();
      for (const NewLeaf& right : plan.rights) {
        // Locked until its parent has it: what is not in a view is not rewritten, so it can't go
        // (X10).
        if (status.ok()) index.AddToParent({0, right.address, right.separator});
        UnlockLeaf(index.Leaf(right.address));
      }
    }
  }
  return status;
}

}  // namespace daxkv::kv
