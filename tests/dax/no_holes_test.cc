// A pool on a file system that can't punch: nothing is given back, nothing is lost, all is reused.
// And one that can: neighbours are punched together. Defines fallocate itself, to refuse as such a
// file system does, and to count.
//
// Mutations, each of which must fail the test named (mutations/run):
//   TrimGivesNothingBackAndSaysSo: trimming fails where there are no holes
//   LostPageIsNeverHandedOutAgain: a lost page that was not punched counts as fresh
//   NeighboursArePunchedTogether: each released run is punched by itself
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "dax/mapping.h"
#include "tests/dax/pool_test_base.h"

namespace {

bool g_has_holes = false;
std::vector<off_t> g_punched_bytes;  // Of each punch.

}  // namespace

extern "C" int fallocate(int fd, int mode, off_t offset, off_t size_bytes) {
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    if (!g_has_holes) {
      errno = EOPNOTSUPP;
      return -1;
    }
    g_punched_bytes.push_back(size_bytes);
  }
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, size_bytes));
}

namespace daxkv::dax {
namespace {

bool Holds(const PoolRun& run, uint64_t page) {
  return page >= run.first_page && page < run.first_page + run.pages;
}

class NoHolesTest : public testing::Test {
 protected:
  PoolRun LiveRun(Pool& pool, uint64_t pages) {
    const PoolRun run = MustAllocate(pool, pages);
    EXPECT_TRUE(pool.CommitRun(run).ok());
    return run;
  }

  ScratchDirectory directory_{ScratchDirectory::OnMemory()};
  const std::string path_ = directory_.Child("pool");
};

TEST_F(NoHolesTest, TrimGivesNothingBackAndSaysSo) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const PoolRun run = LiveRun(*pool, kHugePages);
  ASSERT_OK(pool->ReleaseRun(run));
  const absl::StatusOr<uint64_t> freed = pool->Trim();
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_EQ(*freed, 0u);
  EXPECT_FALSE(pool->Stats()->has_holes);
  const uint64_t size_bytes = pool->Stats()->file_size_bytes;
  for (int i = 0; i < 100; ++i) {
    const PoolRun again = LiveRun(*pool, kHugePages);
    ASSERT_OK(pool->ReleaseRun(again));
  }
  EXPECT_EQ(pool->Stats()->file_size_bytes, size_bytes) << "released runs are not used again";
  ASSERT_OK(pool->Close());
  pool = MustOpen(path_);
  EXPECT_TRUE(pool->was_clean());
  EXPECT_TRUE(LiveRuns(*pool).empty());
}

// No punch, no fresh blocks: a lost page stays out of use for ever.
TEST_F(NoHolesTest, LostPageIsNeverHandedOutAgain) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const PoolRun run = LiveRun(*pool, 16);
  const uint64_t bad = run.first_page + 3;
  ASSERT_OK(pool->ReportLostPage(bad));
  ASSERT_OK(pool->ReleaseRun(run));
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(pool->ListLostPages(), std::vector<uint64_t>{bad});
    EXPECT_EQ(pool->Stats()->quarantined_pages, 1u);
    EXPECT_TRUE(pool->Trim().ok());
    // More than there is room for in the segment of the page.
    std::vector<PoolRun> runs;
    for (int i = 0; i < 2000; ++i) {
      runs.push_back(MustAllocate(*pool, 1));
      ASSERT_FALSE(Holds(runs.back(), bad));
    }
    for (const PoolRun& taken : runs) ASSERT_OK(pool->ReleaseRun(taken));
    if (round == 0) {
      ASSERT_OK(pool->Close());
    } else {
      pool.reset();  // As a crash does.
    }
    pool = MustOpen(path_);
  }
}

class PunchTest : public NoHolesTest {
 protected:
  PunchTest() { g_has_holes = true; }
  ~PunchTest() override { g_has_holes = false; }
};

TEST_F(PunchTest, NeighboursArePunchedTogether) {
  const std::unique_ptr<Pool> pool = MustOpen(path_);
  std::vector<PoolRun> runs;
  for (int i = 0; i < 8; ++i) runs.push_back(LiveRun(*pool, 4));
  const uint64_t first = runs.front().first_page;
  for (size_t i = 0; i < runs.size(); ++i) ASSERT_EQ(runs[i].first_page, first + i * 4);
  const std::unique_ptr<ExtentProvider> provider = NewIdentityProvider(pool.get());
  Mapping mapping(pool.get(), provider.get());
  ASSERT_TRUE(mapping.Fault(first + 8, 2, Access::kRead).ok());  // The others were never touched.
  g_punched_bytes.clear();
  ASSERT_OK(mapping.Truncate(first, 12, absl::InfinitePast()));
  EXPECT_EQ(g_punched_bytes, std::vector<off_t>{12 * kPageSizeBytes});
  ASSERT_OK(pool->ReleaseRuns({runs[4], runs[6], runs[7]}));
  EXPECT_EQ(g_punched_bytes,
            (std::vector<off_t>{12 * kPageSizeBytes, 4 * kPageSizeBytes, 8 * kPageSizeBytes}));
  ASSERT_OK(pool->ReleaseRuns({runs[3], runs[5]}));
}

}  // namespace
}  // namespace daxkv::dax
