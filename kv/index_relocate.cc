// Records that compaction moves: where leaves hold them, and the stores that lead to their copies.
#include "kv/exceptions.h"
#include "kv/index_impl.h"

namespace daxkv::kv {

absl::Status Index::Impl::FindSlots(std::string_view from, size_t max_leaves,
                                    absl::FunctionRef<bool(Address)> wanted,
                                    std::vector<SlotPosition>* found, std::string* next_from,
                                    bool* end) {
  std::string at_key(from);
  *end = false;
  for (size_t leaves = 0; leaves < max_leaves && !*end; ++leaves) {
    const size_t found_before = found->size();
    std::string upper;
    absl::Status status = Run([&](Obstacle& obstacle) -> absl::Status {
      found->resize(found_before);
      LeafPosition at;
      absl::Status descended = DescendToLeaf(std::string_view(at_key), &at, obstacle);
      if (!descended.ok()) return descended;
      const Address next = NextOf(LoadWord(at.leaf->header.next));
      *end = next == kNullAddress;
      if (!*end) {
        absl::Status ready = CheckReady(next, 0, obstacle);
        if (!ready.ok()) return ready;
        absl::StatusOr<RecordView> fence = ViewRecord(*memory, Header(next).low_fence);
        if (absl::IsUnavailable(fence.status())) return obstacle.Absent(Header(next).low_fence);
        if (!fence.ok()) return fence.status();
        upper.assign(fence->key);
      }
      // A slot that is on its way right is met here, there, or twice; Relocate finds out.
      for (unsigned place = 0; place < kLeafSlots; ++place) {
        const uint64_t slot = LoadWord(at.leaf->slots[place]);
        if (slot != 0 && wanted(SlotAddress(slot))) found->push_back({at.address, place, slot});
      }
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    if (*end) break;
    if (upper <= at_key) {
      return absl::DataLossError("index: the leaves' low fences do not ascend");
    }
    at_key = std::move(upper);
  }
  *next_from = std::move(at_key);
  return absl::OkStatus();
}

// Slots that moved right are left behind while the count is odd: their records may have gone.
bool Index::Impl::Holds(const SlotPosition& at) const {
  const LeafNode& leaf = Leaf(at.leaf);
  const uint32_t split_count = SplitCount(leaf.header);
  return !IsSplitting(split_count) && LoadWord(leaf.slots[at.place]) == at.slot &&
         SplitCount(leaf.header) == split_count;
}

// The record of a slot that did not change, with the sequence that was copied, is the one that was
// copied: its number is its own, or that of a batch, which has no two records at one address. A
// snapshot's reader may go on with the old place: that is kept for the newest snapshot that shows
// the record, and for the older ones after it, as a version that is there at no number, since all
// find the copy in the slot.
absl::Status Index::Impl::RelocateInLeaf(absl::Span<const Move> moves, LeafNode& leaf,
                                         std::vector<bool>* moved, size_t first, uint64_t* kept) {
  const Address self = leaf.header.self;
  HistoryReserve reserve;
  if (absl::Status status = memory->ReserveRetires(moves.size()); !status.ok()) return status;
  for (;;) {
    CommitWindow window(&snapshots);
    if (window.sees_snapshot() && reserve.empty()) {
      window.Close();
      absl::Status status = reserve.Add(&snapshots, self, moves.size());
      if (!status.ok()) return status;
      continue;
    }
    size_t retired = 0;
    for (size_t i = 0; i < moves.size(); ++i) {
      const auto& [at, to, sequence] = moves[i];
      if (LoadWord(leaf.slots[at.place]) != at.slot) continue;
      rcu::ReadGuard guard;
      const absl::StatusOr<RecordView> old = ViewRecord(*memory, at.record());
      if (!old.ok() || old->sequence != sequence) continue;
      // After a crash the slot of a damaged record counts as free: another key may have a record
      // there now, which is not this slot's to move and to retire.
      if (KeyTag(old->key) != SlotTag(at.slot)) continue;
      bool is_kept = false;
      if (window.sees_snapshot()) {
        // What says that a record appeared late names its old place.
        const LeafHistory* history = snapshots.HistoryOf(self);
        if (history != nullptr && history->BeginOf(*old) != old->sequence) continue;
        is_kept =
            window.Supersede(&reserve, memory, self, *old, &leaf.slots[at.place], old->sequence);
      }
      // Commits. After a crash before this line is durable, the record is at its old place, which
      // is reused only when it is (Memory::Retire): nobody waits for that here.
      StoreWord(leaf.slots[at.place], MakeSlot(SlotTag(at.slot), to));
      memory->Flush(&leaf.slots[at.place], sizeof(uint64_t));
      if (is_kept) {
        memory->NoteKept(at.record());
        ++*kept;
      } else {
        memory->Retire(at.record(), &leaf.slots[at.place]);
        ++retired;
      }
      (*moved)[first + i] = true;
    }
    memory->CancelRetires(moves.size() - retired);
    return absl::OkStatus();
  }
}

absl::Status Index::Impl::Relocate(absl::Span<const Move> moves, std::vector<bool>* moved,
                                   uint64_t* kept) {
  absl::Status status;
  for (size_t begin = 0; begin < moves.size() && status.ok();) {
    size_t end = begin + 1;
    while (end < moves.size() && moves[end].at.leaf == moves[begin].at.leaf) ++end;
    LeafNode& leaf = Leaf(moves[begin].at.leaf);
    const LeafLock lock(leaf);
    status = CheckMedium();
    if (status.ok()) {
      // Without memory for histories nothing of this leaf is moved.
      RelocateInLeaf(moves.subspan(begin, end - begin), leaf, moved, begin, kept).IgnoreError();
    }
    begin = end;
  }
  return status;
}

absl::Status Index::FindSlots(std::string_view from, size_t max_leaves,
                              absl::FunctionRef<bool(Address)> wanted,
                              std::vector<SlotPosition>* found, std::string* next_from,
                              bool* end) const {
  return WithoutExceptions(
      [&] { return impl_->FindSlots(from, max_leaves, wanted, found, next_from, end); });
}
bool Index::Holds(const SlotPosition& at) const { return impl_->Holds(at); }
absl::Status Index::Relocate(absl::Span<const Move> moves, std::vector<bool>* moved,
                             uint64_t* kept) {
  return WithoutExceptions([&] { return impl_->Relocate(moves, moved, kept); });
}

}  // namespace daxkv::kv
