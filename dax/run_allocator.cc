#include "dax/run_allocator.h"

#include <algorithm>
#include <cstring>

namespace daxkv::dax {
namespace {

// One bit for each page of a 2 MiB block. At level k, bit i stands for the buddy of order k that
// begins at page i, so only bits at multiples of 2^k are used.
using BlockBits = std::array<uint64_t, 8>;

constexpr unsigned kWordOrder = 6;  // 64 pages: from here on a buddy is whole words.
constexpr uint64_t kAligned[kWordOrder + 1] = {
    ~uint64_t{0},       0x5555555555555555, 0x1111111111111111, 0x0101010101010101,
    0x0001000100010001, 0x0000000100000001, 0x0000000000000001,
};

// From the free buddies of order k to those of order k + 1.
BlockBits NextLevel(const BlockBits& level, unsigned k) {
  BlockBits next{};
  if (k < kWordOrder) {
    for (size_t i = 0; i < 8; ++i) next[i] = level[i] & (level[i] >> (1u << k)) & kAligned[k + 1];
  } else {
    const size_t step = size_t{1} << (k - kWordOrder);
    for (size_t i = 0; i < 8; i += 2 * step) next[i] = level[i] & level[i + step] & 1;
  }
  return next;
}

// The free buddies of order k that are not halves of a free one of order k + 1.
BlockBits Maximal(const BlockBits& level, const BlockBits& next, unsigned k) {
  BlockBits maximal = level;
  for (size_t i = 0; i < 8; ++i) {
    if (k < kWordOrder) {
      maximal[i] &= ~(next[i] | (next[i] << (1u << k)));
    } else if (next[i] != 0) {
      maximal[i] = 0;
      maximal[i + (size_t{1} << (k - kWordOrder))] = 0;
    }
  }
  return maximal;
}

BlockBits LevelOf(const uint64_t* words, unsigned order) {
  BlockBits level;
  std::copy_n(words, 8, level.begin());
  for (unsigned k = 0; k < order; ++k) level = NextLevel(level, k);
  return level;
}

bool Any(const BlockBits& bits) {
  uint64_t any = 0;
  for (uint64_t word : bits) any |= word;
  return any != 0;
}

uint64_t FirstBit(const BlockBits& bits) {
  for (size_t i = 0; i < 8; ++i) {
    if (bits[i] != 0) return i * 64 + static_cast<uint64_t>(__builtin_ctzll(bits[i]));
  }
  return kHugePages;
}

// The page of the smallest free buddy of at least `order`; the block must have one.
uint64_t BestFitInBlock(const uint64_t* words, unsigned order) {
  BlockBits level = LevelOf(words, order);
  for (unsigned k = order; k < kHugeOrder; ++k) {
    const BlockBits next = NextLevel(level, k);
    const uint64_t page = FirstBit(Maximal(level, next, k));
    if (page < kHugePages) return page;
    level = next;
  }
  return 0;
}

unsigned OrderOf(uint64_t pages) { return static_cast<unsigned>(__builtin_ctzll(pages)); }

}  // namespace

RunAllocator::RunAllocator(uint64_t pages, Start start)
    : free_(pages), largest_((pages + kHugePages - 1) / kHugePages, kFull) {
  blocks_with_[kFull] = largest_.size();
  if (start == kAllFree) Free(0, pages);
}

std::optional<unsigned> RunAllocator::Fit(uint64_t pages) const {
  if (pages > kHugePages) {
    if (!FindBlocks(pages / kHugePages)) return std::nullopt;
    return kHugeOrder;
  }
  for (unsigned order = OrderOf(pages); order <= kHugeOrder; ++order) {
    if (blocks_with_[order] != 0) return order;
  }
  return std::nullopt;
}

std::optional<uint64_t> RunAllocator::Allocate(uint64_t pages) {
  const std::optional<unsigned> fit = Fit(pages);
  if (!fit) return std::nullopt;
  uint64_t first;
  if (pages > kHugePages) {
    first = *FindBlocks(pages / kHugePages) * kHugePages;
  } else {
    const auto* found = static_cast<const uint8_t*>(
        std::memchr(largest_.data(), static_cast<int>(*fit), largest_.size()));
    const uint64_t block = static_cast<uint64_t>(found - largest_.data());
    first = block * kHugePages + BestFitInBlock(free_.Block(block), OrderOf(pages));
  }
  Take(first, pages);
  return first;
}

std::optional<uint64_t> RunAllocator::FindBlocks(uint64_t count) const {
  if (blocks_with_[kHugeOrder] < count) return std::nullopt;
  uint64_t together = 0;
  for (uint64_t block = 0; block < largest_.size(); ++block) {
    together = largest_[block] == kHugeOrder ? together + 1 : 0;
    if (together == count) return block + 1 - count;
  }
  return std::nullopt;
}

std::optional<uint64_t> RunAllocator::NextFreeBlock(uint64_t first) const {
  for (uint64_t block = first / kHugePages; block < largest_.size(); ++block) {
    if (largest_[block] == kHugeOrder) return block * kHugePages;
  }
  return std::nullopt;
}

void RunAllocator::Take(uint64_t first, uint64_t pages) {
  free_.Clear(first, pages);
  free_pages_ -= pages;
  Refresh(first, pages);
}

void RunAllocator::Free(uint64_t first, uint64_t pages) {
  free_.Set(first, pages);
  free_pages_ += pages;
  Refresh(first, pages);
}

void RunAllocator::Refresh(uint64_t first, uint64_t pages) {
  if (pages == 0) return;
  for (uint64_t block = first / kHugePages; block <= (first + pages - 1) / kHugePages; ++block) {
    BlockBits level = LevelOf(free_.Block(block), 0);
    uint8_t largest = kFull;
    for (unsigned k = 0; k <= kHugeOrder && Any(level); ++k) {
      largest = static_cast<uint8_t>(k);
      if (k < kHugeOrder) level = NextLevel(level, k);
    }
    --blocks_with_[largest_[block]];
    ++blocks_with_[largest];
    largest_[block] = largest;
  }
}

void RunAllocator::CountFreeRuns(uint64_t (&counts)[kHugeOrder + 1]) const {
  for (uint64_t block = 0; block < largest_.size(); ++block) {
    BlockBits level = LevelOf(free_.Block(block), 0);
    for (unsigned k = 0; k < kHugeOrder; ++k) {
      const BlockBits next = NextLevel(level, k);
      for (uint64_t word : Maximal(level, next, k)) {
        counts[k] += static_cast<uint64_t>(__builtin_popcountll(word));
      }
      level = next;
    }
    counts[kHugeOrder] += level[0] & 1;
  }
}

uint64_t RunAllocator::LargestFreeRun() const {
  uint64_t together = 0;
  uint64_t most = 0;
  for (uint8_t largest : largest_) {
    together = largest == kHugeOrder ? together + 1 : 0;
    most = std::max(most, together);
  }
  if (most != 0) return std::min(most * kHugePages, kMaxRunPages);
  for (unsigned order = kHugeOrder; order-- > 0;) {
    if (blocks_with_[order] != 0) return uint64_t{1} << order;
  }
  return 0;
}

}  // namespace daxkv::dax
