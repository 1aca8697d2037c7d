// Extents on the medium: writing a header, checking one that may be damaged, saving and loading
// maps. Stateless; Space decides when.
//
// A saved map counts only if every session since it was saved ended in a clean Close, because a
// clean Close saves the maps of all extents that its session changed (Space, E3). The map's epoch
// and Superblock::maps_valid_since tell. So no slot's coming or going ever writes to its map.
#ifndef DAXKV_KV_EXTENT_HEADER_H_
#define DAXKV_KV_EXTENT_HEADER_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/size_classes.h"

namespace daxkv::kv {

inline constexpr uint64_t kMapOffset = sizeof(ExtentHeader);

// 64-bit words of the map of `slot_count` slots.
inline uint32_t MapWords(uint32_t slot_count) { return (slot_count + 63) / 64; }

// What a run is for, as far as its descriptor tells.
struct RunUse {
  enum class Kind { kUnknown, kSlab, kLarge, kKeyspaceTable };
  Kind kind = Kind::kUnknown;
  KeyspaceId keyspace = kDefaultKeyspace;  // Of an extent.
  uint16_t size_class = 0;                 // Of a slab; kLargeClass of a large extent.

  bool is_extent() const { return kind == Kind::kSlab || kind == Kind::kLarge; }
  bool IsExtentOf(KeyspaceId id) const { return is_extent() && keyspace == id; }
};
RunUse UseOf(const dax::Run& run);
// Kind and owner of a run for slabs.
uint8_t SlabRunKind(uint16_t size_class);
uint16_t SlabRunOwner(KeyspaceId keyspace, uint16_t size_class);

// Writes the header of the fresh extent in `run`, with no valid map. It is flushed by whoever
// commits the run, perhaps another thread, with FlushHeader.
void WriteSlabHeader(dax::Pool& pool, const dax::Run& run);
void WriteLargeHeader(dax::Pool& pool, const dax::Run& run, uint64_t record_size_bytes);
// A slab for an index that a repair makes: its map epoch is the repair's.
void WriteRepairHeader(dax::Pool& pool, const dax::Run& run);
// The map epoch of an extent whose map state is 0; 0: it has another state.
uint64_t EpochWithoutMap(const dax::Pool& pool, Address extent);

// Starts flushing a header that was written before.
void FlushHeader(dax::Pool& pool, const dax::Run& run);

// Whether a run for a slab has a size that its size class may have.
bool HasSlabSize(const dax::Run& run);

// Checks the header of a live run against the run and returns its layout (size_class is kLargeClass
// for a large extent).
//   kDataLoss  the header does not describe this run (message: pool offset and field)
absl::StatusOr<SlotLayout> CheckExtent(const dax::Pool& pool, const dax::Run& run);

// Whether the map saved in a checked extent counts, given Superblock::maps_valid_since.
bool HasValidMap(const dax::Pool& pool, Address extent, const SlotLayout& layout,
                 uint64_t maps_valid_since);

// The saved map's words (slab extents only).
const uint64_t* SavedMap(const dax::Pool& pool, Address extent);

// Stores the map's epoch and state for words that already lie at the extent's kMapOffset, and
// starts flushing words and header. A torn map does not match its checksum.
void SealMap(dax::Pool& pool, Address extent, const SlotLayout& layout, uint64_t open_epoch);

// Makes the saved map not count, and starts flushing that.
void BreakMapSeal(dax::Pool& pool, Address extent);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_EXTENT_HEADER_H_
