// A plain bitmap over the pages of one segment. Not thread-safe.
#ifndef DAXKV_DAX_PAGE_BITMAP_H_
#define DAXKV_DAX_PAGE_BITMAP_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace daxkv::dax {

class PageBitmap {
 public:
  // All clear. Room is rounded up to whole 2 MiB blocks, eight words each.
  explicit PageBitmap(uint64_t pages) : words_((pages + 511) / 512 * 8) {}

  bool Test(uint64_t page) const { return ((words_[page / 64] >> (page % 64)) & 1) != 0; }
  void Set(uint64_t first, uint64_t pages) {
    ForEachWord(first, pages, [this](uint64_t word, uint64_t mask) { words_[word] |= mask; });
  }
  void Clear(uint64_t first, uint64_t pages) {
    ForEachWord(first, pages, [this](uint64_t word, uint64_t mask) { words_[word] &= ~mask; });
  }
  bool AllSet(uint64_t first, uint64_t pages) const {
    bool all = true;
    ForEachWord(first, pages,
                [&](uint64_t word, uint64_t mask) { all = all && (words_[word] & mask) == mask; });
    return all;
  }
  bool NoneSet(uint64_t first, uint64_t pages) const {
    bool none = true;
    ForEachWord(first, pages,
                [&](uint64_t word, uint64_t mask) { none = none && (words_[word] & mask) == 0; });
    return none;
  }

  // The first page at or after `page` whose bit is `value`; `end` when there is none before it.
  uint64_t Find(uint64_t page, uint64_t end, bool value) const {
    while (page < end) {
      const uint64_t word = (value ? words_[page / 64] : ~words_[page / 64]) >> (page % 64);
      if (word != 0) return std::min(end, page + static_cast<uint64_t>(__builtin_ctzll(word)));
      page = (page / 64 + 1) * 64;
    }
    return end;
  }
  // Calls visit(first, pages) for each maximal range of set bits below `end`.
  template <typename Visit>
  void ForEachRange(uint64_t end, Visit visit) const {
    for (uint64_t first = Find(0, end, true); first < end;) {
      const uint64_t last = Find(first, end, false);
      visit(first, last - first);
      first = Find(last, end, true);
    }
  }

  // The eight words of a 2 MiB block.
  const uint64_t* Block(uint64_t block) const { return &words_[block * 8]; }

 private:
  template <typename Visit>
  static void ForEachWord(uint64_t first, uint64_t pages, Visit visit) {
    const uint64_t end = first + pages;
    while (first < end) {
      const uint64_t count = std::min(end - first, 64 - first % 64);
      const uint64_t mask = (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1);
      visit(first / 64, mask << (first % 64));
      first += count;
    }
  }

  std::vector<uint64_t> words_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_PAGE_BITMAP_H_
