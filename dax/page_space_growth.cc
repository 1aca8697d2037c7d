// How a PageSpace gets segments, grows, and gives the blocks of free pages back.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dax/huge_pages.h"
#include "dax/object_chunks.h"
#include "dax/page_space.h"
#include "xarray/rcu.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kHugeBytes = kHugePages * kPageSizeBytes;
constexpr uint64_t kMostSegmentBytes = uint64_t{12} << 30;
// A new pool, which comes with all its blocks, keeps them until Trim or Close from this size on:
// punching them and reserving them again run by run costs more than their short stay.
constexpr uint64_t kKeepBlocksFromBytes = 64 * kMiB;

bool KeepsBlocks(uint64_t growth_bytes) { return growth_bytes >= kKeepBlocksFromBytes; }

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// An object of this size has room for a run of `pages`, wherever libpmemobj puts it: the run, its
// share of descriptor words, and up to 2 MiB for alignment.
uint64_t ObjectBytesFor(uint64_t pages) {
  const uint64_t run_bytes = RoundUp(pages, kHugePages) * kPageSizeBytes;
  return RoundUp(run_bytes + run_bytes / 448 + 2 * kMiB + kMiB / 2, kMiB);
}

}  // namespace

// About a hundred parts at 1 TiB.
uint64_t PageSpace::GrowthStep(uint64_t size_bytes) {
  const uint64_t step =
      std::max(std::clamp(size_bytes / 2, 16 * kMiB, 256 * kMiB), size_bytes / 16);
  return std::min(step, 8192 * kMiB);
}

absl::Status PageSpace::Attach(uint64_t open_epoch, bool was_clean) {
  const Lock lock(mutex_);
  open_epoch_ = open_epoch;
  if (huge_pages_) AdviseHugePages(heap_.base(), files_.size_bytes());
  for (uint64_t number = 0; number < heap_.root()->segment_count; ++number) {
    const absl::StatusOr<Segment*> segment = AttachEntry(number);
    if (!segment.ok()) return segment.status();
    (*segment)->may_hide_blocks = !was_clean;
  }
  const Segment* before = nullptr;
  for (const Segment* segment : index_.All()) {
    if (before != nullptr && before->object_end() > segment->object_offset()) {
      return absl::DataLossError(absl::StrCat("the segments at pool offsets ",
                                              before->object_offset(), " and ",
                                              segment->object_offset(), " overlap"));
    }
    before = segment;
  }
  return absl::OkStatus();
}

absl::StatusOr<Segment*> PageSpace::AttachEntry(uint64_t number) {
  const SegmentEntry& entry = heap_.root()->segments[number];
  absl::StatusOr<std::unique_ptr<Segment>> segment = Segment::Attach(
      heap_.base(), files_.size_bytes(), number, entry.object_offset, entry.object_size_bytes);
  if (!segment.ok()) return segment.status();
  segments_.reserve(kMaxSegments);  // The index must not know one that is not kept.
  index_.Insert(segment->get());
  segments_.push_back(*std::move(segment));
  return segments_.back().get();
}

absl::Status PageSpace::VerifyMapping() const {
  const LostPages& lost = heap_.lost_pages();
  return files_.VerifyMapping(heap_.base(),
                              [&lost](uint64_t page) { return lost.IsReplaced(page); });
}

absl::Status PageSpace::TakeWholeHeap() {
  const Lock growth_lock(growth_mutex_);
  absl::Status status = AppendSegments(kLeastSegmentBytes, {0, /*has_blocks=*/true});
  if (!status.ok() || !segments_.empty()) return status;
  return absl::ResourceExhaustedError("no room on the file system for the pool's first segment");
}

// Makes segments from what the heap has, while it has objects of `least_bytes`.
absl::Status PageSpace::AppendSegments(uint64_t least_bytes, const Fresh& fresh) {
  const uint64_t most_bytes = std::min(kMostSegmentBytes, files_.size_bytes());
  const auto reserve = [this](uint64_t offset, uint64_t size_bytes) {
    const uint64_t first = offset & ~(kPageSizeBytes - 1);
    return files_.Reserve(first, RoundUp(offset + size_bytes, kPageSizeBytes) - first);
  };
  while (true) {
    // The table may have more: if memory ran out before a new one was attached.
    if (segments_.size() == heap_.root()->segment_count) {
      absl::Status reserved;
      ObjectChunks(heap_.base()).ForEachFreeBlock(files_.size_bytes(), [&](uint64_t chunk) {
        if (reserved.ok()) reserved = ReserveObjectHeader(chunk);
      });
      if (!reserved.ok()) return reserved;
      absl::Status appended = heap_.AppendSegment(most_bytes, least_bytes, reserve);
      if (absl::IsResourceExhausted(appended)) return absl::OkStatus();
      if (!appended.ok()) return appended;
    }
    absl::Status taken_in = TakeIn(fresh);
    if (!taken_in.ok()) return taken_in;
  }
}

absl::Status PageSpace::TakeIn(const Fresh& fresh) {
  const Lock lock(mutex_);
  const absl::StatusOr<Segment*> attached = AttachEntry(segments_.size());
  if (!attached.ok()) return attached.status();
  Segment& segment = **attached;
  absl::Status status = BuildAll(segment);
  if (!status.ok()) return status;
  // A failure to punch costs blocks, nothing else.
  files_.Punch(segment.gap_offset(), segment.gap_bytes()).IgnoreError();
  // Rounded up without an overflow.
  const uint64_t fresh_page = fresh.offset / kPageSizeBytes + (fresh.offset % kPageSizeBytes != 0);
  const uint64_t first_fresh = std::clamp(fresh_page, segment.first_page(), segment.end_page());
  if (fresh.has_blocks) {
    segment.spare().Set(first_fresh - segment.first_page(), segment.end_page() - first_fresh);
  }
  segment.may_hide_blocks = first_fresh != segment.first_page();
  const bool keeps = !fresh.has_blocks || KeepsBlocks(segment.pages() * kPageSizeBytes);
  if (!keeps || segment.may_hide_blocks) PunchFree(segment).IgnoreError();
  return absl::OkStatus();
}

// What is in no segment may be a hole, and libpmemobj writes a header where it puts an object.
absl::Status PageSpace::ReserveObjectHeader(uint64_t chunk) {
  const uint64_t first = chunk & ~(kPageSizeBytes - 1);
  const uint64_t end = RoundUp(chunk + ObjectChunks::kObjectHeaderBytes, kPageSizeBytes);
  return files_.Reserve(first, end - first);
}

bool PageSpace::HasRoomFor(uint64_t pages) {
  const Lock lock(mutex_);
  return std::any_of(segments_.begin(), segments_.end(), [&](const auto& segment) {
    return segment->allocator() != nullptr && segment->allocator()->Fit(pages).has_value();
  });
}

absl::Status PageSpace::Grow(uint64_t pages) {
  const uint64_t least_bytes = ObjectBytesFor(pages);
  if (heap_may_have_rest_) {
    absl::Status status = TakeGrowth(kLeastSegmentBytes, {UINT64_MAX, false});
    if (!status.ok() || HasRoomFor(pages)) return status;
  }
  // More than once only where a step is cut in two by libpmemobj's own headers, every 16 GiB.
  for (int attempt = 0; attempt < 3; ++attempt) {
    absl::Status status = GrowByPart(least_bytes);
    if (!status.ok() || HasRoomFor(pages)) return status;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the pool has grown, and still has no room for ", pages, " pages together"));
}

absl::Status PageSpace::GrowByPart(uint64_t least_bytes) {
  const Fresh fresh{files_.size_bytes(), /*has_blocks=*/false};
  absl::Status status = ExtendHeap(least_bytes);
  return status.ok() ? TakeGrowth(least_bytes, fresh) : status;
}

// Takes in what the heap has grown by. After an error it is there still, and taken in next time.
absl::Status PageSpace::TakeGrowth(uint64_t least_bytes, const Fresh& fresh) {
  heap_may_have_rest_ = true;
  absl::Status status = files_.AddNewParts();
  if (status.ok()) status = VerifyMapping();
  if (status.ok() && huge_pages_) AdviseHugePages(heap_.base(), files_.size_bytes());
  if (status.ok()) status = AppendSegments(least_bytes, fresh);
  if (status.ok()) status = AppendSegments(kLeastSegmentBytes, fresh);
  heap_may_have_rest_ = !status.ok();
  return status;
}

// Makes the next part, with blocks for what is written to it before any run comes: libpmemobj's
// headers, and a segment's as large as it can be.
absl::Status PageSpace::MakePart(uint64_t size_bytes) {
  const uint64_t begin = files_.size_bytes(), end = begin + size_bytes;
  const ObjectChunks heap(heap_.base());
  // The chunk that the pool's end cuts is new, too.
  const uint64_t chunk = heap.StartOfChunkAt(begin);
  if (chunk < begin) {
    absl::Status status = ReserveObjectHeader(chunk);
    if (!status.ok()) return status;
  }
  std::vector<BackingFiles::Range> written;
  const auto add = [&](uint64_t offset, uint64_t bytes) {
    const uint64_t first = std::max(begin, offset & ~(kPageSizeBytes - 1));
    const uint64_t last = std::min(end, RoundUp(offset + bytes, kPageSizeBytes));
    if (first < last) written.push_back({first, last - first});
  };
  const uint64_t object = chunk + ObjectChunks::kObjectHeaderBytes;
  add(chunk, ObjectChunks::kObjectHeaderBytes + Segment::FormatBytes(object, end - object));
  heap.ForEachZoneHeader(begin, end, add);
  return files_.MakeNextPart(size_bytes, written);
}

// Adds one part: the step that suits the pool's size, or as much of it as the file system has room
// for the headers of, but enough for an object of `least_bytes`.
absl::Status PageSpace::ExtendHeap(uint64_t least_bytes) {
  const std::string full = absl::StrCat("no free run of that size, and the pool ");
  if (most_bytes_ == 0) return absl::ResourceExhaustedError(full + "has a fixed size");
  const uint64_t size_bytes = files_.size_bytes();
  const uint64_t least = RoundUp(least_bytes + kMiB, kHugeBytes);
  const uint64_t room = (most_bytes_ - std::min(most_bytes_, size_bytes)) & ~(kHugeBytes - 1);
  if (room < least) {
    return absl::ResourceExhaustedError(absl::StrCat(
        full, "has reached the size it may grow to: ", size_bytes, " of ", most_bytes_, " bytes"));
  }
  if (cannot_extend_) {
    return absl::ResourceExhaustedError(full + "could not grow before; reopen it to try again");
  }
  bool punched = false;
  uint64_t step = std::clamp(RoundUp(GrowthStep(size_bytes), kHugeBytes), least, room);
  absl::Status status = MakePart(step);
  while (absl::IsResourceExhausted(status) && !(step == least && punched)) {
    if (step == least) {
      punched = true;
      const Lock lock(mutex_);
      PunchSpare().IgnoreError();  // What was punched may be enough.
    }
    step = std::max(least, RoundUp(step / 2, kHugeBytes));
    status = MakePart(step);
  }
  if (!status.ok()) return status;
  status = heap_.Extend(step);
  if (status.ok()) return status;
  // A second attempt would number its part wrong: see MakeNextPart.
  cannot_extend_ = true;
  files_.RemoveNextPart();
  return status;
}

// Where there are no holes, nothing can be given back, and nobody is told of a failure.
absl::Status PageSpace::PunchSpare() {
  for (const std::unique_ptr<Segment>& segment : segments_) {
    if (segment->allocator() == nullptr) continue;
    absl::Status status;
    ++segment->punches;
    PageBitmap& spare = segment->spare();
    spare.ForEachRange(segment->pages(), [&](uint64_t first, uint64_t pages) {
      status.Update(PunchRun(*segment, first, pages));
    });
    spare.Clear(0, segment->pages());
    if (!files_.HasHoles()) return absl::OkStatus();
    if (!status.ok()) {
      segment->may_hide_blocks = true;
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status PageSpace::PunchFree(Segment& segment) {
  absl::Status status = BuildAll(segment);
  if (!status.ok()) return status;
  ++segment.punches;
  segment.allocator()->free().ForEachRange(segment.pages(), [&](uint64_t first, uint64_t pages) {
    status.Update(PunchRun(segment, first, pages));
  });
  segment.spare().Clear(0, segment.pages());
  segment.may_hide_blocks = !status.ok();
  return files_.HasHoles() ? status : absl::OkStatus();
}

absl::Status PageSpace::Trim() {
  const Lock ahead_lock(ahead_mutex_);
  const Lock growth_lock(growth_mutex_);
  const Lock lock(mutex_);
  absl::Status status;
  for (const std::unique_ptr<Segment>& segment : segments_) status.Update(PunchFree(*segment));
  status.Update(ReturnEmptySegments());
  return status;
}

// Neighbouring ones become one object in libpmemobj's hands, and a larger segment when the pool
// next grows. The first one stays, so that a small pool does not come and go.
absl::Status PageSpace::ReturnEmptySegments() {
  std::vector<uint64_t> empty;  // Numbers, descending: the table's end moves down.
  for (uint64_t number = segments_.size(); number-- > 1;) {
    Segment& segment = *segments_[number];
    // Those of windows that are not built are not free.
    const bool has_runs =
        segment.allocator() == nullptr || segment.allocator()->free_pages() != segment.pages();
    // A lost page must stay known as one.
    const bool has_lost = !bad_pages_.In(segment.first_page(), segment.end_page()).empty();
    if (!has_runs && !has_lost) empty.push_back(number);
  }
  if (empty.empty()) return absl::OkStatus();
  for (const uint64_t number : empty) index_.Remove(segments_[number].get());
  rcu::Synchronize();  // Nobody reads their words any more.
  index_.ForgetOld();
  absl::Status status;
  for (const uint64_t number : empty) {
    Segment& segment = *segments_[number];
    if (status.ok()) status = heap_.RemoveSegment(number);
    if (!status.ok()) {
      index_.Insert(&segment);
      continue;
    }
    heap_may_have_rest_ = true;
    // The descriptor words'; the first page stays for the header of the next object there.
    const uint64_t words = RoundUp(segment.object_offset(), kPageSizeBytes);
    if (words < segment.gap_offset()) {
      files_.Punch(words, segment.gap_offset() - words).IgnoreError();
    }
    std::swap(segments_[number], segments_.back());
    segments_.pop_back();
  }
  return status;
}

absl::Status PageSpace::TrimSpare() {
  const Lock ahead_lock(ahead_mutex_);
  const Lock lock(mutex_);
  return PunchSpare();
}

absl::Status PageSpace::TrimKnown() {
  const Lock ahead_lock(ahead_mutex_);
  const Lock lock(mutex_);
  absl::Status status = PunchSpare();
  for (const std::unique_ptr<Segment>& segment : segments_) {
    if (segment->may_hide_blocks) status.Update(PunchFree(*segment));
  }
  return status;
}

absl::Status PageSpace::ForgetOldEpochs() {
  const Lock lock(mutex_);
  absl::Status status;
  for (const std::unique_ptr<Segment>& segment : segments_) {
    status.Update(BuildAll(*segment));
  }
  return status;
}

}  // namespace daxkv::dax
