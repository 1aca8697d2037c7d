// What daxkv keeps in the pool, to the byte. All fields are little-endian and of fixed width.
//
// An *address* is a pool offset below 2^48. It names a slot: the place of a record or of a node.
// Slots lie in slab extents (many slots of one size class) or alone in a large run.
//
//   Superblock   in the pool's root area; where the index begins
//   Extent       a committed run of slots, beginning with an ExtentHeader; each belongs to one
//                keyspace, and so does everything in it
//   Record       a key and its value, written once and never changed; see RecordHeader
//   Batch table  32 words behind the superblock: atomic batches, and sets of stores, that are being
//                applied
//   Session      a word behind the batch table: when the store was open last
//   Recent puts  behind the session word: where to look for records that no leaf may lead to yet
//   Table of     a run of its own, once there is another keyspace than the default one: the names
//   keyspaces    of keyspaces, and where their indexes begin
//   Fence        a record of kind kFence: a separator key of the index; its value is the 8-byte
//                address of the leaf that it was made for
//   Node         a leaf or an inner node of the B-link tree; see NodeHeader
//
// The pool, and what leads to what (its own part is in dax/pool_format.h):
//
//   pool offset 0
//   +------------------+-------------------+-------------+-------------+----
//   | libpmemobj's own | PoolRoot          | segment 0   | segment 1   | ...    one mapping
//   +------------------+-------------------+-------------+-------------+----
//                        | open epoch, clean, lost pages
//                        | segment table ----> where each segment lies
//                        | root area:
//                        |   Superblock -----> root node of the default keyspace
//                        |      `------------> table of keyspaces ----> their root nodes
//                        |   Batch table ----> batch records
//                        |   Session
//                        |   Recent puts ----> regions of 256 KiB
//
//   segment   | SegmentHeader | descriptor words, one a page | data pages, at a multiple of 2 MiB |
//                                 each run has one word: pages, kind, owner, reserved or live
//   run       2^0..2^9 pages, or a multiple of 2^9; naturally aligned; holds one extent
//
//   slab      | ExtentHeader | map: a bit a slot | slot | slot | slot | ...    of one size class
//   large     | ExtentHeader | record                                         |
//   slot      a record, a fence, a leaf or an inner node
//
//   root node --> | inner | --next--> | inner | --next--> ...      level 2, 1: children, unordered
//                    |  \__________       |
//                 | leaf | --next--> | leaf | --next--> ...         level 0: addresses and tags
//                  /    \               |   \__low fence--> | fence: key, leaf |
//          | record | | record |     | record |
//
//   batch table word --> | batch record: addresses | --> | record | | record | | delete | ...
#ifndef DAXKV_KV_FORMAT_H_
#define DAXKV_KV_FORMAT_H_

#include <cstddef>
#include <cstdint>

namespace daxkv::kv {

using Address = uint64_t;
inline constexpr Address kNullAddress = 0;
inline constexpr unsigned kAddressBits = 48;
inline constexpr uint64_t kAddressMask = (uint64_t{1} << kAddressBits) - 1;

// 2: keys to 64 KiB, the record's checksum ends with its header and address, batches.
// 3: keyspaces; an extent's run and header tell whose it is, and a record's checksum. Flags beside
// a record's kind; durability and horizon in the superblock.
// 4: recent puts.
inline constexpr uint32_t kFormatVersion = 4;
inline constexpr uint64_t kMaxKeySizeBytes = 65536;
inline constexpr uint64_t kMaxValueSizeBytes = uint64_t{1} << 30;

// A keyspace is an ordered map of its own: an index, and extents that only it uses. Keyspace 0, the
// default one, is always there, and its index begins in the superblock.
using KeyspaceId = uint16_t;
inline constexpr KeyspaceId kDefaultKeyspace = 0;
inline constexpr unsigned kKeyspaceIdBits = 15;

// Kinds of pool runs (dax::Run::kind); their owners (dax::Run::owner).
//   1       a large extent; the owner is its keyspace
//   2       the table of keyspaces; the owner is 0
//   16 + n  a slab extent of size class 2 n or 2 n + 1; the owner is its keyspace in bits 0..14 and
//           the lowest bit of its size class in bit 15
// So what an extent is for can be told without touching it (extent_header.h, RunUse).
enum RunKind : uint8_t { kLargeRun = 1, kKeyspaceTableRun = 2, kFirstSlabRun = 16 };

// ---- Superblock: 64 bytes at the start of dax::Pool::root_area() ----------------------------
//
//   offset size
//        0    8  magic "DAXKV\0SB"
//        8    4  format version
//       12    4  CRC32C of bytes 0..11, seed 0
//       16    8  root: address of the root node in bits 0..47, its level in bits 48..55.
//                Replaced by one 8-byte store when the tree grows a level.
//       24    8  durability: 0, or that the store was opened with process durability on an ordinary
//                file: bits 0..31 the CRC32C of the kernel's boot id at that open, sealed (as
//                dax::Pool::SealEpoch does). While it is not 0, no slot that was given back holds a
//                record without a stamp (kv/stamps.h).
//       32    8  maps valid since: maps that extents saved in an older open epoch do not count.
//                Raised to the epoch of the first open after a crash. Sealed
//                (dax::Pool::SealEpoch); no map counts while it is damaged.
//       40    8  horizon: with process durability, all of each batch with a sequence number up to
//                this one is on the medium
//       48    8  the complement of the horizon; if they differ, the lower of the two counts
//       56    8  keyspaces: pool offset of the table of keyspaces in bits 0..47, and in bits 48..63
//                the low 16 bits of the CRC32C of bits 0..47 (6 bytes), seed 0. 0: there is none.
//                Nor is there one if no live run of kind kKeyspaceTableRun begins there: its
//                creation was cut short
struct Superblock {
  uint64_t magic;
  uint32_t format_version;
  uint32_t checksum;
  uint64_t root;
  uint64_t durability;
  uint64_t maps_valid_since;
  uint64_t horizon;
  uint64_t horizon_complement;
  uint64_t keyspaces;
};
inline constexpr uint64_t kSuperblockMagic = 0x4253'0056'4b58'4144;  // "DAXKV\0SB"
static_assert(sizeof(Superblock) == 64 && offsetof(Superblock, root) == 16 &&
              offsetof(Superblock, durability) == 24 &&
              offsetof(Superblock, maps_valid_since) == 32 && offsetof(Superblock, horizon) == 40 &&
              offsetof(Superblock, keyspaces) == 56);

// ---- Batch table: 256 bytes at offset 64 of dax::Pool::root_area() ------------------------------
//
// 32 words of 8 bytes. 0: free. Otherwise the address of a batch record in bits 0..47, and in bits
// 48..63 the low 16 bits of the CRC32C of bits 0..47 (6 bytes), seed = the word's number + 1: a
// word that was damaged is told from one that was stored.
// Storing a word commits the batch: from then on an open that finds it applies what the batch
// record names, skipping keys whose record has the batch's sequence number or a higher one, and
// only then clears the word. Until the word is durably cleared nothing else changes the leaves
// concerned.
inline constexpr uint64_t kBatchTableOffset = 64;
inline constexpr unsigned kBatchTableWords = 32;
static_assert(kBatchTableOffset == sizeof(Superblock));

// ---- Session: 8 bytes at offset 320 of dax::Pool::root_area() -----------------------------------
//
// The open epoch, sealed (dax::Pool::SealEpoch), of the last session that had the store open, as
// opposed to repairing it; durable before such a session changes anything. If it is not above the
// epoch of the pool's last clean close, then only repairs have come since, and saved maps count
// though the pool is not clean: what is in use is what it was, but for indexes that repairs have
// made.
inline constexpr uint64_t kSessionOffset = kBatchTableOffset + kBatchTableWords * 8;

// ---- Recent puts: 272 bytes at offset 328 of dax::Pool::root_area() -----------------------------
//
// Where records may lie of which a power cut can have kept the leaf's slot (recent_puts.h).
//
//   offset size
//        0    8  settled: puts with a sequence number up to this one need no redo
//        8    8  the complement of settled; if they differ, the lower of the two counts
//       16  256  regions: 32 words. 0: none. Otherwise the pool offset of a region of 256 KiB, plus
//                1, in bits 0..47, and in bits 48..63 the low 16 bits of the CRC32C of bits 0..47 (6
//                bytes), seed = the word's number. While one is damaged, all extents count as listed
struct RecentPutsTable {
  static constexpr unsigned kRegions = 32;
  uint64_t settled;
  uint64_t settled_complement;
  uint64_t regions[kRegions];
};
inline constexpr uint64_t kRecentPutsOffset = kSessionOffset + sizeof(uint64_t);
inline constexpr unsigned kRegionShift = 18;
static_assert(sizeof(RecentPutsTable) == 272 && kRecentPutsOffset == 328);

// ---- Table of keyspaces -------------------------------------------------------------------------
//
// One run of kKeyspaceTableSizeBytes, made for the first keyspace besides the default one: entries
// of 128 bytes, by keyspace id. Entry 0, whose keyspace has its root in the superblock, is the
// header:
//
//   offset size
//        0    8  magic "DAXKVKST"
//        8    8  own pool offset
//       16    4  entries, this one included: kKeyspaceEntries
//       20    4  CRC32C of bytes 0..19, seed 0
//       24  104  zero
struct KeyspaceTableHeader {
  uint64_t magic;
  Address self;
  uint32_t entries;
  uint32_t checksum;
  uint64_t reserved[13];
};
inline constexpr uint64_t kKeyspaceTableMagic = 0x5453'4b56'4b58'4144;  // "DAXKVKST"

// The others:
//
//   offset size
//        0    8  state: a KeyspaceState in bits 0..47, and in bits 48..63 the low 16 bits of the
//                CRC32C of bits 0..47 (6 bytes), seed = the id. Stored as a whole: that commits the
//                creation (live) and the drop (dropping) of a keyspace. Zero is no state
//        8    8  root, as Superblock::root. Of a keyspace that is live
//       16    4  CRC32C of bytes 20..87, seed = the id
//       20    2  size of the name in bytes, 1..64
//       22    2  zero
//       24   64  name, filled up with zeros
//       88   40  zero
struct KeyspaceEntry {
  uint64_t state;
  uint64_t root;
  uint32_t checksum;
  uint16_t name_size_bytes;
  uint16_t reserved0;
  char name[64];
  uint64_t reserved1[5];
};
enum class KeyspaceState : uint8_t {
  kFree = 1,
  kLive = 2,
  // Its extents are being truncated, or, of one that is being created, have not all been made.
  kDropping = 3,
};
inline constexpr uint64_t kMaxKeyspaceNameSizeBytes = 64;
inline constexpr uint64_t kKeyspaceTableSizeBytes = 256 << 10;
inline constexpr KeyspaceId kKeyspaceEntries = kKeyspaceTableSizeBytes / 128;
inline constexpr KeyspaceId kMaxKeyspaces = kKeyspaceEntries - 1;  // Besides the default one.
static_assert(sizeof(KeyspaceTableHeader) == 128 && sizeof(KeyspaceEntry) == 128 &&
              offsetof(KeyspaceEntry, checksum) == 16 && offsetof(KeyspaceEntry, name) == 24);
static_assert(kKeyspaceEntries <= 1 << kKeyspaceIdBits);

// ---- Record -----------------------------------------------------------------------------------
//
//   offset size
//        0    4  CRC32C, seed 0, of: key, value, bytes 4..18, the record's place (8 bytes: its
//                address in bits 0..47, its keyspace in bits 48..63). With the place, a record that
//                lies elsewhere, or where another keyspace had one before, does not verify; with
//                the header last, a record gets another sequence number or address without its body
//                being read again
//        4    4  value size in bytes, at most 2^30
//        8    8  sequence number: grows with every version of a key
//       16    2  key size in bytes less one: 0..65535
//       18    1  kind: RecordKind in bits 0..4; bit 5: of a put that was done as soon as this was
//                durable (kv/recent_puts.h); bit 6: one of an atomic batch's records; bit 7: no
//                index slot refers to it any more (kv/stamps.h). Bit 7 is not in the checksum
//       19       key, then value
//
// A record exists for readers once an index slot holds its address; it is complete and flushed
// before that. Its slot is reused only after it was unlinked, an RCU grace period has passed and
// its extent has no pin.
//
// Packed: with 100-byte values, five bytes of padding would be 4 % of all data.
struct __attribute__((packed)) RecordHeader {
  uint32_t checksum;
  uint32_t value_size_bytes;
  uint64_t sequence;
  uint16_t key_size_less_one;
  uint8_t kind_and_flags;

  uint64_t key_size_bytes() const { return uint64_t{key_size_less_one} + 1; }
};
inline constexpr uint8_t kRecordKindMask = 0x1f;
inline constexpr uint8_t kSelfPublishedFlag = 0x20;
inline constexpr uint8_t kOfBatchFlag = 0x40;
inline constexpr uint8_t kUnlinkedFlag = 0x80;
//
// A record of which nobody can tell any more is *stamped dead*: its first eight bytes and its kind
// are zero, and so it never verifies.
//
// A batch is written as a record of its own (kind 4): its key is the number of its operations (8
// bytes), its value their records' addresses (8 bytes each) in ascending order of their keys. Those
// are records of kind 1, and of kind 3 for a delete: the key, without a value. All of them have the
// batch's sequence number. No index slot ever holds the address of a record of kind 3, 4 or 5; they
// are live while a word of the batch table leads to them.
//
// A set of stores is a record, too (kind 5; word_stores.h): its key is their number (8 bytes), its
// value a pair for each: the pool offset of a word, a multiple of 8, and what is stored there (8
// bytes each). An open that finds a word of the table lead to one makes all of its stores again,
// before anything else is read of the index. Compaction so replaces leaves.
//
// Kind 0 is no record: a slot that was never used, or one whose record is stamped dead, which is
// done when its slot becomes free (Space; not flushed). A node's slot is stamped by a magic
// of 0. Nobody needs the stamp but a repair: no old version comes back by it.
enum RecordKind : uint8_t {
  kNoRecord = 0,
  kValueRecord = 1,
  kFenceRecord = 2,
  kDeleteRecord = 3,
  kBatchRecord = 4,
  kStoresRecord = 5,
};
// Whether a byte of that place can be one.
inline bool IsRecordKind(uint8_t kind_and_flags) {
  const uint8_t kind = kind_and_flags & kRecordKindMask;
  return kind >= kValueRecord && kind <= kStoresRecord;
}
static_assert(sizeof(RecordHeader) == 19 && offsetof(RecordHeader, sequence) == 8 &&
              offsetof(RecordHeader, key_size_less_one) == 16);
inline constexpr uint64_t kRecordAlignment = 8;
static_assert(kMaxKeySizeBytes == uint64_t{UINT16_MAX} + 1);

// ---- Node -------------------------------------------------------------------------------------
//
// Leaf: 1024 bytes; header line, then 15 lines of eight slots.
// Inner: 2048 bytes; header line, then 248 child slots.
//
//   offset size
//        0    4  magic "DKLF" (leaf) or "DKIN" (inner)
//        4    1  node format version (1)
//        5    1  level: 0 for a leaf
//        6    2  zero
//        8    8  own address
//       16    8  low fence: address of a kFence record, 0 for the leftmost node of its level. Never
//                changes. The node holds keys >= its low fence and < its right neighbour's.
//       24    4  CRC32C of bytes 0..23, seed 0
//       28    4  zero
//       32    8  next: address of the right neighbour, 0 for the last one. Bit 0 (kSplitUnfinished)
//                says that slots which moved to the neighbour may still be here; they count as
//                absent. Storing this word commits a split.
//       40    8  volatile: open epoch in which the volatile words below were set up
//       48    8  volatile: version (lock bit, sleepers bit, dead bit, change count, split count)
//       56    8  volatile: overflow bits of a leaf's lines
//       64       slots, 8 bytes each; 0 = empty
//
// A leaf's slot: bits 0..47 the record's address, bits 48..63 the key's tag. A key with tag t has
// its home in line (t * 15) >> 16 and lies there or in one of the next kProbeLines - 1 lines
// (cyclic). Insert, update and delete commit by storing the slot.
// An inner node's slot: the address of a child. Slots are in no order: the low fence of the child
// says where it belongs.
struct NodeHeader {
  uint32_t magic;
  uint8_t version;
  uint8_t level;
  uint16_t reserved0;
  Address self;
  Address low_fence;
  uint32_t checksum;
  uint32_t reserved1;
  uint64_t next;
  uint64_t volatile_epoch;
  uint64_t volatile_version;
  uint64_t volatile_overflow;
};
inline constexpr uint32_t kLeafMagic = 0x464c'4b44;   // "DKLF"
inline constexpr uint32_t kInnerMagic = 0x4e49'4b44;  // "DKIN"
inline constexpr uint8_t kNodeVersion = 1;
inline constexpr uint64_t kSplitUnfinished = 1;
inline constexpr uint64_t kLeafSizeBytes = 1024;
inline constexpr uint64_t kInnerSizeBytes = 2048;
inline constexpr unsigned kSlotsPerLine = 8;
inline constexpr unsigned kLeafLines = 15;
inline constexpr unsigned kLeafSlots = kLeafLines * kSlotsPerLine;
inline constexpr unsigned kInnerSlots = (kInnerSizeBytes - 64) / 8;
inline constexpr unsigned kProbeLines = 4;
static_assert(sizeof(NodeHeader) == 64 && offsetof(NodeHeader, next) == 32 &&
              offsetof(NodeHeader, volatile_epoch) == 40);
static_assert(kLeafSizeBytes == 64 + kLeafSlots * 8 && kInnerSlots == 248);

// ---- Extent -----------------------------------------------------------------------------------
//
// A slab extent is one run: header, free map, slots. A large extent is one run: header, then one
// record at offset 64.
//
//   offset size
//        0    4  magic "DKSX" (slab) or "DKLX" (large)
//        4    2  extent format version (2)
//        6    2  size class (slab), 0 (large)
//        8    8  own address
//       16    4  slot size in bytes (slab), size of the record (large)
//       20    4  slot count (slab), 1 (large)
//       24    2  offset of the first slot in the extent
//       26    2  keyspace
//       28    4  CRC32C of bytes 0..27, seed 0
//       32    8  map state: 0, or bit 32 set and bits 0..31 the CRC32C of map epoch and map, seed 0
//       40    8  map epoch: the open epoch whose clean close saved the map. The map counts if that
//                is not below Superblock::maps_valid_since. (A large extent has no map: if its
//                state counts, its record is in use.) With a map state of 0, and above the epoch of
//                the last session that had the store open: that of the repair that has made the
//                extent, for a new index
//       48   16  zero
//       64       map (slab): one bit a slot, 1 = used; ceil(slot count / 64) words
struct ExtentHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t size_class;
  Address self;
  uint32_t slot_size_bytes;
  uint32_t slot_count;
  uint16_t first_slot_offset;
  uint16_t keyspace;
  uint32_t checksum;
  uint64_t map_state;
  uint64_t map_epoch;
  uint64_t reserved[2];
};
inline constexpr uint32_t kSlabMagic = 0x5853'4b44;   // "DKSX"
inline constexpr uint32_t kLargeMagic = 0x584c'4b44;  // "DKLX"
inline constexpr uint16_t kExtentVersion = 2;
inline constexpr uint64_t kLargeRecordOffset = 64;
static_assert(sizeof(ExtentHeader) == 64 && offsetof(ExtentHeader, map_state) == 32 &&
              offsetof(ExtentHeader, map_epoch) == 40);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_FORMAT_H_
