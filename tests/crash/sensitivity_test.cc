// What the harness is worth: each flush and each fence that daxkv makes in a script is left out,
// one at a time, and the images of the crippled store have to show it, but for the few places that
// are explained below.
#include <cinttypes>
#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "tests/crash/campaign.h"

namespace daxkv::crash {
namespace {

// What may be left out without harm to what is acknowledged. A build that inlines names the caller.
struct Explained {
  const char* function;
  CallKind kind;
  const char* why;
};
constexpr Explained kExplained[] = {
    {"Index::Impl::StoreChild", CallKind::kFlush,
     "a node that its parent does not name is reached by its left neighbour, and named then"},
    {"Index::Impl::GrowRoot", CallKind::kFlush,
     "the old root still leads to everything; the one of the new root itself is caught"},
    {"Index::Impl::GrowRoot", CallKind::kFence, "as its flush of the root word"},
    {"Index::Impl::FinishSplit", CallKind::kFlush,
     "the flag of an unfinished split may stay: the next session clears slots that moved, again"},
    {"Index::Impl::CommitPlans", CallKind::kFlush, "FinishSplit, inlined"},
};

bool IsExplained(const CallSite& site) {
  for (const Explained& explained : kExplained) {
    if (explained.kind != site.kind || site.name.find(explained.function) == site.name.npos)
      continue;
    printf("             %s\n", explained.why);
    return true;
  }
  return false;
}

// Returns how many were caught.
unsigned TryAll(const Script& script, uint64_t images) {
  Plan plan;
  plan.images = 10;
  plan.recoveries_every = 0;
  plan.count_sites = true;
  const Outcome whole = RunCampaign(script, plan);
  EXPECT_TRUE(whole.faults.empty()) << whole.faults[0];
  EXPECT_FALSE(whole.sites.empty());
  plan.images = images;
  plan.most_faults = 1;
  plan.count_sites = false;
  unsigned caught = 0;
  for (const CallSite& site : whole.sites) {
    plan.dropped = site;
    const Outcome outcome = RunCampaign(script, plan);
    const bool survives = outcome.faults.empty();
    printf("%s %s of %s, %" PRIu64 " calls\n",
           survives ? "SURVIVES" : "caught:", site.kind == CallKind::kFlush ? "flush" : "fence",
           site.name.c_str(), site.calls);
    if (survives) {
      EXPECT_TRUE(IsExplained(site)) << site.name;
    } else {
      ++caught;
      printf("             %s\n", outcome.faults[0].c_str());
    }
    fflush(stdout);
  }
  return caught;
}

TEST(SensitivityTest, PutAndDelete) {
  const Script script = {
      "PutAndDelete", Platform::kCacheLines, Puts(Keys(0, 8), 100),
      Puts(Keys(4, 8), 100) + Puts(Keys(0, 2), 500) + Deletes(Keys(0, 3)) + Puts(Keys(0, 3), 40)};
  EXPECT_GE(TryAll(script, 600), 6u);
}

// The split comes after some 15 puts.
TEST(SensitivityTest, LeafSplit) {
  const Script script = {"LeafSplit",
                         Platform::kCacheLines,
                         {PutGroup(Keys(0, 100, 10), 40)},
                         Puts(Keys(1, 22, 10), 40)};
  EXPECT_GE(TryAll(script, 800), 10u);
}

}  // namespace
}  // namespace daxkv::crash
