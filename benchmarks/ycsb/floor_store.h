// The least that a store in mapped memory can cost: a table and fixed slots in one mapped file,
// with nothing that makes a store safe. What the engines floor-serial and floor-parallel run on.
//
//   file:  header page | table: 8-byte pointers, at most half of them used | slots
//   slot:  record size (4 bytes), key size (4 bytes), record, key; whole cache lines
//
// What an operation costs
//   Read       one load from the table, at the place that the key's hash says; then, at the address
//              that this load gave, the copy of the record's bytes. Two misses, the second waits
//              for the first: this is floor-serial.
//   ReadGroup  the table's lines of all keys are asked for first, then all lines of all records,
//              then the records are copied. No miss waits for another key's: this is
//              floor-parallel.
//   Insert     stores the slot's bytes in the next slot, flushes them, fences; then stores the
//              pointer.
//   Update     one load from the table, then the record's bytes are stored where they lie, flushed
//              and fenced.
// Keys are told apart by 32 bits of their hash besides the table's place, and not compared. Flushes
// and fences are libpmem's pmem_flush and pmem_drain (clwb and sfence where the CPU has them),
// which daxkv's pool calls too. All pages are mapped before the first operation.
//
// There is no recovery: an update under way when the process ends leaves a torn record, a lost
// pointer loses one. Deletes are not possible.
//
// Thread safety: all methods from any thread. A Read beside an Update of the same key may copy a
// torn record.
#ifndef DAXKV_BENCHMARKS_YCSB_FLOOR_STORE_H_
#define DAXKV_BENCHMARKS_YCSB_FLOOR_STORE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace daxkv::ycsb {

class FloorStore {
 public:
  struct Geometry {
    uint64_t capacity_records = 0;
    uint64_t max_key_bytes = 0;
    uint64_t max_record_bytes = 0;
  };

  // Makes the file anew, over an old one. kResourceExhausted: its blocks are not to be had.
  // kInvalidArgument: a geometry beyond 2^32 records. kInternal.
  static absl::StatusOr<std::unique_ptr<FloorStore>> Create(const std::string& path,
                                                            const Geometry& geometry);
  // kNotFound; kDataLoss: not a file of Create; kInternal.
  static absl::StatusOr<std::unique_ptr<FloorStore>> Open(const std::string& path);
  ~FloorStore();
  FloorStore(const FloorStore&) = delete;
  FloorStore& operator=(const FloorStore&) = delete;

  // Whether Insert and Update store past the cache rather than into it and flush.
  void set_streaming(bool streaming) { streaming_ = streaming; }

  // kNotFound. `record` is resized to fit.
  absl::Status Read(std::string_view key, std::string* record) const;
  // Calls visit(index, record bytes in `buffer`) for each key in order. kNotFound at the first that
  // is missing.
  template <typename Visit>
  absl::Status ReadGroup(absl::Span<const std::string_view> keys, std::string* buffer,
                         Visit visit) const {
    constexpr size_t kAtATime = 64;
    const Slot* slots[kAtATime];
    for (size_t first = 0; first < keys.size(); first += kAtATime) {
      const size_t count = keys.size() - first < kAtATime ? keys.size() - first : kAtATime;
      FindAll(keys.data() + first, count, slots);
      for (size_t i = 0; i < count; ++i) {
        if (slots[i] == nullptr) return NoSuchKey(keys[first + i]);
        Copy(*slots[i], buffer);
        visit(first + i, std::string_view(*buffer));
      }
    }
    return absl::OkStatus();
  }
  // Without a look whether the key is there already. kResourceExhausted: no slot left.
  // kInvalidArgument: larger than the geometry says.
  absl::Status Insert(std::string_view key, std::string_view record);
  // kNotFound; kInvalidArgument.
  absl::Status Update(std::string_view key, std::string_view record);

  uint64_t records() const;
  uint64_t file_size_bytes() const { return size_bytes_; }

 private:
  struct Header;
  struct Slot {
    uint32_t record_bytes;
    uint32_t key_bytes;
    char bytes[];
  };
  using Entry = std::atomic<uint64_t>;

  FloorStore(char* base, uint64_t size_bytes);
  static absl::Status NoSuchKey(std::string_view key);
  static uint64_t Hash(std::string_view key);
  // The slot that the entry chain of `hash` leads to, or null.
  Slot* Find(uint64_t hash) const;
  // Finds `count` keys, and has all their lines on the way when it returns.
  void FindAll(const std::string_view* keys, size_t count, const Slot** slots) const;
  Slot* SlotAt(uint64_t number) const {
    return reinterpret_cast<Slot*>(slots_ + number * slot_bytes_);
  }
  void Copy(const Slot& slot, std::string* record) const;
  void Store(char* to, std::string_view bytes) const;
  absl::Status CheckSize(std::string_view key, std::string_view record) const;

  char* const base_;
  const uint64_t size_bytes_;
  Header* header_;
  Entry* table_;
  uint64_t table_mask_;
  char* slots_;
  uint64_t slot_bytes_;
  bool streaming_ = false;
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_FLOOR_STORE_H_
