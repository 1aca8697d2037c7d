// Entry: the tagged 64-bit word that an XArray stores at an index.
//
//   bits ...00   null (all zero) or a pointer aligned to 4 bytes or more
//   bits ...x1   a value: 63 bits of the caller's own
//   bits ...10   internal: sibling, node, retry, reserved. The array's own: no call returns one
#ifndef DAXKV_XARRAY_ENTRY_H_
#define DAXKV_XARRAY_ENTRY_H_

#include <cstdint>

namespace daxkv::xarray {

// An immutable word, as cheap as a uint64_t.
class Entry {
 public:
  // The largest value: 2^63 - 1.
  static constexpr uint64_t kMaxValue = UINT64_MAX >> 1;

  constexpr Entry() = default;  // null

  // `value` <= kMaxValue; the top bit of a larger one is lost.
  static constexpr Entry Value(uint64_t value) { return Entry(value << 1 | 1); }

  // `pointer` aligned to at least 4 bytes; a null pointer makes the null entry.
  static Entry Pointer(const void* pointer) { return Entry(reinterpret_cast<uintptr_t>(pointer)); }

  // The inverse of raw().
  static constexpr Entry FromRaw(uint64_t raw) { return Entry(raw); }

  constexpr uint64_t raw() const { return raw_; }
  constexpr bool is_null() const { return raw_ == 0; }
  constexpr explicit operator bool() const { return raw_ != 0; }

  constexpr bool is_value() const { return (raw_ & 1) != 0; }
  constexpr bool is_pointer() const { return raw_ != 0 && (raw_ & 3) == 0; }

  // Of a value entry only.
  constexpr uint64_t value() const { return raw_ >> 1; }

  // Of a pointer or null entry only.
  template <typename T>
  T* pointer() const {
    return reinterpret_cast<T*>(static_cast<uintptr_t>(raw_));  // NOLINT(*-no-int-to-ptr)
  }

  friend constexpr bool operator==(Entry a, Entry b) { return a.raw_ == b.raw_; }
  friend constexpr bool operator!=(Entry a, Entry b) { return a.raw_ != b.raw_; }

  // Internal entries: for the array itself and its tests.
  //
  // A sibling says where its tie begins in the node and how many slots the tie has, so that one
  // load beside the first slot tells the order.
  static constexpr Entry Sibling(unsigned first_slot, unsigned slots) {
    return Internal(uint64_t{slots} << 6 | first_slot);
  }
  // "You stand in a node that left the tree: start again from the top."
  static constexpr Entry Retry() { return Internal(kRetry); }
  // A reserved index: taken, but for every reader null.
  static constexpr Entry Reserved() { return Internal(kReserved); }
  static Entry Node(const void* node) { return Entry(reinterpret_cast<uintptr_t>(node) | 2); }

  constexpr bool is_internal() const { return (raw_ & 3) == 2; }
  constexpr bool is_sibling() const { return is_internal() && raw_ >> 2 < kRetry; }
  constexpr bool is_retry() const { return *this == Retry(); }
  constexpr bool is_reserved() const { return *this == Reserved(); }
  // What a caller may see of this entry: itself, or null.
  constexpr Entry visible() const { return is_reserved() ? Entry() : *this; }
  constexpr bool is_node() const { return is_internal() && raw_ > kMaxSmallInternal; }
  constexpr unsigned sibling_first() const { return static_cast<unsigned>(raw_ >> 2 & 63); }
  constexpr unsigned sibling_slots() const { return static_cast<unsigned>(raw_ >> 8); }
  template <typename N>
  N* node() const {
    return reinterpret_cast<N*>(static_cast<uintptr_t>(raw_ - 2));  // NOLINT(*-no-int-to-ptr)
  }

 private:
  // Siblings of at most 64 slots end at (64 << 6 | 63); nodes lie above the lowest 64 KiB, which
  // the system never maps.
  static constexpr uint64_t kRetry = 8192;
  static constexpr uint64_t kReserved = 8193;
  static constexpr uint64_t kMaxSmallInternal = 65535;

  constexpr explicit Entry(uint64_t raw) : raw_(raw) {}
  static constexpr Entry Internal(uint64_t payload) { return Entry(payload << 2 | 2); }

  uint64_t raw_ = 0;
};

static_assert(sizeof(Entry) == 8);

}  // namespace daxkv::xarray

#endif  // DAXKV_XARRAY_ENTRY_H_
