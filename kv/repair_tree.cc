#include "kv/repair_tree.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace daxkv::kv {
namespace {

constexpr unsigned kRootLevelShift = 48;

std::string NodeFault(Address node, std::string_view what) {
  return absl::StrCat("index node at pool offset ", node, ": ",
                      absl::string_view(what.data(), what.size()));
}

void Ignore(std::string) {}

// The leaf that a fence record was made for: another one may have taken its place since.
std::optional<Address> LeafOfFence(const RecordView& record) {
  Address leaf;
  if (record.kind != kFenceRecord || record.value.size() != sizeof(leaf)) return std::nullopt;
  std::memcpy(&leaf, record.value.data(), sizeof(leaf));
  return leaf;
}

const InnerNode& AsInner(const NodeHeader& header) {
  return reinterpret_cast<const InnerNode&>(header);
}

}  // namespace

void OldTree::Read(uint64_t root, Report fault) {
  WalkInner(root, fault);
  FollowLinks();
  SortLeaves(Ignore);
  if (!inner_damaged_ && CheckLinks(Ignore)) return;
  AddAllThatMayBe();
  FollowLinks();
  SortLeaves(fault);
  CheckLinks(fault);
}

size_t OldTree::LeafOf(std::string_view key) const {
  const auto after =
      std::upper_bound(leaves_.begin(), leaves_.end(), key,
                       [](std::string_view k, const OldLeaf& leaf) { return k < leaf.fence; });
  return static_cast<size_t>(after - leaves_.begin()) - 1;
}

std::optional<std::string_view> OldTree::UpperOf(size_t i) const {
  if (i + 1 == leaves_.size()) return std::nullopt;
  return leaves_[i + 1].fence;
}

std::vector<OldSlot> OldTree::SlotsOf(const OldLeaf& leaf) const {
  std::vector<OldSlot> slots;
  if (leaf.address == kNullAddress) return slots;
  const LeafNode& node = LeafAt(leaf.address);
  for (const uint64_t word : node.slots) {
    if (word != 0) __builtin_prefetch(survey_.pool().At(SlotAddress(word)));
  }
  slots.reserve(kLeafSlots);
  for (unsigned place = 0; place < kLeafSlots; ++place) {
    const uint64_t word = node.slots[place];
    if (word == 0) continue;
    OldSlot& slot = slots.emplace_back(OldSlot{place, word, std::nullopt, false});
    slot.record = survey_.IntactRecord(SlotAddress(word));
    if (slot.record.has_value() &&
        (slot.record->kind != kValueRecord || KeyTag(slot.record->key) != SlotTag(word))) {
      slot.record.reset();
    }
    const unsigned home = HomeLine(SlotTag(word));
    const unsigned line = place / kSlotsPerLine;
    slot.misplaced = (line + kLeafLines - home) % kLeafLines >= kProbeLines;
  }
  return slots;
}

// ---- Fences ----

std::optional<std::string_view> OldTree::FenceOf(const NodeHeader& node) {
  if (node.low_fence == kNullAddress) return std::string_view();
  const std::optional<RecordView> record = survey_.IntactRecord(node.low_fence);
  if (!record.has_value() || !LeafOfFence(*record).has_value()) return std::nullopt;
  return record->key;
}

// Of fences that no intact node has.
void OldTree::CollectFenceRecords() {
  fence_records_.emplace();
  std::set<Address> taken;
  for (const Address address : found_) {
    const NodeHeader* leaf = survey_.IntactNode(address, 0);
    if (leaf != nullptr) taken.insert(leaf->low_fence);
  }
  for (const SurveyedExtent& extent : survey_.extents()) {
    // Long ones lie among the records.
    if (IsNode(extent.kind()) || (extent.kind() == SlotKind::kRecord &&
                                  extent.layout.slot_size_bytes <= kMaxFenceSlotSizeBytes)) {
      continue;
    }
    for (uint32_t slot = 0; slot < extent.layout.slot_count; ++slot) {
      if (extent.states[slot] != SlotState::kIntact || !survey_.MayBeUsed(extent, slot)) continue;
      const std::optional<RecordView> record = survey_.Record(extent, slot);
      const std::optional<Address> leaf = LeafOfFence(*record);
      if (!leaf.has_value() || taken.count(record->address) != 0) continue;
      (*fence_records_)[*leaf].push_back(record->key);
    }
  }
}

std::optional<std::string_view> OldTree::FenceByRecords(Address leaf) {
  if (!fence_records_.has_value()) CollectFenceRecords();
  const auto found = fence_records_->find(leaf);
  if (found == fence_records_->end() || found->second.size() != 1) return std::nullopt;
  return found->second.front();
}

// ---- Finding leaves ----

bool OldTree::IsLeafSlot(Address address) {
  const std::optional<Survey::Place> place = survey_.Find(address);
  return place.has_value() && place->extent->kind() == SlotKind::kLeaf;
}

// A child that had moved right, before the node's slot was freed, and is no leaf any more. (One
// that is blank by damage is missed by its neighbour.)
bool OldTree::IsDeadLeaf(Address address) {
  const std::optional<Survey::Place> place = survey_.Find(address);
  return place.has_value() && place->extent->kind() == SlotKind::kLeaf &&
         place->state() == SlotState::kEmpty;
}

void OldTree::WalkInner(uint64_t root, Report fault) {
  unsigned level = static_cast<unsigned>(root >> kRootLevelShift);
  std::set<Address> nodes = {root & kAddressMask};
  if (level > UINT8_MAX) {
    fault("the superblock's root word is damaged");
    inner_damaged_ = true;
    return;
  }
  for (; level > 0; --level) {
    std::set<Address> below;
    std::vector<Address> to_visit(nodes.begin(), nodes.end());
    while (!to_visit.empty()) {
      const Address address = to_visit.back();
      to_visit.pop_back();
      const NodeHeader* node = survey_.IntactNode(address, level);
      if (node == nullptr) {
        fault(NodeFault(address, absl::StrCat("no intact node of level ", level)));
        inner_damaged_ = true;
        continue;
      }
      CheckChildren(*node, fault);
      for (const uint64_t child : AsInner(*node).slots) {
        if (child != kNullAddress && !IsDeadLeaf(child)) below.insert(child);
      }
      const Address next = NextOf(node->next);
      if (next != kNullAddress && nodes.insert(next).second) to_visit.push_back(next);
    }
    nodes.swap(below);
  }
  for (const Address leaf : nodes) {
    if (IsLeafSlot(leaf)) {
      found_.insert(leaf);
    } else {
      fault(NodeFault(leaf, "the index leads there, and no leaf can lie there"));
      inner_damaged_ = true;
    }
  }
}

// What Index::Verify would find fault with, too.
void OldTree::CheckChildren(const NodeHeader& inner, Report fault) {
  const auto complain = [&](std::string_view what) {
    fault(NodeFault(inner.self, what));
    inner_damaged_ = true;
  };
  const std::optional<std::string_view> low = FenceOf(inner);
  if (!low.has_value()) return complain("its low fence is damaged");
  std::optional<std::string_view> upper;
  if (const Address next = NextOf(inner.next); next != kNullAddress) {
    const NodeHeader* right = survey_.IntactNode(next, inner.level);
    if (right != nullptr) upper = FenceOf(*right);
    if (!upper.has_value() || *upper <= *low) return complain("its link is damaged");
  }
  std::vector<std::string_view> fences;
  for (const uint64_t child : AsInner(inner).slots) {
    if (child == kNullAddress || IsDeadLeaf(child)) continue;
    const NodeHeader* node = survey_.IntactNode(child, inner.level - 1u);
    if (node == nullptr) return complain("a child is damaged");
    const std::optional<std::string_view> fence = FenceOf(*node);
    if (!fence.has_value()) return complain("a child's low fence is damaged");
    if (upper.has_value() && *fence >= *upper) continue;  // It moved right.
    if (*fence < *low) return complain("a child lies below its low fence");
    fences.push_back(*fence);
  }
  std::sort(fences.begin(), fences.end());
  if (fences.empty() || fences.front() != *low) return complain("its leftmost child is missing");
  if (std::adjacent_find(fences.begin(), fences.end()) != fences.end()) {
    return complain("two of its children have one low fence");
  }
}

void OldTree::FollowLinks() {
  std::vector<Address> to_visit(found_.begin(), found_.end());
  while (!to_visit.empty()) {
    const NodeHeader* leaf = survey_.IntactNode(to_visit.back(), 0);
    to_visit.pop_back();
    if (leaf == nullptr) continue;
    const Address next = NextOf(leaf->next);
    if (next != kNullAddress && IsLeafSlot(next) && found_.insert(next).second) {
      to_visit.push_back(next);
    }
  }
}

// Where the way from the root is damaged: what any intact parent leads to, and what a clean close
// has said to be in use. A leaf that is none any more is stamped dead.
void OldTree::AddAllThatMayBe() {
  for (const SurveyedExtent& extent : survey_.extents()) {
    if (!IsNode(extent.kind())) continue;
    for (uint32_t slot = 0; slot < extent.layout.slot_count; ++slot) {
      if (!survey_.MayBeUsed(extent, slot)) continue;
      const Address address = extent.SlotAddress(slot);
      if (extent.kind() == SlotKind::kLeaf) {
        if (extent.map_known) found_.insert(address);
      } else if (const NodeHeader* node = survey_.IntactNode(address, 1); node != nullptr) {
        for (const uint64_t child : AsInner(*node).slots) {
          if (child != kNullAddress && IsLeafSlot(child)) found_.insert(child);
        }
      }
    }
  }
}

// ---- Their order ----

std::optional<OldLeaf> OldTree::Describe(Address address, Report fault) {
  OldLeaf leaf;
  leaf.address = address;
  const NodeHeader* header = survey_.IntactNode(address, 0);
  leaf.header_intact = header != nullptr;
  if (!leaf.header_intact) fault(NodeFault(address, "the leaf's header is damaged"));
  std::optional<std::string_view> fence;
  if (leaf.header_intact) {
    leaf.split_unfinished = (header->next & kSplitUnfinished) != 0;
    fence = FenceOf(*header);
    if (!fence.has_value()) fault(NodeFault(address, "the leaf's low fence is damaged"));
  } else {
    fence = FenceByRecords(address);
  }
  if (!leaf.header_intact || !fence.has_value()) {
    bool bad_slots = false;
    std::optional<std::string_view> lowest;
    for (const OldSlot& slot : SlotsOf(leaf)) {
      if (!slot.record.has_value()) {
        bad_slots = true;
      } else if (!lowest.has_value() || slot.record->key < *lowest) {
        lowest = slot.record->key;
      }
    }
    // Below its lowest key it has nothing to say.
    leaf.fence_guessed = !fence.has_value() || (lowest.has_value() && *lowest < *fence);
    if (leaf.fence_guessed) fence = lowest;
    if (!fence.has_value()) return std::nullopt;
    leaf.doubtful = leaf.fence_guessed && bad_slots;
  }
  leaf.fence = *fence;
  return leaf;
}

void OldTree::SortLeaves(Report fault) {
  leaves_.clear();
  for (const Address address : found_) {
    std::optional<OldLeaf> leaf = Describe(address, fault);
    // Of a leaf that has nothing to say, its left neighbour's link tells.
    if (leaf.has_value()) leaves_.push_back(*leaf);
  }
  std::sort(leaves_.begin(), leaves_.end(),
            [](const OldLeaf& a, const OldLeaf& b) { return a.fence < b.fence; });
}

// Marks what is doubtful; true if all is well.
bool OldTree::CheckLinks(Report fault) {
  bool well = true;
  if (leaves_.empty() || !leaves_.front().fence.empty()) {
    if (!leaves_.empty() && leaves_.front().fence_guessed &&
        LeafAt(leaves_.front().address).header.low_fence == kNullAddress) {
      leaves_.front().fence = {};  // Its header is damaged, and this is the leftmost.
    } else {
      fault("index: the leftmost leaf is lost");
      OldLeaf lost;
      lost.doubtful = true;
      leaves_.insert(leaves_.begin(), lost);
    }
    well = false;
  }
  std::unordered_map<Address, size_t> position;
  for (size_t i = 0; i < leaves_.size(); ++i) position[leaves_[i].address] = i;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    OldLeaf& leaf = leaves_[i];
    well = well && leaf.header_intact && !leaf.fence_guessed;
    if (leaf.fence_guessed && leaf.doubtful && i > 0) leaves_[i - 1].doubtful = true;
    if (leaf.address == kNullAddress) continue;
    const bool last = i + 1 == leaves_.size();
    const Address next = NextOf(LeafAt(leaf.address).header.next);
    const bool ascending = last || leaf.fence < leaves_[i + 1].fence;
    if (ascending && next == (last ? kNullAddress : leaves_[i + 1].address)) continue;
    well = false;
    leaf.doubtful = true;
    if (!ascending) leaves_[i + 1].doubtful = true;
    if (leaf.header_intact) {
      fault(NodeFault(leaf.address, ascending ? "the leaf's link does not lead to the next one"
                                              : "another leaf has the same low fence"));
    }
    // Leaves that it passes by: who is right can't be known.
    const auto reached = position.find(next);
    if (reached == position.end()) continue;
    for (size_t passed = i + 1; passed < reached->second; ++passed) leaves_[passed].doubtful = true;
  }
  return well;
}

}  // namespace daxkv::kv
