#include "kv/node.h"

#include <sched.h>

namespace daxkv::kv {

void LockLeaf(LeafNode& leaf) {
  // Holders wait for the medium at worst, so spinning long is pointless.
  constexpr unsigned kSpins = 100;
  uint64_t& word = leaf.header.volatile_version;
  for (unsigned attempt = 0;; ++attempt) {
    uint64_t seen = __atomic_load_n(&word, __ATOMIC_RELAXED);
    // Acquires what the last holder's UnlockLeaf released.
    if ((seen & kLockBit) == 0 &&
        __atomic_compare_exchange_n(&word, &seen, seen | kLockBit, /*weak=*/true, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED)) {
      return;
    }
    if (attempt < kSpins) {
      __builtin_ia32_pause();
    } else {
      sched_yield();
    }
  }
}

void UnlockLeaf(LeafNode& leaf) {
  __atomic_fetch_and(&leaf.header.volatile_version, ~kLockBit, __ATOMIC_RELEASE);
}

void StepSplitCount(LeafNode& leaf) {
  // Only the lock's holder writes the word while it is locked; readers acquire it.
  const uint64_t version = __atomic_load_n(&leaf.header.volatile_version, __ATOMIC_RELAXED);
  StoreWord(leaf.header.volatile_version, version + kOneSplitStep);
}

int LeafImage::Place(uint64_t slot) {
  unsigned line = HomeLine(SlotTag(slot));
  uint64_t passed = 0;
  for (unsigned probe = 0; probe < kProbeLines; ++probe, line = LineAfter(line)) {
    for (unsigned i = line * kSlotsPerLine; i < (line + 1) * kSlotsPerLine; ++i) {
      if (slots[i] != 0) continue;
      slots[i] = slot;
      overflow |= passed;
      return static_cast<int>(i);
    }
    passed |= uint64_t{1} << line;
  }
  return -1;
}

void LeafImage::RebuildOverflow() {
  overflow = 0;
  for (unsigned i = 0; i < kLeafSlots; ++i) {
    if (slots[i] == 0) continue;
    const unsigned home = HomeLine(SlotTag(slots[i]));
    const unsigned line = i / kSlotsPerLine;
    const unsigned distance = line >= home ? line - home : line + kLeafLines - home;
    if (distance >= kProbeLines) {
      overflow |= kMissProvesNothing;
      continue;
    }
    for (unsigned passed = home; passed != line; passed = LineAfter(passed)) {
      overflow |= uint64_t{1} << passed;
    }
  }
}

LeafImage LeafImage::Of(const LeafNode& leaf) {
  LeafImage image;
  for (unsigned i = 0; i < kLeafSlots; ++i) image.slots[i] = LoadWord(leaf.slots[i]);
  image.overflow = LoadWord(leaf.header.volatile_overflow);
  return image;
}

}  // namespace daxkv::kv
