// The stream that Db::Backup writes and Db::Restore reads, to the byte. Fields are little-endian.
// A *varint* is seven bits a byte, the lowest first, bit 7 set in every byte but the last; at most
// five bytes.
//
//   stream header   32 bytes
//   frame 0, 1, ... each a frame header of 16 bytes and its payload
//   the last frame is of kind kEndFrame, and nothing of the backup follows it
//
// Frames in their order: for each keyspace a kKeyspaceFrame, then its records in ascending order of
// their keys, as many kRecordsFrames as they need. A record too long for a frame has a kLargeFrame
// of its own, and right behind it the kValueFrames with the rest of its value. The default
// keyspace, whose name is empty, comes first and is always there; the others follow by their names.
//
// Cut, damaged, reordered and mixed streams are told from whole ones by the frames' checksums and
// numbers, by the order of the keys, and by the end frame's totals and hash.
#ifndef DAXKV_KV_BACKUP_FORMAT_H_
#define DAXKV_KV_BACKUP_FORMAT_H_

#include <cstddef>
#include <cstdint>

#include "kv/format.h"

namespace daxkv::kv {

// ---- Stream header ------------------------------------------------------------------------------
//
//   offset size
//        0    8  magic "DAXKVBAK"
//        8    4  format version
//       12    4  CRC32C of bytes 0..11 and 16..31, seed 0
//       16    8  number of the snapshot that the backup shows
//       24    8  when it was taken: microseconds since 1970, UTC
struct BackupHeader {
  uint64_t magic;
  uint32_t format_version;
  uint32_t checksum;
  uint64_t snapshot_number;
  uint64_t taken_us;
};
inline constexpr uint64_t kBackupMagic = 0x4b41'4256'4b58'4144;  // "DAXKVBAK"
inline constexpr uint32_t kBackupVersion = 1;
static_assert(sizeof(BackupHeader) == 32 && offsetof(BackupHeader, snapshot_number) == 16);

// ---- Frame --------------------------------------------------------------------------------------
//
//   offset size
//        0    4  CRC32C of bytes 4..15 and the payload, seed 0
//        4    4  payload size in bytes, at most kMaxFrameSizeBytes
//        8    4  number of the frame: 0, 1, ... (low 32 bits)
//       12    1  kind (BackupFrameKind)
//       13    3  zero
//       16       payload
struct BackupFrameHeader {
  uint32_t checksum;
  uint32_t payload_size_bytes;
  uint32_t number;
  uint8_t kind;
  uint8_t reserved[3];
};
static_assert(sizeof(BackupFrameHeader) == 16 && offsetof(BackupFrameHeader, kind) == 12);

enum BackupFrameKind : uint8_t {
  kKeyspaceFrame = 1,  // Its name: 0..kMaxKeyspaceNameSizeBytes bytes.
  kRecordsFrame = 2,   // One or more records: varint key size, varint value size, key, value.
  kLargeFrame = 3,     // A record's beginning, as above, with the first bytes of the value or none.
  kValueFrame = 4,     // One or more further bytes of that value.
  kEndFrame = 5,       // BackupEnd.
};
inline constexpr uint32_t kMaxFrameSizeBytes = 1 << 20;

// ---- End frame's payload ------------------------------------------------------------------------
//
//   offset size
//        0    8  keyspaces
//        8    8  records
//       16    8  bytes of their keys and values
//       24    8  bytes of the stream before this frame's header
//       32    8  XXH3-64 of those bytes, seed 0
struct BackupEnd {
  uint64_t keyspaces;
  uint64_t records;
  uint64_t key_value_size_bytes;
  uint64_t stream_size_bytes;
  uint64_t stream_hash;
};
static_assert(sizeof(BackupEnd) == 40);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_BACKUP_FORMAT_H_
