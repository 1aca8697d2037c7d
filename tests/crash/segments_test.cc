// Power cuts while segments without runs go back to libpmemobj, and while their memory becomes
// segments again.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/crash/campaign.h"
#include "tests/crash/interposer.h"
#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

constexpr size_t kLargeBytes = 3'000'000;

// A store of several segments, all but the first of which become empty.
const std::vector<Operation>& FullStore() {
  static const auto* setup =
      new std::vector<Operation>(Puts(Keys(0, 5), 100) + Puts(Keys(100, 10), kLargeBytes));
  return *setup;
}
const std::vector<Operation>& EmptyAndRefill() {
  static const auto* operations =
      new std::vector<Operation>(Deletes(Keys(100, 10)) + Compact() + Puts(Keys(200, 2), 60) +
                                 Puts(Keys(300, 5), kLargeBytes) + Deletes(Keys(300, 5)) +
                                 Compact() + CrashAndOpen() + Puts(Keys(400, 5), kLargeBytes));
  return *operations;
}

uint64_t SegmentsOf(Store& store) {
  const absl::StatusOr<kv::Info> info = store.db().GetInfo();
  EXPECT_TRUE(info.ok()) << info.status();
  return info.ok() ? info->dax.pool.segments : 0;
}

// Otherwise the campaign would prove nothing.
TEST(SegmentsTest, TheScriptGivesSegmentsBackAndTakesThemAgain) {
  std::string folder = "/dev/shm/segments_test_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  {
    Store store({folder + "/store", dax::PoolShape::kDirectory});
    ASSERT_TRUE(store.Open().ok());
    for (const Operation& operation : FullStore()) {
      ASSERT_TRUE(operation.run(store, operation.changes).ok());
    }
    EXPECT_GT(SegmentsOf(store), 2u);
    std::vector<uint64_t> after_compaction;
    for (const Operation& operation : EmptyAndRefill()) {
      ASSERT_TRUE(operation.run(store, operation.changes).ok()) << operation.name;
      if (operation.name == "compact") after_compaction.push_back(SegmentsOf(store));
    }
    EXPECT_EQ(after_compaction, (std::vector<uint64_t>{1, 1}));
    EXPECT_GT(SegmentsOf(store), 1u);
    EXPECT_TRUE(store.Close().ok());
  }
  std::filesystem::remove_all(folder);
}

class SegmentsCrashTest : public testing::TestWithParam<Platform> {};

TEST_P(SegmentsCrashTest, EveryImageRecovers) {
  Plan plan;
  plan.images = 100;
  plan.recoveries_every = 5;
  plan.images_of_recovery = 4;
  Script script = {"Segments", FullStore(), EmptyAndRefill()};
  script.platform = GetParam();
  const Outcome outcome = RunCampaign(script, plan);
  printf("%" PRIu64 " points, %" PRIu64 " images, %" PRIu64 " distinct, %" PRIu64
         " of recoveries; %.1f s\n",
         outcome.points, outcome.images, outcome.distinct_images, outcome.recovery_images,
         outcome.seconds);
  EXPECT_GT(outcome.distinct_images, 0u);
  for (const std::string& fault : outcome.faults) ADD_FAILURE() << fault;
}

INSTANTIATE_TEST_SUITE_P(Platforms, SegmentsCrashTest,
                         testing::Values(Platform::kCacheLines, Platform::kPages),
                         [](const auto& info) {
                           return info.param == Platform::kCacheLines ? "CacheLines" : "Pages";
                         });

}  // namespace
}  // namespace daxkv::crash
