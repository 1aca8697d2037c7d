// Holes that read as zeroes: what a read of one gives, how a write takes its entry away, and the
// kernel's races about that (S5, S11, S16). mutations/run proves that these tests can fail.
//
// What mutations/run undoes, and the test that must fail then:
//   S5ADowngradeWakesAllWhoWaitForTheHugeHole: a downgrade wakes one
//   S5WritersThatWaitedForTheHugeHoleTakeSmallEntries: a write does not wait for a held hole
//   S5AWriterRespectsALockTakenMeanwhile: a downgrade takes a locked hole away
//   ALateWriterLeavesTheNewFrames: a downgrade takes frames away
//   S11NoMemoryInADowngradeLeavesExactCounts: without memory, a fault leaves its Folio claimed
//   S16AnOldHoleIsNotInstalledOverFrames: an old hole is installed over frames
//   AHoleIsNeverBusyDirtyPoisonedOrSplit: MarkDirty marks holes
//   S11NoMemoryInASplitChangesNothing: without memory, a split leaves its entry locked
#include <algorithm>
#include <cstring>
#include <iterator>
#include <random>
#include <vector>

#include "tests/dax/mapping_test_util.h"
#include "xarray/node.h"

namespace daxkv::dax {
namespace {

constexpr absl::Time kTry = absl::InfinitePast();

// A sparse file: what has no run is a hole, and a write gives it a page.
class SparseProvider : public ExtentProvider {
 public:
  explicit SparseProvider(Pool* pool) : pool_(pool) {}

  absl::StatusOr<Extent> Provide(uint64_t index, unsigned max_order, Access access) override {
    std::unique_lock lock(mutex_);
    auto run = runs_.find(index);
    if (run == runs_.end() && access == Access::kRead) return HoleAround(index, max_order);
    if (run == runs_.end()) run = runs_.emplace(index, MakeRun(pool_, 1, '\0')).first;
    return Extent{index, run->second.first_page, 0};
  }
  absl::StatusOr<uint64_t> Locate(uint64_t index) override {
    std::unique_lock lock(mutex_);
    auto run = runs_.find(index);
    if (run == runs_.end()) return absl::NotFoundError("a hole");
    return run->second.first_page;
  }
  // After their truncation.
  void ForgetAll() {
    std::unique_lock lock(mutex_);
    runs_.clear();
  }
  size_t pages() {
    std::unique_lock lock(mutex_);
    return runs_.size();
  }

 private:
  Extent HoleAround(uint64_t index, unsigned order) const {
    for (;; --order) {
      const uint64_t pages = uint64_t{1} << order;
      const uint64_t first = index & ~(pages - 1);
      auto next = runs_.lower_bound(first);
      if (next == runs_.end() || next->first - first >= pages) return {first, kNoFrame, order};
    }
  }

  Pool* const pool_;
  std::mutex mutex_;
  std::map<uint64_t, Run> runs_;  // One page each.
};

class MappingHoleTest : public MappingTest {
 protected:
  MappingHoleTest() : sparse_(pool_.get()) {
    mapping_ = std::make_unique<Mapping>(pool_.get(), &sparse_);
  }
  // A huge hole's entry at 0..511.
  void ReadHugeHole() {
    absl::StatusOr<FaultResult> fault = mapping_->Fault(100, 9, Access::kRead);
    ASSERT_OK(fault);
    EXPECT_EQ(*fault, FaultResult::kNoPage);
    ExpectEntries(1, 512, 1);
  }
  void ExpectEntries(uint64_t entries, uint64_t pages, uint64_t holes) {
    const MappingStats stats = mapping_->stats();
    EXPECT_EQ(stats.entries, entries);
    EXPECT_EQ(stats.pages, pages);
    EXPECT_EQ(stats.hole_entries, holes);
  }
  void Write(uint64_t index, std::string_view text) {
    absl::StatusOr<Pinned> pinned = mapping_->Pin(index, Access::kWrite);
    ASSERT_OK(pinned);
    std::memcpy(const_cast<char*>(pinned->data()), text.data(), text.size());
    mapping_->MarkDirty(index, 1);
  }

  SparseProvider sparse_;
};

TEST_F(MappingHoleTest, AHoleReadsAsZeroes) {
  ReadHugeHole();
  absl::StatusOr<Pinned> pinned = mapping_->Pin(300, Access::kRead);
  ASSERT_OK(pinned);
  EXPECT_TRUE(pinned->valid());
  EXPECT_EQ(pinned->first_index(), 0u);
  ASSERT_EQ(pinned->size_bytes(), uint64_t{2} << 20);
  EXPECT_TRUE(std::all_of(pinned->data(), pinned->data() + pinned->size_bytes(),
                          [](char c) { return c == 0; }));
  EXPECT_FALSE(Present(300));  // No frames.
  EXPECT_FALSE(LookUp(300).has_value());
  EXPECT_EQ(mapping_->PinCount(300), 0u);
  EXPECT_EQ(sparse_.pages(), 0u);
  Pinned moved = *std::move(pinned);
  EXPECT_FALSE(pinned->valid());
  moved.Release();
  EXPECT_FALSE(moved.valid());
}

TEST_F(MappingHoleTest, AWriteGetsFramesAndLeavesTheRestAHole) {
  ReadHugeHole();
  absl::StatusOr<Pinned> zeroes = mapping_->TryPin(7);
  ASSERT_OK(zeroes);
  Write(7, "seven");
  ExpectEntries(1, 1, 0);  // The huge entry went.
  EXPECT_EQ(zeroes->data()[7 * kPageSizeBytes], 0);
  absl::StatusOr<Pinned> seven = mapping_->Pin(7, Access::kRead);
  ASSERT_OK(seven);
  EXPECT_EQ(std::string_view(seven->data(), 5), "seven");
  absl::StatusOr<Pinned> beside = mapping_->Pin(6, Access::kRead);
  ASSERT_OK(beside);
  EXPECT_EQ(beside->data()[0], 0);
  EXPECT_EQ(beside->size_bytes(), kPageSizeBytes);
  // A small hole gets frames too, though Pin would like a huge extent.
  Write(6, "six");
  EXPECT_TRUE(Present(6));
}

TEST_F(MappingHoleTest, AHoleIsNeverBusyDirtyPoisonedOrSplit) {
  ReadHugeHole();
  absl::StatusOr<Pinned> pinned = mapping_->TryPin(0);
  ASSERT_OK(pinned);
  mapping_->MarkDirty(0, 512);
  EXPECT_EQ(mapping_->stats().dirty_entries, 0u);
  EXPECT_EQ(CodeOf(mapping_->Split(0, 3)), absl::StatusCode::kInvalidArgument);
  {
    absl::StatusOr<EntryLock> lock = mapping_->LockEntry(9);
    ASSERT_OK(lock);
    EXPECT_EQ(lock->extent().first_frame, kNoFrame);
    EXPECT_EQ(lock->extent().order, 9u);
    lock->Poison();
  }
  EXPECT_OK(mapping_->TryPin(0));
  EXPECT_OK(mapping_->BreakLayouts(0, 512, kTry));
  Write(1000, "x");
  EXPECT_OK(mapping_->Truncate(0, 1024, kTry));
  ExpectEntries(0, 0, 0);
}

TEST_F(MappingHoleTest, AProviderMayNotAnswerAWriteWithAHole) {
  class Nonsense : public ExtentProvider {
    absl::StatusOr<Extent> Provide(uint64_t index, unsigned, Access) override {
      return Extent{index, kNoFrame, 0};
    }
  } nonsense;
  Mapping mapping(pool_.get(), &nonsense);
  EXPECT_OK(mapping.Fault(5, 0, Access::kRead));
  EXPECT_EQ(CodeOf(mapping.Fault(5, 0, Access::kWrite)), absl::StatusCode::kInternal);
}

// Kernel: A, B and C wait for an entry; A erases it and wakes B alone, who finds nothing and wakes
// nobody (23738832).
TEST_F(MappingHoleTest, S5ADowngradeWakesAllWhoWaitForTheHugeHole) {
  SKIP_WITHOUT_YIELD_POINTS();
  ReadHugeHole();
  absl::StatusOr<EntryLock> held = mapping_->LockEntry(0);
  ASSERT_OK(held);
  std::vector<std::unique_ptr<Background>> lockers;
  for (uint64_t index : {17, 300, 400}) {
    lockers.push_back(std::make_unique<Background>([this, index] {
      EXPECT_EQ(CodeOf(mapping_->LockEntry(index)), absl::StatusCode::kNotFound);
    }));
    ASSERT_TRUE(AwaitSleepers(lockers.size()));
  }
  Hold hold("wait:woken");
  held->Unlock();  // Wakes the first, which is held before it looks.
  ASSERT_TRUE(hold.Await());
  EXPECT_OK(mapping_->Fault(5, 0, Access::kWrite));
  EXPECT_TRUE(lockers[1]->Finishes());
  EXPECT_TRUE(lockers[2]->Finishes());
  hold.Release();
  EXPECT_TRUE(lockers[0]->Finishes());
  ExpectEntries(1, 1, 0);
}

TEST_F(MappingHoleTest, S5WritersThatWaitedForTheHugeHoleTakeSmallEntries) {
  ReadHugeHole();
  absl::StatusOr<EntryLock> held = mapping_->LockEntry(0);
  ASSERT_OK(held);
  std::vector<std::unique_ptr<Background>> writers;
  for (uint64_t index : {1, 17, 64, 300, 511}) {
    writers.push_back(std::make_unique<Background>(
        [this, index] { EXPECT_OK(mapping_->Fault(index, 0, Access::kWrite)); }));
  }
  ASSERT_TRUE(AwaitSleepers(5));
  ExpectEntries(1, 512, 1);  // A held hole stays.
  held->Unlock();
  for (auto& writer : writers) EXPECT_TRUE(writer->Finishes());
  ExpectEntries(5, 5, 0);
}

TEST_F(MappingHoleTest, S5AWriterRespectsALockTakenMeanwhile) {
  SKIP_WITHOUT_YIELD_POINTS();
  ReadHugeHole();
  Hold hold("fault:hole-seen");
  Background writer([this] { EXPECT_OK(mapping_->Fault(7, 0, Access::kWrite)); });
  ASSERT_TRUE(hold.Await());
  absl::StatusOr<EntryLock> held = mapping_->LockEntry(300);
  ASSERT_OK(held);
  hold.Release();
  EXPECT_TRUE(AwaitSleepers(1));
  ExpectEntries(1, 512, 1);
  held->Unlock();
  EXPECT_TRUE(writer.Finishes());
  ExpectEntries(1, 1, 0);
}

// The array's allocations fail from the n-th on.
class FailingAllocations {
 public:
  explicit FailingAllocations(int allowed) {
    left_ = allowed;
    xarray::internal::SetAllocationHook([] { return left_.fetch_sub(1) > 0; });
  }
  ~FailingAllocations() { xarray::internal::SetAllocationHook(nullptr); }

 private:
  static inline std::atomic<int> left_{0};
};

TEST_F(MappingHoleTest, S11NoMemoryInADowngradeLeavesExactCounts) {
  constexpr uint64_t kFar = uint64_t{1} << 40;  // A path of its own: several nodes to allocate.
  int failures = 0;
  for (int allowed = 0;; ++allowed) {
    ASSERT_OK(mapping_->Fault(kFar, 9, Access::kRead));
    ExpectEntries(1, 512, 1);
    absl::Status status;
    {
      FailingAllocations failing(allowed);
      status = mapping_->Fault(kFar + 100, 0, Access::kWrite).status();
    }
    if (status.ok()) break;
    ++failures;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    ExpectEntries(0, 0, 0);
    EXPECT_EQ(CodeOf(Mapping::LockFrame(pool_.get(), *sparse_.Locate(kFar + 100))),
              absl::StatusCode::kNotFound);
    ASSERT_OK(mapping_->Truncate(kFar, 512, kTry));
    sparse_.ForgetAll();
  }
  EXPECT_GT(failures, 1);
  ExpectEntries(1, 1, 0);
}

TEST_F(MappingHoleTest, S11NoMemoryInASplitChangesNothing) {
  TableProvider table;
  Mapping mapping(pool_.get(), &table);
  const PageRun run = MakeRun(pool_.get(), 512);
  table.Place(512, run);
  ASSERT_OK(mapping.Fault(512, 9, Access::kRead));
  mapping.MarkDirty(512, 1);
  int failures = 0;
  for (;; ++failures) {
    FailingAllocations failing(failures);
    const absl::Status status = mapping.Split(700, 0);
    if (status.ok()) break;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_EQ(mapping.stats().entries, 1u);
    EXPECT_EQ(mapping.stats().dirty_entries, 1u);
    EXPECT_EQ(mapping.stats().locked_entries, 0u);
    EXPECT_EQ(Mapping::LockFrame(pool_.get(), run.first_page)->extent().order, 9u);
  }
  EXPECT_GT(failures, 1);
  EXPECT_EQ(mapping.stats().entries, 512u);
}

// S16 on a hole: the readers' answer is older than the writer's frames.
TEST_F(MappingHoleTest, S16AnOldHoleIsNotInstalledOverFrames) {
  SKIP_WITHOUT_YIELD_POINTS();
  Hold hold("fault:provided", /*count=*/2);
  std::vector<std::unique_ptr<Background>> readers;
  for (uint64_t index : {7, 100}) {
    readers.push_back(std::make_unique<Background>([this, index] {
      absl::StatusOr<Pinned> pinned = mapping_->Pin(index, Access::kRead);
      ASSERT_OK(pinned);
      EXPECT_EQ(pinned->data()[0], index == 7 ? 's' : '\0');
    }));
  }
  ASSERT_TRUE(hold.Await(2));
  Write(7, "seven");
  hold.Release();
  for (auto& reader : readers) EXPECT_TRUE(reader->Finishes());
}

// Two writers see the same hole: the second must not take away what the first installed.
TEST_F(MappingHoleTest, ALateWriterLeavesTheNewFrames) {
  SKIP_WITHOUT_YIELD_POINTS();
  ReadHugeHole();
  Hold hold("fault:hole-seen");
  Background late([this] { EXPECT_OK(mapping_->Fault(7, 0, Access::kWrite)); });
  ASSERT_TRUE(hold.Await());
  Write(7, "seven");
  absl::StatusOr<Pinned> pinned = mapping_->Pin(7, Access::kRead);
  ASSERT_OK(pinned);
  hold.Release();
  EXPECT_TRUE(late.Finishes());
  EXPECT_TRUE(Present(7));
  EXPECT_EQ(mapping_->stats().dirty_entries, 1u);
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(7, 1, kTry)), absl::StatusCode::kDeadlineExceeded);
}

// Pages only ever go from zeroes to their own number, until everything is truncated.
TEST_F(MappingHoleTest, StressReadersNeverSeeWhatWasNotWritten) {
  constexpr uint64_t kPages = 1024;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> writes{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      while (!stop) {
        const uint64_t index = random() % kPages;
        const bool write = seed % 2 == 0;
        absl::StatusOr<Pinned> pinned =
            mapping_->Pin(index, write ? Access::kWrite : Access::kRead);
        ASSERT_OK(pinned);
        const uint64_t offset = (index - pinned->first_index()) * kPageSizeBytes;
        auto* word = reinterpret_cast<uint64_t*>(const_cast<char*>(pinned->data()) + offset);
        if (write) __atomic_store_n(word, index + 1, __ATOMIC_RELAXED);
        if (write) ++writes;
        const uint64_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
        EXPECT_TRUE(seen == index + 1 || (seen == 0 && !write)) << index << ": " << seen;
      }
    });
  }
  threads.emplace_back([&] {
    std::mt19937_64 random(9);
    while (!stop) {
      absl::StatusOr<EntryLock> lock = mapping_->LockEntry(random() % kPages);
      std::this_thread::yield();
    }
  });
  absl::SleepFor(absl::Seconds(1));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(writes, 10u);
  EXPECT_OK(mapping_->Truncate(0, kPages, kTry));
  ExpectEntries(0, 0, 0);
}

}  // namespace
}  // namespace daxkv::dax
