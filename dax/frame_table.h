// FrameTable: what is known about the frames of one pool: who maps them and who pins them.
//
// The counterpart of the kernel's array of struct page. Every naturally aligned block of 2^k frames
// (k = 0..9) has a Folio of its own, whether mapped or not, at a place that follows from its
// number: from an entry to its pins it takes no search. The Folios of 2 MiB of frames are laid out
// as a binary heap: number 1 is the block of order 9, the children of n are 2n and 2n + 1, the
// order-0 blocks are 512..1023. Their memory is address space that the system fills by touch: about
// 32 bytes for each extent in use (0.8 % of a pool that is all small pages, 0.002 % of one that is
// all huge).
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

class alignas(32) Folio {
 public:
  // Counting a pin, and looking at the entry afterwards, pairs with locking the entry and counting
  // afterwards: both counts are read-modify-writes of one word, so one of the two comes first. If
  // the pinner's does, the locker counts its pin. If the locker's does, the pinner's reads from it
  // (acquire) and then finds the entry locked.
  void AddPin() { pins_.fetch_add(1, std::memory_order_acq_rel); }
  uint32_t CountPinsAfterLocking() {
    return pins_.fetch_add(0, std::memory_order_acq_rel) & ~kBreakerWaits;
  }

  // Release: what the holder read is read before anybody who sees the pin gone changes it.
  void DropPin() {
    if (pins_.fetch_sub(1, std::memory_order_acq_rel) == (kBreakerWaits | 1)) WakeBreakers();
  }

  uint32_t pins() const { return pins_.load(std::memory_order_acquire) & ~kBreakerWaits; }

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

  FrameTable();
  ~FrameTable();
  FrameTable(const FrameTable&) = delete;
  FrameTable& operator=(const FrameTable&) = delete;

  // Makes room for the Folios around `frame` (< kMaxFrames). kResourceExhausted: no memory.
  absl::Status Reserve(uint64_t frame);

  // The Folio of the block of 2^order frames around `frame`, whose room was reserved.
  Folio* At(uint64_t frame, unsigned order) const {
    Folio* chunk = chunks_[frame >> kChunkShift].load(std::memory_order_acquire);
    return chunk + (frame >> kHeapShift & (kHeapsInChunk - 1)) * kHeapSize +
           HeapNumber(frame, order);
  }
  Folio* At(DaxEntry entry) const { return At(entry.frame(), entry.order()); }
  // The same, null for frames out of range or without room.
  Folio* Find(uint64_t frame, unsigned order) const {
    if (frame >= kMaxFrames || chunks_ == nullptr) return nullptr;
    const bool reserved = chunks_[frame >> kChunkShift].load(std::memory_order_acquire) != nullptr;
    return reserved ? At(frame, order) : nullptr;
  }

  // The pins that keep the block busy (F2).
  uint32_t Pins(uint64_t frame, unsigned order) const;

  // Where lockers and breakers of this pool's mappings sleep. Outlives each of the mappings.
  WaitTable& waits() { return waits_; }

 private:
  static constexpr unsigned kHeapShift = DaxEntry::kMaxOrder;
  static constexpr uint64_t kHeapSize = uint64_t{2} << kHeapShift;
  static constexpr unsigned kChunkShift = 15;  // 128 MiB of frames, 2 MiB of Folios.
  static constexpr uint64_t kHeapsInChunk = uint64_t{1} << (kChunkShift - kHeapShift);
  static constexpr uint64_t kChunkBytes = kHeapsInChunk * kHeapSize * sizeof(Folio);
  static constexpr uint64_t kChunks = kMaxFrames >> kChunkShift;

  static uint64_t HeapNumber(uint64_t frame, unsigned order) {
    return (kHeapSize / 2 >> order) + ((frame & (kHeapSize / 2 - 1)) >> order);
  }

  // kChunks pointers in address space that is filled by touch. Null if there was none to be had.
  std::atomic<Folio*>* const chunks_;
  WaitTable waits_;
};

}  // namespace internal
}  // namespace daxkv::dax

#endif  // DAXKV_DAX_FRAME_TABLE_H_
