// What calls after an open look at: a few windows, however many the pool has (pool.h, Lazy work).
// And what they must not do for it: hand pages out twice.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "dax/pool.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kWindows = 12;  // More than one allocation may look at.

uint64_t PagesOf(const std::map<uint64_t, PoolRun>& runs) {
  uint64_t pages = 0;
  for (const auto& [page, run] : runs) pages += run.pages;
  return pages;
}

class PoolWindowsTest : public ::testing::Test {
 protected:
  // A pool with a segment of kWindows windows and a few small ones, all free.
  void SetUp() override {
    pool_ = MustOpen(path_, options_);
    const PoolRun run = Allocate(kWindows * kWindowPages);
    ASSERT_OK(pool_->ReleaseRun(run));
  }
  // Runs without blocks: what is in them is not looked at.
  PoolRun Allocate(uint64_t pages) {
    const absl::StatusOr<PoolRun> run = pool_->AllocateRun(pages, 1, 0, 0);
    EXPECT_TRUE(run.ok()) << run.status();
    return run.value_or(PoolRun());
  }
  PoolRun Commit(uint64_t pages) {
    PoolRun run = Allocate(pages);
    EXPECT_TRUE(pool_->CommitRun(run).ok());
    run.live = true;
    return run;
  }
  // So many runs of `pages` that the pool has no room for another without growth.
  std::vector<PoolRun> Fill(uint64_t pages) {
    std::vector<PoolRun> runs;
    const uint64_t file_size_bytes = pool_->Stats()->file_size_bytes;
    while (pool_->Stats()->largest_free_run_pages >= pages) runs.push_back(Commit(pages));
    EXPECT_EQ(pool_->Stats()->file_size_bytes, file_size_bytes);
    return runs;
  }
  void Reopen(bool crash = false) {
    if (!crash) {
      ASSERT_OK(pool_->Close());
    }
    pool_.reset();
    pool_ = MustOpen(path_, options_);
    ASSERT_EQ(pool_->descriptors_read(), 0u);
  }
  PoolOptions options_ = TestOptions();
  const ScratchDirectory scratch_{ScratchDirectory::OnMemory()};
  const std::string path_ = scratch_.Child("store");
  std::unique_ptr<Pool> pool_;
};

TEST_F(PoolWindowsTest, RoomAtTheEndIsFoundInOneWindow) {
  const std::vector<PoolRun> runs = Fill(kHugePages);
  ASSERT_GT(runs.size() * kHugePages, (kWindows - 1) * kWindowPages);
  const auto last = std::max_element(
      runs.begin(), runs.end(),
      [](const PoolRun& a, const PoolRun& b) { return a.first_page < b.first_page; });
  ASSERT_OK(pool_->ReleaseRun(*last));
  for (const bool crash : {false, true}) {
    Reopen(crash);
    EXPECT_EQ(Allocate(kHugePages).first_page, last->first_page);
    EXPECT_LE(pool_->descriptors_read(), kWindowPages);
  }
}

TEST_F(PoolWindowsTest, WithoutRoomAFewAreLookedAtBeforeThePoolGrows) {
  Fill(kHugePages);
  const uint64_t pages_before = pool_->Stats()->segment_pages;
  Reopen();
  Allocate(kHugePages);
  const uint64_t read = pool_->descriptors_read();
  const uint64_t grown = pool_->Stats()->segment_pages - pages_before;
  EXPECT_GT(grown, 0u);
  EXPECT_LE(read, Pool::kMostWindowsPerRun * kWindowPages + grown);
}

TEST_F(PoolWindowsTest, AReleaseLooksAtTheWindowsOfItsRun) {
  const PoolRun large = Commit(3 * kWindowPages);
  const PoolRun small = Commit(16);
  Reopen();
  ASSERT_OK(pool_->ReleaseRun(small));
  EXPECT_LE(pool_->descriptors_read(), kWindowPages);
  ASSERT_OK(pool_->ReleaseRun(large));
  EXPECT_LE(pool_->descriptors_read(), 5 * kWindowPages);
}

TEST_F(PoolWindowsTest, TheRestIsFoundOnRequest) {
  Commit(kWindowPages / 2);
  const uint64_t pages = pool_->Stats()->segment_pages;
  Reopen();
  for (uint64_t before = 0; pool_->FindMoreFreePages(); before = pool_->descriptors_read()) {
    ASSERT_LE(pool_->descriptors_read() - before, kWindowPages);
  }
  EXPECT_EQ(pool_->descriptors_read(), pages);
  Allocate(1);
  EXPECT_EQ(pool_->descriptors_read(), pages);
}

TEST_F(PoolWindowsTest, AFullPoolIsLookedAtToTheEnd) {
  options_.max_size_bytes = kWindows * kWindowPages * kPageSizeBytes + 64 * kTestMiB;
  ASSERT_OK(pool_->Close());
  pool_ = MustOpen(scratch_.Child("limited"), options_);
  ASSERT_OK(pool_->ReleaseRun(Allocate(kWindows * kWindowPages)));
  std::vector<PoolRun> runs;
  absl::StatusOr<PoolRun> run;
  while ((run = pool_->AllocateRun(kHugePages, 1, 0, 0)).ok()) {
    ASSERT_OK(pool_->CommitRun(*run));
    runs.push_back(*run);
  }
  ASSERT_TRUE(absl::IsResourceExhausted(run.status())) << run.status();
  ASSERT_GT(runs.size() * kHugePages, (kWindows - 1) * kWindowPages);
  for (const size_t i : {size_t{0}, runs.size() / 2, runs.size() - 1}) {
    ASSERT_OK(pool_->ReleaseRun(runs[i]));
    ASSERT_OK(pool_->Close());
    pool_ = MustOpen(scratch_.Child("limited"), options_);
    run = pool_->AllocateRun(kHugePages, 1, 0, 0);
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->first_page, runs[i].first_page);
    ASSERT_OK(pool_->CommitRun(*run));
    EXPECT_TRUE(absl::IsResourceExhausted(pool_->AllocateRun(kHugePages, 1, 0, 0).status()));
  }
}

// Sessions of a few calls each, that end in a close or a crash: most windows are not looked at when
// runs come and go beside them, and across their borders.
TEST_F(PoolWindowsTest, AgreesWithTheModel) {
  std::mt19937_64 random(11);
  std::map<uint64_t, PoolRun> live, reserved;  // By first page.
  const auto expect_no_overlap = [](const std::map<uint64_t, PoolRun>& runs, const PoolRun& run) {
    const auto after = runs.lower_bound(run.first_page);
    ASSERT_TRUE(after == runs.end() || run.first_page + run.pages <= after->first);
    ASSERT_TRUE(after == runs.begin() ||
                std::prev(after)->first + std::prev(after)->second.pages <= run.first_page);
  };
  for (int session = 0; session < 60; ++session) {
    for (int call = 0; call < 12; ++call) {
      if (random() % 8 < 5) {
        const uint64_t wanted =
            random() % 3 == 0 ? 1 + random() % (2 * kWindowPages) : uint64_t{1} << (random() % 10);
        const absl::StatusOr<PoolRun> run = pool_->AllocateRun(wanted, 1, 0, 0);
        if (absl::IsResourceExhausted(run.status())) continue;
        ASSERT_TRUE(run.ok()) << run.status();
        expect_no_overlap(live, *run);
        expect_no_overlap(reserved, *run);
        if (random() % 3 == 0) {
          reserved[run->first_page] = *run;
        } else {
          ASSERT_OK(pool_->CommitRun(*run));
          live[run->first_page] = *run;
          live[run->first_page].live = true;
        }
      } else if (!live.empty()) {
        const auto run = std::next(live.begin(), static_cast<ptrdiff_t>(random() % live.size()));
        ASSERT_OK(pool_->ReleaseRun(run->second));
        live.erase(run);
      }
      if (random() % 8 == 0) pool_->FindMoreFreePages();
    }
    if (random() % 4 == 0) {
      const absl::StatusOr<PoolStats> stats = pool_->Stats();
      ASSERT_TRUE(stats.ok()) << stats.status();
      ASSERT_EQ(stats->free_pages + PagesOf(live) + PagesOf(reserved), stats->segment_pages);
    }
    reserved.clear();
    Reopen(/*crash=*/random() % 3 != 0);
    std::map<uint64_t, PoolRun> found;
    for (uint64_t below = UINT64_MAX, read = 0; below != 0; read = pool_->descriptors_read()) {
      const absl::StatusOr<uint64_t> next = pool_->ForEachRunBelow(below, [&](const PoolRun& run) {
        EXPECT_LT(run.first_page, below);
        EXPECT_TRUE(found.emplace(run.first_page, run).second);
        return absl::OkStatus();
      });
      ASSERT_TRUE(next.ok()) << next.status();
      ASSERT_LT(*next, below);
      below = *next;
      ASSERT_LE(pool_->descriptors_read() - read, kWindowPages);
    }
    ASSERT_EQ(found.size(), live.size());
    for (const auto& [page, run] : live) {
      ASSERT_EQ(found.count(page), 1u);
      ASSERT_EQ(found[page].pages, run.pages);
    }
    pool_.reset();
    pool_ = MustOpen(path_, options_);
  }
}

// A run's pages may be had by others only when its release has punched them, also if their window
// is looked at meanwhile.
TEST_F(PoolWindowsTest, ReleasesAndLooksAtTheSameTimeDisturbNobody) {
  constexpr uint64_t kRunPages = 16;
  for (int round = 0; round < 3; ++round) {
    std::vector<PoolRun> old_runs, fillers;
    for (uint64_t window = 0; window + 1 < kWindows; ++window) {
      for (int i = 0; i < 40; ++i) old_runs.push_back(Commit(kRunPages));
      fillers.push_back(Commit(kWindowPages - kHugePages * 2));
    }
    Reopen(/*crash=*/round == 1);
    std::atomic<bool> done{false};
    std::thread releaser([&] {
      for (const PoolRun& run : old_runs) EXPECT_TRUE(pool_->ReleaseRun(run).ok());
      done = true;
    });
    std::thread looker([&] {
      while (pool_->FindMoreFreePages()) std::this_thread::yield();
    });
    std::vector<PoolRun> own_runs;
    while (!done && own_runs.size() < 2000) {
      own_runs.push_back(MustAllocate(*pool_, kRunPages));
      std::memset(pool_->At(own_runs.back().offset()), 'w', own_runs.back().size_bytes());
    }
    releaser.join();
    looker.join();
    for (const PoolRun& run : own_runs) {
      const char* bytes = pool_->At(run.offset());
      ASSERT_EQ(std::count(bytes, bytes + run.size_bytes(), 'w'), run.size_bytes());
      ASSERT_OK(pool_->ReleaseRun(run));
    }
    for (const PoolRun& run : fillers) ASSERT_OK(pool_->ReleaseRun(run));
    const absl::StatusOr<PoolStats> stats = pool_->Stats();
    ASSERT_TRUE(stats.ok()) << stats.status();
    EXPECT_EQ(stats->free_pages, stats->segment_pages);
  }
}

}  // namespace
}  // namespace daxkv::dax
