// How a PageSpace grows, and gets blocks for free pages, before anybody asks for them.

#include <algorithm>
#include <optional>

#include "dax/huge_pages.h"
#include "dax/page_space.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kBlockBytes = kHugePages * kPageSizeBytes;
// Of what is in use: so much may be ahead of it, in whole blocks of 2 MiB, one at least.
constexpr uint64_t kAheadShare = 128;
constexpr uint64_t kMostBlocksAhead = 16;
// Nothing is done ahead in pools that use less: a block would be much of them.
constexpr uint64_t kLeastUsedPages = (uint64_t{32} << 20) / kPageSizeBytes;
// Pages mapped by one call, during which a writer's first touch may have to wait.
constexpr uint64_t kMapBytes = uint64_t{512} << 10;
// A kernel that has looked for a huge page so often in vain is not asked again.
constexpr unsigned kMostHugeRefusals = 4;

}  // namespace

// The free block of 2 MiB that lacks blocks and that Take will break first, if it is one of those
// that belong ahead. What Take finds in a broken block has its blocks mostly: it was ahead when
// the block was whole.
std::optional<PageSpace::Taken> PageSpace::NextAhead() {
  uint64_t used_pages = 0;
  for (const std::unique_ptr<Segment>& segment : segments_) {
    const RunAllocator* allocator = segment->allocator();
    used_pages += segment->pages() - (allocator == nullptr ? 0 : allocator->free_pages());
  }
  if (used_pages < kLeastUsedPages) return std::nullopt;
  uint64_t left = std::clamp(used_pages / kAheadShare / kHugePages, uint64_t{1}, kMostBlocksAhead);
  one_ahead_.store(left == 1, std::memory_order_relaxed);
  for (const std::unique_ptr<Segment>& segment : segments_) {
    if (segment->allocator() == nullptr) continue;
    std::optional<uint64_t> block = segment->allocator()->NextFreeBlock(0);
    for (; block && left > 0; block = segment->allocator()->NextFreeBlock(*block + kHugePages)) {
      if (!segment->spare().AllSet(*block, kHugePages)) return Taken{segment.get(), *block};
      --left;
    }
  }
  return std::nullopt;
}

// The block stays in the allocator meanwhile: out of it, others could grow the pool, or be refused,
// for want of it. Reserving and mapping harms nobody who has pages of it in use, and they have
// their blocks anyway. But pages that were punched meanwhile have blocks now, or not.
bool PageSpace::ReserveNextAhead() {
  const Lock ahead_lock(ahead_mutex_);
  std::optional<Taken> next;
  uint64_t punches = 0;
  {
    const Lock lock(mutex_);
    next = NextAhead();
    if (!next) return false;
    punches = next->segment->punches;
  }
  const uint64_t offset = (next->segment->first_page() + next->first) * kPageSizeBytes;
  if (huge_ahead_ && huge_refusals_ < kMostHugeRefusals &&
      !AllocateHugePage(heap_.base() + offset)) {
    ++huge_refusals_;
  }
  const absl::Status reserved = files_.Reserve(offset, kBlockBytes);
  // Without it the pages are mapped when they are touched.
  for (uint64_t done = 0; reserved.ok() && done < kBlockBytes; done += kMapBytes) {
    const char* const begin = heap_.base() + offset + done;
    if (!PopulatePages(begin, kMapBytes, write_ahead_).ok()) break;
  }
  const Lock lock(mutex_);
  Segment& segment = *next->segment;
  const PageBitmap& free = segment.allocator()->free();
  const uint64_t end = next->first + kHugePages;
  const auto for_each_free = [&](auto visit) {
    for (uint64_t first = free.Find(next->first, end, true), last; first < end;
         first = free.Find(last, end, true)) {
      last = free.Find(first, end, false);
      visit(first, last - first);
    }
  };
  if (reserved.ok()) {
    const bool known = punches == segment.punches;
    if (!known) segment.may_hide_blocks = true;
    if (known) for_each_free([&](uint64_t first, uint64_t n) { segment.spare().Set(first, n); });
    return known;
  }
  // Some of the blocks may have come.
  ++segment.punches;
  for_each_free([&](uint64_t first, uint64_t n) {
    segment.spare().Clear(first, n);
    if (!PunchRun(segment, first, n).ok()) segment.may_hide_blocks = true;
  });
  return false;
}

// Where growth is all that a call would wait for the medium for. When less than half of the next
// step is free, and less than half of what there is, so that small pools stay small. While windows
// are not built, nobody knows what is free.
bool PageSpace::WantsGrowth() const {
  if (!persister_.process_only() || most_bytes_ == 0 || !can_grow_) return false;
  uint64_t pages = 0, free_pages = 0;
  for (const std::unique_ptr<Segment>& segment : segments_) {
    if (segment->NextToBuild()) return false;
    pages += segment->pages();
    if (segment->allocator() != nullptr) free_pages += segment->allocator()->free_pages();
  }
  const uint64_t step_pages = GrowthStep(pages * kPageSizeBytes) / kPageSizeBytes;
  return free_pages < std::min(step_pages, pages) / 2;
}

// An error is for who needs the room.
void PageSpace::GrowAhead() {
  const auto wants = [this] {
    const Lock lock(mutex_);
    return WantsGrowth();
  };
  if (!wants()) return;
  const Lock growth_lock(growth_mutex_);
  absl::Status status;
  if (heap_may_have_rest_) status = TakeGrowth(kLeastSegmentBytes, {UINT64_MAX, false});
  // Who needed room may have grown meanwhile.
  if (status.ok() && wants()) status = GrowByPart(kLeastSegmentBytes);
  const Lock lock(mutex_);
  can_grow_ = status.ok();
}

void PageSpace::ReserveAhead() {
  wants_ahead_.store(false, std::memory_order_relaxed);
  GrowAhead();
  while (files_.HasHoles() && ReserveNextAhead()) {
  }
}

}  // namespace daxkv::dax
