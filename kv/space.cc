#include "kv/space.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "dax/yield_point.h"
#include "kv/space_impl.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kBlockPages = dax::kHugePages;

// Order of the mapping's entries for a run: the whole run, or 2 MiB of it.
unsigned EntryOrder(uint64_t pages) {
  const unsigned order = 63 - static_cast<unsigned>(__builtin_clzll(pages));
  return std::min(order, dax::kHugeOrder);
}

uint64_t PageOf(Address address) { return address >> dax::kPageShift; }

absl::Status LostError(Address address) {
  return absl::DataLossError(absl::StrCat("the page at pool offset ",
                                          address >> dax::kPageShift << dax::kPageShift,
                                          " is lost to a media error"));
}

absl::Status NoExtentAt(Address address) {
  return absl::DataLossError(absl::StrCat("no extent at pool offset ", address));
}

}  // namespace

Space::Impl::Impl(dax::Pool* pool, KeyspaceId keyspace, Space* space,
                  const dax::MappingOptions& mapping_options, SpaceWorker* shared_worker)
    : pool(pool),
      keyspace(keyspace),
      space(space),
      mapping(pool, space, mapping_options),
      own_worker(shared_worker == nullptr ? std::make_unique<SpaceWorker>() : nullptr),
      worker(shared_worker == nullptr ? *own_worker : *shared_worker) {
  worker.Attach(this);
}

Space::Impl::~Impl() {
  StopWorker();
  while (const std::optional<xarray::Located> located = frames.Find(0)) {
    ExtentFrame* frame = located->entry.pointer<ExtentFrame>();
    EraseFrame(frame);
    delete frame;
  }
  while (aside != nullptr) delete std::exchange(aside, aside->next_aside);
}

void Space::Impl::StopWorker() {
  stopping.store(true, std::memory_order_relaxed);
  worker.Detach(this);
  worker.Detach(&ahead);
}

// ---- Frames ----

ExtentFrame* Space::Impl::FindFrame(Address address) const {
  if (address > kAddressMask) return nullptr;
  return frames.Load(PageOf(address)).pointer<ExtentFrame>();
}

absl::Status Space::Impl::InsertFrame(ExtentFrame* frame) {
  const dax::Run& run = frame->run();
  SizeClass& size_class = ClassOf(*frame);
  {
    std::lock_guard<std::mutex> lock(size_class.mutex);
    if (!frame->is_large()) {
      ReserveMore(size_class.nearly_full, size_class.frames + 1 - size_class.nearly_full.size());
      ReserveMore(size_class.roomy, size_class.frames + 1 - size_class.roomy.size());
    }
    ++size_class.frames;
  }
  const unsigned order = EntryOrder(run.pages);
  for (uint64_t page = 0; page < run.pages; page += kBlockPages) {
    absl::Status status =
        frames.Insert(run.first_page + page, order, xarray::Entry::Pointer(frame));
    if (status.ok()) continue;
    if (page > 0) frames.EraseRange(run.first_page, run.first_page + page - 1);
    std::lock_guard<std::mutex> lock(size_class.mutex);
    --size_class.frames;
    return status;
  }
  return absl::OkStatus();
}

void Space::Impl::EraseFrame(ExtentFrame* frame) {
  const dax::Run& run = frame->run();
  frames.EraseRange(run.first_page, run.first_page + run.pages - 1);
  SizeClass& size_class = ClassOf(*frame);
  std::lock_guard<std::mutex> lock(size_class.mutex);
  --size_class.frames;
}

std::vector<ExtentFrame*> Space::Impl::Frames() const {
  std::vector<ExtentFrame*> all;
  frames.ForEach(0, UINT64_MAX, [&all](const xarray::Located& located) {
    ExtentFrame* frame = located.entry.pointer<ExtentFrame>();
    if (located.first == frame->run().first_page) all.push_back(frame);
    return true;
  });
  return all;
}

// ---- Open and close ----

Space::Space(dax::Pool* pool, KeyspaceId keyspace, const dax::MappingOptions& mapping_options,
             SpaceWorker* worker)
    : Memory(pool->At(0), pool->open_epoch(), keyspace, pool->media_event_counter()),
      impl_(std::make_unique<Impl>(pool, keyspace, this, mapping_options, worker)) {}

Space::~Space() = default;

absl::StatusOr<std::unique_ptr<Space>> Space::Open(dax::Pool* pool, KeyspaceId keyspace,
                                                   const dax::MappingOptions& mapping_options,
                                                   SpaceWorker* worker) {
  std::unique_ptr<Space> space(new Space(pool, keyspace, mapping_options, worker));
  // After damage to the word as after a crash: a lower epoch would make old maps count. No epoch is
  // used twice: with this one, the session's first space has done it.
  const uint64_t valid_since = space->impl_->superblock()->maps_valid_since;
  const bool done = valid_since == dax::Pool::SealEpoch(pool->open_epoch());
  if (!done && (!pool->was_clean() || !dax::Pool::UnsealEpoch(valid_since))) {
    space->impl_->SetMapsValidSince(pool->open_epoch());
  }
  return space;
}

// One 8-byte store. Before it is durable, an open still sees the unclean close and does the same.
// Flushed also when the word is so already: a process that died may not have done so. Not waited
// for: after a crash the open drains when it looks for batches (BatchTable::Pending), before it
// returns; else the close syncs.
void Space::Impl::SetMapsValidSince(uint64_t epoch) {
  uint64_t& word = superblock()->maps_valid_since;
  word = dax::Pool::SealEpoch(epoch);
  pool->Flush(&word, sizeof(word));
}

uint64_t Space::Impl::MapsValidSince() {
  return dax::Pool::UnsealEpoch(superblock()->maps_valid_since).value_or(UINT32_MAX);
}

absl::Status Space::Close() {
  impl_->StopWorker();
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  // What the worker has left is looked at here, to the end.
  impl_->stopping.store(false, std::memory_order_relaxed);
  // Not before every dead record can be stamped (V5).
  while (!impl_->LookThroughSome()) {
  }
  impl_->RetireAllNow();
  return WithoutExceptions([&] {
    if (impl_->uncommitted_count.load(std::memory_order_acquire) != 0) {
      absl::Status status = impl_->DrainAndCommit();
      if (!status.ok()) return status;
    }
    // What could not be freed, for want of memory, the next session finds by deriving.
    if (impl_->in_round.empty() && impl_->pending_count.load(std::memory_order_relaxed) == 0 &&
        impl_->all_stamped) {
      return impl_->SaveMaps();
    }
    if (absl::Status medium = impl_->pool->Drain(); !medium.ok()) return medium;
    return absl::ResourceExhaustedError(
        "no memory to free what was deleted; nothing is lost, but the close is not clean");
  });
}

// If we crash or fail, the pool is not marked clean, and no map counts at the next open. Durable
// with the rest, by Pool::Close, before that marks it so.
absl::Status Space::Impl::SaveMaps() {
  StampLacking();  // A map tells free from used alone.
  std::vector<ExtentFrame*> changed;
  for (ExtentFrame* frame : Frames()) {
    // What a pin still held back is free: no pin outlives the mapping.
    for (uint32_t slot : frame->held) ReleaseSlot(frame, slot);
    held_count.fetch_sub(frame->held.size(), std::memory_order_relaxed);
    frame->held.clear();
    if (frame->changed.load(std::memory_order_relaxed)) changed.push_back(frame);
  }
  held_frames.clear();
  if (changed.empty()) return absl::OkStatus();
  for (ExtentFrame* frame : changed) {
    // A large extent whose record is dead loses its state: the next session derives, and frees, it.
    if (frame->is_large() && frame->used_count() == 0) {
      BreakMapSeal(*pool, frame->address());
      continue;
    }
    // No map can be saved there: the next session derives the extent.
    const uint64_t map_words = frame->is_large() ? 0 : MapWords(frame->slot_count());
    if (pool->IsLost(frame->address(), kMapOffset + map_words * sizeof(uint64_t))) continue;
    if (!frame->is_large()) {
      auto* words = reinterpret_cast<uint64_t*>(pool->At(frame->address() + kMapOffset));
      frame->StoreMap(words);
      // Free to a map; who loads it sets them aside again.
      const std::lock_guard<std::mutex> lock(media_mutex);
      for (const uint32_t slot : frame->lost) words[slot / 64] &= ~(uint64_t{1} << slot % 64);
    }
    SealMap(*pool, frame->address(), frame->layout(), pool->open_epoch());
  }
  for (ExtentFrame* frame : changed) frame->changed.store(false, std::memory_order_relaxed);
  return absl::OkStatus();
}

void Space::SetLivenessOracle(LivenessOracle* oracle) {
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  impl_->oracle = oracle;
}

dax::Mapping& Space::mapping() { return impl_->mapping; }

// ---- Presence ----

Address Space::PresentUntil(Address address) const {
  if (address > kAddressMask) return kNullAddress;
  const dax::Mapping& mapping = impl_->mapping;
  const std::optional<dax::Extent> extent = mapping.LookUp(PageOf(address));
  if (!extent.has_value()) return kNullAddress;
  const Address begin = extent->first_index << dax::kPageShift;
  Address end = begin + (extent->pages() << dax::kPageShift);
  if (address - begin != kLargeRecordOffset) return end;

  // No slot of a slab begins there (its map does): this is a large record, or a wrong address.
  const auto* header = reinterpret_cast<const ExtentHeader*>(At(begin));
  if (header->magic != kLargeMagic || header->self != begin) return end;
  // Behind the first 2 MiB of a large run that is a value's bytes, which may look like anything.
  const absl::StatusOr<dax::Run> run = impl_->pool->FindRun(PageOf(begin));
  if (!run.ok() || run->offset() != begin) return end;
  const Address record_end = address + header->slot_size_bytes;
  while (end < record_end) {
    const std::optional<dax::Extent> next = mapping.LookUp(PageOf(end));
    // Up to a lost page the record can be read.
    if (!next.has_value()) return IsLost(end, 1) ? end : kNullAddress;
    end += next->pages() << dax::kPageShift;
  }
  return record_end;
}

absl::Status Space::FaultIn(Address address) {
  if (address > kAddressMask) return NoExtentAt(address);
  return WithoutExceptions([&]() -> absl::Status {
    const absl::StatusOr<dax::Run> run = impl_->FindExtent(PageOf(address));
    if (absl::IsNotFound(run.status())) return NoExtentAt(address);
    if (!run.ok()) return run.status();
    if (IsLost(address, 1)) return LostError(address);
    return impl_->FaultRun(*run);
  });
}

absl::StatusOr<dax::Run> Space::Impl::FindExtent(uint64_t page) const {
  absl::StatusOr<dax::Run> run = pool->FindRun(page);
  if (run.ok() && !UseOf(*run).IsExtentOf(keyspace)) {
    return absl::NotFoundError(
        absl::StrCat("no extent of keyspace ", keyspace, " at pool offset ", run->offset()));
  }
  return run;
}

absl::Status Space::Impl::FaultRun(const dax::Run& run) {
  if (pool->HasLostPages() && pool->IsLost(run.offset(), run.size_bytes())) {
    return FaultAroundLostPages(run);
  }
  const unsigned order = EntryOrder(run.pages);
  for (uint64_t page = 0; page < run.pages; page += kBlockPages) {
    const absl::StatusOr<dax::FaultResult> result =
        mapping.Fault(run.first_page + page, order, dax::Access::kWrite);
    if (absl::IsNotFound(result.status())) return NoExtentAt(run.offset());
    if (!result.ok()) return result.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<dax::Extent> Space::Provide(uint64_t index, unsigned max_order, dax::Access) {
  // A run that is not live yet was reserved in this session: an extent about to be committed.
  const absl::StatusOr<dax::Run> run = impl_->FindExtent(index);
  if (!run.ok()) return run.status();
  // Records behind a header that is lost can be read all the same.
  if (!impl_->IsHeaderLost(*run)) {
    const absl::StatusOr<SlotLayout> layout = CheckExtent(*impl_->pool, *run);
    if (!layout.ok()) return layout.status();
  }
  dax::Extent extent;
  extent.order = std::min(EntryOrder(run->pages), max_order);
  extent.first_index = index >> extent.order << extent.order;
  extent.first_frame = extent.first_index;
  return extent;
}

void Space::Flush(const void* address, size_t size_bytes) noexcept {
  impl_->pool->Flush(address, size_bytes);
}

// On a page cache, Derive syncs what a dead process left before it lets anything be reused.
void Space::FlushInherited(const void* address, size_t size_bytes) noexcept {
  const dax::Pool& pool = *impl_->pool;
  if (pool.was_clean() || pool.media().media_class != dax::MediaClass::kDax) return;
  impl_->pool->Flush(address, size_bytes);
}

void Space::CopyAndFlush(Address to, const void* from, size_t size_bytes) noexcept {
  impl_->pool->CopyAndFlush(At(to), from, size_bytes);
}

absl::Status Space::Sync() { return impl_->pool->Sync(); }

absl::Status Space::Drain() {
  // Zero means that every extent which this thread has a slot of is committed.
  const bool committed = impl_->uncommitted_count.load(std::memory_order_acquire) == 0;
  absl::Status status = committed ? impl_->pool->Drain() : impl_->DrainAndCommit();
  dax::YieldPoint("space:drained");
  return status;
}

bool Space::DrainAtOnce(absl::Status* status) noexcept {
  const bool sleeps = impl_->pool->media().media_class == dax::MediaClass::kPageCache ||
                      impl_->uncommitted_count.load(std::memory_order_acquire) != 0;
  if (!sleeps) *status = impl_->pool->Drain();
  return !sleeps;
}

absl::Status Space::DrainRest() {
  if (impl_->uncommitted_count.load(std::memory_order_acquire) == 0) return absl::OkStatus();
  return impl_->DrainAndCommit();
}

// New extents wait for the next Drain, which comes before a slot of theirs is published.
absl::Status Space::DropFlushes() { return impl_->pool->DropFlushes(); }

// Two drains, however many extents are new. Commit points: the words that CommitRuns stores. A
// crash before one: that run is free, and nothing refers to it, as publishing comes after this;
// after it: an extent without a reachable slot, which deriving finds empty.
absl::Status Space::Impl::DrainAndCommit() {
  std::lock_guard<std::mutex> lock(commit_mutex);
  for (const dax::Run& run : uncommitted) {
    // A lost one would be refused, and with it everybody's Drain.
    if (!IsHeaderLost(run)) FlushHeader(*pool, run);
  }
  absl::Status status = pool->Drain();
  if (status.ok() && !uncommitted.empty()) status = pool->CommitRuns(uncommitted);
  if (!status.ok()) return status;
  uncommitted.clear();
  uncommitted_count.store(0, std::memory_order_release);
  return absl::OkStatus();
}

// ---- Statistics ----

uint64_t Space::Impl::RetiredCount() const {
  uint64_t count = held_count.load(std::memory_order_relaxed) +
                   in_round_count.load(std::memory_order_relaxed) +
                   pending_count.load(std::memory_order_relaxed);
  for (const RetireQueue& queue : retire_queues) {
    std::lock_guard<std::mutex> lock(const_cast<RetireQueue&>(queue).mutex);
    count += queue.slots.size();
  }
  return count;
}

absl::StatusOr<SpaceStats> Space::stats() const {
  SpaceStats stats;
  const absl::Status status = impl_->pool->ForEachRun([&](const dax::Run& run) {
    const RunUse use = UseOf(run);
    if (!use.IsExtentOf(impl_->keyspace)) return absl::OkStatus();
    const bool large = use.kind == RunUse::Kind::kLarge;
    ++(large ? stats.large_extents : stats.slab_extents);
    (large ? stats.large_size_bytes : stats.slab_size_bytes) += run.size_bytes();
    rcu::ReadGuard guard;  // Keeps the frame.
    const ExtentFrame* frame = impl_->FindFrame(run.offset());
    if (frame == nullptr) {
      ++stats.extents_not_derived;
    } else {
      const uint64_t used = frame->used_count();
      stats.used_slots += used;
      stats.used_slots_size_bytes += used * frame->layout().slot_size_bytes;
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  stats.retired_slots = impl_->RetiredCount();
  return stats;
}

}  // namespace daxkv::kv
