// kv::Memory on plain DRAM, which keeps what a power cut would leave.
//
// Two images: `live` is what the process sees, `durable` what the medium holds. Flush notes cache
// lines of the calling thread, Drain copies them from live to durable. A crash image is the durable
// one, or the durable one with a random choice of words from the live one: caches write lines back
// when they like, and a line may be half there at 8-byte grain.
#ifndef DAXKV_TESTS_KV_ARENA_MEMORY_H_
#define DAXKV_TESTS_KV_ARENA_MEMORY_H_

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "kv/memory.h"
#include "xarray/rcu.h"

namespace daxkv::kv {

class ArenaMemory : public Memory {
 public:
  static constexpr uint64_t kExtentSizeBytes = 64 << 10;
  static constexpr uint64_t kLineSizeBytes = 64;
  // The first extent holds the root word, the word of a set of stores under way, and no slots.
  static constexpr Address kRootAddress = 64;
  static constexpr Address kStoresAddress = 128;

  // With `track` off there is no durable image, only counts: for measurements.
  explicit ArenaMemory(uint64_t size_bytes, bool track = true, uint64_t epoch = 1)
      : Memory(Map(size_bytes), epoch), size_bytes_(size_bytes), track_(track) {
    if (track_) durable_ = Map(size_bytes);
    present_ = std::make_unique<std::atomic<bool>[]>(size_bytes / kExtentSizeBytes);
    for (uint64_t i = 0; i < size_bytes / kExtentSizeBytes; ++i) present_[i] = true;
  }
  ~ArenaMemory() override {
    if (deferred_) rcu::Barrier();
    munmap(At(0), size_bytes_);
    if (durable_ != nullptr) munmap(durable_, size_bytes_);
  }

  // What a restart after a power cut finds: durable words, and each word that is not durable with
  // the given chance in 256. Every extent is absent at first. Slots up to the high-water mark stay
  // taken; nothing is reused.
  std::unique_ptr<ArenaMemory> CrashImage(unsigned chance, uint32_t seed) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto image = std::make_unique<ArenaMemory>(size_bytes_, true, open_epoch() + 1);
    std::mt19937 random(seed);
    for (uint64_t at = 0; at < bump_; at += 8) {
      uint64_t word = Word(durable_, at);
      if (const uint64_t live = Word(At(0), at); live != word && random() % 256 < chance) {
        word = live;
      }
      std::memcpy(image->At(at), &word, 8);
      std::memcpy(image->durable_ + at, &word, 8);
    }
    image->bump_ = image->allocated_from_ = bump_;
    image->large_ = large_;
    image->has_large_ = !large_.empty();
    for (uint64_t at = 0; at < bump_; at += kExtentSizeBytes) {
      image->present_[at / kExtentSizeBytes] = false;
    }
    return image;
  }
  // What a restart finds after the process alone died: every store is seen, but what was not
  // drained a later power cut may still undo.
  std::unique_ptr<ArenaMemory> KilledImage() {
    std::unique_ptr<ArenaMemory> image = CrashImage(256, 0);
    std::lock_guard<std::mutex> lock(mutex_);
    std::memcpy(image->durable_, durable_, bump_);
    return image;
  }
  // The same after a clean close.
  std::unique_ptr<ArenaMemory> Reopened() { return CrashImage(256, 0); }

  uint64_t* root() { return reinterpret_cast<uint64_t*>(At(kRootAddress)); }
  uint64_t* stores_word() { return reinterpret_cast<uint64_t*>(At(kStoresAddress)); }

  Address PresentUntil(Address address) const override {
    if (address >= size_bytes_ || address < kExtentSizeBytes) return 0;
    const uint64_t extent = address / kExtentSizeBytes;
    if (!present_[extent].load(std::memory_order_acquire)) return 0;
    // Adjacent slots of one run may be larger than an extent.
    return std::max<uint64_t>((extent + 1) * kExtentSizeBytes, RunEnd(address));
  }
  absl::Status FaultIn(Address address) override {
    if (rcu::InReadSection()) abort();
    ++faults;
    if (fail_faults) return absl::ResourceExhaustedError("injected");
    if (on_fault) {
      absl::Status status = on_fault(address);
      if (!status.ok()) return status;
    }
    if (address >= size_bytes_ || address < kExtentSizeBytes) {
      return absl::DataLossError("no extent at " + std::to_string(address));
    }
    present_[address / kExtentSizeBytes].store(true, std::memory_order_release);
    return absl::OkStatus();
  }

  absl::StatusOr<Address> Allocate(SlotKind kind, uint64_t size_bytes) override {
    if (on_allocate) on_allocate();
    std::lock_guard<std::mutex> lock(mutex_);
    ++allocations;
    if (allocations_left == 0) return absl::ResourceExhaustedError("the arena is full");
    if (allocations_left > 0) --allocations_left;
    const uint64_t align = kind == SlotKind::kLeaf ? 1024 : kind == SlotKind::kInner ? 2048 : 64;
    const uint64_t size = (std::max(size_bytes, align) + align - 1) / align * align;
    Address address;
    auto& free_list = free_[{align, size}];
    if (!free_list.empty()) {
      address = free_list.back();
      free_list.pop_back();
    } else {
      address = (bump_ + align - 1) / align * align;
      // A slot lies in one extent, or begins one.
      if (address / kExtentSizeBytes != (address + size - 1) / kExtentSizeBytes) {
        address = (address + kExtentSizeBytes - 1) / kExtentSizeBytes * kExtentSizeBytes;
        if (size > kExtentSizeBytes) {
          large_[address] = address + size;
          has_large_.store(true, std::memory_order_release);
        }
      }
      bump_ = address + size;
      if (bump_ > size_bytes_) return absl::ResourceExhaustedError("the arena is full");
    }
    sizes_[address] = {align, size};
    return address;
  }
  void Abandon(Address address) noexcept override {
    std::lock_guard<std::mutex> lock(mutex_);
    Free(address);
  }
  void Retire(Address address, const uint64_t* /*link*/) noexcept override {
    if (!rcu::InReadSection()) abort();
    if (!track_ && !reuse) return;  // Measurements: no bookkeeping.
    std::lock_guard<std::mutex> lock(mutex_);
    if (!retired_.insert(address).second) abort();  // Twice.
    pending_[std::this_thread::get_id()].retired.push_back(address);
    ++retires;
  }

  void Flush(const void* address, size_t size_bytes) noexcept override {
    flushes.fetch_add(1, std::memory_order_relaxed);
    if (!track_) return;
    const uint64_t at = static_cast<uint64_t>(static_cast<const char*>(address) - At(0));
    std::lock_guard<std::mutex> lock(mutex_);
    std::set<uint64_t>& lines = pending_[std::this_thread::get_id()].lines;
    for (uint64_t line = at / kLineSizeBytes; line <= (at + size_bytes - 1) / kLineSizeBytes;
         ++line) {
      lines.insert(line);
    }
  }
  void FlushInherited(const void* address, size_t size_bytes) noexcept override {
    Flush(address, size_bytes);
  }
  absl::Status Drain() override {
    if (rcu::InReadSection()) abort();
    if (before_drain) before_drain();
    drains.fetch_add(1, std::memory_order_relaxed);
    if (fail_drains.load(std::memory_order_relaxed)) return absl::InternalError("injected");
    if (!track_ && !reuse) return absl::OkStatus();
    std::vector<Address> retired;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      Pending& pending = pending_[std::this_thread::get_id()];
      if (track_) {
        for (const uint64_t line : pending.lines) {
          for (uint64_t at = line * kLineSizeBytes; at < (line + 1) * kLineSizeBytes; at += 8) {
            const uint64_t word = Word(At(0), at);
            std::memcpy(durable_ + at, &word, 8);
          }
        }
      }
      pending.lines.clear();
      retired.swap(pending.retired);
    }
    if (reuse && !retired.empty()) {
      deferred_ = true;
      for (const Address address : retired) {
        rcu::DeferClosure([this, address] {
          std::lock_guard<std::mutex> lock(mutex_);
          // Whoever still looks at a freed record must not get away with it.
          std::memset(At(address), 0xa5, 24);
          retired_.erase(address);
          Free(address);
        });
      }
    }
    if (after_drain) after_drain();
    return absl::OkStatus();
  }

  std::set<Address> LiveSlots() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::set<Address> live;
    for (const auto& [address, size] : sizes_) {
      if (retired_.count(address) == 0) live.insert(address);
    }
    return live;
  }
  uint64_t used_size_bytes() const { return bump_; }

  std::atomic<uint64_t> flushes{0}, drains{0}, faults{0};
  std::atomic<bool> fail_drains{false}, fail_faults{false};
  uint64_t allocations = 0, retires = 0;
  int64_t allocations_left = -1;  // -1: no limit.
  bool reuse = true;
  std::function<void()> before_drain, after_drain, on_allocate;
  std::function<absl::Status(Address)> on_fault;

 private:
  struct Pending {
    std::set<uint64_t> lines;
    std::vector<Address> retired;
  };

  static char* Map(uint64_t size_bytes) {
    void* at = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) abort();
    return static_cast<char*>(at);
  }
  static uint64_t Word(const char* base, uint64_t at) {
    return __atomic_load_n(reinterpret_cast<const uint64_t*>(base + at), __ATOMIC_RELAXED);
  }
  uint64_t RunEnd(Address address) const {
    if (!has_large_.load(std::memory_order_acquire)) return 0;
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = large_.upper_bound(address);
    if (it == large_.begin()) return 0;
    --it;
    return it->second > address ? it->second : 0;
  }
  void Free(Address address) {
    auto it = sizes_.find(address);
    if (it == sizes_.end()) {
      if (address >= allocated_from_) abort();
      return;  // From before the reopen: stays taken.
    }
    free_[it->second].push_back(address);
    sizes_.erase(it);
  }

  const uint64_t size_bytes_;
  const bool track_;
  char* durable_ = nullptr;
  std::unique_ptr<std::atomic<bool>[]> present_;
  mutable std::mutex mutex_;
  uint64_t bump_ = kExtentSizeBytes;
  std::atomic<bool> deferred_{false};
  Address allocated_from_ = 0;  // Slots below were allocated before the reopen.
  std::map<std::pair<uint64_t, uint64_t>, std::vector<Address>> free_;
  std::unordered_map<Address, std::pair<uint64_t, uint64_t>> sizes_;
  std::set<Address> retired_;
  std::map<Address, Address> large_;
  std::atomic<bool> has_large_{false};
  std::map<std::thread::id, Pending> pending_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_ARENA_MEMORY_H_
