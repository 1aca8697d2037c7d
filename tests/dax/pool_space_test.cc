// Blocks and growth: what the file system holds, gets back and may refuse; runs under random and
// under concurrent use.
//
// What mutations/run undoes, and the test that must fail then:
//   BlocksComeWithARunAndGoWithIt: blocks are taken to be there in heap that came back

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "dax/pool.h"
#include "dax/run_descriptor.h"
#include "tests/dax/own_tmpfs.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

uint64_t Blocks(const Pool& pool) {
  const absl::StatusOr<PoolStats> stats = pool.Stats();
  EXPECT_TRUE(stats.ok()) << stats.status();
  return stats.ok() ? stats->file_blocks_bytes : 0;
}

void ExpectStatsAddUp(const Pool& pool) {
  const absl::StatusOr<PoolStats> stats = pool.Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->segment_pages, stats->live_pages + stats->reserved_pages + stats->free_pages);
  uint64_t in_free_runs = 0;
  for (unsigned order = 0; order <= kHugeOrder; ++order) {
    in_free_runs += stats->free_runs_by_order[order] << order;
  }
  EXPECT_EQ(in_free_runs, stats->free_pages);
}

class PoolSpaceTest : public ::testing::TestWithParam<const char*> {
 protected:
  PoolSpaceTest()
      : scratch_(on_memory() ? ScratchDirectory::OnMemory() : ScratchDirectory::OnDisk()),
        path_(scratch_.Child("store")) {}

  static bool on_memory() { return std::string_view(GetParam()) == "memory"; }

  const ScratchDirectory scratch_;
  const std::string path_;
};

INSTANTIATE_TEST_SUITE_P(Media, PoolSpaceTest, ::testing::Values("memory", "disk"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(PoolSpaceTest, ANewPoolIsSmall) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_LT(Blocks(*pool), 5 * kTestMiB);
  ASSERT_OK(pool->CommitRun(MustAllocate(*pool, 512)));
  EXPECT_LT(Blocks(*pool), 8 * kTestMiB);
}

TEST_P(PoolSpaceTest, BlocksComeWithARunAndGoWithIt) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  ASSERT_OK(pool->ReleaseRun(MustAllocate(*pool, 16384)));
  ASSERT_TRUE(pool->Trim().ok());
  const uint64_t before = Blocks(*pool);
  const absl::StatusOr<PoolRun> run = pool->AllocateRun(16384, 1, 0, 20 * kTestMiB);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_NEAR(Blocks(*pool) - before, 20.0 * kTestMiB, kTestMiB);
  std::memset(pool->At(run->offset()), 1, 20 * kTestMiB);
  ASSERT_OK(pool->Persist(pool->At(run->offset()), 20 * kTestMiB));
  ASSERT_OK(pool->CommitRun(*run));
  EXPECT_NEAR(Blocks(*pool) - before, 20.0 * kTestMiB, kTestMiB);
  ASSERT_OK(pool->ReleaseRun(*run));
  EXPECT_LT(Blocks(*pool), before + kTestMiB);
}

TEST_P(PoolSpaceTest, ManySmallRunsGiveTheirBlocksBack) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  std::vector<PoolRun> runs;
  const int count = on_memory() ? 600 : 60;  // Each release costs an msync on disk.
  for (int i = 0; i < count; ++i) {
    runs.push_back(MustAllocate(*pool, 16));
    std::memset(pool->At(runs.back().offset()), i, runs.back().size_bytes());
  }
  const uint64_t full = Blocks(*pool);
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i % 20 != 0) {
      ASSERT_OK(pool->ReleaseRun(runs[i]));
    }
  }
  EXPECT_LT(Blocks(*pool) + runs.size() * 15 * kPageSizeBytes, full + kTestMiB / 4);
  for (size_t i = 0; i < runs.size(); i += 20) {
    EXPECT_EQ(*pool->At(runs[i].offset()), static_cast<char>(i));
  }
  ExpectStatsAddUp(*pool);
}

TEST_P(PoolSpaceTest, SpareBlocksGoAtCloseAndAfterACrashByTrim) {
  MustOpen(path_)->Close().IgnoreError();
  CrashAfter([&] {
    std::unique_ptr<Pool> pool = MustOpen(path_);
    const PoolRun run = MustAllocate(*pool, 8192);  // 32 MiB, reserved and lost.
    std::memset(pool->At(run.offset()), 1, run.size_bytes());
  });
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_GT(Blocks(*pool), 32 * kTestMiB);
  const absl::StatusOr<uint64_t> given_back = pool->Trim();
  ASSERT_TRUE(given_back.ok()) << given_back.status();
  EXPECT_GT(*given_back, 31 * kTestMiB);
  EXPECT_LT(Blocks(*pool), 6 * kTestMiB);

  pool.reset();
  CrashAfter([&] {
    pool = MustOpen(path_);
    MustAllocate(*pool, 8192);
  });
  pool = MustOpen(path_);
  EXPECT_GT(Blocks(*pool), 32 * kTestMiB);
  ASSERT_OK(pool->Close());
  pool = MustOpen(path_);
  EXPECT_TRUE(pool->was_clean());
  EXPECT_LT(Blocks(*pool), 6 * kTestMiB);
}

TEST_P(PoolSpaceTest, TheLargestSizeIsKeptTo) {
  PoolOptions options = TestOptions();
  options.max_size_bytes = 64 * kTestMiB;
  std::unique_ptr<Pool> pool = MustOpen(path_, options);
  ASSERT_OK(pool->Close());
  pool = MustOpen(path_);  // The option counts at creation only.
  uint64_t pages = 0;
  absl::Status status;
  while (status.ok()) {
    const absl::StatusOr<PoolRun> run = pool->AllocateRun(256, 1, 0, kPageSizeBytes);
    status = run.status();
    if (run.ok()) pages += run->pages;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_TRUE(absl::StrContains(std::string(status.message()), "may grow to")) << status;
  EXPECT_GT(pages * kPageSizeBytes, 48 * kTestMiB);
  EXPECT_LE(pool->Stats()->file_size_bytes, 64 * kTestMiB);
  ExpectStatsAddUp(*pool);
}

TEST_P(PoolSpaceTest, LargeRunsGrowThePoolByEnough) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  for (const uint64_t pages : {512, 15 * 512, 256 * 512, 100 * 512}) {
    const absl::StatusOr<PoolRun> run = pool->AllocateRun(pages, 1, 0, kPageSizeBytes);
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->pages, pages);
    ASSERT_OK(pool->CommitRun(*run));
  }
  ASSERT_OK(pool->Close());
  pool = MustOpen(path_);
  EXPECT_EQ(LiveRuns(*pool).size(), 4u);
  EXPECT_LT(Blocks(*pool), 8 * kTestMiB);
}

// Random allocations, commits, releases, closes and crashes against a map of what must be there.
// Each run carries its number in its first and last words.
TEST_P(PoolSpaceTest, AgreesWithTheModel) {
  std::mt19937_64 random(7);
  std::unique_ptr<Pool> pool = MustOpen(path_);
  std::map<uint64_t, PoolRun> live;  // By first page.
  const auto word_at = [&](uint64_t offset) -> uint64_t& {
    return *reinterpret_cast<uint64_t*>(pool->At(offset));
  };
  const int steps = on_memory() ? 1500 : 200;
  for (int step = 0; step < steps; ++step) {
    if (random() % 8 < 5) {
      const uint64_t wanted =
          random() % 16 == 0 ? 1 + random() % 2000 : uint64_t{1} << (random() % 9);
      const PoolRun run = MustAllocate(*pool, wanted, 1 + random() % 255, random() & 0xffff);
      ASSERT_EQ(run.pages, RoundToRunPages(wanted));
      const auto after = live.lower_bound(run.first_page);
      ASSERT_TRUE(after == live.end() || run.first_page + run.pages <= after->first);
      ASSERT_TRUE(after == live.begin() ||
                  std::prev(after)->first + std::prev(after)->second.pages <= run.first_page);
      word_at(run.offset()) = run.first_page;
      word_at(run.offset() + wanted * kPageSizeBytes - 8) = run.first_page + wanted;
      if (random() % 8 == 0) {
        ASSERT_OK(pool->ReleaseRun(run));
      } else {
        ASSERT_OK(pool->CommitRun(run));
        live[run.first_page] = run;
      }
    } else if (!live.empty()) {
      auto run = live.lower_bound(live.begin()->first + random() % 20000);
      if (run == live.end()) run = live.begin();
      EXPECT_EQ(word_at(run->second.offset()), run->first);
      ASSERT_OK(pool->ReleaseRun(run->second));
      live.erase(run);
    }
    if (step % (steps / 5) != steps / 5 - 1) continue;
    if (random() % 2 == 0) {
      ASSERT_OK(pool->Close());
    }
    pool.reset();
    pool = MustOpen(path_);
    const std::vector<PoolRun> found = LiveRuns(*pool);
    ASSERT_EQ(found.size(), live.size());
    auto expected = live.begin();
    for (const PoolRun& run : found) {
      ASSERT_EQ(run.first_page, expected->first);
      ASSERT_EQ(run.pages, expected->second.pages);
      ASSERT_EQ(run.kind, expected->second.kind);
      ASSERT_EQ(run.owner, expected->second.owner);
      ASSERT_EQ(word_at(run.offset()), run.first_page);
      ++expected;
    }
    ExpectStatsAddUp(*pool);
  }
}

TEST_P(PoolSpaceTest, ThreadsAllocateAndReleaseAtTheSameTime) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const int steps = on_memory() ? 400 : 40;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> found{0};
  std::vector<std::thread> threads;
  for (uint64_t id = 1; id <= 3; ++id) {
    threads.emplace_back([&, id] {
      std::mt19937_64 random(id);
      std::vector<PoolRun> mine;
      for (int step = 0; step < steps; ++step) {
        const uint64_t pages = uint64_t{1} << (random() % 10);
        PoolRun run = MustAllocate(*pool, pages, static_cast<uint8_t>(id));
        uint64_t* words = reinterpret_cast<uint64_t*>(pool->At(run.offset()));
        words[0] = id;
        words[pages * 512 - 1] = id;
        pool->Flush(words, sizeof(*words));
        if (random() % 4 != 0) {
          EXPECT_TRUE(pool->CommitRun(run).ok());
        }
        mine.push_back(run);
        if (mine.size() < 20) continue;
        std::swap(mine[random() % mine.size()], mine.back());
        run = mine.back();
        mine.pop_back();
        words = reinterpret_cast<uint64_t*>(pool->At(run.offset()));
        EXPECT_EQ(words[0], id);
        EXPECT_EQ(words[run.pages * 512 - 1], id);
        EXPECT_TRUE(pool->ReleaseRun(run).ok());
      }
      for (const PoolRun& run : mine) EXPECT_TRUE(pool->ReleaseRun(run).ok());
    });
  }
  std::thread reader([&] {
    std::mt19937_64 random(99);
    while (!stop) {
      const absl::Status walked = pool->ForEachRun([&](const PoolRun& run) {
        const absl::StatusOr<PoolRun> again = pool->FindRun(run.first_page + run.pages / 2);
        if (again.ok()) ++found;
        EXPECT_TRUE(again.ok() || absl::IsNotFound(again.status())) << again.status();
        return absl::OkStatus();
      });
      EXPECT_TRUE(walked.ok()) << walked;
      if (random() % 8 == 0) {
        EXPECT_TRUE(pool->Trim().ok());
      }
      if (random() % 8 == 0) ExpectStatsAddUp(*pool);
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  reader.join();
  EXPECT_GT(found, 0u);
  const absl::StatusOr<PoolStats> stats = pool->Stats();
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->free_pages, stats->segment_pages);
}

// A memory file system of 64 MiB of its own.
class FullFileSystemTest : public ::testing::Test {
 protected:
  FullFileSystemTest() : scratch_(ScratchDirectory::OnDisk()) {}
  void SetUp() override {
    if (!MountOwnTmpfs(scratch_.path(), "size=64m")) {
      GTEST_SKIP() << "needs the right to mount a small tmpfs: " << std::strerror(errno);
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(scratch_.path().c_str(), MNT_DETACH);
  }
  uint64_t FreeBytes() const {
    struct statvfs info;
    EXPECT_EQ(statvfs(scratch_.path().c_str(), &info), 0);
    return info.f_bavail * info.f_frsize;
  }

  const ScratchDirectory scratch_;
  bool mounted_ = false;
};

TEST_F(FullFileSystemTest, AFullFileSystemIsAStatusAndReleasesGoOn) {
  const std::string path = scratch_.Child("store");
  std::unique_ptr<Pool> pool = MustOpen(path);
  std::vector<PoolRun> runs;
  absl::Status status;
  // The step of growth, then smaller and smaller ones, until nothing is left.
  for (const uint64_t pages : {256, 16, 1}) {
    while (true) {
      const absl::StatusOr<PoolRun> run = pool->AllocateRun(pages, 1, 0, pages * kPageSizeBytes);
      status = run.status();
      if (!status.ok()) break;
      std::memset(pool->At(run->offset()), 0x77, run->size_bytes());
      ASSERT_OK(pool->CommitRun(*run));
      runs.push_back(*run);
    }
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  }
  uint64_t pages = 0;
  for (const PoolRun& run : runs) pages += run.pages;
  EXPECT_GT(pages * kPageSizeBytes, 52 * kTestMiB);
  ExpectStatsAddUp(*pool);

  // What was refused has left nothing behind: the pool reopens, whole.
  pool.reset();
  pool = MustOpen(path);
  ASSERT_EQ(LiveRuns(*pool).size(), runs.size());
  for (const PoolRun& run : runs) ASSERT_EQ(*pool->At(run.offset() + run.size_bytes() - 1), 0x77);
  EXPECT_TRUE(absl::IsResourceExhausted(pool->AllocateRun(256, 1, 0, kTestMiB).status()));
  for (const PoolRun& run : runs) ASSERT_OK(pool->ReleaseRun(run));
  EXPECT_GT(FreeBytes(), 52 * kTestMiB);
  ASSERT_OK(pool->CommitRun(MustAllocate(*pool, 256)));
  ASSERT_OK(pool->Close());
  EXPECT_EQ(LiveRuns(*MustOpen(path)).size(), 1u);
}

TEST_F(FullFileSystemTest, HolesThatOthersFilledAreAStatusToo) {
  std::unique_ptr<Pool> pool = MustOpen(scratch_.Child("store"));
  ASSERT_OK(pool->ReleaseRun(MustAllocate(*pool, 8192)));
  ASSERT_TRUE(pool->Trim().ok());
  const std::string hog = scratch_.Child("hog");
  const int fd = open(hog.c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(posix_fallocate(fd, 0, static_cast<off_t>(FreeBytes() - kTestMiB)), 0);
  const absl::StatusOr<PoolRun> refused = pool->AllocateRun(1024, 1, 0, 4 * kTestMiB);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_GE(FreeBytes(), kTestMiB * 3 / 4);
  // A run of the same size with fewer bytes to use fits.
  const absl::StatusOr<PoolRun> fits = pool->AllocateRun(1024, 1, 0, kTestMiB / 2);
  ASSERT_TRUE(fits.ok()) << fits.status();
  std::memset(pool->At(fits->offset()), 1, kTestMiB / 2);
  ExpectStatsAddUp(*pool);
  close(fd);
}

TEST_F(FullFileSystemTest, CreationWithoutRoomLeavesNothing) {
  const std::string hog = scratch_.Child("hog");
  const int fd = open(hog.c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(posix_fallocate(fd, 0, static_cast<off_t>(FreeBytes() - 3 * kTestMiB)), 0);
  const std::string path = scratch_.Child("store");
  const absl::Status status = Pool::Open(path, TestOptions()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(FreeBytes(), 2 * kTestMiB);
  close(fd);
  unlink(hog.c_str());
  MustOpen(path);
}

}  // namespace
}  // namespace daxkv::dax
