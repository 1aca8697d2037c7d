// TypedXArray: an XArray of T* or of unsigned integers below 2^63, without Entry in the signatures.
//
//   TypedXArray<Page*> pages;
//   pages.Store(7, page).status();
//   Page* found = pages.Load(7);                  // nullptr: nothing there
//
//   TypedXArray<uint32_t> sizes;
//   std::optional<uint32_t> size = sizes.Load(7);
//
// A thin front end: every call does what its namesake of BasicXArray does and returns its errors.
// untyped() is for all the rest (marks, searches, cursors, ranges); what others store through it
// must be of this type.
#ifndef DAXKV_XARRAY_TYPED_XARRAY_H_
#define DAXKV_XARRAY_TYPED_XARRAY_H_

#include <cstdint>
#include <optional>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "xarray/entry.h"
#include "xarray/xarray.h"

namespace daxkv::xarray {

template <typename T>
class TypedXArray {
  static constexpr bool kPointer = std::is_pointer_v<T>;
  static_assert(kPointer || std::is_unsigned_v<T>, "T is a pointer or an unsigned integer");

 public:
  // A pointer, null for nothing; or an integer, if there is one.
  using Found = std::conditional_t<kPointer, T, std::optional<T>>;

  Found Load(uint64_t index) const { return FromEntry(array_.Load(index)); }

  // Returns what was there. A null pointer erases. InvalidArgument also for an integer of 2^63 or
  // more, and for a pointer that is not aligned to 4 bytes.
  absl::StatusOr<Found> Store(uint64_t index, T value, unsigned order = 0) {
    if (absl::Status status = Check(value); !status.ok()) return status;
    absl::StatusOr<Entry> old = array_.Store(index, order, ToEntry(value));
    if (!old.ok()) return old.status();
    return FromEntry(*old);
  }

  absl::Status Insert(uint64_t index, T value, unsigned order = 0) {
    if (absl::Status status = Check(value); !status.ok()) return status;
    return array_.Insert(index, order, ToEntry(value));
  }

  absl::StatusOr<uint64_t> Alloc(T value, uint64_t first = 0, uint64_t last = UINT64_MAX) {
    if (absl::Status status = Check(value); !status.ok()) return status;
    return array_.Alloc(ToEntry(value), first, last);
  }

  Found Erase(uint64_t index) { return FromEntry(array_.Erase(index)); }

  // For what searches and loops over untyped() find.
  static Found FromEntry(Entry entry) {
    if constexpr (kPointer) {
      return entry.pointer<std::remove_pointer_t<T>>();
    } else {
      return entry ? Found(static_cast<T>(entry.value())) : std::nullopt;
    }
  }
  static Entry ToEntry(T value) {
    if constexpr (kPointer) {
      return Entry::Pointer(value);
    } else {
      return Entry::Value(value);
    }
  }

  XArray& untyped() { return array_; }
  const XArray& untyped() const { return array_; }

 private:
  static absl::Status Check(T value) {
    if constexpr (kPointer) {
      if (reinterpret_cast<uintptr_t>(value) % 4 == 0) return absl::OkStatus();
      return absl::InvalidArgumentError("the pointer is not aligned to 4 bytes");
    } else {
      if (value <= Entry::kMaxValue) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("the value ", value,
                                                     " needs all 64 bits; an "
                                                     "entry has 63"));
    }
  }

  XArray array_;
};

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_TYPED_XARRAY_H_
