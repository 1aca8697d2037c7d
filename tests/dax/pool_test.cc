// The pool's life: create, open, close, crash; runs through their states; durability calls.

#include "dax/pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

// Every test of the suite runs on a memory file system and on disk, by which the media class, and
// with it the way of flushing, differs.
class PoolTest : public ::testing::TestWithParam<const char*> {
 protected:
  PoolTest()
      : scratch_(std::string_view(GetParam()) == "memory" ? ScratchDirectory::OnMemory()
                                                          : ScratchDirectory::OnDisk()),
        path_(scratch_.Child("store")) {}

  const ScratchDirectory scratch_;
  const std::string path_;
};

INSTANTIATE_TEST_SUITE_P(Media, PoolTest, ::testing::Values("memory", "disk"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(PoolTest, CommittedRunsSurviveACloseAndReservedOnesDoNot) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_TRUE(pool->was_clean());
  EXPECT_EQ(pool->open_epoch(), 1u);
  EXPECT_EQ(pool->shape(), PoolShape::kDirectory);
  const PoolRun kept = MustAllocate(*pool, 4, 7, 99);
  const PoolRun dropped = MustAllocate(*pool, 8);
  std::memset(pool->At(kept.offset()), 0x5a, kept.size_bytes());
  ASSERT_OK(pool->Persist(pool->At(kept.offset()), kept.size_bytes()));
  ASSERT_OK(pool->CommitRun(kept));
  ASSERT_OK(pool->Close());

  pool = MustOpen(path_);
  EXPECT_TRUE(pool->was_clean());
  EXPECT_EQ(pool->open_epoch(), 2u);
  const std::vector<PoolRun> live = LiveRuns(*pool);
  ASSERT_EQ(live.size(), 1u);
  EXPECT_EQ(live[0].first_page, kept.first_page);
  EXPECT_EQ(live[0].pages, 4u);
  EXPECT_EQ(live[0].kind, 7);
  EXPECT_EQ(live[0].owner, 99);
  EXPECT_TRUE(live[0].live);
  EXPECT_EQ(std::string(pool->At(kept.offset()), kept.size_bytes()),
            std::string(kept.size_bytes(), 0x5a));
  EXPECT_TRUE(absl::IsNotFound(pool->FindRun(dropped.first_page).status()));
  const absl::StatusOr<PoolStats> stats = pool->Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->live_pages, 4u);
  EXPECT_EQ(stats->reserved_pages, 0u);
  EXPECT_EQ(stats->live_pages + stats->free_pages, stats->segment_pages);
}

TEST_P(PoolTest, ACrashKeepsCommittedRunsAndFreesReservedOnes) {
  MustOpen(path_)->Close().IgnoreError();
  CrashAfter([&] {
    std::unique_ptr<Pool> pool = MustOpen(path_);
    const PoolRun kept = MustAllocate(*pool, 16, 3);
    std::memcpy(pool->At(kept.offset()), "kept", 4);
    pool->Persist(pool->At(kept.offset()), 4).IgnoreError();
    if (!pool->CommitRun(kept).ok()) std::abort();
    MustAllocate(*pool, 512, 4);
    MustAllocate(*pool, 1, 5);
  });
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_FALSE(pool->was_clean());
  EXPECT_EQ(pool->open_epoch(), 3u);
  const std::vector<PoolRun> live = LiveRuns(*pool);
  ASSERT_EQ(live.size(), 1u);
  EXPECT_EQ(live[0].kind, 3);
  EXPECT_EQ(std::string(pool->At(live[0].offset()), 4), "kept");
  const absl::StatusOr<PoolStats> stats = pool->Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->segment_pages, stats->free_pages + 16);
}

TEST_P(PoolTest, FindRunKnowsEveryPageOfARun) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  for (const uint64_t pages : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096}) {
    const PoolRun run = MustAllocate(*pool, pages, 9, static_cast<uint16_t>(pages));
    EXPECT_EQ(run.first_page % std::min<uint64_t>(pages, 512), 0u) << pages;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool->At(run.offset())) %
                  (std::min<uint64_t>(pages, 512) * kPageSizeBytes),
              0u);
    for (uint64_t page = run.first_page; page < run.first_page + pages; ++page) {
      const absl::StatusOr<PoolRun> found = pool->FindRun(page);
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->first_page, run.first_page);
      EXPECT_EQ(found->pages, pages);
      EXPECT_EQ(found->owner, pages);
      EXPECT_FALSE(found->live);
    }
    EXPECT_TRUE(pool->Contains(run.offset(), run.size_bytes()));
  }
}

TEST_P(PoolTest, RequestsAreRounded) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_EQ(MustAllocate(*pool, 3).pages, 4u);
  EXPECT_EQ(MustAllocate(*pool, 257).pages, 512u);
  EXPECT_EQ(MustAllocate(*pool, 513).pages, 1024u);
  EXPECT_TRUE(absl::IsInvalidArgument(pool->AllocateRun(0, 1, 0, 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(pool->AllocateRun(1, 0, 0, 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(pool->AllocateRun(1, 1, 0, 4097).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(pool->AllocateRun(kMaxRunPages + 1, 1, 0, 0).status()));
}

TEST_P(PoolTest, RunsThatAreNotThereCannotBeCommittedOrReleased) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  PoolRun run = MustAllocate(*pool, 8);
  PoolRun wrong = run;
  wrong.first_page += 4;
  wrong.pages = 4;
  EXPECT_TRUE(absl::IsNotFound(pool->ReleaseRun(wrong)));
  wrong = run;
  wrong.first_page = 0;
  EXPECT_TRUE(absl::IsNotFound(pool->CommitRun(wrong)));
  ASSERT_OK(pool->ReleaseRun(run));
  EXPECT_TRUE(absl::IsNotFound(pool->ReleaseRun(run)));
  EXPECT_TRUE(absl::IsNotFound(pool->CommitRun(run)));
}

TEST_P(PoolTest, TheRootAreaStartsZeroAndStays) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pool->root_area()) % 64, 0u);
  EXPECT_EQ(std::string(pool->root_area(), Pool::kRootAreaSizeBytes),
            std::string(Pool::kRootAreaSizeBytes, 0));
  pool->CopyAndFlush(pool->root_area(), "root", 4);
  ASSERT_OK(pool->Drain());
  ASSERT_OK(pool->Close());
  pool = MustOpen(path_);
  EXPECT_EQ(std::string(pool->root_area(), 4), "root");
}

TEST_P(PoolTest, GrowsAndReopensWithAllItsRuns) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  std::vector<PoolRun> runs;
  for (uint64_t i = 0; i < 60; ++i) {
    runs.push_back(MustAllocate(*pool, i % 6 == 0 ? 1024 : 256, 1, static_cast<uint16_t>(i)));
    std::memset(pool->At(runs.back().offset()), static_cast<int>(i + 1), 4096);
    pool->Flush(pool->At(runs.back().offset()), 4096);
    ASSERT_OK(pool->CommitRun(runs.back()));
  }
  ASSERT_OK(pool->Close());
  pool = MustOpen(path_);
  EXPECT_GT(pool->Stats()->segments, 2u);
  std::vector<PoolRun> live = LiveRuns(*pool);
  ASSERT_EQ(live.size(), runs.size());
  for (const PoolRun& run : live) {
    EXPECT_EQ(*pool->At(run.offset()), static_cast<char>(run.owner + 1));
    EXPECT_EQ(runs[run.owner].first_page, run.first_page);
  }
}

}  // namespace
}  // namespace daxkv::dax
