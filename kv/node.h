// Nodes of the index in place: words, slots, and images of leaves in DRAM. Internal to kv/.
//
// Words that change after a node is published are read and written only through the functions
// here; everything else in a node is constant once it is reachable.
#ifndef DAXKV_KV_NODE_H_
#define DAXKV_KV_NODE_H_

#include <cstdint>
#include <utility>

#include "kv/format.h"

namespace daxkv::kv {

struct LeafNode {
  NodeHeader header;
  uint64_t slots[kLeafSlots];
};
struct InnerNode {
  NodeHeader header;
  uint64_t slots[kInnerSlots];
};
static_assert(sizeof(LeafNode) == kLeafSizeBytes && sizeof(InnerNode) == kInnerSizeBytes);

// Every load that may see a concurrent store acquires and every such store releases: who sees an
// address also sees what lies there, and who sees the effect of a split sees its count.
inline uint64_t LoadWord(const uint64_t& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
inline void StoreWord(uint64_t& word, uint64_t value) {
  __atomic_store_n(&word, value, __ATOMIC_RELEASE);
}

constexpr uint64_t NodeSizeBytes(unsigned level) {
  return level == 0 ? kLeafSizeBytes : kInnerSizeBytes;
}

// What NodeHeader::checksum must be.
uint32_t NodeChecksum(const NodeHeader& header);

// ---- Links ------------------------------------------------------------------------------------

inline Address NextOf(uint64_t next_word) { return next_word & ~kSplitUnfinished; }

// ---- The volatile version word: bit 0 the writers' lock, bit 1 says that some of them sleep until
// it is free, bit 2 that the leaf is dead, bits 3..31 count the locks that were given back (the
// first count of a new leaf is arbitrary), bits 32..63 the split count
// ------------------------------------

inline constexpr uint64_t kLockBit = 1;
inline constexpr uint64_t kSleepersBit = 2;
inline constexpr uint64_t kDeadBit = 4;
inline constexpr unsigned kChangeCountShift = 3;
inline constexpr unsigned kSplitCountShift = 32;
inline constexpr uint64_t kChangeCountMask =
    (uint64_t{1} << kSplitCountShift) - (uint64_t{1} << kChangeCountShift);
inline constexpr uint64_t kOneSplitStep = uint64_t{1} << kSplitCountShift;

inline uint32_t SplitCountIn(uint64_t version) {
  return static_cast<uint32_t>(version >> kSplitCountShift);
}
inline uint32_t SplitCount(const NodeHeader& header) {
  return SplitCountIn(LoadWord(header.volatile_version));
}
inline bool IsSplitting(uint32_t split_count) { return split_count % 2 != 0; }
// Nobody is changing the leaf. Who finds the word at rest, then looks at slots, and then finds the
// very same word again, has seen them all as they were at one moment.
inline bool IsAtRest(uint64_t version) {
  return (version & (kLockBit | kSleepersBit | kDeadBit)) == 0 &&
         !IsSplitting(SplitCountIn(version));
}
// The version word with the next change count, which goes round.
inline uint64_t WithNextChange(uint64_t version) {
  const uint64_t next = version + (uint64_t{1} << kChangeCountShift);
  return (version & ~kChangeCountMask) | (next & kChangeCountMask);
}

// Takes the writers' lock of a leaf that can't go meanwhile. May sleep until its holder's drain is
// done: never in a ReadGuard.
void LockLeaf(LeafNode& leaf);
void UnlockLeaf(LeafNode& leaf);

// A wait for the lock of a leaf that may go meanwhile, in turns: Try in the ReadGuard in which the
// leaf was found; if that fails, Wait outside; then find the leaf again, which may be another one.
// An unlock wakes one sleeper: who was woken, and then does not want that lock, wakes the next.
class LeafLockWait {
 public:
  LeafLockWait() = default;
  LeafLockWait(const LeafLockWait&) = delete;
  LeafLockWait& operator=(const LeafLockWait&) = delete;
  ~LeafLockWait() { WakeNext(); }

  bool Try(LeafNode& leaf);
  // Until the lock may be free: for a short while, or asleep until its holder wakes us.
  void Wait();

 private:
  void WakeNext();

  unsigned tries_ = 0;
  // Words of leaves that may have gone; only the kernel looks at their values.
  uint32_t* sleeps_at_ = nullptr;
  uint32_t sleeps_while_ = 0;     // What the word is as long as its holder has it.
  uint32_t* woken_at_ = nullptr;  // Where a wake-up is ours to use or to pass on.
};

// The writers' lock of a leaf, held until this goes.
class LeafLock {
 public:
  LeafLock() = default;
  explicit LeafLock(LeafNode& leaf) : leaf_(&leaf) { LockLeaf(leaf); }
  // Of a lock that is held already.
  static LeafLock Adopt(LeafNode& leaf) {
    LeafLock lock;
    lock.leaf_ = &leaf;
    return lock;
  }
  LeafLock(LeafLock&& other) noexcept : leaf_(std::exchange(other.leaf_, nullptr)) {}
  LeafLock& operator=(LeafLock&& other) noexcept {
    Unlock();
    leaf_ = std::exchange(other.leaf_, nullptr);
    return *this;
  }
  ~LeafLock() { Unlock(); }
  void Unlock() {
    if (leaf_ != nullptr) UnlockLeaf(*std::exchange(leaf_, nullptr));
  }

 private:
  LeafNode* leaf_ = nullptr;
};

// Begins or ends a split of a leaf whose lock the caller holds.
void StepSplitCount(LeafNode& leaf);
// Marks a leaf, whose lock the caller holds, dead: its count is odd from now on.
void MarkDead(LeafNode& leaf);

// ---- A leaf's slots ---------------------------------------------------------------------------

inline constexpr unsigned kTagShift = 48;
constexpr uint64_t MakeSlot(uint16_t tag, Address record) {
  return uint64_t{tag} << kTagShift | record;
}
constexpr uint16_t SlotTag(uint64_t slot) { return static_cast<uint16_t>(slot >> kTagShift); }
constexpr Address SlotAddress(uint64_t slot) { return slot & kAddressMask; }

constexpr unsigned HomeLine(uint16_t tag) { return (unsigned{tag} * kLeafLines) >> 16; }
constexpr unsigned LineAfter(unsigned line) { return line + 1 == kLeafLines ? 0 : line + 1; }

// Which slots of a line hold `tag`: bit i for slot i. An empty slot has the tag 0.
inline unsigned MatchTags(const uint64_t* line, uint16_t tag) {
  unsigned matches = 0;
  for (unsigned i = 0; i < kSlotsPerLine; ++i) {
    matches |= unsigned{SlotTag(LoadWord(line[i])) == tag} << i;
  }
  return matches;
}

// The overflow word: bit l says that a key went past the full line l. Bits stay until the leaf is
// split or set up again. kMissProvesNothing says that the leaf holds a slot outside its key's
// lines: it is damaged, and a key that is not found may still have been stored.
inline constexpr uint64_t kMissProvesNothing = uint64_t{1} << 63;

// A place for one more slot of `tag` among its lines, and the overflow bits of the full lines that
// it goes past.
struct FreePlace {
  int place = -1;  // -1: there is none.
  uint64_t passed = 0;
};
FreePlace FindFreePlace(const uint64_t* slots, uint16_t tag);

// A leaf's slots in DRAM, to plan changes on.
struct LeafImage {
  uint64_t slots[kLeafSlots] = {};
  uint64_t overflow = 0;

  // Puts `slot` into a free place among its lines and returns the place, or -1: there is none.
  int Place(uint64_t slot);
  // Derives the overflow word from the slots.
  void RebuildOverflow();
  // The leaf as it is now.
  static LeafImage Of(const LeafNode& leaf);
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_NODE_H_
