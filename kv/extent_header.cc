#include "kv/extent_header.h"

#include "absl/strings/str_cat.h"
#include "kv/record.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kMapValid = uint64_t{1} << 32;

ExtentHeader* HeaderAt(const dax::Pool& pool, Address extent) {
  return reinterpret_cast<ExtentHeader*>(pool.At(extent));
}

uint32_t HeaderChecksum(const ExtentHeader& header) {
  return Crc32c(0, &header, offsetof(ExtentHeader, checksum));
}

// A large extent has no map: its one record is used if the state says valid.
uint64_t MapSizeBytes(const SlotLayout& layout) {
  return layout.size_class == kLargeClass ? 0 : uint64_t{MapWords(layout.slot_count)} * 8;
}

uint64_t MapState(const ExtentHeader* header, const SlotLayout& layout) {
  const char* map = reinterpret_cast<const char*>(header) + kMapOffset;
  const uint32_t seed = Crc32c(0, &header->map_epoch, sizeof(header->map_epoch));
  return kMapValid | Crc32c(seed, map, MapSizeBytes(layout));
}

void WriteHeader(dax::Pool& pool, const dax::Run& run, uint32_t magic, uint16_t size_class,
                 const SlotLayout& layout) {
  ExtentHeader header = {};
  header.magic = magic;
  header.version = kExtentVersion;
  header.size_class = size_class;
  header.self = run.offset();
  header.slot_size_bytes = layout.slot_size_bytes;
  header.slot_count = layout.slot_count;
  header.first_slot_offset = static_cast<uint16_t>(layout.first_slot_offset);
  header.keyspace = UseOf(run).keyspace;
  header.checksum = HeaderChecksum(header);
  *HeaderAt(pool, run.offset()) = header;
}

absl::Status Damaged(const dax::Run& run, std::string_view what) {
  return absl::DataLossError(absl::StrCat("damaged extent at pool offset ", run.offset(), ": ",
                                          absl::string_view(what.data(), what.size())));
}

// The layout that an undamaged header of this run states, up to a large record's size.
SlotLayout ExpectedLayout(const dax::Run& run, const RunUse& use, const ExtentHeader& header) {
  if (use.kind == RunUse::Kind::kSlab) return SlabLayout(use.size_class, run.pages);
  SlotLayout layout;
  layout.size_class = kLargeClass;
  layout.slot_size_bytes = header.slot_size_bytes;
  layout.slot_count = 1;
  layout.first_slot_offset = kLargeRecordOffset;
  return layout;
}

constexpr uint16_t kKeyspaceMask = (1 << kKeyspaceIdBits) - 1;
static_assert(kFirstSlabRun + (kSizeClasses - 1) / 2 <= UINT8_MAX);

}  // namespace

RunUse UseOf(const dax::Run& run) {
  RunUse use;
  if (run.kind == kLargeRun) {
    if (run.owner > kKeyspaceMask) return use;
    use.kind = RunUse::Kind::kLarge;
    use.keyspace = run.owner;
    use.size_class = kLargeClass;
  } else if (run.kind == kKeyspaceTableRun) {
    if (run.owner == kDefaultKeyspace) use.kind = RunUse::Kind::kKeyspaceTable;
  } else if (run.kind >= kFirstSlabRun) {
    const unsigned size_class = 2u * (run.kind - kFirstSlabRun) + (run.owner >> kKeyspaceIdBits);
    if (size_class >= kSizeClasses) return use;
    use.kind = RunUse::Kind::kSlab;
    use.keyspace = run.owner & kKeyspaceMask;
    use.size_class = static_cast<uint16_t>(size_class);
  }
  return use;
}

uint8_t SlabRunKind(uint16_t size_class) {
  return static_cast<uint8_t>(kFirstSlabRun + size_class / 2);
}

uint16_t SlabRunOwner(KeyspaceId keyspace, uint16_t size_class) {
  return static_cast<uint16_t>(keyspace | (size_class % 2) << kKeyspaceIdBits);
}

void WriteSlabHeader(dax::Pool& pool, const dax::Run& run) {
  const uint16_t size_class = UseOf(run).size_class;
  WriteHeader(pool, run, kSlabMagic, size_class, SlabLayout(size_class, run.pages));
}

void WriteLargeHeader(dax::Pool& pool, const dax::Run& run, uint64_t record_size_bytes) {
  SlotLayout layout;
  layout.slot_size_bytes = static_cast<uint32_t>(record_size_bytes);
  layout.slot_count = 1;
  layout.first_slot_offset = kLargeRecordOffset;
  WriteHeader(pool, run, kLargeMagic, 0, layout);
}

void WriteRepairHeader(dax::Pool& pool, const dax::Run& run) {
  WriteSlabHeader(pool, run);
  HeaderAt(pool, run.offset())->map_epoch = pool.open_epoch();
}

uint64_t EpochWithoutMap(const dax::Pool& pool, Address extent) {
  const ExtentHeader& header = *HeaderAt(pool, extent);
  return header.map_state == 0 ? header.map_epoch : 0;
}

void FlushHeader(dax::Pool& pool, const dax::Run& run) {
  pool.Flush(pool.At(run.offset()), sizeof(ExtentHeader));
}

bool HasSlabSize(const dax::Run& run) {
  return run.pages >= SmallRunPages(UseOf(run).size_class) && run.pages <= dax::kHugePages;
}

absl::StatusOr<SlotLayout> CheckExtent(const dax::Pool& pool, const dax::Run& run) {
  const RunUse use = UseOf(run);
  if (!use.is_extent()) return Damaged(run, "unknown kind of run");
  const bool slab = use.kind == RunUse::Kind::kSlab;
  if (slab && !HasSlabSize(run)) return Damaged(run, "run of a size that slabs do not have");
  const ExtentHeader& header = *HeaderAt(pool, run.offset());
  if (header.magic != (slab ? kSlabMagic : kLargeMagic)) return Damaged(run, "wrong magic");
  if (header.checksum != HeaderChecksum(header)) return Damaged(run, "wrong header checksum");
  if (header.version != kExtentVersion) return Damaged(run, "unknown extent version");
  if (header.self != run.offset()) return Damaged(run, "header belongs to another offset");
  if (header.size_class != (slab ? use.size_class : 0)) return Damaged(run, "wrong size class");
  if (header.keyspace != use.keyspace) return Damaged(run, "header of another keyspace");
  const SlotLayout layout = ExpectedLayout(run, use, header);
  if (header.slot_size_bytes != layout.slot_size_bytes || header.slot_count != layout.slot_count ||
      header.first_slot_offset != layout.first_slot_offset) {
    return Damaged(run, "slots that do not fit the run");
  }
  if (!slab && (header.slot_size_bytes < sizeof(RecordHeader) ||
                header.slot_size_bytes > run.size_bytes() - kLargeRecordOffset)) {
    return Damaged(run, "record size that does not fit the run");
  }
  return layout;
}

bool HasValidMap(const dax::Pool& pool, Address extent, const SlotLayout& layout,
                 uint64_t maps_valid_since) {
  const ExtentHeader* header = HeaderAt(pool, extent);
  return (header->map_state & kMapValid) != 0 && header->map_epoch >= maps_valid_since &&
         header->map_state == MapState(header, layout);
}

const uint64_t* SavedMap(const dax::Pool& pool, Address extent) {
  return reinterpret_cast<const uint64_t*>(pool.At(extent + kMapOffset));
}

void SealMap(dax::Pool& pool, Address extent, const SlotLayout& layout, uint64_t open_epoch) {
  ExtentHeader* header = HeaderAt(pool, extent);
  header->map_epoch = open_epoch;
  header->map_state = MapState(header, layout);
  pool.Flush(header, kMapOffset + MapSizeBytes(layout));
}

void BreakMapSeal(dax::Pool& pool, Address extent) {
  ExtentHeader* header = HeaderAt(pool, extent);
  header->map_state = 0;
  pool.Flush(&header->map_state, sizeof(header->map_state));
}

}  // namespace daxkv::kv
