// What lies in the slots of a store, by the checksums alone: the first half of a repair, and what a
// scrub does piece by piece. Internal to kv/.
//
// Not thread-safe: the pool belongs to the repair.
#ifndef DAXKV_KV_REPAIR_SURVEY_H_
#define DAXKV_KV_REPAIR_SURVEY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/record.h"
#include "kv/size_classes.h"

namespace daxkv::kv {

enum class SlotState : uint8_t {
  kEmpty,    // Blank, or stamped dead (format.h).
  kIntact,   // A record, or a node's header, whose checksum holds at this address.
  kDamaged,  // Anything else: damaged, or never complete.
};

// The record that bytes [address, end) of the pool begin with, if its sizes fit; its checksum is
// not looked at.
std::optional<RecordView> ParseRecord(const dax::Pool& pool, Address address, Address end);

// Whether a node's header holds, wherever it lies in the tree. `level`: 0 for a leaf.
bool IsIntactNode(const NodeHeader& header, Address node);

struct SurveyedExtent {
  dax::Run run;
  SlotLayout layout;
  // The header is not what the run says; `layout` was found without it.
  bool header_damaged = false;
  // A clean close has said which slots are in use, and nothing has changed since.
  bool map_known = false;
  std::vector<SlotState> states;
  std::vector<bool> referenced;  // By a leaf; for who walks the index.

  Address SlotAddress(uint32_t slot) const {
    return run.offset() + layout.first_slot_offset + uint64_t{slot} * layout.slot_size_bytes;
  }
  Address SlotEnd(uint32_t slot) const { return SlotAddress(slot) + layout.slot_size_bytes; }
  SlotKind kind() const {
    return layout.size_class == kLargeClass ? SlotKind::kRecord : SlotKindOf(layout.size_class);
  }
};

class Survey {
 public:
  struct Place {
    SurveyedExtent* extent;
    uint32_t slot;

    SlotState state() const { return extent->states[slot]; }
  };

  // Of a keyspace. `maps_count`: whether saved maps say what is in use.
  Survey(dax::Pool* pool, KeyspaceId keyspace, bool maps_count)
      : pool_(*pool), keyspace_(keyspace), maps_count_(maps_count) {}

  // Reads every byte of every extent of the keyspace. kDataLoss: the pool's run descriptors are
  // damaged.
  absl::Status Run();

  // The slot that begins at `address`; nullopt: none does.
  std::optional<Place> Find(Address address);
  // Whether a word, at an offset that may be anything, lies in a slot for nodes.
  bool IsInNode(Address word);
  // Whether the slot was in use at the last clean close; true where that is not known.
  bool MayBeUsed(const SurveyedExtent& extent, uint32_t slot) const;
  // The record in a slot, damaged or not.
  std::optional<RecordView> Record(const SurveyedExtent& extent, uint32_t slot) const {
    return ParseRecord(pool_, extent.SlotAddress(slot), extent.SlotEnd(slot));
  }
  // The intact record at an address that may be anything.
  std::optional<RecordView> IntactRecord(Address address);
  // The intact node of that level at an address that may be anything; null: there is none.
  const NodeHeader* IntactNode(Address address, unsigned level);

  std::vector<SurveyedExtent>& extents() { return extents_; }
  // Runs of the keyspace that can't be extents: large ones without a header or a record, mostly.
  // Runs that can be nobody's count for the default keyspace.
  const std::vector<dax::Run>& hopeless() const { return hopeless_; }
  dax::Pool& pool() { return pool_; }
  KeyspaceId keyspace() const { return keyspace_; }

 private:
  // The slot that `address` lies in.
  std::optional<Place> FindAround(Address address);
  // False: nothing can be made of the run.
  bool Describe(SurveyedExtent* extent) const;
  void Classify(SurveyedExtent* extent) const;
  SlotState StateOf(const SurveyedExtent& extent, uint32_t slot) const;

  dax::Pool& pool_;
  const KeyspaceId keyspace_;
  const bool maps_count_;
  std::vector<SurveyedExtent> extents_;  // In ascending order.
  std::vector<dax::Run> hopeless_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_REPAIR_SURVEY_H_
