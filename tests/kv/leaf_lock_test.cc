// The writers' lock of a leaf when its holder takes long.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "kv/node.h"

namespace daxkv::kv {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

bool ComesTrue(const std::function<bool()>& what, milliseconds within) {
  const auto deadline = steady_clock::now() + within;
  while (!what()) {
    if (steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

bool HasSleepers(const LeafNode& leaf) {
  return (LoadWord(leaf.header.volatile_version) & kSleepersBit) != 0;
}

// Two sleep: first one whose leaf may change, then one who wants this very leaf. The holder splits
// the leaf, whereupon the one who is woken wants the other half.
TEST(LeafLockTest, AWakeUpIsPassedOnByWhoWantsAnotherLeaf) {
  for (int round = 0; round < 20; ++round) {
    LeafNode left = {}, right = {};
    std::atomic<bool> is_split{false}, had_left{false};
    LockLeaf(left);
    std::thread wants_right([&] {
      LeafLockWait wait;
      for (;; wait.Wait()) {
        LeafNode& leaf = is_split.load() ? right : left;
        if (!wait.Try(leaf)) continue;
        UnlockLeaf(leaf);
        break;
      }
    });
    EXPECT_TRUE(ComesTrue([&] { return HasSleepers(left); }, milliseconds(10'000)));
    // Asleep, and not for so long that it has gone to sleep anew, behind the other.
    std::this_thread::sleep_for(milliseconds(2));
    std::thread wants_left([&] {
      const LeafLock lock(left);
      had_left.store(true);
    });
    std::this_thread::sleep_for(milliseconds(5));
    is_split.store(true);
    UnlockLeaf(left);
    wants_right.join();
    const bool had = ComesTrue([&] { return had_left.load(); }, milliseconds(10'000));
    EXPECT_TRUE(had) << "asleep at a lock that is free, round " << round;
    if (!had) {  // Lets the thread end.
      __atomic_fetch_or(&left.header.volatile_version, kSleepersBit, __ATOMIC_RELAXED);
      const LeafLock lock(left);
    }
    wants_left.join();
    if (!had) break;
  }
}

// One who gives up altogether.
TEST(LeafLockTest, AWakeUpIsPassedOnByWhoGivesUp) {
  LeafNode leaf = {};
  std::atomic<bool> gives_up{false};
  LockLeaf(leaf);
  std::thread waits([&] {
    LeafLockWait wait;
    for (; !gives_up.load(); wait.Wait()) {
      if (!wait.Try(leaf)) continue;
      UnlockLeaf(leaf);
      break;
    }
  });
  EXPECT_TRUE(ComesTrue([&] { return HasSleepers(leaf); }, milliseconds(10'000)));
  std::this_thread::sleep_for(milliseconds(2));
  std::atomic<bool> had{false};
  std::thread wants([&] {
    const LeafLock lock(leaf);
    had.store(true);
  });
  std::this_thread::sleep_for(milliseconds(5));
  gives_up.store(true);
  UnlockLeaf(leaf);
  waits.join();
  EXPECT_TRUE(ComesTrue([&] { return had.load(); }, milliseconds(10'000)));
  if (!had.load()) {
    __atomic_fetch_or(&leaf.header.volatile_version, kSleepersBit, __ATOMIC_RELAXED);
    const LeafLock lock(leaf);
  }
  wants.join();
}

// Many threads, short and long holds, leaves that change: nobody is forgotten.
TEST(LeafLockTest, NobodyIsForgotten) {
  constexpr int kThreads = 6, kTurns = 300;
  LeafNode leaves[2] = {};
  std::atomic<uint64_t> turn{0};
  uint64_t held[2] = {};
  std::thread threads[kThreads];
  for (int i = 0; i < kThreads; ++i) {
    threads[i] = std::thread([&, i] {
      for (int n = 0; n < kTurns; ++n) {
        unsigned which = static_cast<unsigned>(n) % 2;
        LeafLock lock;
        if (i % 2 == 0) {
          lock = LeafLock(leaves[which]);
        } else {
          LeafLockWait wait;
          for (;; wait.Wait()) {
            which = static_cast<unsigned>(turn.load() % 2);
            if (!wait.Try(leaves[which])) continue;
            lock = LeafLock::Adopt(leaves[which]);
            break;
          }
        }
        ++held[which];
        turn.fetch_add(1);
        if (n % 16 == 0) std::this_thread::sleep_for(milliseconds(1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(held[0] + held[1], uint64_t{kThreads} * kTurns);
}

}  // namespace
}  // namespace daxkv::kv
