#include "dax/lost_pages.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dax/pool.h"

namespace daxkv::dax {
namespace {

// System calls without the C library's wrappers: those may be interposed, and the interposers need
// not be safe in a signal handler.
bool MapPrivateMemory(char* address) {
  return syscall(SYS_mmap, address, kPageSizeBytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == reinterpret_cast<long>(address);  // NOLINT(google-runtime-int)
}

}  // namespace

std::atomic<uint64_t>* LostPages::Find(uint64_t page) {
  for (std::atomic<uint64_t>& word : words_) {
    const uint64_t seen = word.load(std::memory_order_acquire);
    if (seen == 0) return nullptr;
    if (seen >> kStateBits == page) return &word;
  }
  return nullptr;
}

std::atomic<uint64_t>* LostPages::Enter(uint64_t page) {
  for (std::atomic<uint64_t>& word : words_) {
    uint64_t seen = word.load(std::memory_order_acquire);
    // Whoever loses the exchange finds in `seen` what the winner entered, perhaps the same page.
    if (seen == 0 &&
        word.compare_exchange_strong(seen, Word(page, kReported), std::memory_order_acq_rel)) {
      Count();
      return &word;
    }
    if (seen >> kStateBits == page) return &word;
  }
  return nullptr;
}

bool LostPages::Report(uint64_t page) {
  std::atomic<uint64_t>* word = Enter(page);
  if (word == nullptr) return false;
  uint64_t restored = Word(page, kRestored);
  if (word->compare_exchange_strong(restored, Word(page, kReported), std::memory_order_acq_rel)) {
    Count();
  }
  return true;
}

bool LostPages::Replace(uint64_t page, char* base) {
  std::atomic<uint64_t>* word = Enter(page);
  if (word == nullptr) return false;
  for (;;) {
    uint64_t seen = word->load(std::memory_order_acquire);
    const uint64_t state = seen & kStateMask;
    if (state == kReplaced) return true;
    if (state == kReplacing) {
      syscall(SYS_sched_yield);
      continue;
    }
    if (!word->compare_exchange_strong(seen, Word(page, kReplacing), std::memory_order_acq_rel)) {
      continue;
    }
    Count();  // Before anybody can read the private memory.
    const bool mapped = MapPrivateMemory(base + (page << kPageShift));
    word->store(Word(page, mapped ? kReplaced : kReported), std::memory_order_release);
    return mapped;
  }
}

void LostPages::SetRestored(uint64_t page) {
  if (std::atomic<uint64_t>* word = Find(page)) {
    word->store(Word(page, kRestored), std::memory_order_release);
  }
}

bool LostPages::Overlaps(uint64_t first, uint64_t last) const {
  bool found = false;
  ForEach([&](uint64_t page) { found = found || (page >= first && page <= last); });
  return found;
}

bool LostPages::IsReplaced(uint64_t page) const {
  for (const std::atomic<uint64_t>& word : words_) {
    const uint64_t seen = word.load(std::memory_order_acquire);
    if (seen == 0) return false;
    if (seen >> kStateBits == page) return (seen & kStateMask) == kReplaced;
  }
  return false;
}

}  // namespace daxkv::dax
