#include "dax/segment.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kHugeBytes = kHugePages * kPageSizeBytes;

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// Where things lie in an object. Attach re-derives it, so a header can't send us elsewhere.
SegmentHeader LayOut(uint64_t object_offset, uint64_t object_size_bytes) {
  SegmentHeader header = {};
  header.magic = kSegmentMagic;
  header.object_offset = object_offset;
  header.object_size_bytes = object_size_bytes;
  const uint64_t end = object_offset + object_size_bytes;
  // A word for each page that could be: a few more than there will be pages.
  const uint64_t words = object_size_bytes / kPageSizeBytes;
  const uint64_t words_end =
      RoundUp(object_offset, 64) + sizeof(SegmentHeader) + words * sizeof(uint64_t);
  const uint64_t data = RoundUp(words_end, kHugeBytes);
  header.first_page = data / kPageSizeBytes;
  header.pages = end > data ? (end - data) / kPageSizeBytes : 0;
  header.checksum = Checksum(&header, kSegmentChecksumSpan);
  return header;
}

}  // namespace

uint32_t Checksum(const void* bytes, size_t size_bytes) {
  // ISA-L takes its input as not const, and does not change it.
  auto* input = static_cast<unsigned char*>(const_cast<void*>(bytes));
  return ~crc32_iscsi(input, static_cast<int>(size_bytes), ~0u);
}

uint64_t Segment::FormatBytes(uint64_t object_offset, uint64_t object_size_bytes) {
  const SegmentHeader header = LayOut(object_offset, object_size_bytes);
  if (header.pages == 0) return 0;
  const uint64_t header_offset = RoundUp(object_offset, 64);
  return header_offset - object_offset + sizeof(header) + header.pages * sizeof(uint64_t);
}

uint64_t Segment::Format(char* base, uint64_t object_offset, uint64_t object_size_bytes) {
  const SegmentHeader header = LayOut(object_offset, object_size_bytes);
  if (header.pages == 0) return 0;
  const uint64_t header_offset = RoundUp(object_offset, 64);
  std::memcpy(base + header_offset, &header, sizeof(header));
  std::memset(base + header_offset + sizeof(header), 0, header.pages * sizeof(uint64_t));
  return FormatBytes(object_offset, object_size_bytes);
}

absl::StatusOr<std::unique_ptr<Segment>> Segment::Attach(char* base, uint64_t pool_size_bytes,
                                                         uint64_t number, uint64_t object_offset,
                                                         uint64_t object_size_bytes) {
  const std::string where = absl::StrCat("segment ", number, " at pool offset ", object_offset);
  if (object_offset >= pool_size_bytes || object_size_bytes > pool_size_bytes - object_offset) {
    return absl::DataLossError(absl::StrCat(where, ", ", object_size_bytes,
                                            " bytes, lies outside the pool's ", pool_size_bytes));
  }
  const SegmentHeader expected = LayOut(object_offset, object_size_bytes);
  if (expected.pages == 0) {
    return absl::DataLossError(absl::StrCat(where, " is too small: ", object_size_bytes));
  }
  const char* header = base + RoundUp(object_offset, 64);
  if (std::memcmp(header, &expected, sizeof(expected)) != 0) {
    return absl::DataLossError(absl::StrCat(where, " has a damaged header"));
  }
  return std::unique_ptr<Segment>(new Segment(base, expected));
}

Segment::Segment(char* base, const SegmentHeader& header)
    : first_page_(header.first_page),
      pages_(header.pages),
      object_offset_(header.object_offset),
      object_end_(header.object_offset + header.object_size_bytes),
      gap_offset_(RoundUp(RoundUp(header.object_offset, 64) + sizeof(SegmentHeader) +
                              header.pages * sizeof(uint64_t),
                          kPageSizeBytes)),
      words_(reinterpret_cast<std::atomic<uint64_t>*>(base + RoundUp(header.object_offset, 64) +
                                                      sizeof(SegmentHeader))),
      built_((header.pages + kWindowPages - 1) / kWindowPages),
      not_built_below_(built_.size()),
      spare_(0) {
  static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
}

absl::Status Segment::Damaged(uint64_t page, const std::string& what) const {
  return absl::DataLossError(absl::StrCat("the run descriptor of page ", page, " (pool offset ",
                                          page * kPageSizeBytes, ") ", what));
}

// A run of order k that covers the page begins at the page number with its low k bits cleared, so
// at most ten words decide; above 2 MiB the run's head is at the start of an earlier block.
absl::StatusOr<std::optional<RunDescriptor>> Segment::FindDescriptor(uint64_t page) const {
  // A word that can't be right does not hide a run that covers the page: runs do not overlap.
  std::optional<uint64_t> damaged;
  uint64_t head = page;
  for (unsigned order = 0;;) {
    const uint64_t word = Word(head).load(std::memory_order_acquire);
    if (word != 0) {
      const std::optional<RunDescriptor> descriptor = DecodeRunDescriptor(word, head);
      if (descriptor && descriptor->run.pages <= end_page() - head) {
        if (page - head < descriptor->run.pages) return descriptor;
        break;
      }
      if (!damaged) damaged = head;
    }
    const uint64_t before = head;
    while (head == before && order < kHugeOrder) {
      ++order;
      head = page >> order << order;
    }
    if (head != before) continue;
    if (head <= first_page_) break;
    head -= kHugePages;
  }
  if (damaged) return Damaged(*damaged, "is damaged");
  return std::nullopt;
}

absl::StatusOr<Run> Segment::FindRun(uint64_t page, uint64_t open_epoch) const {
  const absl::StatusOr<std::optional<RunDescriptor>> found = FindDescriptor(page);
  if (!found.ok()) return found.status();
  if (found->has_value()) {
    const RunDescriptor& descriptor = **found;
    if (descriptor.run.live || descriptor.epoch == (open_epoch & kEpochMask)) {
      return descriptor.run;
    }
  }
  return absl::NotFoundError(absl::StrCat("page ", page, " belongs to no run"));
}

absl::Status Segment::Walk(uint64_t open_epoch, uint64_t from, uint64_t end,
                           const std::function<absl::Status(const Run&)>& visit,
                           const std::function<void(uint64_t)>& stale) const {
  end = std::min(end, end_page());
  for (uint64_t page = std::max(from, first_page_); page < end;) {
    const uint64_t word = Word(page).load(std::memory_order_acquire);
    if (word == 0) {
      ++page;
      continue;
    }
    const std::optional<RunDescriptor> descriptor = DecodeRunDescriptor(word, page);
    if (!descriptor || descriptor->run.pages > end_page() - page) {
      return Damaged(page, "is damaged");
    }
    const Run& run = descriptor->run;
    bool changed = false;
    for (uint64_t inner = page + 1; inner < page + run.pages && !changed; ++inner) {
      if (Word(inner).load(std::memory_order_acquire) == 0) continue;
      // The run may have gone while we looked, and a smaller one come in its place.
      changed = Word(page).load(std::memory_order_acquire) != word;
      if (!changed && Word(inner).load(std::memory_order_acquire) != 0) {
        return Damaged(inner, absl::StrCat("lies inside the run of page ", page));
      }
    }
    if (changed) continue;
    if (run.live || descriptor->epoch == (open_epoch & kEpochMask)) {
      absl::Status status = visit(run);
      if (!status.ok()) return status;
    } else if (stale) {
      stale(page);
    }
    page += run.pages;
  }
  return absl::OkStatus();
}

// Pages of a run that begins in an earlier window are not free; of such a stale run, too, the word
// is cleared here, before anything is put into what it covers.
absl::Status Segment::Build(uint64_t window, uint64_t open_epoch, Persister& persister) {
  if (built_[window]) return absl::OkStatus();
  if (!build_status_.ok()) return build_status_;
  if (allocator_ == nullptr) {
    PageBitmap spare(pages_);
    allocator_ = std::make_unique<RunAllocator>(pages_, RunAllocator::kNoneFree);
    spare_ = std::move(spare);
  }
  const uint64_t first = FirstPageOf(window), end = EndPageOf(window);
  std::vector<uint64_t> stale;
  std::vector<std::pair<uint64_t, uint64_t>> free;  // First page, pages.
  const absl::StatusOr<std::optional<RunDescriptor>> across = FindDescriptor(first);
  build_status_ = across.status();
  if (!build_status_.ok()) return build_status_;
  uint64_t from = first;
  if (across->has_value() && (*across)->run.first_page < first) {
    const Run& run = (*across)->run;
    if (run.live || (*across)->epoch == (open_epoch & kEpochMask)) {
      from = std::min(end, run.first_page + run.pages);
    } else {
      stale.push_back(run.first_page);
    }
  }
  uint64_t free_from = from;
  const auto end_of_free = [&](uint64_t page) {
    if (page > free_from) free.emplace_back(free_from, page - free_from);
  };
  build_status_ = Walk(
      open_epoch, from, end,
      [&](const Run& run) {
        end_of_free(run.first_page);
        free_from = run.first_page + run.pages;
        return absl::OkStatus();
      },
      [&](uint64_t page) { stale.push_back(page); });
  if (!build_status_.ok()) return build_status_;
  end_of_free(end);
  // Each store frees a run that counts as free already: a crash before or after means the same.
  for (const uint64_t page : stale) {
    Word(page).store(0, std::memory_order_release);
    persister.FlushToMedium(&Word(page), sizeof(uint64_t));
  }
  if (!stale.empty()) build_status_ = persister.DrainToMedium();
  if (!build_status_.ok()) return build_status_;
  for (const auto& [page, pages] : free) allocator_->Free(page - first_page_, pages);
  built_[window] = true;  // Not if memory ran out.
  return absl::OkStatus();
}

std::optional<uint64_t> Segment::NextToBuild() {
  if (!build_status_.ok()) return std::nullopt;
  while (not_built_below_ > 0 && built_[not_built_below_ - 1]) --not_built_below_;
  if (not_built_below_ == 0) return std::nullopt;
  return not_built_below_ - 1;
}

}  // namespace daxkv::dax
