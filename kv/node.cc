#include "kv/node.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <utility>

#include "kv/record.h"

namespace daxkv::kv {
namespace {

// A holder that does not wait for the medium is done within this, unless it lost its processor.
constexpr unsigned kSpins = 100;
constexpr unsigned kYields = 4;

// The half of the version word that has the lock's bits: the lower one, which comes first.
uint32_t* FutexWord(LeafNode& leaf) {
  return reinterpret_cast<uint32_t*>(&leaf.header.volatile_version);
}

// What is in the futex word while the lock's holder of this version has it and others sleep: only
// the unlock changes the change count.
uint32_t HeldWord(uint64_t version) { return static_cast<uint32_t>(version | kSleepersBit); }

// Takes a free lock, and sets `more_bits` with it.
bool TryLock(LeafNode& leaf, uint64_t more_bits) {
  uint64_t& word = leaf.header.volatile_version;
  uint64_t seen = __atomic_load_n(&word, __ATOMIC_RELAXED);
  // Acquires what the last holder's UnlockLeaf released.
  return (seen & kLockBit) == 0 &&
         __atomic_compare_exchange_n(&word, &seen, seen | kLockBit | more_bits, /*weak=*/false,
                                     __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

}  // namespace

uint32_t NodeChecksum(const NodeHeader& header) {
  return Crc32c(0, &header, offsetof(NodeHeader, checksum));
}

// As in Drepper's "Futexes are tricky": who has slept does not know whether others still do, and
// takes the lock with the bit set.
void LockLeaf(LeafNode& leaf) {
  for (unsigned attempt = 0; attempt < kSpins + kYields; ++attempt) {
    if (TryLock(leaf, 0)) return;
    if (attempt < kSpins) {
      __builtin_ia32_pause();
    } else {
      sched_yield();
    }
  }
  while (!TryLock(leaf, kSleepersBit)) {
    const uint64_t seen =
        __atomic_fetch_or(&leaf.header.volatile_version, kSleepersBit, __ATOMIC_RELAXED);
    // Unlocked since: a bit too many costs a system call. Otherwise the unlocker sees the bit, and
    // comes either before the sleep, which then does not begin, or wakes from it.
    if ((seen & kLockBit) == 0) continue;
    syscall(SYS_futex, FutexWord(leaf), FUTEX_WAIT_PRIVATE, HeldWord(seen), nullptr, nullptr, 0);
  }
}

// The last holder may have gone, and the leaf with it, before we come to sleep; then something else
// may lie there, whose owner wakes nobody.
constexpr timespec kLongestSleep = {0, 20'000'000};

bool LeafLockWait::Try(LeafNode& leaf) {
  sleeps_at_ = nullptr;
  if (woken_at_ != FutexWord(leaf)) WakeNext();
  for (unsigned spins = 0; spins < kSpins; ++spins) {
    if (TryLock(leaf, tries_ > kYields ? kSleepersBit : 0)) {
      woken_at_ = nullptr;  // Whoever else sleeps is woken by our unlock.
      return true;
    }
    __builtin_ia32_pause();
  }
  if (++tries_ <= kYields) return false;
  const uint64_t seen =
      __atomic_fetch_or(&leaf.header.volatile_version, kSleepersBit, __ATOMIC_RELAXED);
  if (seen & kLockBit) {
    sleeps_at_ = FutexWord(leaf);
    sleeps_while_ = HeldWord(seen);
    woken_at_ = nullptr;  // The holder wakes one now.
  }
  return false;
}

void LeafLockWait::Wait() {
  if (sleeps_at_ == nullptr) {
    if (tries_ <= kYields) sched_yield();
    return;
  }
  const long slept =
      syscall(SYS_futex, sleeps_at_, FUTEX_WAIT_PRIVATE, sleeps_while_, &kLongestSleep, nullptr, 0);
  if (slept == 0) woken_at_ = sleeps_at_;
}

// Without it, who sleeps in LockLeaf might sleep for ever: the unlock that woke us has cleared the
// sleepers' bit, and of those who come by later none need find the lock taken.
void LeafLockWait::WakeNext() {
  if (woken_at_ == nullptr) return;
  syscall(SYS_futex, std::exchange(woken_at_, nullptr), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void UnlockLeaf(LeafNode& leaf) {
  uint64_t& word = leaf.header.volatile_version;
  uint64_t seen = __atomic_load_n(&word, __ATOMIC_RELAXED);
  // Only sleepers' bits come meanwhile. Release: who acquires the new count sees what was changed.
  while (!__atomic_compare_exchange_n(&word, &seen,
                                      WithNextChange(seen) & ~(kLockBit | kSleepersBit),
                                      /*weak=*/true, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
  }
  if ((seen & kSleepersBit) == 0) return;
  syscall(SYS_futex, FutexWord(leaf), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void StepSplitCount(LeafNode& leaf) {
  // Release: readers who acquire the new count see what came before. Sleepers may set their bit
  // meanwhile.
  __atomic_fetch_add(&leaf.header.volatile_version, kOneSplitStep, __ATOMIC_RELEASE);
}

void MarkDead(LeafNode& leaf) {
  // Release: who acquires this sees what leads to the fresh leaf.
  __atomic_fetch_add(&leaf.header.volatile_version, kOneSplitStep + kDeadBit, __ATOMIC_RELEASE);
}

FreePlace FindFreePlace(const uint64_t* slots, uint16_t tag) {
  FreePlace found;
  unsigned line = HomeLine(tag);
  for (unsigned probe = 0; probe < kProbeLines; ++probe, line = LineAfter(line)) {
    for (unsigned i = line * kSlotsPerLine; i < (line + 1) * kSlotsPerLine; ++i) {
      if (LoadWord(slots[i]) != 0) continue;
      found.place = static_cast<int>(i);
      return found;
    }
    found.passed |= uint64_t{1} << line;
  }
  return found;
}

int LeafImage::Place(uint64_t slot) {
  const FreePlace free = FindFreePlace(slots, SlotTag(slot));
  if (free.place < 0) return free.place;
  slots[free.place] = slot;
  overflow |= free.passed;
  return free.place;
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
