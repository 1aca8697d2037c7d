#include "dax/mapping.h"

#include <sys/mman.h>

#include <cassert>
#include <utility>

#include "absl/strings/str_cat.h"
#include "dax/invariant.h"
#include "dax/mapping_impl.h"
#include "dax/yield_point.h"

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

MappingImpl::MappingImpl(Mapping* owner, Pool* pool, ExtentProvider* provider)
    : owner_(owner), pool_(pool), provider_(provider), frames_(FrameTable::ForPool(pool)) {}

namespace {

// What every hole reads as: 2 MiB of read-only address space behind which the kernel has one page.
const char* Zeroes() {
  static const char* const zeroes = [] {
    void* memory = mmap(nullptr, kHugePages << kPageShift, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CheckInvariant(memory != MAP_FAILED, "no address space for 2 MiB of zeroes");
    return static_cast<const char*>(memory);
  }();
  return zeroes;
}

}  // namespace

// The pin counts before the entry is looked at again; Folio::AddPin says why that is enough.
MappingImpl::PinAttempt MappingImpl::TryPin(uint64_t index, Access access, Pinned* pinned) {
  rcu::ReadGuard guard;
  for (;;) {
    const DaxEntry entry = LoadUnderRcu(index);
    if (!entry) return PinAttempt::kAbsent;
    if (entry.locked()) return PinAttempt::kLocked;
    if (!entry.readable()) {
      if (entry.poisoned()) return PinAttempt::kPoisoned;
      if (access == Access::kWrite) return PinAttempt::kAbsent;
      pinned->data_ = Zeroes();
      pinned->size_bytes_ = entry.pages() << kPageShift;
      pinned->first_index_ = entry.FirstIndex(index);
      return PinAttempt::kPinned;
    }
    YieldPoint("pin:entry-seen");
    Folio* folio = frames_->At(entry);
    folio->AddPin();
    YieldPoint("pin:counted");
    if (__builtin_expect(LoadUnderRcu(index) == entry, true)) {
      pinned->folio_ = folio;
      pinned->data_ = pool_->At(entry.frame() << kPageShift);
      pinned->size_bytes_ = entry.pages() << kPageShift;
      pinned->first_index_ = entry.FirstIndex(index);
      return PinAttempt::kPinned;
    }
    folio->DropPin();
  }
}

absl::StatusOr<Pinned> MappingImpl::Pin(uint64_t index, Access access) {
  for (;;) {
    Pinned pinned;
    switch (TryPin(index, access, &pinned)) {
      case PinAttempt::kPinned:
        return pinned;
      case PinAttempt::kLocked:
        WaitWhileLocked(index);
        break;
      case PinAttempt::kPoisoned:
        return PoisonedError(index);
      case PinAttempt::kAbsent:
        absl::StatusOr<FaultResult> fault = Fault(index, DaxEntry::kMaxOrder, access);
        if (!fault.ok()) return fault.status();
        break;
    }
  }
}

uint32_t MappingImpl::PinCount(uint64_t index) const {
  rcu::ReadGuard guard;
  return PinsOf(LoadUnderRcu(index));
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
    stats.pages += entry.pages();
    if (entry.order() == DaxEntry::kMaxOrder) ++stats.huge_entries;
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
  stats.faults_no_page = faults_no_page_.load(std::memory_order_relaxed);
  stats.faults_fallback = faults_fallback_.load(std::memory_order_relaxed);
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

std::unique_ptr<ExtentProvider> NewIdentityProvider(const Pool* pool) {
  return std::make_unique<internal::IdentityProvider>(pool);
}

Pinned& Pinned::operator=(Pinned&& other) noexcept {
  if (this == &other) return *this;
  if (valid()) Release();
  folio_ = std::exchange(other.folio_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  size_bytes_ = other.size_bytes_;
  first_index_ = other.first_index_;
  return *this;
}

void Pinned::Release() {
  data_ = nullptr;
  if (folio_ != nullptr) std::exchange(folio_, nullptr)->DropPin();
}

Mapping::Mapping(Pool* pool, ExtentProvider* provider)
    : impl_(std::make_unique<internal::MappingImpl>(this, pool, provider)) {}

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
  return impl_->Fault(index, order, access);
}

absl::StatusOr<Pinned> Mapping::Pin(uint64_t index, Access access) {
  assert(!rcu::InReadSection());
  return impl_->Pin(index, access);
}

absl::StatusOr<Pinned> Mapping::TryPin(uint64_t index) {
  Pinned pinned;
  switch (impl_->TryPin(index, Access::kRead, &pinned)) {
    case internal::MappingImpl::PinAttempt::kPinned:
      return pinned;
    case internal::MappingImpl::PinAttempt::kPoisoned:
      return impl_->PoisonedError(index);
    case internal::MappingImpl::PinAttempt::kLocked:
      return absl::UnavailableError(absl::StrCat("the extent at index ", index, " is locked"));
    case internal::MappingImpl::PinAttempt::kAbsent:
      break;
  }
  return absl::UnavailableError(absl::StrCat("index ", index, " is not mapped"));
}

uint32_t Mapping::PinCount(uint64_t index) const { return impl_->PinCount(index); }

absl::StatusOr<EntryLock> Mapping::LockEntry(uint64_t index) { return impl_->LockEntry(index); }

absl::StatusOr<EntryLock> Mapping::LockFrame(Pool* pool, uint64_t frame) {
  return internal::MappingImpl::LockFrame(pool, frame);
}

absl::StatusOr<LayoutBreak> Mapping::BreakLayouts(uint64_t first_index, uint64_t pages,
                                                  absl::Time deadline) {
  absl::StatusOr<internal::IndexRange> range = internal::IndexRange::OfPages(first_index, pages);
  if (!range.ok()) return range.status();
  return impl_->BreakLayouts(*range, deadline);
}

absl::Status Mapping::Truncate(uint64_t first_index, uint64_t pages, absl::Time deadline) {
  absl::StatusOr<internal::IndexRange> range = internal::IndexRange::OfPages(first_index, pages);
  if (!range.ok()) return range.status();
  return impl_->Truncate(*range, deadline);
}

absl::Status Mapping::Split(uint64_t index, unsigned new_order) {
  return impl_->Split(index, new_order);
}

void Mapping::MarkDirty(uint64_t first_index, uint64_t pages) {
  absl::StatusOr<internal::IndexRange> range = internal::IndexRange::OfPages(first_index, pages);
  if (range.ok()) impl_->MarkDirty(*range);
}

absl::Status Mapping::Writeback(uint64_t first_index, uint64_t pages) {
  absl::StatusOr<internal::IndexRange> range = internal::IndexRange::OfPages(first_index, pages);
  if (!range.ok()) return range.status();
  return impl_->Writeback(*range);
}

MappingStats Mapping::stats() const { return impl_->Stats(); }

}  // namespace daxkv::dax
