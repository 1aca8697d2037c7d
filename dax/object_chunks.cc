#include "dax/object_chunks.h"

#include <algorithm>
#include <cstring>

#include "dax/object_lanes.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kChunksOfAZone = 65528;
constexpr uint32_t kZoneMagic = 0xC3F0A2D2;  // Not there before a zone is first used.
constexpr uint16_t kFree = 2;
// Words in the pool's first page but one.
constexpr uint64_t kHeapOffsetAt = 4096 + 1024 + 16;
constexpr uint64_t kHeapSizeAt = 4096 + 2048 + 32;

struct ChunkHeader {
  uint16_t type;
  uint16_t flags;
  uint32_t chunks;
};
static_assert(sizeof(ChunkHeader) == 8);

struct ZoneHeader {
  uint32_t magic;
  uint32_t chunks;
  char unused[56];
};
static_assert(sizeof(ZoneHeader) == 64);

constexpr uint64_t kZoneHeaderBytes = sizeof(ZoneHeader) + kChunksOfAZone * sizeof(ChunkHeader);
constexpr uint64_t kZoneBytes = kZoneHeaderBytes + kChunksOfAZone * ObjectChunks::kChunkBytes;

}  // namespace

ObjectChunks::ObjectChunks(const char* base) : base_(base), first_zone_(HeapOffset(base)) {}

uint64_t ObjectChunks::StartOfChunkAt(uint64_t offset) const {
  if (offset < first_zone_ + kZoneHeaderBytes) return first_zone_ + kZoneHeaderBytes;
  const uint64_t zone = first_zone_ + (offset - first_zone_) / kZoneBytes * kZoneBytes;
  const uint64_t inside = offset - zone;
  if (inside < kZoneHeaderBytes) return zone - kChunkBytes;
  return zone + kZoneHeaderBytes + (inside - kZoneHeaderBytes) / kChunkBytes * kChunkBytes;
}

void ObjectChunks::ForEachZoneHeader(uint64_t begin, uint64_t end,
                                     absl::FunctionRef<void(uint64_t, uint64_t)> visit) const {
  for (uint64_t zone = first_zone_; zone < end; zone += kZoneBytes) {
    const uint64_t first = std::max(zone, begin);
    const uint64_t last = std::min(zone + kZoneHeaderBytes + kObjectHeaderBytes, end);
    if (first < last) visit(first, last - first);
  }
}

void ObjectChunks::ForEachFreeBlock(uint64_t end, absl::FunctionRef<void(uint64_t)> visit) const {
  for (uint64_t zone = first_zone_; zone < end && end - zone > kZoneHeaderBytes;
       zone += kZoneBytes) {
    ZoneHeader header;
    std::memcpy(&header, base_ + zone, sizeof(header));
    const uint64_t fit = (end - zone - kZoneHeaderBytes) / kChunkBytes;
    const uint64_t chunks = std::min({uint64_t{header.chunks}, kChunksOfAZone, fit});
    if (header.magic != kZoneMagic) continue;
    for (uint64_t i = 0; i < chunks;) {
      ChunkHeader chunk;
      std::memcpy(&chunk, base_ + zone + sizeof(header) + i * sizeof(chunk), sizeof(chunk));
      if (chunk.chunks == 0) break;
      if (chunk.type == kFree) visit(zone + kZoneHeaderBytes + i * kChunkBytes);
      i += chunk.chunks;
    }
  }
}

// libpmemobj stores the heap's length before it enlarges the last zone, and uses nothing behind
// what the zones hold.
std::optional<uint64_t> ObjectChunks::FindEnd(uint64_t size_bytes, Read read) {
  uint64_t heap_offset = 0, heap_size_bytes = 0;
  if (!read(kHeapOffsetAt, &heap_offset, sizeof(heap_offset)) ||
      !read(kHeapSizeAt, &heap_size_bytes, sizeof(heap_size_bytes)) || heap_offset > size_bytes ||
      heap_size_bytes > size_bytes - heap_offset || heap_size_bytes <= kHeapHeaderSizeBytes) {
    return std::nullopt;
  }
  const uint64_t end = heap_offset + heap_size_bytes;
  const uint64_t first_zone = heap_offset + kHeapHeaderSizeBytes;
  const uint64_t zone = first_zone + (end - 1 - first_zone) / kZoneBytes * kZoneBytes;
  ZoneHeader header;
  if (!read(zone, &header, sizeof(header))) return std::nullopt;
  const uint64_t chunks = (end - zone - std::min(end - zone, kZoneHeaderBytes)) / kChunkBytes;
  if (header.magic == kZoneMagic && header.chunks > chunks) return std::nullopt;
  return end;
}

}  // namespace daxkv::dax
