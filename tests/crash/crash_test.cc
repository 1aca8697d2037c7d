// Power cuts at every fence of short scripts, over the whole pool.
//
//   crash_test [--images=N] [--seed=N] [--workers=N] [--gtest_filter=...]
//              [--trace=PATH --only=POINT.VARIANT]
//
// --images: how many to judge for each script, about; the time taken grows with it.
// --trace, --only: judges one image of a kept trace again.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "tests/crash/campaign.h"

namespace daxkv::crash {
namespace {

uint64_t images_per_script = 600;
Plan plan_of_all;

// Where failing images are kept.
std::string KeepIn() {
  for (const char* name : {"DAXKV_CRASH_KEEP", "TEST_UNDECLARED_OUTPUTS_DIR"}) {
    if (const char* path = getenv(name)) return path;
  }
  return "/tmp/daxkv_crash_images";
}

void Print(const std::string& name, const OperationCounts& counts) {
  const FlushCounts& sum = counts.flushes;
  const auto each = [&](uint64_t count) {
    return static_cast<double>(count) / static_cast<double>(counts.operations);
  };
  printf("  %-20s %4" PRIu64
         " times; each %.2f flushes, %.2f lines (%.2f clean, %.2f repeated), %.2f fences"
         " (%.2f empty)\n",
         name.c_str(), counts.operations, each(sum.flushes), each(sum.lines), each(sum.clean_lines),
         each(sum.repeated_lines), each(sum.fences), each(sum.empty_fences));
}

// A put of 100 bytes under a key of 9 cannot do with less than the three lines of its record and
// the one of its slot, and two waits: the record has to be durable before what refers to it.
void ExpectLeastFlushes(const OperationCounts& puts) {
  constexpr double kLeastLines = 4, kLeastFences = 2;
  const auto count = static_cast<double>(puts.operations);
  EXPECT_LE(static_cast<double>(puts.flushes.lines), kLeastLines * 1.1 * count);
  EXPECT_LE(static_cast<double>(puts.flushes.fences), kLeastFences * count);
  EXPECT_EQ(puts.flushes.empty_fences, 0u);
}

class CrashTest : public testing::TestWithParam<Script> {};

TEST_P(CrashTest, EveryImageRecovers) {
  Plan plan = plan_of_all;
  plan.images = static_cast<uint64_t>(static_cast<double>(images_per_script) * GetParam().share);
  plan.keep_in = KeepIn();
  const Outcome outcome = RunCampaign(GetParam(), plan);
  printf("%-18s %5" PRIu64 " points %7" PRIu64 " images, %7" PRIu64 " distinct, %6" PRIu64
         " of recoveries, %6" PRIu64 " real opens; %.1f s, %.2f ms CPU each\n",
         GetParam().name.c_str(), outcome.points, outcome.images, outcome.distinct_images,
         outcome.recovery_images, outcome.real_opens, outcome.seconds,
         outcome.cpu_seconds * 1e3 / static_cast<double>(outcome.images));
  for (const auto& [name, counts] : outcome.counts) Print(name, counts);
  if (GetParam().name == "Put" && plan.trace.empty()) ExpectLeastFlushes(outcome.counts.at("put"));
  fflush(stdout);
  RecordProperty("distinct_images", std::to_string(outcome.distinct_images));
  EXPECT_GT(outcome.distinct_images, 0u);
  for (const std::string& fault : outcome.faults) ADD_FAILURE() << fault;
}

INSTANTIATE_TEST_SUITE_P(Scripts, CrashTest, testing::ValuesIn(AllScripts()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace daxkv::crash

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  daxkv::crash::Plan& plan = daxkv::crash::plan_of_all;
  for (int i = 1; i < argc; ++i) {
    sscanf(argv[i], "--images=%" SCNu64, &daxkv::crash::images_per_script);
    sscanf(argv[i], "--seed=%" SCNu64, &plan.seed);
    sscanf(argv[i], "--workers=%u", &plan.workers);
    sscanf(argv[i], "--only=%" SCNu64 ".%" SCNu64, &plan.only_point, &plan.only_variant);
    if (strncmp(argv[i], "--trace=", 8) == 0) plan.trace = argv[i] + 8;
  }
  return RUN_ALL_TESTS();
}
