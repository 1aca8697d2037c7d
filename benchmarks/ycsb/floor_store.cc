#include "benchmarks/ycsb/floor_store.h"

#include <fcntl.h>
#include <libpmem.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace daxkv::ycsb {
namespace {

constexpr uint64_t kMagic = 0x31726f6f6c66, kPageBytes = 4096, kLineBytes = 64;
constexpr uint64_t kMaxRecords = UINT32_MAX - 1;

constexpr uint64_t RoundUp(uint64_t bytes, uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

uint64_t TableSlots(uint64_t capacity_records) {
  uint64_t slots = 64;
  while (slots < 2 * capacity_records) slots *= 2;
  return slots;
}

// An entry: the hash's upper half as a tag, the slot's number and 1; 0 is none.
uint64_t MakeEntry(uint64_t hash, uint64_t slot) { return (hash >> 32 << 32) | (slot + 1); }
bool TagMatches(uint64_t entry, uint64_t hash) { return entry >> 32 == hash >> 32; }
uint64_t SlotOf(uint64_t entry) { return (entry & UINT32_MAX) - 1; }

absl::Status SystemError(const std::string& what, int error) {
  const std::string message = absl::StrCat("floor: ", what, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == ENOSPC) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

}  // namespace

struct FloorStore::Header {
  uint64_t magic;
  uint64_t capacity_records;
  uint64_t slot_bytes;
  std::atomic<uint64_t> next_slot;
};

FloorStore::FloorStore(char* base, uint64_t size_bytes)
    : base_(base), size_bytes_(size_bytes), header_(reinterpret_cast<Header*>(base)) {
  const uint64_t table_slots = TableSlots(header_->capacity_records);
  table_ = reinterpret_cast<Entry*>(base + kPageBytes);
  table_mask_ = table_slots - 1;
  slots_ = base + kPageBytes + table_slots * sizeof(Entry);
  slot_bytes_ = header_->slot_bytes;
}

FloorStore::~FloorStore() { munmap(base_, size_bytes_); }

absl::StatusOr<std::unique_ptr<FloorStore>> FloorStore::Create(const std::string& path,
                                                               const Geometry& geometry) {
  if (geometry.capacity_records == 0 || geometry.capacity_records > kMaxRecords) {
    return absl::InvalidArgumentError(
        absl::StrCat("floor: ", geometry.capacity_records, " records: must be 1 to ", kMaxRecords));
  }
  const uint64_t slot_bytes =
      RoundUp(sizeof(Slot) + geometry.max_record_bytes + geometry.max_key_bytes, kLineBytes);
  const uint64_t size_bytes = kPageBytes + TableSlots(geometry.capacity_records) * sizeof(Entry) +
                              geometry.capacity_records * slot_bytes;
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return SystemError(absl::StrCat("cannot make ", path), errno);
  const absl::Cleanup close_file = [file] { close(file); };
  if (const int error = posix_fallocate(file, 0, static_cast<off_t>(size_bytes)); error != 0) {
    return SystemError(absl::StrCat("no room for ", size_bytes, " bytes of ", path), error);
  }
  const Header header = {kMagic, geometry.capacity_records, slot_bytes, {0}};
  if (pwrite(file, &header, sizeof(header), 0) != sizeof(header)) {
    return SystemError(absl::StrCat("cannot write ", path), errno);
  }
  return Open(path);
}

absl::StatusOr<std::unique_ptr<FloorStore>> FloorStore::Open(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return SystemError(absl::StrCat("cannot open ", path), errno);
  const absl::Cleanup close_file = [file] { close(file); };
  struct stat status;
  if (fstat(file, &status) != 0) return SystemError(path, errno);
  const uint64_t size_bytes = static_cast<uint64_t>(status.st_size);
  Header header;
  const bool whole = size_bytes > kPageBytes && pread(file, &header, sizeof(header), 0) ==
                                                    static_cast<ssize_t>(sizeof(header));
  if (!whole || header.magic != kMagic || header.capacity_records == 0 ||
      header.capacity_records > kMaxRecords || header.slot_bytes == 0 ||
      (size_bytes - kPageBytes) / header.slot_bytes < header.capacity_records ||
      (size_bytes - kPageBytes - header.capacity_records * header.slot_bytes) / sizeof(Entry) <
          TableSlots(header.capacity_records) ||
      header.next_slot.load(std::memory_order_relaxed) > header.capacity_records) {
    return absl::DataLossError(absl::StrCat("floor: ", path, " is no store of a floor"));
  }
  // Populated: page faults are no part of the floor.
  void* const base =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
  if (base == MAP_FAILED) return SystemError(absl::StrCat("cannot map ", path), errno);
  return std::unique_ptr<FloorStore>(new FloorStore(static_cast<char*>(base), size_bytes));
}

absl::Status FloorStore::NoSuchKey(std::string_view key) {
  return absl::NotFoundError(absl::StrCat("floor: no key ", std::string(key)));
}

uint64_t FloorStore::Hash(std::string_view key) { return XXH3_64bits(key.data(), key.size()); }

FloorStore::Slot* FloorStore::Find(uint64_t hash) const {
  for (uint64_t place = hash & table_mask_;; place = (place + 1) & table_mask_) {
    // Acquire pairs with the release in Insert: the slot's bytes are there.
    const uint64_t entry = table_[place].load(std::memory_order_acquire);
    if (entry == 0) return nullptr;
    if (TagMatches(entry, hash)) return SlotAt(SlotOf(entry));
  }
}

void FloorStore::FindAll(const std::string_view* keys, size_t count, const Slot** slots) const {
  uint64_t hashes[64];
  for (size_t i = 0; i < count; ++i) {
    hashes[i] = Hash(keys[i]);
    __builtin_prefetch(&table_[hashes[i] & table_mask_]);
  }
  for (size_t i = 0; i < count; ++i) {
    slots[i] = Find(hashes[i]);
    if (slots[i] == nullptr) continue;
    const char* const line = reinterpret_cast<const char*>(slots[i]);
    for (uint64_t offset = 0; offset < slot_bytes_; offset += kLineBytes) {
      __builtin_prefetch(line + offset);
    }
  }
}

void FloorStore::Copy(const Slot& slot, std::string* record) const {
  record->assign(slot.bytes, std::min<uint64_t>(slot.record_bytes, slot_bytes_ - sizeof(Slot)));
}

absl::Status FloorStore::Read(std::string_view key, std::string* record) const {
  const Slot* const slot = Find(Hash(key));
  if (slot == nullptr) return NoSuchKey(key);
  Copy(*slot, record);
  return absl::OkStatus();
}

absl::Status FloorStore::CheckSize(std::string_view key, std::string_view record) const {
  if (sizeof(Slot) + key.size() + record.size() <= slot_bytes_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("floor: a record of ", record.size(),
                                                 " bytes is larger than the slots of the load"));
}

void FloorStore::Store(char* to, std::string_view bytes) const {
  if (streaming_) {
    pmem_memcpy(to, bytes.data(), bytes.size(), PMEM_F_MEM_NONTEMPORAL | PMEM_F_MEM_NODRAIN);
  } else {
    std::memcpy(to, bytes.data(), bytes.size());
  }
}

absl::Status FloorStore::Insert(std::string_view key, std::string_view record) {
  if (absl::Status fits = CheckSize(key, record); !fits.ok()) return fits;
  // Relaxed: the number alone says whose slot it is.
  const uint64_t number = header_->next_slot.fetch_add(1, std::memory_order_relaxed);
  if (number >= header_->capacity_records) {
    header_->next_slot.store(header_->capacity_records, std::memory_order_relaxed);
    return absl::ResourceExhaustedError(
        absl::StrCat("floor: no slot left of ", header_->capacity_records,
                     ": give the load more with -p floor.capacity=RECORDS"));
  }
  Slot* const slot = SlotAt(number);
  slot->record_bytes = static_cast<uint32_t>(record.size());
  slot->key_bytes = static_cast<uint32_t>(key.size());
  Store(slot->bytes, record);
  Store(slot->bytes + record.size(), key);
  // Bytes stored past the cache are flushed by the fence alone; the first line holds others too.
  pmem_flush(slot, streaming_ ? sizeof(Slot) : sizeof(Slot) + record.size() + key.size());
  pmem_drain();
  const uint64_t hash = Hash(key);
  for (uint64_t place = hash & table_mask_;; place = (place + 1) & table_mask_) {
    uint64_t none = 0;
    // Release pairs with the acquire in Find.
    if (table_[place].compare_exchange_strong(
            none, MakeEntry(hash, number), std::memory_order_release, std::memory_order_relaxed)) {
      return absl::OkStatus();
    }
  }
}

absl::Status FloorStore::Update(std::string_view key, std::string_view record) {
  if (absl::Status fits = CheckSize(key, record); !fits.ok()) return fits;
  Slot* const slot = Find(Hash(key));
  if (slot == nullptr) return NoSuchKey(key);
  slot->record_bytes = static_cast<uint32_t>(record.size());
  Store(slot->bytes, record);
  pmem_flush(slot, streaming_ ? sizeof(Slot) : sizeof(Slot) + record.size());
  pmem_drain();
  return absl::OkStatus();
}

uint64_t FloorStore::records() const { return header_->next_slot.load(std::memory_order_relaxed); }

}  // namespace daxkv::ycsb
