#include "dax/page_space.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "dax/exceptions.h"
#include "xarray/rcu.h"

namespace daxkv::dax {
namespace {

std::string Describe(const Run& run) {
  return absl::StrCat("run of ", run.pages, " pages at page ", run.first_page);
}

}  // namespace

PageSpace::PageSpace(const Parts& parts, uint64_t most_bytes)
    : heap_(*parts.heap),
      files_(*parts.files),
      persister_(*parts.persister),
      bad_pages_(*parts.bad_pages),
      huge_pages_(parts.huge_pages),
      write_ahead_(parts.write_ahead),
      huge_ahead_(parts.huge_ahead),
      most_bytes_(most_bytes) {}

absl::StatusOr<Run> PageSpace::AllocateRun(uint64_t pages, uint8_t kind, uint16_t owner,
                                           uint64_t used_bytes) {
  if (pages == 0 || pages > kMaxRunPages || kind == 0) {
    return absl::InvalidArgumentError(absl::StrCat("a run must have 1..", kMaxRunPages,
                                                   " pages and a kind, not ", pages,
                                                   " pages of kind ", kind));
  }
  pages = RoundToRunPages(pages);
  if (used_bytes > pages * kPageSizeBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(used_bytes, " used bytes do not fit into ", pages, " pages"));
  }
  const uint64_t used_pages = (used_bytes + kPageSizeBytes - 1) / kPageSizeBytes;
  runs_allocated_.fetch_add(1, std::memory_order_relaxed);
  absl::StatusOr<Taken> taken;
  bool has_blocks, rest_has_blocks, wants_growth;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    taken = TakeOrGrow(pages, &lock);
    if (!taken.ok()) return taken.status();
    PageBitmap& spare = taken->segment->spare();
    has_blocks = spare.AllSet(taken->first, used_pages);
    rest_has_blocks = !spare.NoneSet(taken->first + used_pages, pages - used_pages);
    spare.Clear(taken->first, pages);
    wants_growth = WantsGrowth();
  }
  // A block was broken, or one that is not ahead used: see NextAhead. Where there is but one ahead,
  // the next is soon enough when the last quarter of this one goes.
  const uint64_t in_block = taken->first % kHugePages;
  const bool is_time = one_ahead_.load(std::memory_order_relaxed)
                           ? in_block + pages > kHugePages * 3 / 4
                           : in_block == 0;
  if ((!has_blocks || is_time || wants_growth) && !WantsAhead()) {
    wants_ahead_.store(true, std::memory_order_relaxed);
  }
  if (!has_blocks) {
    const absl::Status reserved = ReserveBlocks(*taken, pages, used_pages);
    if (!reserved.ok()) return reserved;
  }
  if (rest_has_blocks) {  // Reserved ahead. A failure to punch costs blocks, nothing else.
    PunchRun(*taken->segment, taken->first + used_pages, pages - used_pages).IgnoreError();
  }
  Run run;
  run.first_page = taken->segment->first_page() + taken->first;
  run.pages = pages;
  run.kind = kind;
  run.owner = owner;
  // Not flushed: durable or not, it means a free run after a crash. Release: pairs with the loads
  // of FindRun and Walk.
  taken->segment->Word(run.first_page)
      .store(EncodeRunDescriptor(run, open_epoch_), std::memory_order_release);
  return run;
}

// Growth comes before a look at all the rest: it costs the same in every pool.
absl::StatusOr<PageSpace::Taken> PageSpace::TakeOrGrow(uint64_t pages,
                                                       std::unique_lock<std::mutex>* lock) {
  std::optional<Taken> taken = Take(pages, can_grow_ ? Pool::kMostWindowsPerRun : UINT64_MAX);
  if (taken) return *taken;
  lock->unlock();
  const Lock growth_lock(growth_mutex_);
  lock->lock();
  taken = Take(pages, 0);  // Who had growth_mutex_ may have grown.
  // Others may take what we grew by.
  for (absl::Status grown; !taken;) {
    lock->unlock();
    grown = Grow(pages);
    lock->lock();
    can_grow_ = grown.ok();
    taken = Take(pages, grown.ok() ? 0 : UINT64_MAX);
    if (!taken && !grown.ok()) return grown;
  }
  return *taken;
}

std::optional<PageSpace::Taken> PageSpace::Take(uint64_t pages, uint64_t most_windows) {
  Segment* best = nullptr;
  unsigned best_fit = kHugeOrder + 1;
  for (const std::unique_ptr<Segment>& segment : segments_) {
    if (segment->allocator() == nullptr) continue;
    const std::optional<unsigned> fit = segment->allocator()->Fit(pages);
    if (fit && *fit < best_fit) {
      best = segment.get();
      best_fit = *fit;
    }
  }
  // The ends of the newest segments are the likeliest to have room. A damaged one is passed over
  // here; whoever walks the runs is told of it.
  for (size_t i = segments_.size(); best == nullptr && i > 0 && most_windows > 0;) {
    Segment& segment = *segments_[i - 1];
    const std::optional<uint64_t> window = segment.NextToBuild();
    if (!window) {
      --i;
      continue;
    }
    --most_windows;
    if (Build(segment, *window).ok() && segment.allocator()->Fit(pages)) best = &segment;
  }
  if (best == nullptr) return std::nullopt;
  return Taken{best, *best->allocator()->Allocate(pages)};
}

absl::Status PageSpace::ReserveBlocks(const Taken& taken, uint64_t pages, uint64_t used_pages) {
  const uint64_t offset = (taken.segment->first_page() + taken.first) * kPageSizeBytes;
  const uint64_t length = used_pages * kPageSizeBytes;
  absl::Status status = files_.Reserve(offset, length);
  if (absl::IsResourceExhausted(status)) {
    const Lock ahead_lock(ahead_mutex_);  // What is on its way counts, too.
    const Lock lock(mutex_);
    PunchSpare().IgnoreError();  // What was punched may be enough.
    status = files_.Reserve(offset, length);
  }
  // Some of the blocks may have come.
  if (!status.ok()) GiveBack(taken, pages, PunchRun(*taken.segment, taken.first, pages).ok());
  return status;
}

// The segment stays while it has the run.
absl::StatusOr<uint64_t> PageSpace::WordOfRun(const Run& run, Segment** segment) const {
  const rcu::ReadGuard guard;
  *segment = index_.Find(run.first_page);
  if (*segment != nullptr) {
    const uint64_t word = (*segment)->Word(run.first_page).load(std::memory_order_acquire);
    Run expected = run;
    expected.live = false;
    if (word != 0 && word == EncodeRunDescriptor(expected, open_epoch_)) return word;
    expected.live = true;
    if (word != 0 && word == EncodeRunDescriptor(expected, 0)) return word;
  }
  return absl::NotFoundError(absl::StrCat("there is no ", Describe(run)));
}

absl::Status PageSpace::CommitRuns(absl::Span<const Run> runs) {
  for (const Run& run : runs) {
    Segment* segment;
    absl::StatusOr<uint64_t> word = WordOfRun(run, &segment);
    if (!word.ok()) return word.status();
    Run live = run;
    live.live = true;
    // The commit point. A crash before it: the run is free; after it: live.
    std::atomic<uint64_t>& place = segment->Word(run.first_page);
    place.store(EncodeRunDescriptor(live, 0), std::memory_order_release);
    persister_.Flush(&place, sizeof(place));
  }
  return persister_.Drain();
}

absl::Status PageSpace::ForgetRun(const Run& run) {
  Segment* segment;
  absl::StatusOr<uint64_t> word = WordOfRun(run, &segment);
  if (!word.ok()) return word.status();
  {
    const Lock lock(mutex_);
    // If somebody else released the run, its segment may have gone, too.
    const bool there = index_.Find(run.first_page) == segment;
    // Before the word goes: a later walk would take the pages for free, and GiveBack free them
    // again.
    for (uint64_t page = run.first_page; there && page < run.first_page + run.pages;) {
      const uint64_t window = segment->WindowOf(page);
      absl::Status built = Build(*segment, window);
      if (!built.ok()) return built;
      page = segment->EndPageOf(window);
    }
    // The commit point. A crash before it: the run is as it was; after it: free, perhaps with spare
    // blocks that Trim finds. Durable even for a reserved run, whose word may have reached the
    // medium by itself: it must not come back inside a later run.
    if (!there || !segment->Word(run.first_page)
                       .compare_exchange_strong(*word, 0, std::memory_order_acq_rel,
                                                std::memory_order_relaxed)) {
      return absl::NotFoundError(absl::StrCat("somebody else released the ", Describe(run)));
    }
  }
  persister_.FlushToMedium(&segment->Word(run.first_page), sizeof(uint64_t));
  return absl::OkStatus();
}

absl::Status PageSpace::ReleaseRuns(absl::Span<const Run> runs) {
  // Of a run that can't be released, or was not, nothing is given back.
  absl::Status status;
  std::vector<Run> released;
  released.reserve(runs.size());
  for (const Run& run : runs) {
    // What was forgotten before must be given back, whatever comes.
    absl::Status forgotten = WithoutExceptions([&] { return ForgetRun(run); });
    if (forgotten.ok()) released.push_back(run);
    status.Update(forgotten);
  }
  // To the medium with every durability: the same pages in two runs would be damage, and a hole in
  // a live one as well.
  absl::Status durable = persister_.DrainToMedium();
  // Without that the pages must not be used again: they stay out of the allocator until the next
  // open, which sees whether the words are there.
  if (!durable.ok()) return durable;
  // Neighbours are punched and freed together. Their segment stays while it lacks their pages; the
  // index's table does not, outside a read section.
  const auto segment_of = [this](const Run& run) {
    const rcu::ReadGuard guard;
    return index_.Find(run.first_page);
  };
  for (size_t begin = 0, end = 0; begin < released.size(); begin = end) {
    Segment* const segment = segment_of(released[begin]);
    uint64_t pages = 0;
    do {
      pages += released[end++].pages;
    } while (end < released.size() &&
             released[end].first_page == released[begin].first_page + pages &&
             segment_of(released[end]) == segment);
    const uint64_t first = released[begin].first_page - segment->first_page();
    GiveBack({segment, first}, pages, PunchRun(*segment, first, pages).ok());
  }
  return status;
}

absl::Status PageSpace::PunchRun(const Segment& segment, uint64_t first, uint64_t pages) {
  return files_.Punch((segment.first_page() + first) * kPageSizeBytes, pages * kPageSizeBytes);
}

void PageSpace::GiveBack(const Taken& taken, uint64_t pages, bool punched) noexcept {
  const uint64_t first_page = taken.segment->first_page() + taken.first;
  if (punched) Restore(first_page, pages);
  const Lock lock(mutex_);
  taken.segment->allocator()->Free(taken.first, pages);
  ++taken.segment->punches;
  // Never to be handed out again, but at an open that can get fresh blocks for them.
  ForEachLost(first_page, pages, [&](uint64_t page) {
    taken.segment->allocator()->Take(page - taken.segment->first_page(), 1);
    ++taken.segment->quarantined_free_pages;
  });
  if (!punched) taken.segment->may_hide_blocks = true;
}

// Without a list of them, for which there may be no memory.
template <typename Visit>
void PageSpace::ForEachLost(uint64_t first_page, uint64_t pages, Visit visit) const {
  const uint64_t end = first_page + pages;
  if (!bad_pages_.Overlaps(first_page, end)) return;
  for (uint64_t page = first_page; page < end; ++page) {
    if (bad_pages_.Overlaps(page, page + 1)) visit(page);
  }
}

// Taken off the list last, durably, and before anybody can have the page: a record that outlived
// this would make a later run's good page unreadable. A crash before that is durable leaves a
// listed page in no run, which Build finds.
void PageSpace::Restore(uint64_t first_page, uint64_t pages) noexcept {
  ForEachLost(first_page, pages, [&](uint64_t page) {
    // On an error it stays on the list.
    WithoutExceptions([&] {
      absl::Status status = files_.MapAgain(heap_.base(), page);
      if (!status.ok()) return status;
      heap_.lost_pages().SetRestored(page);
      return bad_pages_.Remove(page);
    }).IgnoreError();
  });
}

absl::Status PageSpace::Build(Segment& segment, uint64_t window) {
  if (segment.IsBuilt(window)) return absl::OkStatus();
  const uint64_t first = segment.FirstPageOf(window), end = segment.EndPageOf(window);
  const std::vector<uint64_t> lost = bad_pages_.In(first, end);
  descriptors_read_.fetch_add(end - first, std::memory_order_relaxed);
  absl::Status status = segment.Build(window, open_epoch_, persister_);
  if (!status.ok()) return status;
  for (const uint64_t page : lost) {
    QuarantineFree(segment, page);
  }
  return status;
}

absl::Status PageSpace::BuildAll(Segment& segment) {
  absl::Status status;
  for (uint64_t window = segment.windows(); window-- > 0 && status.ok();) {
    status = Build(segment, window);
  }
  return status;
}

bool PageSpace::FindMoreFreePages() {
  const Lock lock(mutex_);
  for (size_t i = segments_.size(); i-- > 0;) {
    const std::optional<uint64_t> window = segments_[i]->NextToBuild();
    if (!window) continue;
    // Whoever walks the runs is told of damage.
    Build(*segments_[i], *window).IgnoreError();
    return true;
  }
  return false;
}

void PageSpace::QuarantineFree(Segment& segment, uint64_t page) {
  const uint64_t first = page - segment.first_page();
  if (!segment.allocator()->free().Test(first)) return;
  ++segment.punches;
  if (PunchRun(segment, first, 1).ok()) Restore(page, 1);
  if (!bad_pages_.Overlaps(page, page + 1)) return;
  segment.allocator()->Take(first, 1);
  ++segment.quarantined_free_pages;
}

void PageSpace::Quarantine(uint64_t page) {
  const Lock lock(mutex_);
  Segment* segment = index_.Find(page);
  // Before a window is built nothing of it is handed out, and then Build sees to it.
  if (segment != nullptr && segment->IsBuilt(segment->WindowOf(page))) {
    QuarantineFree(*segment, page);
  }
}

absl::StatusOr<Run> PageSpace::FindRun(uint64_t page) const {
  const rcu::ReadGuard guard;
  const Segment* segment = index_.Find(page);
  if (segment != nullptr) return segment->FindRun(page, open_epoch_);
  return absl::NotFoundError(absl::StrCat("page ", page, " lies in no segment"));
}

absl::Status PageSpace::NextRuns(uint64_t from, std::vector<Run>* runs) const {
  constexpr size_t kMostRuns = 256;
  runs->clear();
  const rcu::ReadGuard guard;
  absl::Status status;
  for (const Segment* segment : index_.All()) {
    if (!status.ok() || segment->end_page() <= from) continue;
    const uint64_t first = std::max(from, segment->first_page());
    uint64_t end = segment->end_page();
    status = segment->Walk(open_epoch_, first, end,
                           [&](const Run& run) {
                             if (run.live) runs->push_back(run);
                             if (runs->size() < kMostRuns) return absl::OkStatus();
                             end = run.first_page + run.pages;
                             return absl::CancelledError();
                           },
                           {});
    descriptors_read_.fetch_add(end - first, std::memory_order_relaxed);
  }
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

// Segment by segment downwards. Those that come meanwhile hold no run that was there before.
absl::StatusOr<uint64_t> PageSpace::ForEachRunBelow(
    uint64_t end_page, const std::function<absl::Status(const Run&)>& visit) const {
  std::vector<Run> runs;
  uint64_t pages_left = kWindowPages;
  uint64_t below = 0;
  {
    const rcu::ReadGuard guard;
    const SegmentIndex::View all = index_.All();
    for (size_t i = all.count; i-- > 0;) {
      const Segment& segment = *all.first[i];
      if (segment.first_page() >= end_page) continue;
      if (pages_left == 0) {
        below = end_page;
        break;
      }
      const uint64_t end = std::min(end_page, segment.end_page());
      const uint64_t pages = std::min(pages_left, end - segment.first_page());
      const uint64_t first = end - pages;
      absl::Status status = segment.Walk(open_epoch_, first, end,
                                         [&](const Run& run) {
                                           if (run.live) runs.push_back(run);
                                           return absl::OkStatus();
                                         },
                                         {});
      if (!status.ok()) return status;
      descriptors_read_.fetch_add(pages, std::memory_order_relaxed);
      pages_left -= pages;
      end_page = first;
      ++i;  // There may be more of this one.
    }
  }
  for (const Run& run : runs) {
    absl::Status status = visit(run);
    if (!status.ok()) return status;
  }
  return below;
}

// In batches: while a visitor works, segments may go.
absl::Status PageSpace::ForEachRun(const std::function<absl::Status(const Run&)>& visit) const {
  std::vector<Run> runs;
  for (uint64_t from = 0;;) {
    absl::Status walked = NextRuns(from, &runs);
    for (const Run& run : runs) {
      absl::Status status = visit(run);
      if (!status.ok()) return status;
    }
    if (!walked.ok() || runs.empty()) return walked;
    from = runs.back().first_page + runs.back().pages;
  }
}

bool PageSpace::Contains(uint64_t offset, uint64_t size_bytes) const {
  const rcu::ReadGuard guard;
  const Segment* segment = index_.Find(offset / kPageSizeBytes);
  return segment != nullptr && size_bytes <= segment->end_page() * kPageSizeBytes - offset;
}

absl::Status PageSpace::AddStats(PoolStats& stats) {
  const Lock lock(mutex_);
  for (const std::unique_ptr<Segment>& segment : segments_) {
    absl::Status status = BuildAll(*segment);
    if (!status.ok()) return status;
    uint64_t live_pages = 0;
    descriptors_read_.fetch_add(segment->pages(), std::memory_order_relaxed);
    status = segment->Walk(open_epoch_, segment->first_page(), segment->end_page(),
                           [&](const Run& run) {
                             if (run.live) live_pages += run.pages;
                             return absl::OkStatus();
                           },
                           {});
    if (!status.ok()) return status;
    const RunAllocator& allocator = *segment->allocator();
    ++stats.segments;
    stats.segment_pages += segment->pages();
    stats.live_pages += live_pages;
    stats.free_pages += allocator.free_pages();
    const uint64_t quarantined = segment->quarantined_free_pages;
    stats.quarantined_pages += bad_pages_.In(segment->first_page(), segment->end_page()).size();
    // Runs on their way in or out count here too.
    stats.reserved_pages += segment->pages() - allocator.free_pages() - live_pages - quarantined;
    allocator.CountFreeRuns(stats.free_runs_by_order);
    stats.largest_free_run_pages =
        std::max(stats.largest_free_run_pages, allocator.LargestFreeRun());
  }
  return absl::OkStatus();
}

}  // namespace daxkv::dax
