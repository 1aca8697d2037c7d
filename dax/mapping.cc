#include "dax/mapping.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "absl/strings/str_cat.h"
#include "dax/exceptions.h"
#include "dax/mapping_impl.h"

namespace daxkv::dax {
namespace internal {

absl::StatusOr<IndexRange> IndexRange::OfPages(uint64_t first_index, uint64_t pages) {
  if (pages == 0) return absl::InvalidArgumentError("a range of no pages");
  if (pages - 1 > UINT64_MAX - first_index) {
    return absl::InvalidArgumentError(
        absl::StrCat("pages from index ", first_index, ": ", pages, " leave the index space"));
  }
  return IndexRange{first_index, first_index + (pages - 1)};
}

std::string IndexRange::ToString() const { return absl::StrCat("indices ", first, "..", last); }

namespace {

MappingOptions InRange(MappingOptions options) {
  options.max_pins_per_extent =
      std::clamp(options.max_pins_per_extent, uint32_t{1}, MappingOptions::kMostPinsPerExtent);
  return options;
}

}  // namespace

MappingImpl::MappingImpl(Mapping* owner, Pool* pool, ExtentProvider* provider,
                         const MappingOptions& options)
    : owner_(owner),
      pool_(pool),
      provider_(provider),
      options_(InRange(options)),
      tracker_(options.track_pins || options.max_pins != 0
                   ? std::make_unique<PinTracker>(options.max_pins)
                   : nullptr),
      frames_(FrameTable::ForPool(pool)) {
  breaks_.reserve(1);  // For Shutdown, which must not fail.
}

absl::Status MappingImpl::PoisonedError(uint64_t index) const {
  return absl::DataLossError(absl::StrCat("index ", index, " of pool ", pool_->path(),
                                          " is lost to a media error; truncate its extent"));
}

MappingStats MappingImpl::Stats() const {
  MappingStats stats;
  array_.ForEach(0, UINT64_MAX, [&](const xarray::Located& located) {
    const DaxEntry entry(located.entry);
    ++stats.entries;
    ++stats.entries_by_order[entry.order()];
    stats.pages += entry.pages();
    if (entry.locked()) ++stats.locked_entries;
    if (array_.GetMark(located.first, kDirty)) ++stats.dirty_entries;
    if (entry.zero()) {
      ++stats.hole_entries;
      return true;
    }
    // Pins from before a split are counted at the first piece (F2).
    for (unsigned order = entry.order(); order <= DaxEntry::kMaxOrder; ++order) {
      const bool first_piece = (entry.frame() & ((uint64_t{1} << order) - 1)) == 0;
      if (first_piece) stats.pins += frames_->At(entry.frame(), order)->pins();
    }
    return true;
  });
  stats.waiters = frames_->waits().sleepers();
  stats.huge_entries = stats.entries_by_order[kHugeOrder];
  for (unsigned order = 0; order <= kHugeOrder; ++order) {
    const uint64_t no_page = faults_no_page_[order].load(std::memory_order_relaxed);
    const uint64_t fallback = faults_fallback_[order].load(std::memory_order_relaxed);
    stats.faults_no_page_by_order[order] = no_page;
    stats.faults_no_page += no_page;
    stats.faults_fallback_by_order[order] = fallback;
    stats.faults_fallback += fallback;
  }
  stats.waits = waits_.load(std::memory_order_relaxed);
  return stats;
}

namespace {

class IdentityProvider : public ExtentProvider {
 public:
  explicit IdentityProvider(const Pool* pool) : pool_(pool) {}

  absl::StatusOr<Extent> Provide(uint64_t index, unsigned max_order, Access) override {
    absl::StatusOr<Run> run = pool_->FindRun(index);
    if (!run.ok()) return run.status();
    // The largest block around the page that lies in the run: runs are aligned to their size, or
    // above 2 MiB to 2 MiB.
    unsigned order = 0;
    while (order < max_order && (uint64_t{2} << order) <= run->pages) ++order;
    const uint64_t first = IndexRange::Block(index, order).first;
    return Extent{first, first, order};
  }

 private:
  const Pool* const pool_;
};

}  // namespace
}  // namespace internal

namespace {

// What `call` makes of the range of pages.
template <typename Call>
auto WithRange(uint64_t first_index, uint64_t pages, Call call)
    -> decltype(call(internal::IndexRange())) {
  return WithoutExceptions([&]() -> decltype(call(internal::IndexRange())) {
    absl::StatusOr<internal::IndexRange> range = internal::IndexRange::OfPages(first_index, pages);
    if (!range.ok()) return range.status();
    return call(*range);
  });
}

}  // namespace

std::unique_ptr<ExtentProvider> NewIdentityProvider(const Pool* pool) {
  return std::make_unique<internal::IdentityProvider>(pool);
}

Mapping::Mapping(Pool* pool, ExtentProvider* provider, const MappingOptions& options)
    : impl_(std::make_unique<internal::MappingImpl>(this, pool, provider, options)) {}

Mapping::~Mapping() {
  impl_->Shutdown();
  // LockFrame may have come upon it through a frame and still look at it.
  rcu::Retire(impl_.release());
}

bool Mapping::Present(uint64_t index) const {
  assert(rcu::InReadSection());
  return impl_->LoadUnderRcu(index).readable();
}

std::optional<Extent> Mapping::LookUp(uint64_t index) const {
  assert(rcu::InReadSection());
  const DaxEntry entry = impl_->LoadUnderRcu(index);
  if (!entry.readable()) return std::nullopt;
  return Extent{entry.FirstIndex(index), entry.frame(), entry.order()};
}

absl::StatusOr<FaultResult> Mapping::Fault(uint64_t index, unsigned order, Access access) {
  assert(!rcu::InReadSection());
  return WithoutExceptions([&] { return impl_->Fault(index, order, access); });
}

absl::StatusOr<Pinned> Mapping::Pin(uint64_t index, Access access) {
  assert(!rcu::InReadSection());
  return WithoutExceptions([&] { return impl_->Pin(index, access); });
}

absl::StatusOr<Pinned> Mapping::TryPin(uint64_t index) {
  return WithoutExceptions([&] { return impl_->TryPin(index); });
}

absl::StatusOr<PinnedRange> Mapping::PinRange(uint64_t first_byte, uint64_t size_bytes,
                                              Access access) {
  assert(!rcu::InReadSection());
  return WithoutExceptions([&] { return impl_->PinRange(first_byte, size_bytes, access); });
}

absl::StatusOr<PinnedRange> Mapping::TryPinRange(uint64_t first_byte, uint64_t size_bytes) {
  return WithoutExceptions([&] { return impl_->TryPinRange(first_byte, size_bytes); });
}

PinReport Mapping::ReportPins(size_t most_extents) const { return impl_->ReportPins(most_extents); }

absl::Status Mapping::Prefault(uint64_t first_index, uint64_t pages, Access access) {
  assert(!rcu::InReadSection());
  return WithRange(first_index, pages, [&](const internal::IndexRange& range) {
    return impl_->Prefault(range, access);
  });
}

uint32_t Mapping::PinCount(uint64_t index) const { return impl_->PinCount(index); }

absl::StatusOr<EntryLock> Mapping::LockEntry(uint64_t index) {
  return WithoutExceptions([&] { return impl_->LockEntry(index); });
}

absl::StatusOr<EntryLock> Mapping::LockFrame(Pool* pool, uint64_t frame) {
  return WithoutExceptions([&] { return internal::MappingImpl::LockFrame(pool, frame); });
}

absl::StatusOr<LayoutBreak> Mapping::BreakLayouts(uint64_t first_index, uint64_t pages,
                                                  absl::Time deadline) {
  return WithRange(first_index, pages,
                   [&](const internal::IndexRange& range) -> absl::StatusOr<LayoutBreak> {
                     return impl_->BreakLayouts(range, deadline);
                   });
}

absl::Status Mapping::Truncate(uint64_t first_index, uint64_t pages, absl::Time deadline) {
  return WithRange(first_index, pages, [&](const internal::IndexRange& range) {
    return impl_->Truncate(range, deadline);
  });
}

absl::Status Mapping::Split(uint64_t index, unsigned new_order) {
  return WithoutExceptions([&] { return impl_->Split(index, new_order); });
}

void Mapping::MarkDirty(uint64_t first_index, uint64_t pages) {
  absl::StatusOr<internal::IndexRange> range = internal::IndexRange::OfPages(first_index, pages);
  if (range.ok()) impl_->MarkDirty(*range);
}

absl::Status Mapping::Writeback(uint64_t first_index, uint64_t pages) {
  return WithRange(first_index, pages,
                   [&](const internal::IndexRange& range) { return impl_->Writeback(range); });
}

MappingStats Mapping::stats() const { return impl_->Stats(); }

}  // namespace daxkv::dax
