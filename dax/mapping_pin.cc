// Pins: taking and giving them back, of one extent and of ranges, and the report of those held.
#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "dax/invariant.h"
#include "dax/mapping_impl.h"
#include "dax/yield_point.h"

namespace daxkv::dax {
namespace internal {
namespace {

// Extents that a message names.
constexpr size_t kMostNamed = 4;

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

absl::Duration Since(int64_t since_ns) {
  return absl::Nanoseconds(std::max<int64_t>(PinClockNs() - since_ns, 0));
}

absl::Status CheckByteRange(uint64_t first_byte, uint64_t size_bytes) {
  if (size_bytes != 0 && size_bytes - 1 <= UINT64_MAX - first_byte) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("pinning ", size_bytes, " bytes from byte ", first_byte, " of the index space"));
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
    if (__builtin_expect(folio->AddPin() >= options_.max_pins_per_extent, false)) {
      folio->DropPin();
      return PinAttempt::kRefused;
    }
    YieldPoint("pin:counted");
    if (__builtin_expect(LoadUnderRcu(index) != entry, false)) {
      folio->DropPin();
      continue;
    }
    if (__builtin_expect(tracker_ != nullptr, false)) {
      absl::StatusOr<TrackedPin*> tracked = tracker_->Add(entry.FirstIndex(index), entry.pages());
      if (!tracked.ok()) {
        folio->DropPin();
        return PinAttempt::kRefused;
      }
      pinned->tracked_ = *tracked;
    }
    pinned->folio_ = folio;
    pinned->data_ = pool_->At(entry.frame() << kPageShift);
    pinned->size_bytes_ = entry.pages() << kPageShift;
    pinned->first_index_ = entry.FirstIndex(index);
    return PinAttempt::kPinned;
  }
}

absl::Status MappingImpl::PinLimitError(uint64_t index) const {
  if (PinCount(index) >= options_.max_pins_per_extent) {
    return absl::ResourceExhaustedError(
        absl::StrCat("index ", index, " can't be pinned: its extent has the ",
                     options_.max_pins_per_extent, " pins that max_pins_per_extent allows"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("index ", index, " can't be pinned: the mapping has the pins that max_pins (",
                   options_.max_pins, ") allows, or there is no memory to track one more"));
}

absl::Status MappingImpl::TryPinError(PinAttempt attempt, uint64_t index) const {
  switch (attempt) {
    case PinAttempt::kPoisoned:
      return PoisonedError(index);
    case PinAttempt::kRefused:
      return PinLimitError(index);
    case PinAttempt::kLocked:
      return absl::UnavailableError(absl::StrCat("the extent at index ", index, " is locked"));
    default:
      return absl::UnavailableError(absl::StrCat("index ", index, " is not mapped"));
  }
}

absl::Status MappingImpl::PrepareToPin(PinAttempt attempt, uint64_t index, Access access) {
  switch (attempt) {
    case PinAttempt::kLocked:
      WaitWhileLocked(index);
      return absl::OkStatus();
    case PinAttempt::kAbsent:
      return Fault(index, DaxEntry::kMaxOrder, access).status();
    default:
      return TryPinError(attempt, index);
  }
}

absl::StatusOr<Pinned> MappingImpl::Pin(uint64_t index, Access access) {
  for (;;) {
    Pinned pinned;
    const PinAttempt attempt = TryPin(index, access, &pinned);
    if (attempt == PinAttempt::kPinned) return pinned;
    absl::Status prepared = PrepareToPin(attempt, index, access);
    if (!prepared.ok()) return prepared;
  }
}

absl::StatusOr<Pinned> MappingImpl::TryPin(uint64_t index) {
  Pinned pinned;
  const PinAttempt attempt = TryPin(index, Access::kRead, &pinned);
  if (attempt == PinAttempt::kPinned) return pinned;
  return TryPinError(attempt, index);
}

MappingImpl::PinAttempt MappingImpl::TryPinRange(uint64_t first_byte, uint64_t size_bytes,
                                                 Access access, PinnedRange* range,
                                                 uint64_t* index) {
  const uint64_t last_byte = first_byte + (size_bytes - 1);
  for (uint64_t at = first_byte;;) {
    *index = at >> kPageShift;
    Pinned pinned;
    const PinAttempt attempt = TryPin(*index, access, &pinned);
    if (attempt != PinAttempt::kPinned) {
      range->Release();
      return attempt;
    }
    const uint64_t offset = at - (pinned.first_index() << kPageShift);
    const uint64_t length = std::min(pinned.size_bytes() - offset, last_byte - at + 1);
    const std::string_view piece(pinned.data() + offset, length);
    std::string_view* const before = range->pieces_.empty() ? nullptr : &range->pieces_.back();
    // Pieces of holes all are the same zeroes, and begin where those do.
    if (before != nullptr && before->data() + before->size() == piece.data()) {
      *before = std::string_view(before->data(), before->size() + length);
    } else {
      range->pieces_.push_back(piece);
    }
    range->pins_.push_back(std::move(pinned));
    range->size_bytes_ = at - first_byte + length;
    if (last_byte - at < length) return PinAttempt::kPinned;
    at += length;
  }
}

// After a failed attempt, this extent and those behind it are made ready one by one before all are
// tried again: otherwise each that is absent would cost an attempt at everything before it.
absl::StatusOr<PinnedRange> MappingImpl::PinRange(uint64_t first_byte, uint64_t size_bytes,
                                                  Access access) try {
  absl::Status status = CheckByteRange(first_byte, size_bytes);
  if (!status.ok()) return status;
  const uint64_t last_index = (first_byte + (size_bytes - 1)) >> kPageShift;
  for (;;) {
    PinnedRange range;
    uint64_t index = 0;
    PinAttempt attempt = TryPinRange(first_byte, size_bytes, access, &range, &index);
    if (attempt == PinAttempt::kPinned) return range;
    while (index <= last_index) {
      Pinned pinned;
      if (attempt != PinAttempt::kPinned) {
        status = PrepareToPin(attempt, index, access);
        if (!status.ok()) return status;
      }
      attempt = TryPin(index, access, &pinned);
      if (attempt == PinAttempt::kPinned) {
        index = pinned.first_index() + (pinned.size_bytes() >> kPageShift);
      }
    }
  }
} catch (const std::bad_alloc&) {
  return absl::ResourceExhaustedError("no memory for the pins of a range");
}

absl::StatusOr<PinnedRange> MappingImpl::TryPinRange(uint64_t first_byte, uint64_t size_bytes) try {
  absl::Status status = CheckByteRange(first_byte, size_bytes);
  if (!status.ok()) return status;
  PinnedRange range;
  uint64_t index = 0;
  const PinAttempt attempt = TryPinRange(first_byte, size_bytes, Access::kRead, &range, &index);
  if (attempt == PinAttempt::kPinned) return range;
  return TryPinError(attempt, index);
} catch (const std::bad_alloc&) {
  return absl::ResourceExhaustedError("no memory for the pins of a range");
}

uint32_t MappingImpl::PinCount(uint64_t index) const {
  rcu::ReadGuard guard;
  return PinsOf(LoadUnderRcu(index));
}

template <typename Visit>
void MappingImpl::ForEachPinned(const IndexRange& range, Visit visit) const {
  const Folio* visited[kHugeOrder + 1] = {};  // Of each order: pieces of one split share theirs.
  array_.ForEach(range.first, range.last, [&](const xarray::Located& located) {
    const DaxEntry entry(located.entry);
    if (entry.zero()) return true;
    for (unsigned order = entry.order(); order <= kHugeOrder; ++order) {
      const Folio* folio = frames_->At(entry.frame(), order);
      const uint32_t pins = folio->pins();
      if (pins == 0 || std::exchange(visited[order], folio) == folio) continue;
      if (!visit(PinnedExtent{IndexRange::Block(located.first, order).first, order, pins,
                              Since(folio->busy_since_ns())})) {
        return false;
      }
    }
    return true;
  });
}

std::string MappingImpl::DescribePins(const IndexRange& range) const {
  std::vector<std::string> named;
  ForEachPinned(range, [&](const PinnedExtent& extent) {
    if (named.size() == kMostNamed) {
      named.push_back("and more");
      return false;
    }
    std::string text =
        absl::StrCat("index ", extent.first_index, " (order ", extent.order, ") has ", extent.pins,
                     " pins, busy for ", absl::FormatDuration(extent.busy_for));
    if (tracker_ != nullptr) {
      const uint64_t last = IndexRange::Block(extent.first_index, extent.order).last;
      for (const PinHolder& holder : tracker_->Holders(extent.first_index, last)) {
        absl::StrAppend(&text, ", ", holder.pins, " by thread ", holder.thread, " (",
                        holder.thread_name.empty() ? "ended" : holder.thread_name, ") for ",
                        absl::FormatDuration(holder.oldest));
      }
    }
    named.push_back(std::move(text));
    return true;
  });
  return absl::StrJoin(named, "; ");
}

PinReport MappingImpl::ReportPins(size_t most_extents) const {
  PinReport report;
  const auto longer = [](const PinnedExtent& a, const PinnedExtent& b) {
    return a.busy_for > b.busy_for;
  };
  // A heap whose front is the one that has been busy for the shortest time.
  std::vector<PinnedExtent>& kept = report.longest_busy;
  ForEachPinned({0, UINT64_MAX}, [&](const PinnedExtent& extent) {
    report.pins += extent.pins;
    ++report.pinned_extents;
    kept.push_back(extent);
    std::push_heap(kept.begin(), kept.end(), longer);
    if (kept.size() > most_extents) {
      std::pop_heap(kept.begin(), kept.end(), longer);
      kept.pop_back();
    }
    return true;
  });
  std::sort_heap(kept.begin(), kept.end(), longer);
  report.tracked = tracker_ != nullptr;
  if (report.tracked) report.holders = tracker_->Holders(0, UINT64_MAX);
  return report;
}

}  // namespace internal

void Pinned::Release() {
  data_ = nullptr;
  if (tracked_ != nullptr) internal::PinTracker::Remove(std::exchange(tracked_, nullptr));
  if (folio_ != nullptr) std::exchange(folio_, nullptr)->DropPin();
}

}  // namespace daxkv::dax
