// Pins: what a reader holds so that an extent's bytes stay where and as they are, and the report of
// who holds some.
//
//   absl::StatusOr<PinnedRange> value = mapping.PinRange(first_byte, size_bytes, Access::kRead);
//   for (std::string_view piece : value->pieces()) Use(piece);
//
// What a pin costs, and what is known of it (measured by //benchmarks:dax)
//   always    each extent's count, and since when it has not been without pins: two atomic
//             operations and a coarse clock, in the extent's own cache line. The kernel keeps the
//             count alone.
//   tracked   (MappingOptions::track_pins) each pin's thread and time besides: some 200 ns more for
//             each pin, and a lock that one thread in sixteen shares. For finding who holds what.
//
// Thread safety: one handle is one thread's at a time; it may be released by another thread than
// the one that took it. The Mapping must outlive its handles.
#ifndef DAXKV_DAX_PINNED_H_
#define DAXKV_DAX_PINNED_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace daxkv::dax {

namespace internal {
class Folio;
class MappingImpl;
struct TrackedPin;
}  // namespace internal

// A pinned extent: its bytes stay mapped, unchanged by the mapping and unreused while this lives.
// Of a hole: its zeroes, also when somebody writes into the hole later; keeps nobody waiting, and
// is not counted. Move-only; releasing is lock-free unless pins are tracked.
class Pinned {
 public:
  Pinned() = default;
  Pinned(Pinned&& other) noexcept { *this = std::move(other); }
  Pinned& operator=(Pinned&& other) noexcept;
  ~Pinned() {
    if (valid()) Release();
  }
  // Gives the pin back; does nothing without one.
  void Release();

  bool valid() const { return data_ != nullptr; }
  const char* data() const { return data_; }  // First byte of the whole extent.
  uint64_t size_bytes() const { return size_bytes_; }
  uint64_t first_index() const { return first_index_; }

 private:
  friend class internal::MappingImpl;

  internal::Folio* folio_ = nullptr;  // Null for a hole.
  internal::TrackedPin* tracked_ = nullptr;
  const char* data_ = nullptr;
  uint64_t size_bytes_ = 0;
  uint64_t first_index_ = 0;
};

inline Pinned& Pinned::operator=(Pinned&& other) noexcept {
  if (this == &other) return *this;
  if (valid()) Release();
  folio_ = std::exchange(other.folio_, nullptr);
  tracked_ = std::exchange(other.tracked_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  size_bytes_ = other.size_bytes_;
  first_index_ = other.first_index_;
  return *this;
}

// Pinned bytes, of one extent or of several. Move-only.
class PinnedRange {
 public:
  PinnedRange() = default;
  PinnedRange(PinnedRange&&) noexcept = default;
  PinnedRange& operator=(PinnedRange&&) noexcept = default;
  // Gives the pins back; does nothing without any.
  void Release() {
    pieces_.clear();
    pins_.clear();
  }

  bool valid() const { return !pieces_.empty(); }
  // The bytes in order. Extents that are neighbours in memory make one piece.
  absl::Span<const std::string_view> pieces() const { return pieces_; }
  // All of them, if they are one piece; else nothing.
  std::string_view bytes() const {
    return pieces_.size() == 1 ? pieces_.front() : std::string_view();
  }
  uint64_t size_bytes() const { return size_bytes_; }
  // Extents that are pinned, holes included.
  uint64_t extents() const { return pins_.size(); }

 private:
  friend class internal::MappingImpl;

  std::vector<Pinned> pins_;
  std::vector<std::string_view> pieces_;
  uint64_t size_bytes_ = 0;
};

// An extent that is pinned now.
struct PinnedExtent {
  uint64_t first_index = 0;
  unsigned order = 0;
  uint32_t pins = 0;
  absl::Duration busy_for;  // How long it has not been without pins.
};

// A thread that has taken pins which are still held, by whomever.
struct PinHolder {
  pid_t thread = 0;
  std::string thread_name;  // Empty when the thread has ended.
  uint64_t pins = 0;
  absl::Duration oldest;  // How long its oldest pin has been held.
};

struct PinReport {
  uint64_t pins = 0;
  uint64_t pinned_extents = 0;
  // Those that have been busy longest, longest first, as many as were asked for.
  std::vector<PinnedExtent> longest_busy;
  bool tracked = false;            // Whether the holders are known.
  std::vector<PinHolder> holders;  // The oldest pin first.
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_PINNED_H_
