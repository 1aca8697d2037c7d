// Power cuts at every fence of short scripts, over the whole pool. A script is a few lines: what is
// new in the store brings its own.
//
//   crash_test [--images=N] [--seed=N] [--gtest_filter=...]
//
// --images: how many to judge for each script, about; the time taken grows with it.
#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/crash/campaign.h"

namespace daxkv::crash {
namespace {

using Kind = Operation::Kind;

uint64_t images_per_script = 1000;
uint64_t seed = 1;

std::vector<Script> Scripts() {
  const Platform lines = Platform::kCacheLines;
  return {
      {"Create", lines, {}, std::vector{Do(Kind::kOpen)} + Puts(Keys(0, 3), 50)},
      {"PutNew", lines, Puts(Keys(0, 20), 100), Puts(Keys(100, 30), 100)},
      {"Overwrite", lines, Puts(Keys(0, 20), 100), Puts(Keys(0, 20), 100) + Puts(Keys(0, 20), 300)},
      {"Delete", lines, Puts(Keys(0, 40), 100),
       Deletes(Keys(0, 20)) + Puts(Keys(0, 10), 60) + Deletes(Keys(20, 20))},
      {"LeafSplit", lines, {PutGroup(Keys(0, 80), 40)}, Puts(Keys(1000, 60), 40)},
  };
}

class CrashTest : public testing::TestWithParam<Script> {};

TEST_P(CrashTest, EveryImageRecovers) {
  Plan plan;
  plan.images = images_per_script;
  plan.seed = seed;
  const Outcome outcome = RunCampaign(GetParam(), plan);
  printf("%-14s %6" PRIu64 " points %8" PRIu64 " images, %" PRIu64 " distinct, %" PRIu64
         " of recoveries; %.1f s\n",
         GetParam().name.c_str(), outcome.points, outcome.images, outcome.distinct_images,
         outcome.recovery_images, outcome.seconds);
  for (const auto& [kind, counts] : outcome.counts) {
    const FlushCounts& sum = counts.flushes;
    const auto each = [&](uint64_t count) {
      return static_cast<double>(count) / static_cast<double>(counts.operations);
    };
    printf("  %-12s %4" PRIu64 " times; each %.2f flushes, %.2f lines (%.2f clean, %.2f repeated)"
           ", %.2f fences (%.2f empty)\n",
           kind.c_str(), counts.operations, each(sum.flushes), each(sum.lines),
           each(sum.clean_lines), each(sum.repeated_lines), each(sum.fences),
           each(sum.empty_fences));
  }
  fflush(stdout);
  EXPECT_GT(outcome.distinct_images, 0u);
  for (const std::string& fault : outcome.faults) ADD_FAILURE() << fault;
}

INSTANTIATE_TEST_SUITE_P(Scripts, CrashTest, testing::ValuesIn(Scripts()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace daxkv::crash

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    sscanf(argv[i], "--images=%" SCNu64, &daxkv::crash::images_per_script);
    sscanf(argv[i], "--seed=%" SCNu64, &daxkv::crash::seed);
  }
  return RUN_ALL_TESTS();
}
