// Segments that became empty go back to libpmemobj, and their memory serves again. The crashes of
// that are in tests/crash/segments_test.cc.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "dax/pool.h"
#include "tests/dax/own_tmpfs.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

PoolStats StatsOf(const Pool& pool) {
  const absl::StatusOr<PoolStats> stats = pool.Stats();
  EXPECT_TRUE(stats.ok()) << stats.status();
  return stats.ok() ? *stats : PoolStats();
}

// Every byte of the run's first and last page.
void Fill(Pool& pool, const PoolRun& run, char byte) {
  std::memset(pool.At(run.offset()), byte, kPageSizeBytes);
  std::memset(pool.At(run.offset() + run.size_bytes() - kPageSizeBytes), byte, kPageSizeBytes);
}
bool HasFill(const Pool& pool, const PoolRun& run, char byte) {
  const std::string page(kPageSizeBytes, byte);
  return std::memcmp(pool.At(run.offset()), page.data(), page.size()) == 0 &&
         std::memcmp(pool.At(run.offset() + run.size_bytes() - kPageSizeBytes), page.data(),
                     page.size()) == 0;
}

class PoolSegmentsTest : public ::testing::Test {
 protected:
  // Live runs of 16 MiB, for which a new pool needs several segments.
  std::vector<PoolRun> Grow(Pool& pool, int count = 12) {
    std::vector<PoolRun> runs;
    for (int i = 0; i < count; ++i) {
      runs.push_back(MustAllocate(pool, 8 * kHugePages));
      Fill(pool, runs.back(), static_cast<char>('a' + i));
      EXPECT_TRUE(pool.Persist(pool.At(runs.back().offset()), runs.back().size_bytes()).ok());
      EXPECT_TRUE(pool.CommitRun(runs.back()).ok());
    }
    return runs;
  }
  static void Release(Pool& pool, const std::vector<PoolRun>& runs) {
    for (const PoolRun& run : runs) ASSERT_OK(pool.ReleaseRun(run));
  }

  const ScratchDirectory scratch_{ScratchDirectory::OnMemory()};
  const std::string path_ = scratch_.Child("store");
};

TEST_F(PoolSegmentsTest, EmptySegmentsGoBackAndServeAgain) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const std::vector<PoolRun> runs = Grow(*pool);
  const PoolStats full = StatsOf(*pool);
  EXPECT_GT(full.segments, 3u);
  Release(*pool, runs);
  ASSERT_TRUE(pool->Trim().ok());
  const PoolStats empty = StatsOf(*pool);
  EXPECT_EQ(empty.segments, 1u);
  EXPECT_EQ(empty.live_pages, 0u);
  EXPECT_LT(empty.file_blocks_bytes, 6 * kTestMiB);
  EXPECT_EQ(pool->FindRun(runs.back().first_page).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(pool->Contains(runs.back().offset(), 1));
  EXPECT_EQ(pool->ReleaseRun(runs.back()).code(), absl::StatusCode::kNotFound);

  Grow(*pool);
  const PoolStats again = StatsOf(*pool);
  EXPECT_EQ(again.file_size_bytes, full.file_size_bytes);
  EXPECT_EQ(again.live_pages, full.live_pages);
  EXPECT_LT(again.segments, full.segments);  // Neighbours have become one.
  ASSERT_OK(pool->Close());
  pool = MustOpen(path_);
  EXPECT_EQ(StatsOf(*pool).live_pages, full.live_pages);
}

TEST_F(PoolSegmentsTest, NeighboursTogetherHoldALargerRun) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const std::vector<PoolRun> runs = Grow(*pool);
  Release(*pool, runs);
  const PoolStats before = StatsOf(*pool);
  ASSERT_TRUE(pool->Trim().ok());
  const uint64_t larger = before.largest_free_run_pages + 8 * kHugePages;
  const PoolRun run = MustAllocate(*pool, larger);
  Fill(*pool, run, 'l');
  EXPECT_EQ(StatsOf(*pool).file_size_bytes, before.file_size_bytes);
}

TEST_F(PoolSegmentsTest, SegmentsWithRunsStay) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  std::vector<PoolRun> runs = Grow(*pool);
  std::vector<PoolRun> kept;
  for (size_t i : {10, 4}) {
    kept.push_back(runs[i]);
    runs.erase(runs.begin() + static_cast<long>(i));
  }
  const PoolRun reserved = MustAllocate(*pool, 1);
  Release(*pool, runs);
  ASSERT_TRUE(pool->Trim().ok());
  EXPECT_LE(StatsOf(*pool).segments, 4u);
  EXPECT_TRUE(pool->FindRun(reserved.first_page).ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(HasFill(*pool, kept[0], 'a' + 10));
    EXPECT_TRUE(HasFill(*pool, kept[1], 'a' + 4));
    EXPECT_EQ(LiveRuns(*pool).size(), 2u);
    ASSERT_OK(pool->Close());
    pool = MustOpen(path_);
  }
}

TEST_F(PoolSegmentsTest, ACrashAfterwardsLeavesHeapThatServes) {
  uint64_t file_size_bytes = 0;
  CrashAfter([&] {
    Pool* const pool = MustOpen(path_).release();
    const std::vector<PoolRun> runs = Grow(*pool);
    for (const PoolRun& run : runs) EXPECT_TRUE(pool->ReleaseRun(run).ok());
    EXPECT_TRUE(pool->Trim().ok());
  });
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_EQ(StatsOf(*pool).segments, 1u);
  file_size_bytes = StatsOf(*pool).file_size_bytes;
  const std::vector<PoolRun> runs = Grow(*pool);
  EXPECT_EQ(StatsOf(*pool).file_size_bytes, file_size_bytes);
  for (size_t i = 0; i < runs.size(); ++i) {
    EXPECT_TRUE(HasFill(*pool, runs[i], static_cast<char>('a' + i)));
  }
}

// Everybody reads and allocates while segments come and go.
TEST_F(PoolSegmentsTest, ReadersAreNotDisturbed) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const PoolRun kept = MustAllocate(*pool, 4);
  ASSERT_OK(pool->CommitRun(kept));
  const uint64_t end_page = [&] {
    const std::vector<PoolRun> runs = Grow(*pool);
    Release(*pool, runs);
    return StatsOf(*pool).file_size_bytes >> kPageShift;
  }();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> looks{0};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (uint64_t page = 0; !stop; page = (page + 97) % end_page, ++looks) {
      const absl::StatusOr<PoolRun> run = pool->FindRun(page);
      EXPECT_TRUE(run.ok() || run.status().code() == absl::StatusCode::kNotFound) << run.status();
      pool->Contains(page << kPageShift, 1);
    }
  });
  threads.emplace_back([&] {
    while (!stop) {
      bool seen = false;
      EXPECT_TRUE(pool->ForEachRun([&](const PoolRun& run) {
                        seen = seen || run.first_page == kept.first_page;
                        return absl::OkStatus();
                      })
                      .ok());
      EXPECT_TRUE(seen);
    }
  });
  // In the first segment, which stays; the table in which it is found does not.
  threads.emplace_back([&] {
    while (!stop) {
      std::vector<PoolRun> runs;
      for (int i = 0; i < 8; ++i) {
        runs.push_back(MustAllocate(*pool, 1));
        EXPECT_TRUE(pool->CommitRun(runs.back()).ok());
      }
      EXPECT_TRUE(pool->ReleaseRuns(runs).ok());
    }
  });
  const absl::Time end = absl::Now() + absl::Seconds(2);
  while (absl::Now() < end) {
    std::vector<PoolRun> runs;
    for (int i = 0; i < 6; ++i) {
      runs.push_back(MustAllocate(*pool, 8 * kHugePages));
      ASSERT_OK(pool->CommitRun(runs.back()));
    }
    Release(*pool, runs);
    ASSERT_TRUE(pool->Trim().ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(looks, 100u);
  EXPECT_EQ(LiveRuns(*pool).size(), 1u);
}

// The heap that came back has holes, and the file system has no block left: growing says so, and
// nobody dies of SIGBUS.
TEST_F(PoolSegmentsTest, OnAFullFileSystemGrowthIsRefusedCleanly) {
  const std::string mounted = scratch_.Child("tmpfs");
  ASSERT_EQ(mkdir(mounted.c_str(), 0700), 0);
  if (!MountOwnTmpfs(mounted, "size=256m")) {
    GTEST_SKIP() << "no tmpfs can be mounted here";
  }
  std::unique_ptr<Pool> pool = MustOpen(mounted + "/store");
  Release(*pool, Grow(*pool));
  ASSERT_TRUE(pool->Trim().ok());
  EXPECT_EQ(StatsOf(*pool).segments, 1u);
  {
    std::ofstream filler(mounted + "/filler");
    const std::string block(kPageSizeBytes, 'f');
    while (filler.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  }
  const absl::StatusOr<PoolRun> refused =
      pool->AllocateRun(16 * kHugePages, 1, 0, 16 * kHugePages * kPageSizeBytes);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
  ASSERT_EQ(unlink((mounted + "/filler").c_str()), 0);
  const std::vector<PoolRun> runs = Grow(*pool, 8);
  EXPECT_TRUE(HasFill(*pool, runs.back(), 'a' + 7));
  ASSERT_OK(pool->Close());
  pool.reset();
  umount2(mounted.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace daxkv::dax
