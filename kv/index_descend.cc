// From the root to the leaf that covers a key.
#include <sched.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"

namespace daxkv::kv {

absl::Status Index::Impl::Overcome(const Obstacle& obstacle, GoneExtents* gone) {
  switch (obstacle.kind) {
    case Obstacle::Kind::kAbsentExtent: {
      absl::Status status = memory->FaultIn(obstacle.address);
      if (!absl::IsDataLoss(status) || obstacle.WhyGone(obstacle.address) != nullptr) return status;
      gone->push_back({obstacle.address, std::move(status)});
      return absl::OkStatus();
    }
    case Obstacle::Kind::kNodeNotReady:
      return SetUp(obstacle.address, obstacle.level);
    case Obstacle::Kind::kNoView:
      return BuildView(obstacle.frame);
    case Obstacle::Kind::kSplitUnderWay:
      sched_yield();
      return absl::OkStatus();
    case Obstacle::Kind::kNone:
      break;
  }
  return absl::InternalError("an attempt was given up without a reason");
}

namespace {

// The child of an inner node on the way to `target`, which its right neighbour does not hold.
unsigned SearchIn(const InnerView& view, const LeafTarget& target) {
  switch (target.kind) {
    case LeafTarget::Kind::kCovering:
      break;
    case LeafTarget::Kind::kBefore:
      return view.SearchBefore(target.key);
    case LeafTarget::Kind::kLast:
      return view.size() - 1;
  }
  return view.Search(target.key);
}

}  // namespace

const InnerView* Index::Impl::ViewToSearch(const LeafTarget& target, InnerFrame** frame) {
  for (;;) {
    const InnerView* view = (*frame)->view.load(std::memory_order_acquire);
    if (view == nullptr) return nullptr;
    view->PrefetchSearch();
    if (view->right() == nullptr || !target.IsRightOf(view->right_fence())) return view;
    // BuildView and SplitInner make sure that fences ascend along `right`, so this ends.
    *frame = view->right();
  }
}

absl::Status Index::Impl::DescendToFrame(const LeafTarget& target, unsigned level,
                                         InnerFrame** frame, const InnerView** view,
                                         Obstacle& obstacle) const {
  *frame = root_frame.load(std::memory_order_acquire);
  for (;;) {
    *view = ViewToSearch(target, frame);
    if (*view == nullptr) return obstacle.NoView(*frame);
    if ((*frame)->level == level) return absl::OkStatus();
    *frame = (*view)->frame(SearchIn(**view, target));
  }
}

absl::Status Index::Impl::DescendToLeaf(const LeafTarget& target, LeafPosition* at,
                                        Obstacle& obstacle) const {
  LeafGuess guess;
  absl::Status status = GuessLeaf(target, &guess, obstacle);
  return status.ok() ? GoToCoveringLeaf(target, guess, at, obstacle) : status;
}

absl::Status Index::Impl::GuessLeaf(const LeafTarget& target, LeafGuess* guess,
                                    Obstacle& obstacle) const {
  *guess = {root_leaf, InnerView::kUnknownSplitCount, nullptr, 0};
  if (root_frame.load(std::memory_order_acquire) == nullptr) return absl::OkStatus();
  InnerFrame* frame;
  const InnerView* view;
  absl::Status status = DescendToFrame(target, 1, &frame, &view, obstacle);
  if (!status.ok()) return status;
  const unsigned child = SearchIn(*view, target);
  // Set up when the view was built. If it has gone since, it is not reused before our ReadGuard
  // ends.
  *guess = {view->leaf(child), view->split_count(child), view, child};
  return absl::OkStatus();
}

// The way from a parent's view to the covering leaf. If the leaf's split count is the one that the
// view noted, the view's separators bound it and no other line is read. Otherwise the right
// neighbour's low fence tells.
absl::Status Index::Impl::GoToCoveringLeaf(const LeafTarget& target, const LeafGuess& guess,
                                           LeafPosition* at, Obstacle& obstacle) const {
  Address address = guess.address;
  uint32_t expected = guess.split_count;
  std::string_view last_fence;
  bool went_right = false;
  for (;;) {
    LeafNode& leaf = Leaf(address);
    const uint64_t version = LoadWord(leaf.header.volatile_version);
    *at = {address, &leaf, SplitCountIn(version), version};
    if (at->split_count == expected) return absl::OkStatus();
    if (version & kDeadBit) return obstacle.SplitUnderWay();
    const Address next = NextOf(LoadWord(leaf.header.next));
    if (next == kNullAddress) return absl::OkStatus();
    absl::Status status = CheckReady(next, 0, obstacle);
    if (!status.ok()) return status;
    absl::StatusOr<RecordView> fence = ViewRecord(*memory, Header(next).low_fence);
    if (!fence.ok()) {
      return absl::IsUnavailable(fence.status()) ? obstacle.Absent(Header(next).low_fence)
                                                 : fence.status();
    }
    if (went_right && fence->key.compare(last_fence) <= 0) {
      return absl::DataLossError(absl::StrCat("index node at pool offset ", next,
                                              ": its low fence is not above its left neighbour's"));
    }
    if (!target.IsRightOf(fence->key)) return absl::OkStatus();
    last_fence = fence->key;
    went_right = true;
    address = next;
    expected = InnerView::kUnknownSplitCount;
  }
}

void Index::Impl::PrefetchLeaf(Address leaf, uint16_t tag) const {
  const LeafNode& node = Leaf(leaf);
  __builtin_prefetch(&node.header);
  __builtin_prefetch(node.slots + HomeLine(tag) * kSlotsPerLine);
}

void Index::Impl::PrefetchLeaf(Address leaf) const {
  const LeafNode& node = Leaf(leaf);
  __builtin_prefetch(&node.header);
  for (unsigned line = 0; line < kLeafLines; ++line) {
    __builtin_prefetch(node.slots + size_t{line} * kSlotsPerLine);
  }
}

void Index::Impl::PrefetchRecords(const LeafNode& leaf, uint16_t tag, uint64_t size_bytes) const {
  const uint64_t* slots = leaf.slots + HomeLine(tag) * kSlotsPerLine;
  for (unsigned matches = MatchTags(slots, tag); matches != 0; matches &= matches - 1) {
    PrefetchRecord(*memory, SlotAddress(LoadWord(slots[__builtin_ctz(matches)])), size_bytes);
  }
}

absl::Status Index::Impl::CheckLost(const LeafPosition& at) const {
  if (__builtin_expect(!memory->AnyLost(), true)) return absl::OkStatus();
  if (!memory->IsLost(at.address, kLeafSizeBytes)) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("index leaf at pool offset ", at.address, " is lost to a media error"));
}

namespace {

// Why a record that a slot of tag `tag` leads to, and that is not the key's, should not be there.
absl::Status CheckOther(const LeafNode& leaf, uint16_t tag, uint64_t slot,
                        const absl::StatusOr<RecordView>& record) {
  if (!record.ok()) return record.status();
  if (record->kind == kValueRecord && KeyTag(record->key) == tag) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("index leaf at pool offset ", leaf.header.self,
                                          ": a slot leads to the record at ", SlotAddress(slot),
                                          ", whose key has another tag; repair the store"));
}

}  // namespace

// A record with the very key is the key's whatever else is damaged; so the search goes on past
// slots that can't be read.
absl::Status Index::Impl::Probe(const LeafNode& leaf, std::string_view key, uint16_t tag, Hit* hit,
                                Obstacle& obstacle, uint64_t expected_size_bytes) const {
  *hit = Hit();
  const uint64_t overflow = LoadWord(leaf.header.volatile_overflow);
  unsigned line = HomeLine(tag);
  for (unsigned probe = 0; probe < kProbeLines; ++probe, line = LineAfter(line)) {
    const uint64_t* slots = leaf.slots + line * kSlotsPerLine;
    for (unsigned matches = MatchTags(slots, tag); matches != 0; matches &= matches - 1) {
      const unsigned i = static_cast<unsigned>(__builtin_ctz(matches));
      const uint64_t slot = LoadWord(slots[i]);
      // It may have been emptied since, or be an empty slot that looks like tag 0.
      if (slot == 0 || SlotTag(slot) != tag) continue;
      if (expected_size_bytes != 0) PrefetchRecord(*memory, SlotAddress(slot), expected_size_bytes);
      absl::StatusOr<RecordView> record = ViewRecord(*memory, SlotAddress(slot));
      if (!record.ok()) {
        const bool absent = absl::IsUnavailable(record.status());
        // Where header or key are lost, others of the tag are looked at.
        if (absent ? memory->IsLost(SlotAddress(slot), 1) : IsLostRecord(SlotAddress(slot))) {
          hit->lost = SlotAddress(slot);
          continue;
        }
        if (absent) {
          // Where a damaged record was, the extent may have been given back after a crash.
          const absl::Status* gone = obstacle.WhyGone(SlotAddress(slot));
          if (gone == nullptr) return obstacle.Absent(SlotAddress(slot));
          record = *gone;
        }
      }
      if (record.ok() && record->kind == kValueRecord && record->key == key) {
        hit->place = static_cast<int>(line * kSlotsPerLine + i);
        hit->record = *record;
        hit->damage = absl::OkStatus();
        return absl::OkStatus();
      }
      if (hit->damage.ok()) hit->damage = CheckOther(leaf, tag, slot, record);
    }
    if ((overflow >> line & 1) == 0) break;
  }
  if ((overflow & kMissProvesNothing) != 0 && hit->damage.ok()) {
    hit->damage = absl::DataLossError(
        absl::StrCat("index leaf at pool offset ", leaf.header.self,
                     ": a slot lies where its tag can't have put it; repair the store"));
  }
  return absl::OkStatus();
}

absl::Status Index::Impl::LockLeafFor(const LeafTarget& target, LeafPosition* at, LeafLock* lock,
                                      uint32_t tag) {
  LeafLockWait wait;
  bool drained = tag == kNoTag;
  for (bool locked = false; !locked;) {
    absl::Status status = Run([&](Obstacle& obstacle) -> absl::Status {
      absl::Status ready = DescendToLeaf(target, at, obstacle);
      if (ready.ok() && !drained) {
        PrefetchRecords(*at->leaf, static_cast<uint16_t>(tag), kShortKeyEnd);
        drained = memory->DrainAtOnce(&ready);
      }
      if (!ready.ok() || !drained || !wait.Try(*at->leaf)) return ready;
      LeafLock taken = LeafLock::Adopt(*at->leaf);
      // An even count that did not change: no split began, and the leaf did not die, since the
      // descent found it to cover the key, and neither can happen now. An odd one has ended
      // meanwhile and so has changed, except after a failed drain, which lets no writer come this
      // far.
      locked = SplitCount(at->leaf->header) == at->split_count;
      if (locked) *lock = std::move(taken);
      return ready;
    });
    if (!status.ok()) return status;
    if (!drained) {
      status = memory->Drain();
      // A record on a lost page concerns itself alone.
      if (absl::IsInternal(status)) return AfterDrain(status);
      if (!status.ok()) return status;
      drained = true;
    } else if (!locked) {
      wait.Wait();
    }
  }
  // Checked under the lock: whoever left a leaf half-done because of the medium says so before it
  // unlocks.
  absl::Status status = CheckMedium();
  if (status.ok()) status = CheckLost(*at);
  return status;
}

absl::Status Index::Impl::ProbeLocked(const LeafPosition& at, std::string_view key, uint16_t tag,
                                      Hit* hit) {
  // The record that is found stays: only the lock's holder could unlink it.
  return Run([&](Obstacle& obstacle) { return Probe(*at.leaf, key, tag, hit, obstacle); });
}

}  // namespace daxkv::kv
