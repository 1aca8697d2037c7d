// Look-ups and leaves at a snapshot: slots first, then the leaf's history, then the split count
// again (leaf_history.h, H1 and H2).
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"
#include "kv/key_order.h"

namespace daxkv::kv {
absl::Status Index::Impl::FindAt(uint64_t number, std::string_view key,
                                 absl::FunctionRef<absl::Status(const RecordView&)> visit) {
  const uint16_t tag = KeyTag(key);
  return Run([&](Obstacle& obstacle) -> absl::Status {
    LeafPosition at;
    absl::Status status = DescendToLeaf(key, &at, obstacle);
    if (status.ok()) status = CheckLost(at);
    if (!status.ok()) return status;
    Hit hit;
    status = Probe(*at.leaf, key, tag, &hit, obstacle);
    if (!status.ok()) return status;
    const LeafHistory* history = snapshots.HistoryOf(at.address);
    bool found = hit.place >= 0 && (history == nullptr ? hit.record.sequence
                                                       : history->BeginOf(hit.record)) <= number;
    if (!found && history != nullptr) {
      history->ForEachAt(number, [&](const Version& version) {
        if (version.tag != tag) return true;
        const absl::StatusOr<RecordView> record = ViewRecord(*memory, version.record);
        if (!record.ok()) {
          status = absl::IsUnavailable(record.status()) ? obstacle.Absent(version.record)
                                                        : record.status();
          return false;
        }
        found = record->key == key;
        if (found) hit.record = *record;
        return !found;
      });
      if (!status.ok()) return status;
    }
    if (IsSplitting(at.split_count) || SplitCount(at.leaf->header) != at.split_count) {
      return obstacle.SplitUnderWay();
    }
    if (!found) return absl::Status(absl::StatusCode::kNotFound, "");
    status = visit(hit.record);
    return absl::IsUnavailable(status) ? obstacle.Absent(hit.record.address) : status;
  });
}

// Reads one leaf, in attempts.
struct Index::Impl::LeafReader {
  absl::Status Attempt(Obstacle& obstacle);
  absl::Status ReadFences(Obstacle& obstacle);
  absl::Status ReadFence(Address fence, std::string* key, Obstacle& obstacle);
  absl::Status AddSlots(const LeafHistory* history);
  absl::Status AddSuperseded(const LeafHistory& history);
  void Add(const RecordView& record, uint16_t tag);
  void SetHeads();

  Impl& index;
  const uint64_t number;
  const LeafTarget& target;
  LeafContents& contents;
  LeafPosition at;
  uint64_t slots[kLeafSlots];
  std::vector<Address> absent;
};

absl::Status Index::Impl::LeafReader::ReadFence(Address fence, std::string* key,
                                                Obstacle& obstacle) {
  absl::StatusOr<RecordView> record = ViewRecord(*index.memory, fence);
  if (absl::IsUnavailable(record.status())) return obstacle.Absent(fence);
  if (record.ok()) key->assign(record->key);
  return record.status();
}

absl::Status Index::Impl::LeafReader::ReadFences(Obstacle& obstacle) {
  contents.low.clear();
  contents.upper.clear();
  const NodeHeader& header = at.leaf->header;
  if (header.low_fence != kNullAddress) {
    absl::Status status = ReadFence(header.low_fence, &contents.low, obstacle);
    if (!status.ok()) return status;
  }
  const Address next = NextOf(LoadWord(header.next));
  contents.has_upper = next != kNullAddress;
  if (!contents.has_upper) return absl::OkStatus();
  absl::Status status = index.CheckReady(next, 0, obstacle);
  if (!status.ok()) return status;
  return ReadFence(index.Header(next).low_fence, &contents.upper, obstacle);
}

// Until SetHeads an entry's head is its key's tag.
void Index::Impl::LeafReader::Add(const RecordView& record, uint16_t tag) {
  // Slots at or above `upper` moved right.
  if (record.key.compare(contents.low) < 0) return;
  if (contents.has_upper && record.key.compare(contents.upper) >= 0) return;
  contents.entries.push_back({tag, record.address});
}

absl::Status Index::Impl::LeafReader::AddSlots(const LeafHistory* history) {
  for (const uint64_t slot : slots) {
    if (slot == 0) continue;
    const Address address = SlotAddress(slot);
    absl::StatusOr<RecordView> record = ViewRecord(*index.memory, address);
    if (absl::IsUnavailable(record.status())) {
      absent.push_back(address);
      continue;
    }
    if (!record.ok()) return record.status();
    if (record->kind != kValueRecord || KeyTag(record->key) != SlotTag(slot)) {
      return absl::DataLossError(absl::StrCat("index leaf at pool offset ", at.address,
                                              ": a slot leads to the record at ", address,
                                              ", which is no record of its tag; repair the store"));
    }
    const uint64_t begin = history == nullptr ? record->sequence : history->BeginOf(*record);
    if (begin <= number) Add(*record, SlotTag(slot));
  }
  return absl::OkStatus();
}

absl::Status Index::Impl::LeafReader::AddSuperseded(const LeafHistory& history) {
  const size_t from_slots = contents.entries.size();
  // A key has one version at a number. If its slot showed that, the version was superseded between
  // our look at the slot and this one: as the very record or, if that moved meanwhile, as its copy.
  const auto known = [&](uint16_t tag, std::string_view key) {
    const auto end = contents.entries.begin() + static_cast<ptrdiff_t>(from_slots);
    return std::any_of(contents.entries.begin(), end, [&](const LeafContents::Entry& entry) {
      return entry.head == tag && RecordAt(*index.memory, entry.record).key == key;
    });
  };
  absl::Status status;
  history.ForEachAt(number, [&](const Version& version) {
    const absl::StatusOr<RecordView> record = ViewRecord(*index.memory, version.record);
    if (absl::IsUnavailable(record.status())) {
      absent.push_back(version.record);
    } else if (!record.ok()) {
      status = record.status();
    } else if (!known(version.tag, record->key)) {
      Add(*record, version.tag);
    }
    return status.ok();
  });
  return status;
}

void Index::Impl::LeafReader::SetHeads() {
  std::vector<LeafContents::Entry>& entries = contents.entries;
  size_t& prefix = contents.prefix_size_bytes;
  const auto key = [&](const LeafContents::Entry& entry) {
    return RecordAt(*index.memory, entry.record).key;
  };
  if (contents.has_upper && !contents.low.empty()) {
    prefix = CommonPrefix(contents.low, contents.upper);
  } else if (!entries.empty()) {
    const std::string_view first = key(entries.front());
    prefix = first.size();
    for (const auto& entry : entries) prefix = CommonPrefix(first.substr(0, prefix), key(entry));
  }
  for (auto& entry : entries) entry.head = HeadOf(key(entry).substr(prefix));
}

absl::Status Index::Impl::LeafReader::Attempt(Obstacle& obstacle) {
  contents.entries.clear();
  absl::Status status = index.DescendToLeaf(target, &at, obstacle);
  if (status.ok()) status = index.CheckLost(at);
  if (!status.ok()) return status;
  for (unsigned line = 0; line < kLeafLines; ++line) {
    __builtin_prefetch(at.leaf->slots + size_t{line} * kSlotsPerLine);
  }
  status = ReadFences(obstacle);
  if (!status.ok()) return status;
  for (unsigned i = 0; i < kLeafSlots; ++i) {
    slots[i] = LoadWord(at.leaf->slots[i]);
    if (slots[i] != 0) PrefetchRecord(*index.memory, SlotAddress(slots[i]), kShortKeyEnd);
  }
  const LeafHistory* history = index.snapshots.HistoryOf(at.address);
  status = AddSlots(history);
  if (status.ok() && history != nullptr) status = AddSuperseded(*history);
  if (!status.ok()) return status;
  if (IsSplitting(at.split_count) || SplitCount(at.leaf->header) != at.split_count) {
    absent.clear();
    return obstacle.SplitUnderWay();
  }
  if (!absent.empty()) return obstacle.Absent(absent.back());
  SetHeads();
  return absl::OkStatus();
}

absl::Status Index::Impl::ReadLeafAt(uint64_t number, const LeafTarget& target,
                                     LeafContents* contents) {
  LeafReader reader = {*this, number, target, *contents, {}, {}, {}};
  Address gone = kNullAddress;
  for (;;) {
    Obstacle obstacle;
    {
      rcu::ReadGuard guard;
      absl::Status status = reader.Attempt(obstacle);
      if (!absl::IsUnavailable(status)) return status;
    }
    // All that is absent is faulted in together. What can't be had is met again, unless it has gone.
    for (const Address address : reader.absent) memory->FaultIn(address).IgnoreError();
    reader.absent.clear();
    if (absl::Status status = Overcome(obstacle, &gone); !status.ok()) return status;
  }
}

absl::StatusOr<bool> Index::Impl::SnapshotHolds(std::string_view key, Address record) {
  bool holds = false;
  absl::Status status = Run([&](Obstacle& obstacle) -> absl::Status {
    LeafPosition at;
    absl::Status descended = DescendToLeaf(key, &at, obstacle);
    if (!descended.ok()) return descended;
    const LeafHistory* history = snapshots.HistoryOf(at.address);
    holds = history != nullptr && history->Holds(record);
    if (IsSplitting(at.split_count) || SplitCount(at.leaf->header) != at.split_count) {
      return obstacle.SplitUnderWay();
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return holds;
}

}  // namespace daxkv::kv
