#include "dax/object_lanes.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"

namespace daxkv::dax {
namespace {

// libpmemobj's layout version 6 (its layout.h, lane.h and ulog.h).
constexpr uint64_t kLaneTableAt =
    4096 + 1024;  // Words: lanes' offset, their number, heap's offset.
constexpr uint64_t kLogDataSizeBytes[] = {192, 640, 2048};  // Internal redo, external redo, undo.
constexpr uint64_t kLogsOfALane = 3;
constexpr uint64_t kLaneSizeBytes = 3072;
constexpr uint64_t kMaxLanes = 1024;
constexpr uint64_t kLanesAtOnce = 32;  // What is read stays in the processor's cache.
constexpr uint64_t kLine = 64;

struct LaneTable {
  uint64_t lanes_offset;
  uint64_t lane_count;
  uint64_t heap_offset;
};

struct LogHeader {
  uint64_t checksum;
  uint64_t next;  // Pool offset of a log that goes on, 0 for none.
  uint64_t capacity;
  uint64_t generation;
  uint64_t flags;
  uint64_t unused[3];
};
static_assert(sizeof(LogHeader) == kLine);

// An entry begins with the offset that it is for and, in the three highest bits, what it does
// there.
enum Operation : uint64_t { kSet = 0, kAnd = 1, kOr = 2, kFillBytes = 5, kCopyBytes = 6 };
constexpr unsigned kOperationShift = 61;
constexpr uint64_t kWordEntrySizeBytes = 16;
constexpr uint64_t kBytesEntryHeadSizeBytes = 24;  // Offset, checksum, size.

uint64_t WordAt(const char* bytes) {
  uint64_t word;
  memcpy(&word, bytes, sizeof(word));
  return word;
}

bool ReadAll(int fd, uint64_t offset, void* to, uint64_t size_bytes) {
  for (uint64_t done = 0; done < size_bytes;) {
    const ssize_t got = pread(fd, static_cast<char*>(to) + done, size_bytes - done,
                              static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<uint64_t>(got);
  }
  return true;
}

// Whether an entry of bytes at `entry` ends within `room`. Its content has a checksum.
bool BytesEntryFits(const char* entry, uint64_t room) {
  if (room < kBytesEntryHeadSizeBytes) return false;
  return WordAt(entry + 16) <= room - kBytesEntryHeadSizeBytes;
}

// A redo log is a list of words to store, ended by a zero or by its capacity; libpmemobj walks it
// before it looks at the checksum.
bool IsWalkableRedoLog(const char* data, uint64_t capacity) {
  for (uint64_t at = 0; at + kWordEntrySizeBytes <= capacity; at += kWordEntrySizeBytes) {
    const uint64_t word = WordAt(data + at);
    if (word == 0) return true;
    const uint64_t operation = word >> kOperationShift;
    if (operation == kFillBytes || operation == kCopyBytes) {
      return BytesEntryFits(data + at, capacity - at);
    }
    if (operation != kSet && operation != kAnd && operation != kOr) return false;
  }
  return true;
}

// An undo log holds entries of bytes only, each with a checksum. What lies behind the first one may
// be left over from an earlier transaction.
bool IsWalkableUndoLog(const char* data, uint64_t capacity) {
  const uint64_t word = WordAt(data);
  if (word == 0 || capacity == 0) return true;
  const uint64_t operation = word >> kOperationShift;
  return (operation == kFillBytes || operation == kCopyBytes) && BytesEntryFits(data, capacity);
}

// The offset of a log, among those of `count` lanes, that libpmemobj could not walk.
std::optional<uint64_t> FindUnwalkableLog(const char* lanes, uint64_t count) {
  uint64_t at = 0;
  for (uint64_t i = 0; i < count * kLogsOfALane; ++i) {
    const uint64_t data_size_bytes = kLogDataSizeBytes[i % kLogsOfALane];
    LogHeader header;
    memcpy(&header, lanes + at, sizeof(header));
    const char* data = lanes + at + sizeof(header);
    const bool undo = i % kLogsOfALane == kLogsOfALane - 1;
    // None of our transactions is larger than a lane, so no log goes on elsewhere.
    if (header.capacity > data_size_bytes || header.next != 0 ||
        !(undo ? IsWalkableUndoLog(data, header.capacity)
               : IsWalkableRedoLog(data, header.capacity))) {
      return at;
    }
    at += sizeof(header) + data_size_bytes;
  }
  return std::nullopt;
}

}  // namespace

uint64_t HeapOffset(const char* base) {
  return WordAt(base + kLaneTableAt + offsetof(LaneTable, heap_offset)) + kHeapHeaderSizeBytes;
}

absl::Status CheckLanes(int fd, const std::string& path) {
  const auto damaged = [&path](uint64_t offset, const char* what) {
    return absl::DataLossError(absl::StrCat(path, ": libpmemobj's ", what, " at pool offset ",
                                            offset, " is damaged; restore the pool from a copy"));
  };
  struct stat file;
  if (fstat(fd, &file) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", path));
  }
  const auto size_bytes = static_cast<uint64_t>(file.st_size);
  LaneTable table;
  if (!ReadAll(fd, kLaneTableAt, &table, sizeof(table))) return damaged(kLaneTableAt, "lane table");
  const uint64_t lanes_size_bytes = table.lane_count * kLaneSizeBytes;
  if (table.lane_count > kMaxLanes || table.lanes_offset > size_bytes ||
      lanes_size_bytes > size_bytes - table.lanes_offset) {
    return damaged(kLaneTableAt, "lane table");
  }
  std::vector<char> lanes(kLanesAtOnce * kLaneSizeBytes);
  for (uint64_t first = 0; first < table.lane_count; first += kLanesAtOnce) {
    const uint64_t count = std::min(kLanesAtOnce, table.lane_count - first);
    const uint64_t offset = table.lanes_offset + first * kLaneSizeBytes;
    if (!ReadAll(fd, offset, lanes.data(), count * kLaneSizeBytes)) return damaged(offset, "lane");
    const std::optional<uint64_t> log = FindUnwalkableLog(lanes.data(), count);
    if (log) return damaged(offset + *log, "log");
  }
  return absl::OkStatus();
}

}  // namespace daxkv::dax
