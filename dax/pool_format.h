// What a pool looks like on the medium, to the byte. All numbers are little-endian.
//
//   RootObject     libpmemobj's root object: leads to the PoolRoot
//   PoolRoot       an object of its own at a multiple of 64, in the pool's first 8 MiB
//   SegmentHeader  at the first multiple of 64 inside each segment's libpmemobj object
//     then, 64 bytes after it, one descriptor word (run_descriptor.h) for each data page,
//     then the data pages, from the next multiple of 2 MiB (of the pool offset) on
#ifndef DAXKV_DAX_POOL_FORMAT_H_
#define DAXKV_DAX_POOL_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <libpmemobj++/p.hpp>

#include "dax/pool.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

namespace daxkv::dax {

// 2: the list of lost pages. Version 1 was never released; its pools are refused.
inline constexpr uint32_t kFormatVersion = 2;
inline constexpr uint64_t kRootMagic = 0x4c4f4f5056584144;     // "DAXVPOOL"
inline constexpr uint64_t kSegmentMagic = 0x544e474d47455344;  // "DSEGMGNT"
inline constexpr uint64_t kMaxSegments = 4096;
inline constexpr size_t kMaxBadPages = 512;
inline constexpr char kLayoutName[] = "daxkv";

// One libpmemobj object that is a segment. Zero beyond PoolRoot::segment_count.
struct SegmentEntry {
  pmem::obj::p<uint64_t> object_offset;  // Of the object's first usable byte.
  pmem::obj::p<uint64_t> object_size_bytes;
};
static_assert(sizeof(SegmentEntry) == 16);

struct PoolRoot {
  // Bytes 0..63: written once, at creation, and covered by `checksum`.
  pmem::obj::p<uint64_t> magic;
  pmem::obj::p<uint32_t> format_version;
  pmem::obj::p<uint32_t> page_size_bytes;
  pmem::obj::p<uint64_t> uuid[2];
  pmem::obj::p<uint64_t> unused_immutable[3];
  pmem::obj::p<uint32_t> unused_before_checksum;
  pmem::obj::p<uint32_t> checksum;  // CRC32C of the 60 bytes before it.
  // Bytes 64..127: the state of opening, two words that each commit by their own store, that of the
  // open and that of the close.
  // The latest open's, sealed (SealEpoch): a wrong one would bring old maps and sequences back.
  pmem::obj::p<uint64_t> open_epoch;
  // The open epoch, sealed, of the last session that was closed after everything was durable;
  // SealEpoch(0): none was. Unlike open_epoch: open, or crashed.
  pmem::obj::p<uint64_t> clean;
  pmem::obj::p<uint64_t> unused_state[6];
  // Bytes 128..191: changed by transactions only.
  pmem::obj::p<uint64_t> segment_count;
  pmem::obj::p<uint64_t> unused_count[7];
  // Bytes 192..4287: the layer above's.
  char root_area[Pool::kRootAreaSizeBytes];
  // Bytes 4288..69823, in no order.
  SegmentEntry segments[kMaxSegments];
  // Bytes 69824..73919: the lost data pages (bad_pages.h), in no order; each word commits by its
  // own store. 0: none. Else bits 0..39 the page number, bits 40..63 the low bits of the complement
  // of the CRC32C of the page number as 8 bytes.
  pmem::obj::p<uint64_t> bad_pages[kMaxBadPages];
};
inline constexpr size_t kRootChecksumSpan = 60;
static_assert(offsetof(PoolRoot, checksum) == kRootChecksumSpan);
static_assert(offsetof(PoolRoot, open_epoch) == 64);
static_assert(offsetof(PoolRoot, clean) == 72);
static_assert(offsetof(PoolRoot, segment_count) == 128);
static_assert(offsetof(PoolRoot, root_area) == 192);
static_assert(offsetof(PoolRoot, segments) == 4288);
static_assert(offsetof(PoolRoot, bad_pages) == 69824);
static_assert(sizeof(PoolRoot) == 73920);

// The PoolRoot would fit here too, but libpmemobj sets 2 MiB and more aside for the first object of
// that size; allocated by a class of its own it takes 256 KiB.
struct RootObject {
  pmem::obj::p<uint64_t> pool_root_offset;
  pmem::obj::p<uint64_t> unused[7];
};
static_assert(sizeof(RootObject) == 64);
// Every pool has at least these bytes, and PoolRoot lies in them.
inline constexpr uint64_t kFirstBytes = uint64_t{8} << 20;

struct SegmentHeader {
  uint64_t magic;
  uint64_t object_offset;      // As in its table entry.
  uint64_t object_size_bytes;  // As in its table entry.
  uint64_t first_page;         // Page number of the first data page, a multiple of 512.
  uint64_t pages;              // Data pages.
  uint64_t unused[2];
  uint32_t unused_before_checksum;
  uint32_t checksum;  // CRC32C of the 60 bytes before it.
};
inline constexpr size_t kSegmentChecksumSpan = 60;
static_assert(offsetof(SegmentHeader, checksum) == kSegmentChecksumSpan);
static_assert(sizeof(SegmentHeader) == 64);

// The CRC32C of `size_bytes` bytes.
uint32_t Checksum(const void* bytes, size_t size_bytes);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_POOL_FORMAT_H_
