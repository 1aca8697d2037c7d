#include "dax/persist.h"

#include <libpmem.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dax/exceptions.h"
#include "dax/pool.h"

namespace daxkv::dax {
namespace {

// Ranges closer than this go out in one msync, which writes only what is dirty between them.
constexpr uintptr_t kMergeGapBytes = uintptr_t{1} << 20;
// So many notes are merged before another one is taken.
constexpr size_t kMaxNotes = 256;
// From here on copies bypass the cache.
constexpr size_t kNonTemporalBytes = 256;

// SyncInParts: of a block; that many flushes make about so many dirty pages, whose interrupts would
// cost more than mapping the block anew.
constexpr unsigned kBlockShift = 21;
constexpr uint8_t kBusyFlushes = 32;
// What is unmapped and written at a time.
constexpr uint64_t kPartBytes = uint64_t{32} << 20;

struct Range {
  uintptr_t first;
  uintptr_t last;  // One past the end.
};

struct Notes {
  std::weak_ptr<const Persister*> owner;
  std::vector<Range> ranges;
  std::optional<uint64_t> lost_page;  // One that was flushed.
};

// A thread works with few pools at a time, so a scan finds them.
thread_local std::vector<Notes> thread_notes;

// Null when this thread has noted nothing for `owner`.
Notes* FindNotes(const std::shared_ptr<const Persister*>& owner) {
  for (Notes& notes : thread_notes) {
    if (!notes.owner.owner_before(owner) && !owner.owner_before(notes.owner)) return &notes;
  }
  return nullptr;
}

Notes& NotesOf(const std::shared_ptr<const Persister*>& owner) {
  if (Notes* notes = FindNotes(owner)) return *notes;
  thread_notes.erase(std::remove_if(thread_notes.begin(), thread_notes.end(),
                                    [](const Notes& notes) { return notes.owner.expired(); }),
                     thread_notes.end());
  thread_notes.push_back({owner, {}, {}});
  return thread_notes.back();
}

void Merge(std::vector<Range>& ranges, uintptr_t gap_bytes) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  size_t kept = 0;
  for (const Range& range : ranges) {
    if (kept != 0 && range.first <= ranges[kept - 1].last + gap_bytes) {
      ranges[kept - 1].last = std::max(ranges[kept - 1].last, range.last);
    } else {
      ranges[kept++] = range;
    }
  }
  ranges.resize(kept);
}

}  // namespace

Persister::Persister(MediaClass media_class, const char* base, const LostPages* lost)
    : page_cache_(media_class == MediaClass::kPageCache),
      base_(base),
      identity_(std::make_shared<const Persister*>(this)),
      lost_(lost) {}

void Persister::Flush(const void* address, size_t size_bytes) noexcept {
  if (!page_cache_) {
    pmem_flush(address, size_bytes);
    NoteIfLost(address, size_bytes);
    return;
  }
  if (size_bytes == 0) return;
  NoteIfLost(address, size_bytes);
  if (process_only_.load(std::memory_order_relaxed)) return NoteUnsynced(address);
  Write(address, size_bytes);
}

void Persister::FlushToMedium(const void* address, size_t size_bytes) noexcept {
  if (!page_cache_) return Flush(address, size_bytes);
  NoteIfLost(address, size_bytes);
  Write(address, size_bytes);
}

// Loads first: cache lines stay shared. The counts are hints, and may miss some.
void Persister::NoteUnsynced(const void* address) noexcept {
  // Acquire: pairs with the release in SetDurability.
  if (std::atomic<uint8_t>* flushes = flushes_.load(std::memory_order_acquire)) {
    const auto offset = static_cast<uint64_t>(static_cast<const char*>(address) - base_);
    if (const uint64_t block = offset >> kBlockShift; block < blocks_) {
      const uint8_t count = flushes[block].load(std::memory_order_relaxed);
      if (count < kBusyFlushes) flushes[block].store(count + 1, std::memory_order_relaxed);
    }
  }
  if (unsynced_.load(std::memory_order_relaxed)) return;
  unsynced_.store(true, std::memory_order_relaxed);
}

bool Persister::TakeUnsynced() noexcept {
  const bool unsynced = unsynced_.exchange(false, std::memory_order_relaxed);
  return std::exchange(was_unsynced_, unsynced) || unsynced;
}

void Persister::SetDurability(Durability durability, uint64_t most_bytes) {
  if (page_cache_ && durability == Durability::kProcess && owned_flushes_ == nullptr) {
    blocks_ = most_bytes >> kBlockShift;
    owned_flushes_.reset(new (std::nothrow) std::atomic<uint8_t>[blocks_]());
    flushes_.store(owned_flushes_.get(), std::memory_order_release);
  }
  process_only_.store(page_cache_ && durability == Durability::kProcess, std::memory_order_relaxed);
}

// Notes the range for the thread's next drain.
void Persister::Write(const void* address, size_t size_bytes) noexcept {
  const auto first = reinterpret_cast<uintptr_t>(address);
  try {
    Note(first, first + size_bytes);
  } catch (const std::bad_alloc&) {
    WriteBack(first, first + size_bytes).IgnoreError();  // Drain tells of it.
  }
}

void Persister::Note(uintptr_t first, uintptr_t last) {
  std::vector<Range>& ranges = NotesOf(identity_).ranges;
  // Neighbours in time are often neighbours in space.
  if (!ranges.empty() && first >= ranges.back().first &&
      first <= ranges.back().last + kMergeGapBytes) {
    ranges.back().last = std::max(ranges.back().last, last);
    return;
  }
  // The gap grows until the list is short: in the end one msync covers everything.
  for (uintptr_t gap = kMergeGapBytes; ranges.size() >= kMaxNotes; gap *= 16) Merge(ranges, gap);
  ranges.push_back({first, last});
}

// Its bytes were stored before, so by then the page is known to be lost if a store met that.
void Persister::NoteIfLost(const void* address, size_t size_bytes) noexcept {
  if (lost_ == nullptr || __builtin_expect(!lost_->any(), true)) return;
  const auto offset = static_cast<uint64_t>(static_cast<const char*>(address) - base_);
  const uint64_t first = offset >> kPageShift;
  const uint64_t last = (offset + std::max<size_t>(size_bytes, 1) - 1) >> kPageShift;
  lost_->ForEach([&](uint64_t page) {
    if (page < first || page > last) return;
    try {
      NotesOf(identity_).lost_page = page;
    } catch (const std::bad_alloc&) {
      failed_.store(true, std::memory_order_release);  // Without a note everybody is told.
    }
  });
}

absl::Status Persister::TakeLostNote() noexcept {
  if (Notes* notes = FindNotes(identity_); notes != nullptr && notes->lost_page) {
    const uint64_t page = *std::exchange(notes->lost_page, std::nullopt);
    return MakeStatus(absl::StatusCode::kDataLoss, "what was written to the page at pool offset ",
                      page << kPageShift, " is lost: the medium failed there");
  }
  std::optional<uint64_t> own;
  lost_->ForEach([&](uint64_t page) {
    if (is_data_ && !is_data_(page)) own = page;
  });
  if (!own) return absl::OkStatus();
  return MakeStatus(
      absl::StatusCode::kDataLoss, "the medium failed at pool offset ", *own << kPageShift,
      ", where the pool keeps its own ",
      "records: nothing is taken any more; save what can be read and restore from a copy");
}

absl::Status Persister::Drain() noexcept {
  absl::Status status =
      process_only_.load(std::memory_order_relaxed) ? CheckMedium() : DrainRanges();
  if (lost_ != nullptr && __builtin_expect(lost_->any(), false)) status.Update(TakeLostNote());
  return status;
}

absl::Status Persister::DropFlushes() noexcept {
  if (!page_cache_) return Drain();
  if (Notes* notes = FindNotes(identity_)) notes->ranges.clear();
  absl::Status status = CheckMedium();
  if (lost_ != nullptr && __builtin_expect(lost_->any(), false)) status.Update(TakeLostNote());
  return status;
}

absl::Status Persister::DrainToMedium() noexcept {
  absl::Status status = DrainRanges();
  if (lost_ != nullptr && __builtin_expect(lost_->any(), false)) status.Update(TakeLostNote());
  return status;
}

absl::Status Persister::PersistWord(const void* address) {
  if (page_cache_) {
    const auto first = reinterpret_cast<uintptr_t>(address);
    absl::Status status = WriteBack(first, first + sizeof(uint64_t));
    status.Update(CheckMedium());
    if (!status.ok()) return status;
  } else {
    pmem_flush(address, sizeof(uint64_t));
    pmem_drain();
  }
  const auto offset = static_cast<uint64_t>(static_cast<const char*>(address) - base_);
  if (lost_ == nullptr || !lost_->Overlaps(offset >> kPageShift, offset >> kPageShift)) {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrCat("the medium failed under the pool's own record at pool offset ", offset));
}

absl::Status Persister::DrainRanges() noexcept {
  if (!page_cache_) {
    pmem_drain();
    return absl::OkStatus();
  }
  Notes* notes = FindNotes(identity_);
  if (notes == nullptr) return CheckMedium();
  std::vector<Range>* noted = &notes->ranges;
  Merge(*noted, kMergeGapBytes);
  absl::Status status;
  for (const Range& range : *noted) status.Update(WriteBack(range.first, range.last));
  noted->clear();
  // Last: another thread's msync may have been told of what became of our pages.
  status.Update(CheckMedium());
  return status;
}

absl::Status Persister::WriteBack(uintptr_t first, uintptr_t last) noexcept {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): it was one.
  const auto* address = reinterpret_cast<const char*>(first);
  if (pmem_msync(address, last - first) == 0) return absl::OkStatus();
  const int error = errno;
  // Release: pairs with the load in CheckMedium.
  failed_.store(true, std::memory_order_release);
  return MakeStatus(absl::StatusCode::kInternal, "msync of pool offsets ", address - base_, " to ",
                    address - base_ + (last - first),
                    " failed, the data there may not be durable: ", std::strerror(error));
}

absl::Status Persister::CheckMedium() const noexcept {
  if (!failed_.load(std::memory_order_acquire)) return absl::OkStatus();
  return MakeStatus(absl::StatusCode::kInternal,
                    "an earlier msync failed, so other writes may be lost as well; close the pool, "
                    "see to the medium and open it again");
}

void Persister::CopyAndFlush(void* to, const void* from, size_t size_bytes) noexcept {
  if (page_cache_) {
    std::memcpy(to, from, size_bytes);
    Flush(to, size_bytes);
    return;
  }
  const unsigned flags =
      PMEM_F_MEM_NODRAIN | (size_bytes >= kNonTemporalBytes ? PMEM_F_MEM_NONTEMPORAL : 0);
  pmem_memcpy(to, from, size_bytes, flags);
  NoteIfLost(to, size_bytes);
}

absl::Status Persister::SyncAll(size_t size_bytes) {
  absl::Status status = SyncRange(size_bytes);
  if (lost_ != nullptr && lost_->any()) status.Update(TakeLostNote());
  return status;
}

// Of [first, end); false: there is none. What was stored to the pages is in the page cache, and
// whoever touches them maps them again. A failure leaves them mapped.
bool Persister::UnmapBusyBlocks(uint64_t first, uint64_t end) noexcept {
  std::atomic<uint8_t>* const flushes = flushes_.load(std::memory_order_relaxed);
  const uint64_t last = std::min((end - 1) >> kBlockShift, blocks_ - 1);
  bool any = false;
  for (uint64_t block = first >> kBlockShift; block <= last; ++block) {
    uint64_t next = block;
    for (; next <= last && flushes[next].load(std::memory_order_relaxed) == kBusyFlushes; ++next) {
      flushes[next].store(0, std::memory_order_relaxed);
    }
    if (next == block) continue;
    const uint64_t from = block << kBlockShift;
    const uint64_t to = std::min(next << kBlockShift, end);
    static_cast<void>(madvise(const_cast<char*>(base_) + from, to - from, MADV_DONTNEED));
    any = true;
    block = next;
  }
  return any;
}

absl::Status Persister::SyncInParts(size_t size_bytes) {
  // Pages that stand in for lost ones are not the files'.
  if (flushes_.load(std::memory_order_relaxed) == nullptr || blocks_ == 0 ||
      (lost_ != nullptr && lost_->any())) {
    return SyncAll(size_bytes);
  }
  const auto base = reinterpret_cast<uintptr_t>(base_);
  absl::Status status;
  uint64_t written = 0;
  for (uint64_t part = 0; part < size_bytes; part += kPartBytes) {
    const uint64_t end = std::min<uint64_t>(part + kPartBytes, size_bytes);
    if (!UnmapBusyBlocks(part, end) && end != size_bytes) continue;
    status.Update(WriteBack(base + written, base + end));
    written = end;
  }
  status.Update(CheckMedium());
  return status;
}

absl::Status Persister::SyncRange(size_t size_bytes) {
  if (!page_cache_) {
    pmem_drain();
    return absl::OkStatus();
  }
  if (Notes* notes = FindNotes(identity_)) notes->ranges.clear();
  const auto first = reinterpret_cast<uintptr_t>(base_);
  absl::Status status = WriteBack(first, first + size_bytes);
  status.Update(CheckMedium());
  return status;
}

}  // namespace daxkv::dax
