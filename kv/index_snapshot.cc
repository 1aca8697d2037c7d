// Look-ups and leaves at a snapshot: slots first, then the leaf's history, then the split count
// again (leaf_history.h, H1 and H2).
#include <algorithm>
#include <iterator>
#include <memory>
#include <new>
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
      history->ForEachAt(number, tag, [&](const Version& version) {
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

uint64_t LeafContents::HeadIn(std::string_view key) const {
  return HeadOf(key.substr(std::min(prefix_size_bytes, key.size()))) & head_mask;
}

size_t LeafContents::LowerBoundOfHead(const Memory& memory, std::string_view key) const {
  if (entries.empty()) return 0;
  if (prefix_size_bytes > 0) {
    // Of a leaf with one bound only the keys themselves have it.
    const std::string_view holder = has_upper && !low.empty()
                                        ? std::string_view(low)
                                        : RecordAt(memory, entries.front().record).key;
    const std::string_view prefix = holder.substr(0, prefix_size_bytes);
    const int order = key.substr(0, prefix_size_bytes).compare(prefix);
    if (order != 0) return order < 0 ? 0 : entries.size();
  }
  const uint64_t head = HeadIn(key);
  const auto at =
      std::lower_bound(entries.begin(), entries.end(), head,
                       [](const Entry& entry, uint64_t wanted) { return entry.head < wanted; });
  return static_cast<size_t>(at - entries.begin());
}

size_t LeafContents::LowerBound(const Memory& memory, std::string_view key) const {
  size_t low_position = LowerBoundOfHead(memory, key);
  size_t high_position = low_position;
  const uint64_t head = HeadIn(key);
  while (high_position < entries.size() && entries[high_position].head == head) ++high_position;
  while (low_position < high_position) {
    const size_t middle = (low_position + high_position) / 2;
    if (RecordAt(memory, entries[middle].record).key < key) {
      low_position = middle + 1;
    } else {
      high_position = middle;
    }
  }
  return low_position;
}

// Reads one leaf, in attempts.
struct Index::Impl::LeafReader {
  absl::Status Attempt(Obstacle& obstacle);
  // Takes the order that was kept of the leaf, if it is still good.
  bool TakeOrder(const LeafGuess& guess, const LeafOrder& order);
  // What to keep: null, unless all of the leaf was seen at one moment.
  std::unique_ptr<LeafOrder> MakeOrder() const;
  absl::Status ReadFences(Obstacle& obstacle);
  absl::Status ReadFence(Address fence, std::string* key, Obstacle& obstacle);
  absl::Status AddSlots(const LeafHistory* history);
  absl::Status AddSuperseded(const LeafHistory& history);
  void Add(const RecordView& record, uint16_t tag, uint8_t place);
  void SetHeads();
  void Sort();

  Impl& index;
  const uint64_t number;
  const LeafTarget& target;
  LeafContents& contents;
  LeafPosition at;
  uint64_t slots[kLeafSlots];
  std::vector<Address> absent;
  // Whether the slots were read at one moment, are all that the snapshot sees of the leaf, and were
  // sorted just now.
  bool may_keep_order = false;
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
  contents.next = next;
  contents.has_upper = next != kNullAddress;
  if (!contents.has_upper) return absl::OkStatus();
  absl::Status status = index.CheckReady(next, 0, obstacle);
  if (!status.ok()) return status;
  return ReadFence(index.Header(next).low_fence, &contents.upper, obstacle);
}

// Until SetHeads an entry's head is its key's tag.
void Index::Impl::LeafReader::Add(const RecordView& record, uint16_t tag, uint8_t place) {
  // Slots at or above `upper` moved right.
  if (record.key.compare(contents.low) < 0) return;
  if (contents.has_upper && record.key.compare(contents.upper) >= 0) return;
  contents.entries.push_back({tag, record.address, place});
}

absl::Status Index::Impl::LeafReader::AddSlots(const LeafHistory* history) {
  for (unsigned i = 0; i < kLeafSlots; ++i) {
    const uint64_t slot = slots[i];
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
    if (begin <= number) Add(*record, SlotTag(slot), static_cast<uint8_t>(i));
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
      Add(*record, version.tag, LeafContents::kNoPlace);
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
  prefix = 0;
  contents.head_mask = UINT64_MAX;
  if (contents.has_upper && !contents.low.empty()) {
    prefix = CommonPrefix(contents.low, contents.upper);
  } else if (!entries.empty()) {
    const std::string_view first = key(entries.front());
    prefix = first.size();
    for (const auto& entry : entries) prefix = CommonPrefix(first.substr(0, prefix), key(entry));
  }
  for (auto& entry : entries) entry.head = contents.HeadIn(key(entry));
}

void Index::Impl::LeafReader::Sort() {
  const Memory& memory = *index.memory;
  std::sort(contents.entries.begin(), contents.entries.end(),
            [&memory](const LeafContents::Entry& a, const LeafContents::Entry& b) {
              if (a.head != b.head) return a.head < b.head;
              return RecordAt(memory, a.record).key < RecordAt(memory, b.record).key;
            });
}

namespace {

// Of a head, what an order keeps.
constexpr unsigned kKeptHeadShift = 48;

void PrefetchOrder(const LeafOrder& order) {
  const char* const bytes = reinterpret_cast<const char*>(&order);
  for (size_t offset = 0; offset < sizeof(order); offset += 64) __builtin_prefetch(bytes + offset);
}

}  // namespace

// The leaf is as it was when the order was made (O1), and so every slot's record has a number up to
// the newest then. If the snapshot's is not below that, and there is no history, it sees them all;
// what it sees stays in place, so nobody need look at the records now.
bool Index::Impl::LeafReader::TakeOrder(const LeafGuess& guess, const LeafOrder& order) {
  if (!guess.BoundsAreOf(at) || index.memory->AnyLost() || order.version != at.version ||
      order.newest_sequence > number || order.slots_hash != SlotsHash(slots) ||
      LoadWord(at.leaf->header.volatile_version) != at.version) {
    return false;
  }
  const InnerView& view = *guess.view;
  const bool is_last = guess.child + 1 == view.size();
  contents.low.assign(view.separator(guess.child));
  contents.upper.assign(is_last ? view.right_fence() : view.separator(guess.child + 1));
  contents.has_upper = true;  // Orders are kept of such leaves only.
  contents.next = NextOf(LoadWord(at.leaf->header.next));
  contents.prefix_size_bytes = CommonPrefix(contents.low, contents.upper);
  contents.head_mask = UINT64_MAX << kKeptHeadShift;
  contents.entries.resize(order.slots_in_use);
  for (unsigned i = 0; i < order.slots_in_use; ++i) {
    const uint8_t place = order.places[i];
    contents.entries[i] = {uint64_t{order.heads[i]} << kKeptHeadShift, SlotAddress(slots[place]),
                           place};
  }
  return true;
}

std::unique_ptr<LeafOrder> Index::Impl::LeafReader::MakeOrder() const {
  if (!may_keep_order) return nullptr;
  std::unique_ptr<LeafOrder> order(new (std::nothrow) LeafOrder);
  if (order == nullptr) return nullptr;
  order->leaf = at.address;
  order->version = at.version;
  order->slots_hash = SlotsHash(slots);
  for (const LeafContents::Entry& entry : contents.entries) {
    const unsigned i = order->slots_in_use++;
    order->places[i] = entry.place;
    order->heads[i] = static_cast<uint16_t>(entry.head >> kKeptHeadShift);
    order->newest_sequence =
        std::max(order->newest_sequence, RecordAt(*index.memory, entry.record).sequence);
  }
  return order;
}

absl::Status Index::Impl::LeafReader::Attempt(Obstacle& obstacle) {
  contents.entries.clear();
  may_keep_order = false;
  LeafGuess guess;
  absl::Status status = index.GuessLeaf(target, &guess, obstacle);
  if (!status.ok()) return status;
  index.PrefetchLeaf(guess.address);
  const LeafOrder* const order = index.orders.Find(guess.address);
  if (order != nullptr) PrefetchOrder(*order);
  status = index.GoToCoveringLeaf(target, guess, &at, obstacle);
  if (status.ok()) status = index.CheckLost(at);
  if (!status.ok()) return status;
  for (unsigned i = 0; i < kLeafSlots; ++i) slots[i] = LoadWord(at.leaf->slots[i]);
  const LeafHistory* history = index.snapshots.HistoryOf(at.address);
  if (history == nullptr && order != nullptr && IsAtRest(at.version) && TakeOrder(guess, *order)) {
    return absl::OkStatus();
  }

  for (const uint64_t slot : slots) {
    if (slot != 0) PrefetchRecord(*index.memory, SlotAddress(slot), kShortKeyEnd);
  }
  status = ReadFences(obstacle);
  if (status.ok()) status = AddSlots(history);
  if (status.ok() && history != nullptr) status = AddSuperseded(*history);
  if (!status.ok()) return status;
  if (IsSplitting(at.split_count) || SplitCount(at.leaf->header) != at.split_count) {
    absent.clear();
    return obstacle.SplitUnderWay();
  }
  if (!absent.empty()) return obstacle.Absent(absent.back());
  SetHeads();
  Sort();
  const auto in_use =
      std::count_if(std::begin(slots), std::end(slots), [](uint64_t slot) { return slot != 0; });
  may_keep_order = history == nullptr && IsAtRest(at.version) && guess.BoundsAreOf(at) &&
                   contents.has_upper && !contents.low.empty() &&
                   contents.entries.size() == static_cast<size_t>(in_use) &&
                   LoadWord(at.leaf->header.volatile_version) == at.version;
  return absl::OkStatus();
}

absl::Status Index::Impl::ReadLeafAt(uint64_t number, const LeafTarget& target,
                                     LeafContents* contents) {
  LeafReader reader = {*this, number, target, *contents, {}, {}, {}};
  GoneExtents gone;
  for (;;) {
    Obstacle obstacle(&gone);
    {
      rcu::ReadGuard guard;
      absl::Status status = reader.Attempt(obstacle);
      if (status.ok()) {
        if (std::unique_ptr<LeafOrder> order = reader.MakeOrder()) orders.Insert(std::move(order));
      }
      if (!absl::IsUnavailable(status)) return status;
    }
    // All that is absent is faulted in together. What can't be had is met again, unless it has
    // gone.
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
