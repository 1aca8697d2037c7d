// What the harness is worth: each flush and each fence that daxkv makes in a script is left out, one
// at a time, and the images of the crippled store have to show it. What is not caught is listed; the
// places where that would be a surprise fail the test.
#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/crash/campaign.h"

namespace daxkv::crash {
namespace {

struct Mutants {
  unsigned caught = 0;
  std::vector<std::string> survivors;
};

Mutants TryAll(const Script& script, uint64_t images) {
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
  Mutants mutants;
  printf("%s\n", script.name.c_str());
  for (const CallSite& site : whole.sites) {
    plan.dropped = site;
    const Outcome outcome = RunCampaign(script, plan);
    const bool caught = !outcome.faults.empty();
    printf("  %s %-5s %5" PRIu64 " calls  %s%s%s\n", caught ? "caught  " : "SURVIVES",
           site.kind == CallKind::kFlush ? "flush" : "fence", site.calls, site.name.c_str(),
           caught ? "\n             by " : "", caught ? outcome.faults[0].c_str() : "");
    fflush(stdout);
    if (caught) {
      ++mutants.caught;
    } else {
      mutants.survivors.push_back(site.name);
    }
  }
  return mutants;
}

TEST(SensitivityTest, PutAndDelete) {
  const Script script = {"PutAndDelete", Platform::kCacheLines, Puts(Keys(0, 8), 100),
                         Puts(Keys(4, 8), 100) + Puts(Keys(0, 2), 500) + Deletes(Keys(0, 3)) +
                             Puts(Keys(0, 3), 40)};
  const Mutants mutants = TryAll(script, 200);
  EXPECT_GE(mutants.caught, 4u);
}

TEST(SensitivityTest, LeafSplit) {
  const Script script = {"LeafSplit", Platform::kCacheLines, {PutGroup(Keys(0, 100, 10), 40)},
                         Puts(Keys(1, 60, 10), 40)};
  TryAll(script, 300);
}

}  // namespace
}  // namespace daxkv::crash
