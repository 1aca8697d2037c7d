// The races that broke the kernel's fs/dax.c, forced one by one, each test named after its
// scenario.
//
// mutations/run undoes one guard after the other and wants the matching test to fail.
// LockFrame's comparison of frames cannot be made to fail: a truncation keeps its range broken
// until the grace period's end, so while LockFrame is in its read section no other frame takes the
// place. That a dying mapping's inside outlives its lockers (S6) shows under AddressSanitizer only.
//
// What mutations/run undoes, and the test that must fail then:
//   S1LockThroughAMiddlePageKeepsTheEntry: a lock through a middle page takes that page for the
//     first
//   S2HugeRequestFallsBackBeforeSmallEntries: Fault looks at LOCKED before the order
//   S2HugeRequestFallsBackBeforeSmallEntries: FreeOrder looks at the index alone
//   S3SmallRequestsWaitForAHeldHugeEntryAndFinish: Unlock wakes nobody
//   S4ThreeTruncationsOfAHeldEntryAllReturn: the end of a break wakes nobody
//   S7EveryLockerOfAnErasedEntryIsWoken: an erased entry's lockers are woken one by one
//   S12NoWakeIsStolenByAnotherKey: Wake does not compare keys
//   S12SharedSleepersLeaveTheExclusiveWake: a woken shared sleeper uses up the exclusive wake
//   S13aTheSameEntry: a break passes by locked entries
//   S13cEntriesOfAnotherOrder: a split wakes nobody
//   S14PinnedExtentBlocksTheBreak: a break does not wait for pins
//   S14PinsFromBeforeASplitCount: a break ignores pins on the larger blocks
//   S14PinnedExtentBlocksTheBreak: the last unpinner wakes nobody
//   S16ThreeFaultsOnOneHoleInstallOnce: a fault installs over what is there
//   PinBetweenLookAndCountIsTakenBack: TryPin does not look at the entry again
//   AnswerFromBeforeATruncationIsDropped: an answer from before a break is installed after it
//   TruncationWaitsForReadersBeforeItReleases: Truncate does not wait for readers
//   S6FrameLockerOutlivesItsMapping: LockFrame sleeps inside its read section
//   S8FrameMovesToAnotherMappingBeforeTheLock: LockFrame gives up when the frame has left the
//     entry it saw
//   S13bNoEntry: a break that waits for another is not woken
//   S13dABusySuccessor: a break looks at its first extent's pins alone
#include <thread>
#include <vector>

#include "dax/dax_entry.h"
#include "dax/wait_table.h"
#include "tests/dax/mapping_test_util.h"

namespace daxkv::dax {
namespace {

constexpr absl::Time kTry = absl::InfinitePast();
constexpr absl::Time kForever = absl::InfiniteFuture();

using MappingRaceTest = MappingTest;

TEST_F(MappingRaceTest, S1LockThroughAMiddlePageKeepsTheEntry) {
  const PageRun run = PlaceRun(512, 512);
  ASSERT_OK(mapping_->Fault(512, 9, Access::kRead));
  mapping_->MarkDirty(512, 1);
  const Extent before = *LookUp(512);
  {
    absl::StatusOr<EntryLock> lock = mapping_->LockEntry(512 + 17);
    ASSERT_OK(lock);
    EXPECT_EQ(lock->extent().first_index, 512u);
    EXPECT_EQ(lock->extent().first_frame, run.first_page);
    EXPECT_EQ(lock->extent().order, 9u);
  }
  { EXPECT_OK(Mapping::LockFrame(pool_.get(), run.first_page + 17)); }
  const Extent after = *LookUp(512);
  EXPECT_EQ(after.first_index, before.first_index);
  EXPECT_EQ(after.first_frame, before.first_frame);
  EXPECT_EQ(after.order, before.order);
  EXPECT_EQ(mapping_->stats().dirty_entries, 1u);
  EXPECT_EQ(mapping_->stats().entries, 1u);
}

TEST_F(MappingRaceTest, S2HugeRequestFallsBackBeforeSmallEntries) {
  uint64_t base = 0;
  for (uint64_t offset : {0, 63, 64, 300, 511}) {
    for (bool locked : {false, true}) {
      base += 512;
      const PageRun run = PlaceRun(base, 512);
      ASSERT_OK(mapping_->Fault(base + offset, 0, Access::kRead));
      absl::StatusOr<EntryLock> lock;
      if (locked) lock = mapping_->LockEntry(base + offset);
      for (uint64_t wanted : {uint64_t{100}, offset}) {
        absl::StatusOr<FaultResult> fault = mapping_->Fault(base + wanted, 9, Access::kRead);
        ASSERT_OK(fault);
        EXPECT_EQ(*fault, FaultResult::kFallback);
        EXPECT_TRUE(Present(base + wanted));
        EXPECT_EQ(LookUp(base + wanted)->order == 0, wanted == offset);
      }
      EXPECT_EQ(LookUp(base + offset)->first_frame, run.first_page + offset);
      EXPECT_EQ(LookUp(base + offset)->order, 0u);
    }
  }
  EXPECT_EQ(mapping_->stats().waits, 0u);
  // Nothing there is no conflict (6370740e).
  PlaceRun(base + 512, 512);
  absl::StatusOr<FaultResult> fault = mapping_->Fault(base + 512 + 100, 9, Access::kRead);
  ASSERT_OK(fault);
  EXPECT_EQ(*fault, FaultResult::kNoPage);
  EXPECT_EQ(LookUp(base + 512)->order, 9u);
}

TEST_F(MappingRaceTest, S3SmallRequestsWaitForAHeldHugeEntryAndFinish) {
  PlaceRun(0, 512);
  ASSERT_OK(mapping_->Fault(0, 9, Access::kRead));
  absl::StatusOr<EntryLock> lock = mapping_->LockEntry(0);
  ASSERT_OK(lock);
  std::vector<std::unique_ptr<Background>> requests;
  for (uint64_t offset : {1, 17, 64, 300, 500, 511}) {
    requests.push_back(std::make_unique<Background>([this, offset] {
      absl::StatusOr<FaultResult> fault = mapping_->Fault(offset, 0, Access::kWrite);
      ASSERT_OK(fault);
      EXPECT_EQ(*fault, FaultResult::kNoPage);
    }));
  }
  EXPECT_TRUE(AwaitSleepers(6));
  lock->Unlock();
  for (auto& request : requests) EXPECT_TRUE(request->Finishes());
  EXPECT_EQ(mapping_->stats().entries, 1u);
}

TEST_F(MappingRaceTest, S4ThreeTruncationsOfAHeldEntryAllReturn) {
  PlaceRun(0, 8);
  ASSERT_OK(mapping_->Fault(0, 3, Access::kRead));
  absl::StatusOr<EntryLock> lock = mapping_->LockEntry(0);
  ASSERT_OK(lock);
  std::vector<std::unique_ptr<Background>> truncations;
  for (int i = 0; i < 3; ++i) {
    truncations.push_back(
        std::make_unique<Background>([this] { EXPECT_OK(mapping_->Truncate(0, 8, kForever)); }));
  }
  EXPECT_TRUE(AwaitSleepers(3));
  lock->Unlock();
  for (auto& truncation : truncations) EXPECT_TRUE(truncation->Finishes());
  EXPECT_EQ(mapping_->stats().entries, 0u);
}

TEST_F(MappingRaceTest, S6FrameLockerOutlivesItsMapping) {
  SKIP_WITHOUT_YIELD_POINTS();
  const PageRun run = PlaceRun(0, 1);
  ASSERT_OK(mapping_->Fault(0, 0, Access::kRead));
  Hold hold("wait:enqueued");
  absl::StatusOr<EntryLock> lock = mapping_->LockEntry(0);
  ASSERT_OK(lock);
  Background locker([this, &run] {
    EXPECT_EQ(CodeOf(Mapping::LockFrame(pool_.get(), run.first_page)), absl::StatusCode::kNotFound);
  });
  ASSERT_TRUE(hold.Await());  // In the wait table, about to sleep.
  lock->Unlock();
  mapping_.reset();
  rcu::Barrier();  // The mapping's inside is freed, too.
  hold.Release();
  EXPECT_TRUE(locker.Finishes());
}

// The same, held between finding the mapping and touching it: RCU keeps its inside.
TEST_F(MappingRaceTest, S6FrameLockerMeetsADyingMapping) {
  SKIP_WITHOUT_YIELD_POINTS();
  const PageRun run = PlaceRun(0, 1);
  ASSERT_OK(mapping_->Fault(0, 0, Access::kRead));
  Hold hold("lock-frame:owner-seen");
  Background locker([this, &run] {
    EXPECT_EQ(CodeOf(Mapping::LockFrame(pool_.get(), run.first_page)), absl::StatusCode::kNotFound);
  });
  ASSERT_TRUE(hold.Await());
  mapping_.reset();
  absl::SleepFor(absl::Milliseconds(50));  // Time for a grace period, if it did not wait for us.
  hold.Release();
  EXPECT_TRUE(locker.Finishes());
}

TEST_F(MappingRaceTest, S7EveryLockerOfAnErasedEntryIsWoken) {
  SKIP_WITHOUT_YIELD_POINTS();
  const PageRun run = PlaceRun(0, 4);
  ASSERT_OK(mapping_->Fault(0, 2, Access::kRead));
  Hold hold("truncate:before-erase");
  Background truncation([this] { EXPECT_OK(mapping_->Truncate(0, 4, kForever)); });
  ASSERT_TRUE(hold.Await());
  std::vector<std::unique_ptr<Background>> lockers;
  for (uint64_t page : {0, 1, 3}) {
    lockers.push_back(std::make_unique<Background>([this, &run, page] {
      const absl::StatusOr<EntryLock> lock =
          page == 0 ? mapping_->LockEntry(0)
                    : Mapping::LockFrame(pool_.get(), run.first_page + page);
      EXPECT_EQ(CodeOf(lock), absl::StatusCode::kNotFound);
    }));
  }
  EXPECT_TRUE(AwaitSleepers(3));
  hold.Release();
  EXPECT_TRUE(truncation.Finishes());
  for (auto& locker : lockers) EXPECT_TRUE(locker->Finishes());
}

TEST_F(MappingRaceTest, S8FrameMovesToAnotherMappingBeforeTheLock) {
  SKIP_WITHOUT_YIELD_POINTS();
  const PageRun run = PlaceRun(64, 8);
  ASSERT_OK(mapping_->Fault(64, 3, Access::kRead));
  TableProvider other_table;
  Mapping other(pool_.get(), &other_table);
  Hold hold("lock-frame:owner-seen");
  Background locker([&] {
    absl::StatusOr<EntryLock> lock = Mapping::LockFrame(pool_.get(), run.first_page + 2);
    ASSERT_OK(lock);
    EXPECT_EQ(lock->mapping(), &other);
    EXPECT_EQ(lock->extent().first_index, 800u);
    EXPECT_EQ(lock->extent().first_frame, run.first_page);
  });
  ASSERT_TRUE(hold.Await());
  // The truncation erases the entry, and then waits for the held locker's read section.
  Background mover([&] { EXPECT_OK(mapping_->Truncate(64, 8, kForever)); });
  ASSERT_TRUE(Eventually([&] { return !Present(64); }));
  other_table.Place(800, run);
  ASSERT_OK(other.Fault(800, 3, Access::kRead));
  hold.Release();
  EXPECT_TRUE(locker.Finishes());
  EXPECT_TRUE(mover.Finishes());
}

TEST(WaitTableTest, S12NoWakeIsStolenByAnotherKey) {
  WaitTable table(/*buckets=*/1);
  int object = 0;
  std::mutex mutex;
  std::atomic<int> woken_a{0};
  std::atomic<int> woken_b{0};
  const auto sleep = [&](uint64_t index, std::atomic<int>* woken) {
    std::unique_lock lock(mutex);
    WaitTable::Sleeper sleeper(&table, {&object, index}, WaitTable::Mode::kExclusive);
    lock.unlock();
    EXPECT_TRUE(sleeper.Sleep(absl::Now() + kHangAfter));
    ++*woken;
  };
  std::thread a([&] { sleep(1, &woken_a); });
  ASSERT_TRUE(Eventually([&] { return table.sleepers() == 1; }));
  std::thread b1([&] { sleep(2, &woken_b); });
  std::thread b2([&] { sleep(2, &woken_b); });
  ASSERT_TRUE(Eventually([&] { return table.sleepers() == 3; }));

  table.WakeOne({&object, 3});
  table.WakeAll({&table, 2});
  EXPECT_EQ(table.sleepers(), 3u);
  table.WakeOne({&object, 2});
  ASSERT_TRUE(Eventually([&] { return woken_b == 1; }));
  EXPECT_EQ(table.sleepers(), 2u);
  EXPECT_EQ(woken_a, 0);
  table.WakeAll({&object, 1});
  ASSERT_TRUE(Eventually([&] { return woken_a == 1; }));
  EXPECT_EQ(woken_b, 1);
  table.WakeAll({&object, 2});
  a.join();
  b1.join();
  b2.join();
  EXPECT_EQ(table.sleepers(), 0u);
}

TEST(WaitTableTest, S12SharedSleepersLeaveTheExclusiveWake) {
  WaitTable table(/*buckets=*/1);
  const WaitKey key{&table, 0};
  std::atomic<int> shared_woken{0};
  std::atomic<int> exclusive_woken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    const bool exclusive = i % 2 == 1;
    threads.emplace_back([&, exclusive] {
      WaitTable::Sleeper sleeper(
          &table, key, exclusive ? WaitTable::Mode::kExclusive : WaitTable::Mode::kShared);
      EXPECT_TRUE(sleeper.Sleep(absl::Now() + kHangAfter));
      ++(exclusive ? exclusive_woken : shared_woken);
    });
    ASSERT_TRUE(Eventually([&] { return table.sleepers() == static_cast<size_t>(i) + 1; }));
  }
  table.WakeOne(key);
  ASSERT_TRUE(Eventually([&] { return shared_woken == 2 && exclusive_woken == 1; }));
  EXPECT_EQ(table.sleepers(), 1u);
  table.WakeOne(key);
  for (std::thread& thread : threads) thread.join();
}

TEST(WaitTableTest, DeadlineLeavesTheTable) {
  WaitTable table;
  WaitTable::Sleeper sleeper(&table, {&table, 9}, WaitTable::Mode::kExclusive);
  EXPECT_EQ(table.sleepers(), 1u);
  EXPECT_FALSE(sleeper.Sleep(absl::InfinitePast()));
  EXPECT_FALSE(sleeper.Sleep(absl::Now() + absl::Milliseconds(5)));
}

// S13: a break waits for a held entry, and finds ...
class BreakWaitsTest : public MappingTest {
 protected:
  void StartBreak(uint64_t pages) {
    PlaceRun(0, 512);
    EXPECT_OK(mapping_->Fault(0, 9, Access::kRead));
    lock_ = mapping_->LockEntry(0);
    EXPECT_OK(lock_);
    breaker_ = std::make_unique<Background>([this, pages] {
      absl::StatusOr<LayoutBreak> broken = mapping_->BreakLayouts(0, pages, kForever);
      ASSERT_OK(broken);
      for (uint64_t index = 0; index < pages; ++index) {
        EXPECT_EQ(mapping_->PinCount(index), 0u);
        EXPECT_EQ(CodeOf(mapping_->TryPin(index)), absl::StatusCode::kUnavailable);
      }
    });
    EXPECT_TRUE(AwaitSleepers(1));
  }

  absl::StatusOr<EntryLock> lock_;
  std::unique_ptr<Background> breaker_;
};

TEST_F(BreakWaitsTest, S13aTheSameEntry) {
  StartBreak(512);
  lock_->Unlock();
  EXPECT_TRUE(breaker_->Finishes());
  EXPECT_OK(mapping_->TryPin(0));
}

TEST_F(BreakWaitsTest, S13bNoEntry) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceRun(0, 512);
  ASSERT_OK(mapping_->Fault(0, 9, Access::kRead));
  // A first truncation has the range; the break waits for it, and wakes to nothing.
  Hold hold("truncate:before-erase");
  Background truncation([this] { EXPECT_OK(mapping_->Truncate(0, 512, kForever)); });
  ASSERT_TRUE(hold.Await());
  Background breaker([this] { EXPECT_OK(mapping_->BreakLayouts(100, 1, kForever)); });
  EXPECT_TRUE(AwaitSleepers(1));
  hold.Release();
  EXPECT_TRUE(truncation.Finishes());
  EXPECT_TRUE(breaker.Finishes());
  EXPECT_FALSE(Present(100));
}

TEST_F(BreakWaitsTest, S13cEntriesOfAnotherOrder) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceRun(0, 512);
  ASSERT_OK(mapping_->Fault(0, 9, Access::kRead));
  Hold hold("split:locked");
  Background splitter([this] { EXPECT_OK(mapping_->Split(300, 0)); });
  ASSERT_TRUE(hold.Await());
  Background breaker([this] {
    absl::StatusOr<LayoutBreak> broken = mapping_->BreakLayouts(100, 300, kForever);
    ASSERT_OK(broken);
    EXPECT_EQ(mapping_->stats().locked_entries, 300u);
  });
  EXPECT_TRUE(AwaitSleepers(1));
  hold.Release();
  EXPECT_TRUE(splitter.Finishes());
  EXPECT_TRUE(breaker.Finishes());
  EXPECT_EQ(mapping_->stats().locked_entries, 0u);
}

TEST_F(BreakWaitsTest, S13dABusySuccessor) {
  PlaceRun(512, 512);
  absl::StatusOr<Pinned> successor = mapping_->Pin(512, Access::kRead);
  ASSERT_OK(successor);
  StartBreak(1024);
  lock_->Unlock();
  EXPECT_TRUE(AwaitWaits(2));  // Asleep on the successor's pins now.
  EXPECT_EQ(CodeOf(mapping_->TryPin(0)), absl::StatusCode::kUnavailable);
  EXPECT_EQ(mapping_->PinCount(512), 1u);
  successor->Release();
  EXPECT_TRUE(breaker_->Finishes());
}

TEST_F(MappingRaceTest, S14PinnedExtentBlocksTheBreak) {
  PlaceRun(0, 8);
  absl::StatusOr<Pinned> first = mapping_->Pin(0, Access::kRead);
  absl::StatusOr<Pinned> second = mapping_->Pin(7, Access::kRead);
  ASSERT_OK(first);
  ASSERT_OK(second);
  const absl::Status refused = mapping_->BreakLayouts(0, 8, kTry).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_NE(refused.message().find("2 pins"), std::string::npos) << refused;
  EXPECT_EQ(CodeOf(mapping_->Truncate(0, 8, absl::Now() + absl::Milliseconds(20))),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(Present(0));
  EXPECT_OK(mapping_->TryPin(0));

  std::atomic<bool> broken{false};
  Background breaker([&] {
    EXPECT_OK(mapping_->BreakLayouts(0, 8, kForever));
    broken = true;
  });
  EXPECT_TRUE(Eventually([&] { return !mapping_->TryPin(0).ok(); }));
  first->Release();
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_FALSE(broken);
  second->Release();
  EXPECT_TRUE(breaker.Finishes());
}

TEST_F(MappingRaceTest, S14PinsFromBeforeASplitCount) {
  PlaceRun(0, 512);
  absl::StatusOr<Pinned> pinned = mapping_->Pin(0, Access::kRead);
  ASSERT_OK(pinned);
  ASSERT_OK(mapping_->Split(0, 4));
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(400, 1, kTry)), absl::StatusCode::kDeadlineExceeded);
  Background breaker([&] { EXPECT_OK(mapping_->BreakLayouts(400, 100, kForever)); });
  Background other([&] { EXPECT_OK(mapping_->BreakLayouts(16, 100, kForever)); });
  EXPECT_TRUE(Eventually([&] { return mapping_->stats().locked_entries > 7; }));
  pinned->Release();
  EXPECT_TRUE(breaker.Finishes());
  EXPECT_TRUE(other.Finishes());
}

TEST_F(MappingRaceTest, S16ThreeFaultsOnOneHoleInstallOnce) {
  SKIP_WITHOUT_YIELD_POINTS();
  const PageRun run = PlaceRun(512, 512);
  Hold hold("fault:provided", /*count=*/3);
  std::vector<std::unique_ptr<Background>> faults;
  for (const auto& [index, access] : {std::pair<uint64_t, Access>{512, Access::kRead},
                                      {600, Access::kRead},
                                      {1023, Access::kWrite}}) {
    faults.push_back(std::make_unique<Background>([this, index = index, access = access] {
      absl::StatusOr<FaultResult> fault = mapping_->Fault(index, 9, access);
      ASSERT_OK(fault);
      EXPECT_EQ(*fault, FaultResult::kNoPage);
    }));
  }
  ASSERT_TRUE(hold.Await(3));  // All three have their answer, none is installed.
  hold.Release();
  for (auto& fault : faults) EXPECT_TRUE(fault->Finishes());
  EXPECT_EQ(mapping_->stats().entries, 1u);
  EXPECT_EQ(LookUp(777)->first_frame, run.first_page);
  EXPECT_EQ(table_.provided(), 3);
}

// M5, from the pinner's side: the break begins after the pinner's look and before its count.
TEST_F(MappingRaceTest, PinBetweenLookAndCountIsTakenBack) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceRun(0, 1);
  ASSERT_OK(mapping_->Fault(0, 0, Access::kRead));
  Hold hold("pin:entry-seen");
  Background pinner(
      [this] { EXPECT_EQ(CodeOf(mapping_->TryPin(0)), absl::StatusCode::kUnavailable); });
  ASSERT_TRUE(hold.Await());
  absl::StatusOr<LayoutBreak> broken = mapping_->BreakLayouts(0, 1, kTry);
  ASSERT_OK(broken);
  hold.Release();
  EXPECT_TRUE(pinner.Finishes());
  EXPECT_EQ(mapping_->PinCount(0), 0u);
}

// M5, from the breaker's side: a count that will be taken back makes it wait, and wakes it.
TEST_F(MappingRaceTest, PinCountedBeforeTheLockIsSeen) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceRun(0, 1);
  ASSERT_OK(mapping_->Fault(0, 0, Access::kRead));
  Hold hold("pin:counted");
  Background pinner(
      [this] { EXPECT_EQ(CodeOf(mapping_->TryPin(0)), absl::StatusCode::kUnavailable); });
  ASSERT_TRUE(hold.Await());
  absl::StatusOr<LayoutBreak> broken;
  Background breaker([&] { broken = mapping_->BreakLayouts(0, 1, kForever); });
  EXPECT_TRUE(AwaitWaits(1));
  hold.Release();
  EXPECT_TRUE(pinner.Finishes());
  EXPECT_TRUE(breaker.Finishes());
  EXPECT_OK(broken);
}

// M8: the provider answered, then the range was truncated and its frames given to somebody else.
TEST_F(MappingRaceTest, AnswerFromBeforeATruncationIsDropped) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceRun(0, 8, 'o');
  Hold hold("fault:provided");
  Background faulter([this] {
    absl::StatusOr<Pinned> pinned = mapping_->Pin(3, Access::kRead);
    ASSERT_OK(pinned);
    EXPECT_EQ(pinned->data()[0], 'n');
  });
  ASSERT_TRUE(hold.Await());
  EXPECT_OK(mapping_->Truncate(0, 8, kTry));
  table_.Remove(0);
  PlaceRun(512, 8, 'x');  // May take the frames.
  PlaceRun(0, 16, 'n');
  hold.Release();
  EXPECT_TRUE(faulter.Finishes());
}

// M7: a reader inside a read section keeps the bytes of what it found, pin or not.
TEST_F(MappingRaceTest, TruncationWaitsForReadersBeforeItReleases) {
  const PageRun run = PlaceRun(0, 4, 'r');
  ASSERT_OK(mapping_->Fault(0, 2, Access::kRead));
  std::optional<Background> truncation;
  {
    rcu::ReadGuard guard;
    ASSERT_TRUE(mapping_->Present(0));
    truncation.emplace([this] { EXPECT_OK(mapping_->Truncate(0, 4, kForever)); });
    ASSERT_TRUE(Eventually([&] { return !mapping_->Present(0); }));
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_OK(pool_->FindRun(run.first_page));
    EXPECT_EQ(std::string_view(pool_->At(run.offset()), 4 * 4096), std::string(4 * 4096, 'r'));
  }
  EXPECT_TRUE(truncation->Finishes());
  EXPECT_EQ(CodeOf(pool_->FindRun(run.first_page)), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace daxkv::dax
