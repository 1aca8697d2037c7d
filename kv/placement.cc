#include "kv/placement.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "dax/pool.h"
#include "kv/record.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// A scan finds a record quickly this far behind the last: in its page, or in one that the processor
// has read ahead.
constexpr uint64_t kNearSlots = 4;
// Of a leaf's records one in so many may lie elsewhere: what is put or replaced after an ordering
// does not have whole leaves written anew.
constexpr size_t kMisplacedPart = 4;

bool IsNearBehind(Address last, Address address, uint16_t size_class) {
  const uint64_t near = std::max(kNearSlots * SlotSizeBytes(size_class), dax::kPageSizeBytes);
  return address > last && address - last <= near;
}

struct Keyed {
  std::string_view key;
  PlacedRecord record;
};

// False: something was absent, and is no longer, or can't be had.
bool ReadKeys(const Index& index, Space* space, absl::Span<const Index::SlotPosition> of_leaf,
              std::vector<Keyed>* keyed, std::vector<Address>* absent) {
  for (const Index::SlotPosition& at : of_leaf) {
    if (!index.Holds(at)) continue;
    const absl::StatusOr<RecordView> record = ViewRecord(*space, at.record());
    if (absl::IsUnavailable(record.status())) absent->push_back(at.record());
    if (!record.ok() || record->lost) continue;
    keyed->push_back(
        {record->key, {at, RecordSizeBytes(record->key.size(), record->value.size())}});
  }
  return absent->empty();
}

}  // namespace

void SortByKey(const Index& index, Space* space, absl::Span<const Index::SlotPosition> of_leaf,
               std::vector<PlacedRecord>* sorted) {
  std::vector<Keyed> keyed;
  std::vector<Address> absent;
  for (bool again = true;; again = false) {
    keyed.clear();
    absent.clear();
    {
      rcu::ReadGuard guard;  // Keeps the keys.
      for (const Index::SlotPosition& at : of_leaf) {
        PrefetchRecord(*space, at.record(), kShortKeyEnd);
      }
      if (ReadKeys(index, space, of_leaf, &keyed, &absent) || !again) {
        std::sort(keyed.begin(), keyed.end(),
                  [](const Keyed& a, const Keyed& b) { return a.key < b.key; });
        break;
      }
    }
    // What can't be had is left out the second time.
    for (const Address address : absent) space->FaultIn(address).IgnoreError();
  }
  sorted->clear();
  for (const Keyed& one : keyed) sorted->push_back(one.record);
}

bool PlacementWalk::IsInPlace(absl::Span<const PlacedRecord> sorted) {
  size_t misplaced = 0;
  for (const PlacedRecord& record : sorted) {
    if (record.size_bytes > kMaxSlabSlotSizeBytes) continue;
    const uint16_t size_class = RecordClass(record.size_bytes);
    const Address address = record.at.record();
    const Address last = std::exchange(last_of_class_[size_class], address);
    misplaced += last != kNullAddress && !IsNearBehind(last, address, size_class);
  }
  return misplaced * kMisplacedPart <= sorted.size();
}

void PlacementWalk::NotePlaced(uint64_t size_bytes, Address address) {
  last_of_class_[RecordClass(size_bytes)] = address;
}

}  // namespace daxkv::kv
