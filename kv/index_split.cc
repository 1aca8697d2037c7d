// Plans of leaf splits: where to cut, and what each leaf will hold. Nothing is changed here but
// slots are allocated.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"
#include "kv/key_order.h"

namespace daxkv::kv {
namespace {

// What a leaf made by a split is filled with, of kLeafSlots; leaves that grow by ascending keys are
// filled until a key finds no place.
constexpr size_t kSplitFill = 80;

// A key of the leaf as it will be.
struct Item {
  std::string_view key;
  uint64_t slot;
  int place;  // In the leaf now; -1 for an insertion.
};

// A slot whose record, key and all, a media error took: it may belong left or right.
struct LostItem {
  uint64_t slot;
  unsigned place;
};

// As many find room in each leaf, whatever their tags are, and leave some for a key of any tag.
constexpr size_t kMaxLostItems = (kProbeLines - 1) * kSlotsPerLine;

// The left leaf with its first `count` items, or false: an insertion finds no place.
bool PlaceLeft(const std::vector<Item>& items, const std::vector<LostItem>& lost, size_t count,
               LeafImage* image) {
  *image = LeafImage();
  for (const LostItem& item : lost) image->slots[item.place] = item.slot;
  for (size_t i = 0; i < count; ++i) {
    if (items[i].place >= 0) image->slots[items[i].place] = items[i].slot;
  }
  image->RebuildOverflow();
  for (size_t i = 0; i < count; ++i) {
    if (items[i].place < 0 && image->Place(items[i].slot) < 0) return false;
  }
  return true;
}

// Puts items from `begin` on into new leaves, at most `fill` in each, and what is lost into each.
std::vector<NewLeaf> PlaceRights(const std::vector<Item>& items, const std::vector<LostItem>& lost,
                                 size_t begin, size_t fill) {
  std::vector<NewLeaf> rights;
  size_t held = 0;
  for (size_t i = begin; i < items.size(); ++i) {
    if (rights.empty() || held == fill || rights.back().image.Place(items[i].slot) < 0) {
      NewLeaf& fresh = rights.emplace_back();
      fresh.separator = std::string(Separator(items[i - 1].key, items[i].key));
      for (const LostItem& item : lost) fresh.image.Place(item.slot);
      fresh.image.Place(items[i].slot);
      held = 0;
    }
    ++held;
  }
  return rights;
}

// In the order of their keys.
std::vector<Item> Sorted(const std::vector<Item>& items) {
  const std::string_view first = items.front().key;
  size_t prefix = first.size();
  for (const Item& item : items) prefix = CommonPrefix(first.substr(0, prefix), item.key);
  // Heads of what follows the prefix decide mostly, and little is moved about.
  struct Handle {
    uint64_t head;
    const Item* item;
  };
  std::vector<Handle> handles;
  handles.reserve(items.size());
  for (const Item& item : items) handles.push_back({HeadOf(item.key.substr(prefix)), &item});
  std::sort(handles.begin(), handles.end(), [](const Handle& a, const Handle& b) {
    return a.head != b.head ? a.head < b.head : a.item->key < b.item->key;
  });
  std::vector<Item> sorted;
  sorted.reserve(items.size());
  for (const Handle& handle : handles) sorted.push_back(*handle.item);
  return sorted;
}

absl::Status TwoSlotsOneKey(Address leaf) {
  return absl::DataLossError(
      absl::StrCat("index leaf at pool offset ", leaf, ": two slots hold one key"));
}

// How a leaf is cut: its first `left_count` items stay, each new leaf gets at most `fill`.
struct Cut {
  size_t left_count;
  size_t fill;
};

// Cuts a leaf that shall hold `items`, and leaves its left part in `image`.
Cut ChooseCut(const std::vector<Item>& items, const std::vector<LostItem>& lost, size_t held,
              LeafImage* image) {
  // Ascending keys: all that comes lies above all that is there. The leaf is left full.
  const bool ascending = std::all_of(items.begin(), items.begin() + static_cast<ptrdiff_t>(held),
                                     [](const Item& item) { return item.place >= 0; });
  if (ascending) {
    size_t left_count = items.size();
    while (!PlaceLeft(items, lost, left_count, image)) --left_count;
    return {left_count, kLeafSlots};
  }
  const size_t leaves = std::max<size_t>(2, (items.size() + kSplitFill - 1) / kSplitFill);
  const size_t fill = (items.size() + leaves - 1) / leaves;
  size_t left_count = fill;
  // Keys of one tag crowd the same lines: the fewer stay here, the more room there is.
  while (!PlaceLeft(items, lost, left_count, image)) left_count /= 2;
  return {left_count, fill};
}

}  // namespace

absl::Status Index::Impl::PlanSplit(LeafPlan* plan) {
  // Every record's key is wanted: let the cache misses overlap.
  for (const uint64_t slot : plan->image.slots) {
    if (slot != 0) PrefetchRecord(*memory, SlotAddress(slot), kShortKeyEnd);
  }
  std::vector<Item> items;
  std::vector<LostItem> lost;
  items.reserve(kLeafSlots + plan->insertions.size());
  for (unsigned i = 0; i < kLeafSlots; ++i) {
    const uint64_t slot = plan->image.slots[i];
    if (slot == 0) continue;
    // A record that replaces another one is complete but not yet in the leaf: it can be read too.
    absl::StatusOr<RecordView> record = StableRecord(SlotAddress(slot));
    if (!record.ok() && IsLostRecord(SlotAddress(slot)) && lost.size() < kMaxLostItems) {
      lost.push_back({slot, i});
      continue;
    }
    if (!record.ok()) return record.status();
    if (record->kind != kValueRecord || KeyTag(record->key) != SlotTag(slot)) {
      return absl::DataLossError(absl::StrCat("index leaf at pool offset ", plan->at.address,
                                              ": a slot leads to the record at ", SlotAddress(slot),
                                              ", which is no record of its tag; repair the store"));
    }
    items.push_back({record->key, slot, static_cast<int>(i)});
  }
  const size_t held = items.size();
  for (const Insertion& insertion : plan->insertions) {
    items.push_back({insertion.key, insertion.slot, -1});
  }
  items = Sorted(items);
  const auto same_key = [](const Item& a, const Item& b) { return a.key == b.key; };
  if (std::adjacent_find(items.begin(), items.end(), same_key) != items.end()) {
    return TwoSlotsOneKey(plan->at.address);
  }
  const Cut cut = ChooseCut(items, lost, held, &plan->image);
  plan->rights = PlaceRights(items, lost, cut.left_count, cut.fill);
  return AllocateRights(plan);
}

// What was allocated when this fails goes back with the plan.
absl::Status Index::Impl::AllocateRights(LeafPlan* plan) {
  for (NewLeaf& right : plan->rights) {
    absl::StatusOr<Address> leaf = memory->Allocate(SlotKind::kLeaf, kLeafSizeBytes);
    if (!leaf.ok()) return leaf.status();
    right.leaf = OwnedSlot(memory, *leaf);
    right.address = *leaf;
    absl::StatusOr<Address> fence = memory->Allocate(
        SlotKind::kFence, RecordSizeBytes(right.separator.size(), sizeof(Address)));
    if (!fence.ok()) return fence.status();
    right.fence = OwnedSlot(memory, *fence);
  }
  return absl::OkStatus();
}

}  // namespace daxkv::kv
