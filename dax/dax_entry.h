// DaxEntry: what the mapping stores in its XArray for one extent, a value entry of 63 bits.
//
//   bit  0       LOCKED    someone holds the entry's lock
//   bit  1       ZERO      a hole that reads as zeroes: no frame of its own, frame bits 0
//   bit  3       POISONED  the frames are lost to a media error
//   bits 4..7    order, 0..9
//   bits 8..47   first frame, aligned to the order
//   other bits   zero
//
// The order is the array's too; the word repeats it so that one load tells a reader all it needs,
// and so that equal words mean the same extent (Cursor::CompareExchangeInPlace asks for that).
//
// The kernel's EMPTY entry, a locked place-holder while the file system is asked, has no
// counterpart: a fault asks without one, and installs only if the place is still free.
#ifndef DAXKV_DAX_DAX_ENTRY_H_
#define DAXKV_DAX_DAX_ENTRY_H_

#include <cstdint>

#include "xarray/entry.h"

namespace daxkv::dax {

class DaxEntry {
 public:
  enum Flag : uint64_t { kLocked = 1, kZero = 2, kPoisoned = 8 };

  static constexpr unsigned kFrameBits = 40;
  static constexpr unsigned kMaxOrder = 9;

  constexpr DaxEntry() = default;  // Null: nothing there.
  constexpr explicit DaxEntry(xarray::Entry entry) : bits_(entry ? entry.value() | kPresent : 0) {}
  // `frame` below 2^kFrameBits and aligned to `order`.
  constexpr DaxEntry(uint64_t frame, unsigned order, uint64_t flags = 0)
      : bits_(kPresent | frame << 8 | uint64_t{order} << 4 | flags) {}

  constexpr explicit operator bool() const { return bits_ != 0; }
  constexpr xarray::Entry xentry() const {
    return bits_ == 0 ? xarray::Entry() : xarray::Entry::Value(bits_ & ~kPresent);
  }

  constexpr bool locked() const { return (bits_ & kLocked) != 0; }
  constexpr bool zero() const { return (bits_ & kZero) != 0; }
  constexpr bool poisoned() const { return (bits_ & kPoisoned) != 0; }
  // Whether there are frames, and fit to be read.
  constexpr bool readable() const { return (bits_ & (kPresent | kZero | kPoisoned)) == kPresent; }

  constexpr unsigned order() const { return static_cast<unsigned>(bits_ >> 4 & 15); }
  constexpr uint64_t pages() const { return uint64_t{1} << order(); }
  constexpr uint64_t frame() const { return bits_ >> 8 & ((uint64_t{1} << kFrameBits) - 1); }
  // The first index of the extent, given any of its indices.
  constexpr uint64_t FirstIndex(uint64_t index) const { return index & ~(pages() - 1); }

  constexpr DaxEntry With(Flag flag) const { return FromBits(bits_ | flag); }
  constexpr DaxEntry Without(Flag flag) const { return FromBits(bits_ & ~uint64_t{flag}); }

  friend constexpr bool operator==(DaxEntry a, DaxEntry b) { return a.bits_ == b.bits_; }
  friend constexpr bool operator!=(DaxEntry a, DaxEntry b) { return a.bits_ != b.bits_; }

 private:
  // Tells frame 0, order 0 from null. Not part of the stored value.
  static constexpr uint64_t kPresent = uint64_t{1} << 63;

  static constexpr DaxEntry FromBits(uint64_t bits) {
    DaxEntry entry;
    entry.bits_ = bits;
    return entry;
  }

  uint64_t bits_ = 0;
};

static_assert(sizeof(DaxEntry) == 8);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_DAX_ENTRY_H_
