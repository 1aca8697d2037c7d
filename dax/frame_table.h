// FrameTable: what is known about the frames of one pool: who maps them and who pins them.
//
// The counterpart of the kernel's array of struct page. Every naturally aligned block of 2^k frames
// (k = 0..9) has a Folio of its own, whether mapped or not, at a place that follows from its
// number: from an entry to its pins it takes no search. The Folios of 128 MiB of frames, a chunk,
// lie in levels as a binary heap's do: numbers 64..127 are the blocks of order 9, 128..255 those of
// order 8, the order-0 blocks are 32768..65535. So extents of one size, which are what is in use
// together, lie close together. Their memory is address space that the system fills by touch: about
// 32 bytes for each extent in use (0.8 % of a pool that is all small pages, 0.002 % of one that is
// all huge).
//
// Two Folios share a cache line, and pins write it. Two threads that write one line pay five times
// as much (25 instead of 5 ns for an atomic addition, measured), so neighbours, which readers of
// neighbouring keys pin at the same time, must not share one: within a level, the blocks of a
// chunk's first half and of its second take turns. Folios of 64 bytes would do it too, for twice
// the memory.
//
// Folios never move and are never freed before the table: a reference stays good without RCU.
//
// Invariants
//   F1  A Folio has a mapping exactly while that mapping holds an entry of its frame and order;
//       both change under the mapping's array lock.
//   F2  A pin is counted at the Folio of the entry that it was taken on, and stays there when that
//       entry is split. So an extent is busy if its own Folio or one of a larger block around it
//       has pins. The converse never happens: an extent is installed only where nothing smaller is.
#ifndef DAXKV_DAX_FRAME_TABLE_H_
#define DAXKV_DAX_FRAME_TABLE_H_

#include <time.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "dax/dax_entry.h"
#include "dax/wait_table.h"

namespace daxkv::dax {

class Pool;

namespace internal {

class MappingImpl;

// The clock of pins: monotonic, in steps of some milliseconds, and cheap to read.
inline int64_t PinClockNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

// What keeps a block of frames busy.
struct BlockPins {
  uint32_t pins = 0;
  int64_t busy_since_ns = 0;  // Of the oldest; without pins 0.
};

class alignas(32) Folio {
 public:
  // Counting a pin, and looking at the entry afterwards, pairs with locking the entry and counting
  // afterwards: both counts are read-modify-writes of one word, so one of the two comes first. If
  // the pinner's does, the locker counts its pin. If the locker's does, the pinner's reads from it
  // (acquire) and then finds the entry locked.
  // Returns the pins before it.
  uint32_t AddPin() {
    const uint32_t before = pins_.fetch_add(1, std::memory_order_acq_rel) & ~kBreakerWaits;
    // In the line that is ours already; with the clock 5 ns of a pin's 20.
    if (before == 0) busy_since_ns_.store(PinClockNs(), std::memory_order_relaxed);
    return before;
  }
  uint32_t CountPinsAfterLocking() {
    return pins_.fetch_add(0, std::memory_order_acq_rel) & ~kBreakerWaits;
  }

  // Release: what the holder read is read before anybody who sees the pin gone changes it.
  void DropPin() {
    if (pins_.fetch_sub(1, std::memory_order_acq_rel) == (kBreakerWaits | 1)) WakeBreakers();
  }

  uint32_t pins() const { return pins_.load(std::memory_order_acquire) & ~kBreakerWaits; }

  // The PinClockNs since when there have been pins without a break. For reports: while the first
  // pin is being taken, it is that of an earlier time.
  int64_t busy_since_ns() const { return busy_since_ns_.load(std::memory_order_relaxed); }

  // Sleeps until there are no pins (true) or the deadline (false).
  bool WaitUntilUnpinned(absl::Time deadline);

  // Written under the array lock of the mapping (F1).
  void SetMapped(MappingImpl* mapping, uint64_t first_index) {
    first_index_.store(first_index, std::memory_order_relaxed);
    mapping_.store(mapping, std::memory_order_release);  // Pairs with the acquire in mapping().
  }
  void ClearMapped() { mapping_.store(nullptr, std::memory_order_release); }
  // Under RCU: the mapping stays allocated until the read section ends.
  MappingImpl* mapping() const { return mapping_.load(std::memory_order_acquire); }
  // Of the extent, in the mapping. Stable only under that mapping's array lock.
  uint64_t first_index() const { return first_index_.load(std::memory_order_relaxed); }

 private:
  // Set by breakers before they sleep, so that other unpinners make no system call.
  static constexpr uint32_t kBreakerWaits = uint32_t{1} << 31;

  void WakeBreakers();

  std::atomic<uint32_t> pins_;
  std::atomic<MappingImpl*> mapping_;
  std::atomic<uint64_t> first_index_;
  std::atomic<int64_t> busy_since_ns_;
};

static_assert(sizeof(Folio) == 32, "two to a cache line, none across two");

class FrameTable {
 public:
  // Frames 0..2^34-1: the 64 TiB that a pool may have.
  static constexpr uint64_t kMaxFrames = uint64_t{1} << 34;

  // The table that all mappings of the pool share; made by the first, gone with the last.
  static std::shared_ptr<FrameTable> ForPool(const Pool* pool);
  // The same, null if no mapping of the pool is open.
  static std::shared_ptr<FrameTable> FindForPool(const Pool* pool);
  // The pool goes. Another one may come to lie at its address, while a mapping is still there.
  static void ForgetPool(const Pool* pool);

  FrameTable();
  ~FrameTable();
  FrameTable(const FrameTable&) = delete;
  FrameTable& operator=(const FrameTable&) = delete;

  // Makes room for the Folios around `frame` (< kMaxFrames). kResourceExhausted: no memory.
  absl::Status Reserve(uint64_t frame);

  // The Folio of the block of 2^order frames around `frame`, whose room was reserved.
  Folio* At(uint64_t frame, unsigned order) const {
    Folio* chunk = chunks_[frame >> kChunkShift].load(std::memory_order_acquire);
    return chunk + HeapNumber(frame, order);
  }
  Folio* At(DaxEntry entry) const { return At(entry.frame(), entry.order()); }
  // The same, null for frames out of range or without room.
  Folio* Find(uint64_t frame, unsigned order) const {
    if (frame >= kMaxFrames || chunks_ == nullptr) return nullptr;
    const bool reserved = chunks_[frame >> kChunkShift].load(std::memory_order_acquire) != nullptr;
    return reserved ? At(frame, order) : nullptr;
  }

  // The pins that keep the block busy (F2).
  BlockPins Pins(uint64_t frame, unsigned order) const;

  // Where lockers and breakers of this pool's mappings sleep. Outlives each of the mappings.
  WaitTable& waits() { return waits_; }

 private:
  static constexpr unsigned kChunkShift = 15;  // 128 MiB of frames, 2 MiB of Folios.
  static constexpr uint64_t kChunkFrames = uint64_t{1} << kChunkShift;
  static constexpr uint64_t kChunkBytes = 2 * kChunkFrames * sizeof(Folio);
  static constexpr uint64_t kChunks = kMaxFrames >> kChunkShift;

  // In its chunk.
  static uint64_t HeapNumber(uint64_t frame, unsigned order) {
    const uint64_t blocks = kChunkFrames >> order;
    // The top bit of the block's place in its level becomes the lowest.
    const uint64_t twice = ((frame & (kChunkFrames - 1)) >> order) * 2;
    return blocks + ((twice & (blocks - 1)) | (twice >> (kChunkShift - order)));
  }

  // kChunks pointers in address space that is filled by touch. Null if there was none to be had.
  std::atomic<Folio*>* const chunks_;
  std::atomic<uint64_t> chunks_end_{0};  // There are none from here on.
  WaitTable waits_;
};

}  // namespace internal
}  // namespace daxkv::dax

#endif  // DAXKV_DAX_FRAME_TABLE_H_
