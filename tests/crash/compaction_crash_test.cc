// Power cuts while compaction moves records, and what each of its flushes and fences is worth.
//
// Scattered deletes leave extents of records sparse; Compact copies what is left in them, makes the
// leaves lead to the copies and truncates the extents. Every acknowledged record has to be there at
// any moment, and puts that come after take the places that became free.
#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/crash/campaign.h"

namespace daxkv::crash {
namespace {

using Kind = Operation::Kind;

// Three extents of 64 KiB for records; nine of ten are deleted, which leaves each of them sparse.
std::vector<Operation> SparseStore(size_t size_bytes) {
  std::vector<Operation> operations = {PutGroup(Keys(0, 600), size_bytes)};
  for (int first = 0; first < 9; ++first) operations.push_back(DeleteGroup(Keys(first, 60, 10)));
  return operations;
}

std::vector<Operation> CompactAndGoOn(size_t size_bytes) {
  return std::vector{Do(Kind::kCompact)} + Puts(Keys(1000, 4), size_bytes) +
         Puts(Keys(9, 4, 10), size_bytes) + Deletes(Keys(49, 3, 10)) +
         std::vector{Do(Kind::kCompact)};
}

std::vector<Script> Scripts() {
  const std::vector<Operation> crash_and_open = {Do(Kind::kCrash), Do(Kind::kOpen)};
  const std::vector<Operation> close_and_open = {Do(Kind::kClose), Do(Kind::kOpen)};
  return {
      {"Move", Platform::kCacheLines, SparseStore(300), CompactAndGoOn(300)},
      {"MoveOnPages", Platform::kPages, SparseStore(300), CompactAndGoOn(300)},
      {"MoveAfterCrash", Platform::kCacheLines, SparseStore(300) + crash_and_open,
       CompactAndGoOn(300)},
      {"MoveThenClose", Platform::kCacheLines, SparseStore(300) + close_and_open,
       std::vector{Do(Kind::kCompact)} + close_and_open + Puts(Keys(1000, 4), 300) +
           close_and_open},
  };
}

class CompactionCrashTest : public testing::TestWithParam<Script> {};

TEST_P(CompactionCrashTest, EveryImageRecovers) {
  Plan plan;
  plan.images = 300;
  const Outcome outcome = RunCampaign(GetParam(), plan);
  printf("%-14s %6" PRIu64 " points %8" PRIu64 " images, %" PRIu64 " distinct; %.1f s\n",
         GetParam().name.c_str(), outcome.points, outcome.images, outcome.distinct_images,
         outcome.seconds);
  EXPECT_GT(outcome.distinct_images, 0u);
  for (const std::string& fault : outcome.faults) ADD_FAILURE() << fault;
}

INSTANTIATE_TEST_SUITE_P(Scripts, CompactionCrashTest, testing::ValuesIn(Scripts()),
                         [](const auto& info) { return info.param.name; });

// What may be left out without harm. A build that inlines names the caller.
struct Explained {
  const char* function;
  CallKind kind;
  const char* why;
};
constexpr Explained kExplained[] = {
    {"Relocate", CallKind::kFence,
     "nothing is acknowledged by it, and the same thread drains again before it releases a run"},
};

// Each flush and fence of copying a record and of storing its new address is left out in turn.
TEST(CompactionSensitivityTest, FlushesAndFencesOfAMoveAreNeeded) {
  const Script script = {
      "Move", Platform::kCacheLines, SparseStore(300), {Do(Kind::kCompact), Do(Kind::kCompact)}};
  Plan plan;
  plan.images = 10;
  plan.recoveries_every = 0;
  plan.count_sites = true;
  const Outcome whole = RunCampaign(script, plan);
  ASSERT_TRUE(whole.faults.empty()) << whole.faults[0];
  plan.images = 600;
  plan.most_faults = 1;
  plan.count_sites = false;
  unsigned caught = 0;
  for (const CallSite& site : whole.sites) {
    bool of_a_move = false;
    for (const char* function : {"Relocate", "StoreSlot", "WriteRecord", "Compactor"}) {
      of_a_move = of_a_move || site.name.find(function) != std::string::npos;
    }
    if (!of_a_move) continue;
    plan.dropped = site;
    const Outcome outcome = RunCampaign(script, plan);
    const bool survives = outcome.faults.empty();
    printf("%s %s of %s, %" PRIu64 " calls\n",
           survives ? "SURVIVES" : "caught:", site.kind == CallKind::kFlush ? "flush" : "fence",
           site.name.c_str(), site.calls);
    if (!survives) {
      printf("             %s\n", outcome.faults[0].c_str());
      ++caught;
      continue;
    }
    bool explained = false;
    for (const Explained& reason : kExplained) {
      if (reason.kind != site.kind || site.name.find(reason.function) == site.name.npos) continue;
      printf("             %s\n", reason.why);
      explained = true;
    }
    EXPECT_TRUE(explained) << site.name;
  }
  EXPECT_GE(caught, 3u);
}

}  // namespace
}  // namespace daxkv::crash
