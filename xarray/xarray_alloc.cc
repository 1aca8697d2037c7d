// Ranges, reservations and free indices.
#include <algorithm>
#include <cassert>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "xarray/cursor.h"
#include "xarray/with_nodes.h"
#include "xarray/xarray.h"

namespace daxkv::xarray {
namespace {

absl::Status CheckRange(uint64_t first, uint64_t last, Entry entry) {
  if (first > last) {
    return absl::InvalidArgumentError(
        absl::StrCat("the range from ", first, " to ", last, " is empty: its ends are swapped"));
  }
  if (entry.is_internal()) {
    return absl::InvalidArgumentError(
        "the entry has the bit pattern of the array's own entries; pointers must be aligned to 4");
  }
  return absl::OkStatus();
}

// The order of the largest aligned block that begins at `first` and ends by `last`.
unsigned LargestOrder(uint64_t first, uint64_t last) {
  unsigned order = first == 0 ? kMaxOrder : static_cast<unsigned>(__builtin_ctzll(first));
  order = std::min(order, kMaxOrder);
  while ((first | ((uint64_t{1} << order) - 1)) > last) --order;
  return order;
}

}  // namespace

template <unsigned kSlotShift>
absl::Status BasicXArray<kSlotShift>::StoreRange(uint64_t first, uint64_t last, Entry entry) {
  if (absl::Status status = CheckRange(first, last, entry); !status.ok()) return status;
  if (entry.is_null()) {
    EraseRange(first, last);
    return absl::OkStatus();
  }
  Cursor cursor(*this, first);
  // New nodes lie above `first`, above `last`, or above an entry in the head.
  cursor.nodes_wanted_ = 3 * (64 / kSlotShift + 1);
  if (absl::Status status = cursor.Reserve(); !status.ok()) return status;
  std::lock_guard<BasicXArray> guard(*this);
  while (cursor.FindTaken(first, last)) cursor.Erase();
  for (uint64_t at = first;;) {
    const unsigned order = LargestOrder(at, last);
    cursor.Set(at);
    cursor.SetOrder(order);
    [[maybe_unused]] const absl::StatusOr<Entry> old = cursor.Put(entry);
    assert(old.ok() && old->is_null());
    const uint64_t block_last = at | ((uint64_t{1} << order) - 1);
    if (block_last == last) return absl::OkStatus();
    at = block_last + 1;
  }
}

template <unsigned kSlotShift>
absl::Status BasicXArray<kSlotShift>::Reserve(uint64_t index) {
  Cursor cursor(*this, index);
  return WithNodes(*this, cursor, [&]() -> absl::Status {
    cursor.nodes_wanted_ = 0;
    if (tree_.LocateLocked(index).entry) return absl::OkStatus();
    return cursor.Put(Entry::Reserved()).status();
  });
}

template <unsigned kSlotShift>
void BasicXArray<kSlotShift>::Release(uint64_t index) {
  std::lock_guard<BasicXArray> guard(*this);
  const auto place = tree_.LocateLocked(index);
  if (place.entry.is_reserved()) tree_.Erase(place);
}

template <unsigned kSlotShift>
absl::StatusOr<uint64_t> BasicXArray<kSlotShift>::Alloc(Entry entry, uint64_t first,
                                                        uint64_t last) {
  uint64_t next = first;
  absl::StatusOr<CyclicIndex> found = AllocCyclic(entry, first, last, &next);
  if (!found.ok()) return found.status();
  return found->index;
}

template <unsigned kSlotShift>
absl::StatusOr<CyclicIndex> BasicXArray<kSlotShift>::AllocCyclic(Entry entry, uint64_t first,
                                                                 uint64_t last, uint64_t* next) {
  if (absl::Status status = CheckRange(first, last, entry); !status.ok()) return status;
  if (entry.is_null()) entry = Entry::Reserved();
  Cursor cursor(*this);
  return WithNodes(*this, cursor, [&]() -> absl::StatusOr<CyclicIndex> {
    cursor.nodes_wanted_ = 0;
    const uint64_t start = *next < first || *next > last ? first : *next;
    std::optional<uint64_t> found = tree_.FindFree(start, last);
    const bool wrapped = !found.has_value() && start > first;
    if (wrapped) found = tree_.FindFree(first, start - 1);
    if (!found.has_value()) {
      return absl::OutOfRangeError(
          absl::StrCat("every index from ", first, " to ", last, " is taken"));
    }
    cursor.Set(*found);
    if (absl::StatusOr<Entry> old = cursor.Put(entry); !old.ok()) return old.status();
    *next = *found == last ? first : *found + 1;
    return CyclicIndex{*found, wrapped};
  });
}

template absl::Status BasicXArray<3>::StoreRange(uint64_t, uint64_t, Entry);
template absl::Status BasicXArray<6>::StoreRange(uint64_t, uint64_t, Entry);
template absl::Status BasicXArray<3>::Reserve(uint64_t);
template absl::Status BasicXArray<6>::Reserve(uint64_t);
template void BasicXArray<3>::Release(uint64_t);
template void BasicXArray<6>::Release(uint64_t);
template absl::StatusOr<uint64_t> BasicXArray<3>::Alloc(Entry, uint64_t, uint64_t);
template absl::StatusOr<uint64_t> BasicXArray<6>::Alloc(Entry, uint64_t, uint64_t);
template absl::StatusOr<CyclicIndex> BasicXArray<3>::AllocCyclic(Entry, uint64_t, uint64_t,
                                                                 uint64_t*);
template absl::StatusOr<CyclicIndex> BasicXArray<6>::AllocCyclic(Entry, uint64_t, uint64_t,
                                                                 uint64_t*);

}  // namespace daxkv::xarray
