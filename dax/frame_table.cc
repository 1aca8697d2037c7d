#include "dax/frame_table.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "dax/invariant.h"
#include "xarray/rcu.h"

namespace daxkv::dax::internal {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<const Pool*, std::weak_ptr<FrameTable>> tables;  // Under the mutex.
};

Registry& GetRegistry() {
  static Registry* registry = new Registry;  // Never destroyed: mappings may outlive statics.
  return *registry;
}

// Zeroed address space, filled by touch; nullptr without room.
void* MapZeroes(uint64_t size_bytes) {
  void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

uint32_t* FutexWord(std::atomic<uint32_t>* word) {
  static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
  return reinterpret_cast<uint32_t*>(word);
}

// Sleeps while the word is `expected`. Spurious returns are fine.
void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, absl::Time deadline) {
  const timespec until = absl::ToTimespec(deadline);
  const timespec* timeout = deadline == absl::InfiniteFuture() ? nullptr : &until;
  syscall(SYS_futex, FutexWord(word), FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, expected,
          timeout, nullptr, FUTEX_BITSET_MATCH_ANY);
}

}  // namespace

bool Folio::WaitUntilUnpinned(absl::Time deadline) {
  CheckInvariant(!rcu::InReadSection(), "a thread waits for pins inside an RCU read section");
  for (;;) {
    const uint32_t seen = pins_.fetch_or(kBreakerWaits, std::memory_order_acq_rel) | kBreakerWaits;
    if (seen == kBreakerWaits) {
      // The flag goes only while the count is zero: another breaker that sleeps on a newer count
      // needs it. One that slept on an older count is woken by that count's last unpinner.
      uint32_t expected = kBreakerWaits;
      pins_.compare_exchange_strong(expected, 0, std::memory_order_relaxed);
      return true;
    }
    if (absl::Now() >= deadline) return false;
    FutexWait(&pins_, seen, deadline);
  }
}

void Folio::WakeBreakers() {
  // Cleared first: a breaker that sleeps on a newer count sets it again, or finds the word changed.
  pins_.fetch_and(~kBreakerWaits, std::memory_order_relaxed);
  syscall(SYS_futex, FutexWord(&pins_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

FrameTable::FrameTable()
    : chunks_(static_cast<std::atomic<Folio*>*>(MapZeroes(kChunks * sizeof(*chunks_)))) {}

FrameTable::~FrameTable() {
  if (chunks_ == nullptr) return;
  const uint64_t end = chunks_end_.load(std::memory_order_relaxed);
  for (uint64_t i = 0; i < end; ++i) {
    Folio* chunk = chunks_[i].load(std::memory_order_relaxed);
    if (chunk != nullptr) munmap(static_cast<void*>(chunk), kChunkBytes);
  }
  munmap(static_cast<void*>(chunks_), kChunks * sizeof(*chunks_));
}

std::shared_ptr<FrameTable> FrameTable::ForPool(const Pool* pool) {
  Registry& registry = GetRegistry();
  std::lock_guard lock(registry.mutex);
  for (auto entry = registry.tables.begin(); entry != registry.tables.end();) {
    entry = entry->second.expired() ? registry.tables.erase(entry) : std::next(entry);
  }
  std::weak_ptr<FrameTable>& known = registry.tables[pool];
  std::shared_ptr<FrameTable> table = known.lock();
  if (table == nullptr) {
    table = std::make_shared<FrameTable>();
    known = table;
  }
  return table;
}

std::shared_ptr<FrameTable> FrameTable::FindForPool(const Pool* pool) {
  Registry& registry = GetRegistry();
  std::lock_guard lock(registry.mutex);
  auto found = registry.tables.find(pool);
  return found == registry.tables.end() ? nullptr : found->second.lock();
}

void FrameTable::ForgetPool(const Pool* pool) {
  Registry& registry = GetRegistry();
  std::lock_guard lock(registry.mutex);
  registry.tables.erase(pool);
}

absl::Status FrameTable::Reserve(uint64_t frame) {
  // Zero bytes are valid Folios: no pins, no mapping.
  Folio* fresh = nullptr;
  if (chunks_ != nullptr) {
    if (Find(frame, 0) != nullptr) return absl::OkStatus();
    fresh = static_cast<Folio*>(MapZeroes(kChunkBytes));
  }
  if (fresh == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory to track frame ", frame,
                                                     ": mmap of ", kChunkBytes,
                                                     " bytes: ", strerror(errno)));
  }
  Folio* expected = nullptr;
  // Release publishes the zeroes; a loser's acquire sees the winner's.
  if (!chunks_[frame >> kChunkShift].compare_exchange_strong(
          expected, fresh, std::memory_order_acq_rel, std::memory_order_acquire)) {
    munmap(static_cast<void*>(fresh), kChunkBytes);
    return absl::OkStatus();
  }
  // Relaxed: the destructor, its only reader, comes after all calls.
  const uint64_t end = (frame >> kChunkShift) + 1;
  uint64_t known = chunks_end_.load(std::memory_order_relaxed);
  while (known < end && !chunks_end_.compare_exchange_weak(known, end, std::memory_order_relaxed)) {
  }
  return absl::OkStatus();
}

BlockPins FrameTable::Pins(uint64_t frame, unsigned order) const {
  BlockPins all;
  for (unsigned k = order; k <= DaxEntry::kMaxOrder; ++k) {
    const Folio* folio = At(frame, k);
    const uint32_t pins = folio->pins();
    if (pins == 0) continue;
    const int64_t since = folio->busy_since_ns();
    all.busy_since_ns = all.pins == 0 ? since : std::min(all.busy_since_ns, since);
    all.pins += pins;
  }
  return all;
}

}  // namespace daxkv::dax::internal
