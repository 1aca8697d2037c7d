#include "kv/repair_survey.h"

#include <algorithm>

#include "kv/extent_header.h"
#include "kv/node.h"
#include "kv/superblock.h"

namespace daxkv::kv {

std::optional<RecordView> ParseRecord(const dax::Pool& pool, Address address, Address end) {
  if (end < address + sizeof(RecordHeader)) return std::nullopt;
  const auto* header = reinterpret_cast<const RecordHeader*>(pool.At(address));
  const uint64_t size_bytes =
      RecordSizeBytes(header->key_size_bytes(), uint64_t{header->value_size_bytes});
  const uint8_t kind = header->kind_and_flags;
  if (!IsRecordKind(kind) || size_bytes > end - address) return std::nullopt;
  const char* key = pool.At(address) + sizeof(RecordHeader);
  RecordView record;
  record.address = address;
  record.sequence = header->sequence;
  record.kind = KindOf(kind);
  record.of_batch = (kind & kOfBatchFlag) != 0;
  record.key = std::string_view(key, header->key_size_bytes());
  record.value = std::string_view(key + record.key.size(), header->value_size_bytes);
  return record;
}

bool IsIntactNode(const NodeHeader& header, Address node) {
  return header.magic == (header.level == 0 ? kLeafMagic : kInnerMagic) && header.self == node &&
         header.version == kNodeVersion && header.checksum == NodeChecksum(header);
}

absl::Status Survey::Run() {
  absl::Status status = pool_.ForEachRun([this](const dax::Run& run) {
    const RunUse use = UseOf(run);
    const bool of_nobody = use.kind == RunUse::Kind::kUnknown && keyspace_ == kDefaultKeyspace;
    if (!use.IsExtentOf(keyspace_) && !of_nobody) return absl::OkStatus();
    SurveyedExtent extent;
    extent.run = run;
    if (Describe(&extent)) {
      extents_.push_back(std::move(extent));
    } else {
      hopeless_.push_back(run);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  for (SurveyedExtent& extent : extents_) Classify(&extent);
  return absl::OkStatus();
}

bool Survey::Describe(SurveyedExtent* extent) const {
  const dax::Run& run = extent->run;
  if (absl::StatusOr<SlotLayout> layout = CheckExtent(pool_, run); layout.ok()) {
    extent->layout = *layout;
    extent->map_known =
        maps_count_ && HasValidMap(pool_, run.offset(), *layout, MapsValidSince(pool_));
    return true;
  }
  extent->header_damaged = true;
  const RunUse use = UseOf(run);
  if (use.kind == RunUse::Kind::kSlab) {
    if (!HasSlabSize(run)) return false;
    extent->layout = SlabLayout(use.size_class, run.pages);
    return true;
  }
  if (use.kind != RunUse::Kind::kLarge) return false;
  const Address address = run.offset() + kLargeRecordOffset;
  const std::optional<RecordView> record =
      ParseRecord(pool_, address, run.offset() + run.size_bytes());
  if (!record.has_value() || !IsIntact(*record, keyspace_)) return false;
  extent->layout.size_class = kLargeClass;
  extent->layout.slot_count = 1;
  extent->layout.first_slot_offset = kLargeRecordOffset;
  extent->layout.slot_size_bytes =
      static_cast<uint32_t>(RecordSizeBytes(record->key.size(), record->value.size()));
  return true;
}

void Survey::Classify(SurveyedExtent* extent) const {
  const uint32_t count = extent->layout.slot_count;
  extent->states.resize(count);
  extent->referenced.resize(count);
  for (uint32_t slot = 0; slot < count; ++slot) extent->states[slot] = StateOf(*extent, slot);
}

SlotState Survey::StateOf(const SurveyedExtent& extent, uint32_t slot) const {
  const Address address = extent.SlotAddress(slot);
  if (IsNode(extent.kind())) {
    const auto* node = reinterpret_cast<const NodeHeader*>(pool_.At(address));
    if (node->magic == 0) return SlotState::kEmpty;
    const bool level_fits = (node->level == 0) == (extent.kind() == SlotKind::kLeaf);
    return level_fits && IsIntactNode(*node, address) ? SlotState::kIntact : SlotState::kDamaged;
  }
  if (reinterpret_cast<const RecordHeader*>(pool_.At(address))->kind_and_flags == kNoRecord) {
    return SlotState::kEmpty;
  }
  const std::optional<RecordView> record = Record(extent, slot);
  return record.has_value() && IsIntact(*record, keyspace_) ? SlotState::kIntact
                                                            : SlotState::kDamaged;
}

std::optional<Survey::Place> Survey::Find(Address address) {
  const std::optional<Place> around = FindAround(address);
  if (!around.has_value() || around->extent->SlotAddress(around->slot) != address) {
    return std::nullopt;
  }
  return around;
}

std::optional<Survey::Place> Survey::FindAround(Address address) {
  auto after =
      std::upper_bound(extents_.begin(), extents_.end(), address,
                       [](Address at, const SurveyedExtent& e) { return at < e.run.offset(); });
  if (after == extents_.begin()) return std::nullopt;
  SurveyedExtent& extent = *--after;
  const Address first = extent.SlotAddress(0);
  if (address < first) return std::nullopt;
  const uint64_t slot = (address - first) / extent.layout.slot_size_bytes;
  if (slot >= extent.layout.slot_count) return std::nullopt;
  return Place{&extent, static_cast<uint32_t>(slot)};
}

bool Survey::IsInNode(Address word) {
  const std::optional<Place> around = FindAround(word);
  return word % sizeof(uint64_t) == 0 && around.has_value() && IsNode(around->extent->kind());
}

bool Survey::MayBeUsed(const SurveyedExtent& extent, uint32_t slot) const {
  if (!extent.map_known || extent.layout.size_class == kLargeClass) return true;
  return (SavedMap(pool_, extent.run.offset())[slot / 64] >> slot % 64 & 1) != 0;
}

std::optional<RecordView> Survey::IntactRecord(Address address) {
  const std::optional<Place> place = Find(address);
  if (!place.has_value() || IsNode(place->extent->kind()) || place->state() != SlotState::kIntact) {
    return std::nullopt;
  }
  return Record(*place->extent, place->slot);
}

const NodeHeader* Survey::IntactNode(Address address, unsigned level) {
  const std::optional<Place> place = Find(address);
  if (!place.has_value() || !IsNode(place->extent->kind()) ||
      place->state() != SlotState::kIntact) {
    return nullptr;
  }
  const auto* node = reinterpret_cast<const NodeHeader*>(pool_.At(address));
  return node->level == level ? node : nullptr;
}

}  // namespace daxkv::kv
