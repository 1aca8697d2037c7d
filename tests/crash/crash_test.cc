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

uint64_t images_per_script = 300;
uint64_t seed = 1;

std::vector<Script> Scripts() {
  const Platform lines = Platform::kCacheLines, pages = Platform::kPages;
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  const std::vector<Operation> one_leaf = {PutGroup(Keys(0, 100, 10), 40)};
  const std::vector<Operation> close_and_open = {Do(Kind::kClose), Do(Kind::kOpen)};
  const std::vector<Operation> crash_and_open = {Do(Kind::kCrash), Do(Kind::kOpen)};
  std::vector<Script> scripts = {
      {"Create", lines, {}, std::vector{Do(Kind::kOpen)} + Puts(Keys(0, 3), 50)},
      {"Put", lines, some, Puts(Keys(100, 40), 100)},
      {"Overwrite", lines, some, Puts(Keys(0, 20), 100) + Puts(Keys(0, 20), 300)},
      {"Delete", lines, Puts(Keys(0, 40), 100),
       Deletes(Keys(0, 20)) + Puts(Keys(0, 10), 60) + Deletes(Keys(20, 20))},
      {"LeafSplit", lines, one_leaf, Puts(Keys(1, 60, 10), 40)},
      {"PutGroup",
       lines,
       one_leaf,
       {PutGroup(Keys(3, 30, 10), 80), PutGroup(Keys(0, 200, 4), 20), PutGroup(Keys(0, 50), 0)}},
      {"DeleteGroup",
       lines,
       {PutGroup(Keys(0, 400), 40)},
       {DeleteGroup(Keys(0, 50)), DeleteGroup(Keys(100, 100, 3)), PutGroup(Keys(0, 120), 40),
        DeleteGroup(Keys(0, 400))}},
      {"InnerSplit",
       lines,
       {PutGroup(Keys(0, 13000), 8)},
       {PutGroup(Keys(13000, 1500), 8), PutGroup(Keys(14500, 1500), 8),
        PutGroup(Keys(16000, 1500), 8)},
       0.1},
      {"LargeValues", lines, some,
       Puts(Keys(100, 3), 50000) + Puts(Keys(100, 3), 300000) + Puts(Keys(100, 1), 10) +
           Deletes(Keys(101, 2)) + Puts(Keys(0, 2), 70000)},
      {"Growth", lines, some, Puts(Keys(100, 6), 2000000)},
      {"Compact", lines, Puts(Keys(0, 6), 200000) + std::vector{PutGroup(Keys(10, 1500), 400)},
       Deletes(Keys(0, 3)) +
           std::vector{Do(Kind::kCompact), DeleteGroup(Keys(10, 1400)), Do(Kind::kCompact)} +
           Puts(Keys(0, 3), 30000)},
      {"CloseAndOpen", lines, some,
       Puts(Keys(0, 3), 100) + close_and_open + Puts(Keys(0, 3), 200) + Deletes(Keys(4, 3)) +
           close_and_open + close_and_open + Puts(Keys(7, 3), 100)},
      {"CrashAndOpen", lines, some,
       Puts(Keys(0, 3), 100) + crash_and_open + Puts(Keys(0, 3), 100) + crash_and_open +
           Deletes(Keys(4, 3)) + crash_and_open + Puts(Keys(4, 3), 100)},
  };
  // The same on an ordinary file.
  for (const char* name : {"Create", "Overwrite", "Delete", "LeafSplit", "PutGroup", "LargeValues",
                           "Compact", "CloseAndOpen"}) {
    const auto script = std::find_if(scripts.begin(), scripts.end(),
                                     [&](const Script& s) { return s.name == name; });
    Script on_pages = *script;
    on_pages.name += "OnPages";
    on_pages.platform = pages;
    scripts.push_back(on_pages);
  }
  return scripts;
}

class CrashTest : public testing::TestWithParam<Script> {};

TEST_P(CrashTest, EveryImageRecovers) {
  Plan plan;
  plan.images = static_cast<uint64_t>(static_cast<double>(images_per_script) * GetParam().share);
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
    printf("  %-12s %4" PRIu64
           " times; each %.2f flushes, %.2f lines (%.2f clean, %.2f repeated)"
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
