// Growth, which makes the files longer by holes, and blocks that come ahead of those who need them:
// what a step costs, where libpmemobj writes to it, full file systems at every point of it, and
// crashes between its parts.
//
// This binary stands in for fallocate, ftruncate and linkat, and passes them on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "dax/pool.h"
#include "tests/dax/fallocate_watch.h"
#include "tests/dax/own_tmpfs.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

// The process dies after the n-th call of that kind; 0: never.
std::atomic<int> g_truncations_to_live{0}, g_links_to_live{0};
std::atomic<uint64_t> g_largest_reservation{0};

void DieAfter(std::atomic<int>& calls_to_live) {
  if (calls_to_live.load() != 0 && calls_to_live.fetch_sub(1) == 1) kill(getpid(), SIGKILL);
}

}  // namespace
}  // namespace daxkv::dax

int daxkv::OnFallocate(off_t length) {
  if (static_cast<uint64_t>(length) > dax::g_largest_reservation.load()) {
    dax::g_largest_reservation = static_cast<uint64_t>(length);
  }
  return 0;
}

extern "C" {
int ftruncate(int fd, off_t length) noexcept {
  const int result = static_cast<int>(syscall(SYS_ftruncate, fd, length));
  daxkv::dax::DieAfter(daxkv::dax::g_truncations_to_live);
  return result;
}
int linkat(int from_dir, const char* from, int to_dir, const char* to, int flags) noexcept {
  const int result = static_cast<int>(syscall(SYS_linkat, from_dir, from, to_dir, to, flags));
  daxkv::dax::DieAfter(daxkv::dax::g_links_to_live);
  return result;
}
}

namespace daxkv::dax {
namespace {

// A store into a hole that finds no block ends the test.
PoolOptions Options() {
  PoolOptions options;
  options.max_size_bytes = 64 * kGiB;
  options.sigbus = SigbusPolicy::kOff;
  return options;
}

PoolStats StatsOf(const Pool& pool) {
  const absl::StatusOr<PoolStats> stats = pool.Stats();
  EXPECT_TRUE(stats.ok()) << stats.status();
  return stats.ok() ? *stats : PoolStats();
}

// Commits a run and fills what it may.
PoolRun MustFill(Pool& pool, uint64_t pages, char fill) {
  const PoolRun run = MustAllocate(pool, pages);
  std::memset(pool.At(run.offset()), fill, run.size_bytes());
  EXPECT_TRUE(pool.Persist(pool.At(run.offset()), run.size_bytes()).ok());
  EXPECT_TRUE(pool.CommitRun(run).ok());
  return run;
}

// Of the largest size, but with blocks for a single page, which it fills.
void MustFillOnePageOfMost(Pool& pool, char fill) {
  const absl::StatusOr<PoolRun> run = pool.AllocateRun(kMaxRunPages, 1, 0, kPageSizeBytes);
  ASSERT_TRUE(run.ok()) << run.status();
  std::memset(pool.At(run->offset()), fill, kPageSizeBytes);
  ASSERT_OK(pool.CommitRun(*run));
}

class PoolGrowthTest : public ::testing::TestWithParam<bool> {
 protected:
  PoolGrowthTest()
      : scratch_(GetParam() ? ScratchDirectory::OnMemory() : ScratchDirectory::OnDisk()),
        path_(scratch_.Child("store")) {}

  const ScratchDirectory scratch_;
  const std::string path_;
};

TEST_P(PoolGrowthTest, AStepAddsNoBlocksButOfItsOwnRecords) {
  std::unique_ptr<Pool> pool = MustOpen(path_, Options());
  const uint64_t blocks_before = StatsOf(*pool).file_blocks_bytes;
  g_largest_reservation = 0;
  // 8 GiB, of which one page is wanted; the next one begins a new zone of libpmemobj's heap.
  for (int i = 0; i < 3; ++i) MustFillOnePageOfMost(*pool, 'a');
  const PoolStats stats = StatsOf(*pool);
  EXPECT_GE(stats.file_size_bytes, 24 * kGiB);
  // Descriptor words are 1/512.
  EXPECT_LE(stats.file_blocks_bytes - blocks_before, stats.file_size_bytes / 512 + 4 * kTestMiB);
  EXPECT_LE(g_largest_reservation.load(), 20 * kTestMiB);
  ASSERT_OK(pool->Close());
  EXPECT_EQ(LiveRuns(*MustOpen(path_, Options())).size(), 3u);
}

TEST_P(PoolGrowthTest, ACrashWhileThePartIsMadeLosesNothing) {
  for (std::atomic<int>* calls : {&g_truncations_to_live, &g_links_to_live}) {
    ASSERT_OK(MustOpen(path_, Options())->Close());
    CrashAfter([&] {
      std::unique_ptr<Pool> pool = MustOpen(path_, Options());
      MustFill(*pool, 16, 'a');
      *calls = 1;
      MustAllocate(*pool, 64 * kHugePages);
      _exit(1);  // It did not come by there.
    });
    std::unique_ptr<Pool> pool = MustOpen(path_, Options());
    EXPECT_FALSE(pool->was_clean());
    const std::vector<PoolRun> before = LiveRuns(*pool);
    ASSERT_EQ(before.size(), 1u);
    EXPECT_EQ(*pool->At(before[0].offset() + before[0].size_bytes() - 1), 'a');
    MustFill(*pool, 64 * kHugePages, 'b');
    ASSERT_OK(pool->Close());
    EXPECT_EQ(LiveRuns(*MustOpen(path_, Options())).size(), 2u);
    std::filesystem::remove_all(path_);
  }
}

// The part was there, libpmemobj had not taken it, and it ends in the heap's next zone: libpmemobj
// took that zone's size for more than the pool's, and stored behind the pool's end.
TEST_P(PoolGrowthTest, ACrashBeforeAPartAcrossAZoneIsTakenLosesNothing) {
  CrashAfter([&] {
    std::unique_ptr<Pool> pool = MustOpen(path_, Options());
    MustFillOnePageOfMost(*pool, 'a');
    g_links_to_live = 1;
    MustFillOnePageOfMost(*pool, 'b');
    _exit(1);  // It did not come by there.
  });
  // The part is gone.
  EXPECT_LE(StatsOf(*MustOpen(path_, Options())).file_size_bytes, 10 * kGiB);
  for (char fill = 'b'; fill < 'e'; ++fill) {
    std::unique_ptr<Pool> pool = MustOpen(path_, Options());
    const std::vector<PoolRun> before = LiveRuns(*pool);
    ASSERT_EQ(before.size(), static_cast<size_t>(fill - 'a'));
    for (const PoolRun& run : before) EXPECT_NE(*pool->At(run.offset()), 0);
    MustFillOnePageOfMost(*pool, fill);
    ASSERT_OK(pool->Close());
  }
}

TEST_P(PoolGrowthTest, BlocksComeAheadOfRunsInUse) {
  std::unique_ptr<Pool> pool = MustOpen(path_, Options());
  EXPECT_FALSE(pool->WantsReserveAhead());
  MustFill(*pool, 16, 'a');
  EXPECT_TRUE(pool->WantsReserveAhead());
  pool->ReserveAhead();  // Too small.
  EXPECT_FALSE(pool->WantsReserveAhead());
  MustFill(*pool, 64 * kHugePages, 'b');
  MustFill(*pool, kHugePages, 'b');  // A step of growth, and most of it is free.
  const uint64_t before = StatsOf(*pool).file_blocks_bytes;
  pool->ReserveAhead();
  const uint64_t ahead = StatsOf(*pool).file_blocks_bytes - before;
  EXPECT_GE(ahead, 2 * kTestMiB);
  EXPECT_LE(ahead, 2 * kTestMiB + 64 * 1024);
  pool->ReserveAhead();  // Nothing to add.
  EXPECT_EQ(StatsOf(*pool).file_blocks_bytes, before + ahead);

  // The next run lies there, and needs no reservation of its own.
  g_largest_reservation = 0;
  const PoolRun first = MustFill(*pool, kHugePages, 'c');
  EXPECT_TRUE(pool->WantsReserveAhead());
  EXPECT_EQ(g_largest_reservation.load(), 0u);
  EXPECT_EQ(StatsOf(*pool).file_blocks_bytes, before + ahead);

  // What is ahead goes back when nobody needs it, and after a crash.
  pool->ReserveAhead();
  ASSERT_OK(pool->TrimSpare());
  EXPECT_LE(StatsOf(*pool).file_blocks_bytes, before + ahead);
  pool->ReserveAhead();
  pool.reset();
  pool = MustOpen(path_, Options());
  ASSERT_TRUE(pool->Trim().ok());
  EXPECT_LE(StatsOf(*pool).file_blocks_bytes, before + ahead);
  EXPECT_EQ(*pool->At(first.offset() + first.size_bytes() - 1), 'c');
}

// Who allocates finds room that is there already.
TEST_P(PoolGrowthTest, StepsComeAheadOfRunsWithProcessDurability) {
  PoolOptions options = Options();
  options.durability = Durability::kProcess;
  std::unique_ptr<Pool> pool = MustOpen(path_, options);
  if (pool->media().media_class != MediaClass::kPageCache) GTEST_SKIP() << "nothing to wait for";
  const auto file_size_bytes = [&] { return StatsOf(*pool).file_size_bytes; };
  const uint64_t small = file_size_bytes();
  MustFill(*pool, 16, 'a');
  pool->ReserveAhead();
  EXPECT_EQ(file_size_bytes(), small) << "half of it is free";
  uint64_t steps = 0;
  for (int filled = 0; filled < 256; ++filled) {
    const uint64_t before = file_size_bytes();
    MustFill(*pool, 128, 'b');
    EXPECT_EQ(file_size_bytes(), before) << "run " << filled << " had to grow the pool";
    if (pool->WantsReserveAhead()) pool->ReserveAhead();
    steps += file_size_bytes() > before ? 1 : 0;
    // No farther ahead than one step.
    const PoolStats stats = StatsOf(*pool);
    const uint64_t used_bytes = (stats.segment_pages - stats.free_pages) * kPageSizeBytes;
    EXPECT_LE(stats.file_size_bytes, 2 * used_bytes + 32 * kTestMiB);
  }
  EXPECT_GE(steps, 3u);
}

// Runs come, go and are filled beside it; each must find its own bytes again, also after a crash.
TEST_P(PoolGrowthTest, RunsComeAndGoBesideIt) {
  std::unique_ptr<Pool> pool = MustOpen(path_, Options());
  MustFill(*pool, 36 * kHugePages, 'x');
  std::atomic<bool> stop{false};
  std::thread ahead([&] {
    for (int i = 0; !stop.load(); ++i) {
      pool->ReserveAhead();
      if (i % 32 == 0) {
        EXPECT_TRUE(pool->TrimSpare().ok());
      } else if (i % 16 == 0) {
        EXPECT_TRUE(pool->Trim().ok());
      }
    }
  });
  std::vector<PoolRun> runs;
  for (int i = 0; i < 600; ++i) {
    const absl::StatusOr<PoolRun> run =
        pool->AllocateRun(uint64_t{1} << (i % 9), 1, 0, kPageSizeBytes << (i % 9));
    ASSERT_TRUE(run.ok()) << run.status();
    std::memset(pool->At(run->offset()), 1 + i % 100, run->size_bytes());
    ASSERT_OK(pool->CommitRun(*run));
    runs.push_back(*run);
    if (i % 3 != 0) continue;
    ASSERT_OK(pool->ReleaseRun(runs[runs.size() / 2]));
    runs.erase(runs.begin() + static_cast<std::ptrdiff_t>(runs.size() / 2));
  }
  stop = true;
  ahead.join();
  ASSERT_OK(pool->Sync());
  std::vector<char> last;
  for (const PoolRun& run : runs) {
    last.push_back(*pool->At(run.offset()));
    EXPECT_EQ(*pool->At(run.offset() + run.size_bytes() - 1), last.back());
  }
  pool.reset();
  pool = MustOpen(path_, Options());
  for (size_t i = 0; i < runs.size(); ++i) ASSERT_EQ(*pool->At(runs[i].offset()), last[i]);
  // A page of no run has no block left.
  ASSERT_TRUE(pool->Trim().ok());
  const PoolStats stats = StatsOf(*pool);
  EXPECT_LE(stats.file_blocks_bytes, stats.live_pages * kPageSizeBytes + 10 * kTestMiB);
}

INSTANTIATE_TEST_SUITE_P(Media, PoolGrowthTest, ::testing::Bool(), [](const auto& param_info) {
  return std::string(param_info.param ? "Memory" : "Disk");
});

class FullGrowthTest : public ::testing::Test {
 protected:
  FullGrowthTest() : scratch_(ScratchDirectory::OnDisk()) {}
  void TearDown() override {
    if (mounted_) umount2(scratch_.path().c_str(), MNT_DETACH);
  }
  bool Mount(const std::string& options) {
    return mounted_ = MountOwnTmpfs(scratch_.path(), options);
  }
  uint64_t FreeBytes() const {
    struct statvfs info;
    EXPECT_EQ(statvfs(scratch_.path().c_str(), &info), 0);
    return info.f_bavail * info.f_frsize;
  }
  // Leaves so much of the file system, by a file of the size it takes.
  void Leave(uint64_t bytes) {
    const int fd = open(scratch_.Child("hog").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    ASSERT_GE(fd, 0);
    if (FreeBytes() > bytes) {
      ASSERT_EQ(posix_fallocate(fd, 0, static_cast<off_t>(FreeBytes() - bytes)), 0);
    }
    close(fd);
  }

  const ScratchDirectory scratch_;
  bool mounted_ = false;
};

// Growth by 8 GiB and over the end of a zone, with every amount of blocks left that could be too
// little for one of the records that it writes.
TEST_F(FullGrowthTest, NoRecordOfAStepLacksItsBlock) {
  if (!Mount("size=192m")) GTEST_SKIP() << "needs the right to mount a small tmpfs";
  const std::string path = scratch_.Child("store");
  int refused = 0;
  for (const uint64_t kib :
       {0, 4, 8, 64, 512, 1024, 4096, 12000, 16384, 16400, 16416, 16640, 16900, 17000, 17400}) {
    std::unique_ptr<Pool> pool = MustOpen(path, Options());
    for (int run = 0; run < 3; ++run) {
      if (run > 0) Leave(kib * 1024);
      const absl::StatusOr<PoolRun> large = pool->AllocateRun(kMaxRunPages, 1, 0, kPageSizeBytes);
      if (!large.ok()) {
        ASSERT_TRUE(absl::IsResourceExhausted(large.status())) << large.status();
        ++refused;
      }
    }
    // The same pool, and the same after a crash, goes on when there is room.
    ASSERT_EQ(unlink(scratch_.Child("hog").c_str()), 0);
    if (kib % 8 == 0) pool.reset();
    if (pool == nullptr) pool = MustOpen(path, Options());
    MustFill(*pool, kHugePages, 'a');
    for (int run = 0; run < 2; ++run) {
      const absl::StatusOr<PoolRun> large = pool->AllocateRun(kMaxRunPages, 1, 0, kPageSizeBytes);
      ASSERT_TRUE(large.ok()) << kib << ": " << large.status();
    }
    ASSERT_OK(pool->Close());
    ASSERT_EQ(LiveRuns(*MustOpen(path, Options())).size(), 1u);
    std::filesystem::remove_all(path);
  }
  EXPECT_GE(refused, 8);
}

// A crash has left the longer file, and no block can be had at the next open.
TEST_F(FullGrowthTest, AnOpenAfterACrashNeedsNoBlocks) {
  if (!Mount("size=192m")) GTEST_SKIP() << "needs the right to mount a small tmpfs";
  const std::string path = scratch_.Child("store");
  CrashAfter([&] {
    std::unique_ptr<Pool> pool = MustOpen(path, Options());
    MustFill(*pool, 16, 'a');
    g_links_to_live = 1;
    MustAllocate(*pool, 16 * kHugePages);
    _exit(1);  // It did not come by there.
  });
  Leave(0);
  std::unique_ptr<Pool> pool = MustOpen(path, Options());
  EXPECT_EQ(LiveRuns(*pool).size(), 1u);
  const auto allocate = [&pool] {
    return pool->AllocateRun(kMaxRunPages, 1, 0, kPageSizeBytes).status();
  };
  EXPECT_TRUE(absl::IsResourceExhausted(allocate())) << allocate();
  ASSERT_EQ(unlink(scratch_.Child("hog").c_str()), 0);
  EXPECT_TRUE(allocate().ok()) << allocate();
  ASSERT_OK(pool->Close());
}

// What is reserved ahead is there for whoever needs it, to the last 4 KiB, and a block of which the
// file system has only a part leaves that to others.
TEST_F(FullGrowthTest, BlocksAheadRefuseNobody) {
  if (!Mount("size=160m")) GTEST_SKIP() << "needs the right to mount a small tmpfs";
  std::unique_ptr<Pool> pool = MustOpen(scratch_.Child("store"), Options());
  MustFill(*pool, 48 * kHugePages, 'a');
  MustFill(*pool, 16, 'b');
  std::atomic<bool> stop{false};
  std::thread ahead([&] {
    while (!stop.load()) pool->ReserveAhead();
  });
  uint64_t fill = 0;
  absl::Status status;
  while (true) {
    const absl::StatusOr<PoolRun> run = pool->AllocateRun(16, 1, 0, 16 * kPageSizeBytes);
    status = run.status();
    if (!status.ok()) break;
    std::memset(pool->At(run->offset()), static_cast<int>(fill++), run->size_bytes());
    ASSERT_OK(pool->CommitRun(*run));
  }
  stop = true;
  ahead.join();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  pool->ReserveAhead();
  // Less is left than a run, and what a step of growth may have taken for its own records.
  EXPECT_LT(FreeBytes(), 16 * kPageSizeBytes + kTestMiB);
  ASSERT_OK(pool->Close());
}

}  // namespace
}  // namespace daxkv::dax
