// Scans, counts, and what refers to a slot.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"

namespace daxkv::kv {

// The records of the leaf that covers `from`, in order. All absent extents are gathered, so that
// they are faulted in together.
absl::Status Index::Impl::GatherLeaf(std::string_view from, ScanResult* result,
                                     std::vector<Address>* absent, Obstacle& obstacle) {
  LeafPosition at;
  uint64_t slots[kLeafSlots];
  for (;;) {
    absl::Status status = DescendToLeaf(from, &at, obstacle);
    if (status.ok()) status = CheckLost(at);
    if (!status.ok()) return status;
    result->has_upper = false;
    const Address next = NextOf(LoadWord(at.leaf->header.next));
    if (next != kNullAddress) {
      status = CheckReady(next, 0, obstacle);
      if (!status.ok()) return status;
      absl::StatusOr<RecordView> fence = ViewRecord(*memory, Header(next).low_fence);
      if (absl::IsUnavailable(fence.status())) return obstacle.Absent(Header(next).low_fence);
      if (!fence.ok()) return fence.status();
      result->has_upper = true;
      result->upper = fence->key;
    }
    for (unsigned i = 0; i < kLeafSlots; ++i) {
      slots[i] = LoadWord(at.leaf->slots[i]);
      if (slots[i] != 0) __builtin_prefetch(memory->At(SlotAddress(slots[i])));
    }
    // Slots are cleared only after the count moved on: unchanged, nothing below `upper` is missed.
    // The link may be newer than the count and `upper` then below `from`; the count tells as well.
    if (SplitCount(at.leaf->header) == at.split_count &&
        (!result->has_upper || from.compare(result->upper) < 0)) {
      break;
    }
  }
  result->records.clear();
  for (const uint64_t slot : slots) {
    if (slot == 0) continue;
    absl::StatusOr<RecordView> record = ViewRecord(*memory, SlotAddress(slot));
    if (absl::IsUnavailable(record.status())) {
      absent->push_back(SlotAddress(slot));
      continue;
    }
    if (!record.ok()) return record.status();
    if (record->kind != kValueRecord || KeyTag(record->key) != SlotTag(slot)) {
      return absl::DataLossError(absl::StrCat("index leaf at pool offset ", at.address,
                                              ": a slot leads to the record at ", SlotAddress(slot),
                                              ", which is no record of its tag"));
    }
    // Slots at or above `upper` moved right.
    if (record->key.compare(from) < 0) continue;
    if (result->has_upper && record->key.compare(result->upper) >= 0) continue;
    result->records.push_back(*record);
  }
  if (!absent->empty()) return obstacle.Absent(absent->back());
  std::sort(result->records.begin(), result->records.end(),
            [](const RecordView& a, const RecordView& b) {
              const int order = a.key.compare(b.key);
              return order != 0 ? order < 0 : a.sequence > b.sequence;
            });
  // A key that was removed and put again meanwhile may have been seen in both places.
  const auto same_key = [](const RecordView& a, const RecordView& b) { return a.key == b.key; };
  result->records.erase(std::unique(result->records.begin(), result->records.end(), same_key),
                        result->records.end());
  return absl::OkStatus();
}

absl::Status Index::Impl::ScanLeaf(std::string_view from,
                                   absl::FunctionRef<bool(const RecordView&)> visit,
                                   std::string* next_from, bool* end) {
  // `from` may be *next_from's own bytes; that is written only when `from` is done with.
  std::vector<Address> absent;
  GoneExtents gone;
  for (;;) {
    Obstacle obstacle(&gone);
    {
      rcu::ReadGuard guard;
      ScanResult result;
      absl::Status status = GatherLeaf(from, &result, &absent, obstacle);
      if (status.ok()) {
        for (const RecordView& record : result.records) {
          if (visit(record)) continue;
          std::string successor(record.key);
          successor.push_back('\0');
          *next_from = std::move(successor);
          *end = false;
          return status;
        }
        *end = !result.has_upper;
        if (result.has_upper) *next_from = std::string(result.upper);
        return status;
      }
      if (!absl::IsUnavailable(status)) return status;
    }
    // What can't be had is met again, unless it has gone.
    for (const Address address : absent) memory->FaultIn(address).IgnoreError();
    absent.clear();
    if (absl::Status status = Overcome(obstacle, &gone); !status.ok()) return status;
  }
}

// *nothing: whether the leaf begins at or above `from`. It does where a walk from leaf to leaf
// goes, unless leaves were merged meanwhile.
absl::Status Index::Impl::CoversNothingBelow(const LeafNode& leaf, std::string_view from,
                                             bool* nothing, Obstacle& obstacle) const {
  *nothing = from.empty();
  const Address low_fence = leaf.header.low_fence;
  if (*nothing || low_fence == kNullAddress) return absl::OkStatus();
  absl::StatusOr<RecordView> fence = ViewRecord(*memory, low_fence);
  if (absl::IsUnavailable(fence.status())) return obstacle.Absent(low_fence);
  if (!fence.ok()) return fence.status();
  *nothing = fence->key.compare(from) >= 0;
  return absl::OkStatus();
}

absl::Status Index::Impl::CountSlots(std::string_view from, uint64_t* count, std::string* next_from,
                                     bool* end, Obstacle& obstacle) {
  LeafPosition at;
  absl::Status status = DescendToLeaf(from, &at, obstacle);
  if (!status.ok()) return status;
  const uint64_t next = LoadWord(at.leaf->header.next);
  // While a split is under way, slots that moved would count twice.
  if (next & kSplitUnfinished) {
    status = CheckMedium();
    return status.ok() ? obstacle.SplitUnderWay() : status;
  }
  *end = next == kNullAddress;
  if (!*end) {
    status = CheckReady(next, 0, obstacle);
    if (!status.ok()) return status;
    absl::StatusOr<RecordView> fence = ViewRecord(*memory, Header(next).low_fence);
    if (absl::IsUnavailable(fence.status())) return obstacle.Absent(Header(next).low_fence);
    if (!fence.ok()) return fence.status();
    next_from->assign(fence->key);
  }
  bool all = true;
  status = CoversNothingBelow(*at.leaf, from, &all, obstacle);
  if (!status.ok()) return status;
  *count = 0;
  for (const uint64_t& word : at.leaf->slots) {
    const uint64_t slot = LoadWord(word);
    if (slot == 0) continue;
    if (!all) {
      absl::StatusOr<RecordView> record = ViewRecord(*memory, SlotAddress(slot));
      if (absl::IsUnavailable(record.status())) return obstacle.Absent(SlotAddress(slot));
      if (!record.ok()) return record.status();
      if (record->key.compare(from) < 0) continue;
    }
    ++*count;
  }
  if (SplitCount(at.leaf->header) != at.split_count || LoadWord(at.leaf->header.next) != next) {
    return obstacle.SplitUnderWay();
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Index::Impl::Count() {
  uint64_t count = 0;
  std::string from, next_from;
  for (bool end = false; !end; from.swap(next_from)) {
    uint64_t held = 0;
    absl::Status status = Run(
        [&](Obstacle& obstacle) { return CountSlots(from, &held, &next_from, &end, obstacle); });
    if (!status.ok()) return status;
    count += held;
    if (!end && next_from <= from) {
      return absl::DataLossError("index: the leaves' low fences do not ascend");
    }
  }
  return count;
}

absl::StatusOr<bool> Index::Impl::RefersToRecord(const RecordView& record) {
  if (record.kind == kValueRecord) {
    bool refers = false;
    absl::Status status = Find(record.key, [&](const RecordView& found) {
      refers = found.address == record.address;
      return absl::OkStatus();
    });
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    if (refers) return true;
    // Who unlinks a record that a snapshot needs puts it there first.
    return SnapshotHolds(record.key, record.address);
  }
  // Others are of batches: the index never leads there.
  if (record.kind != kFenceRecord) return false;
  return RefersToFence(record);
}

// The leaf that covers the fence's key has it as its low fence. So has an inner node, perhaps,
// which then begins with that leaf.
absl::StatusOr<bool> Index::Impl::RefersToFence(const RecordView& fence) {
  bool refers = false;
  absl::Status status = Run([&](Obstacle& obstacle) -> absl::Status {
    LeafPosition at;
    absl::Status descended = DescendToLeaf(fence.key, &at, obstacle);
    if (descended.ok()) refers = at.leaf->header.low_fence == fence.address;
    return descended;
  });
  if (!status.ok()) return status;
  return refers;
}

absl::StatusOr<bool> Index::Impl::RefersToNode(Address node) {
  // The bytes may be anything: only what the tree itself leads to is believed.
  if (node == kNullAddress || node % kLeafSizeBytes != 0) return false;
  Address end = 0;
  while (end == 0) {
    {
      rcu::ReadGuard guard;
      end = memory->PresentUntil(node);
    }
    if (end != 0) break;
    absl::Status status = memory->FaultIn(node);
    if (absl::IsDataLoss(status)) return false;  // No extent there.
    if (!status.ok()) return status;
  }
  if (end - node < kLeafSizeBytes) return false;
  // Only what is constant in a reachable node is read.
  const NodeHeader& header = Header(node);
  const InnerFrame* root = root_frame.load(std::memory_order_acquire);
  const unsigned root_level = root == nullptr ? 0 : root->level;
  if (header.self != node || header.level > root_level) return false;
  const unsigned level = header.level;
  std::string_view fence;
  if (header.low_fence != kNullAddress) {
    absl::StatusOr<RecordView> record = StableRecord(header.low_fence);
    if (!record.ok() && !absl::IsDataLoss(record.status())) return record.status();
    if (!record.ok() || record->kind != kFenceRecord) return false;
    fence = record->key;
  }
  Address found = kNullAddress;
  absl::Status status = Run([&](Obstacle& obstacle) -> absl::Status {
    if (level == 0) {
      LeafPosition at;
      absl::Status descended = DescendToLeaf(fence, &at, obstacle);
      found = at.address;
      return descended;
    }
    InnerFrame* frame = nullptr;
    const InnerView* view;
    absl::Status descended = DescendToFrame(fence, level, &frame, &view, obstacle);
    if (descended.ok()) found = frame->address;
    return descended;
  });
  if (!status.ok()) return status;
  return found == node;
}

IndexStats Index::Impl::Stats() {
  IndexStats stats;
  const InnerFrame* root = root_frame.load(std::memory_order_acquire);
  stats.height = root == nullptr ? 1 : root->level + 1;
  if (root == nullptr) stats.leaves = 1;
  rcu::ReadGuard guard;  // Views must outlive the look at them; frames_mutex is never held long.
  std::lock_guard<std::mutex> lock(frames_mutex);
  for (const auto& [address, frame] : frames) {
    const InnerView* view = frame->view.load(std::memory_order_acquire);
    if (view == nullptr) continue;
    ++stats.inner_nodes;
    stats.view_size_bytes += view->size_bytes();
    if (frame->level == 1) stats.leaves += view->size();
  }
  return stats;
}

}  // namespace daxkv::kv
