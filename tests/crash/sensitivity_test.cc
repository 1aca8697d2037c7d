// What the harness is worth: each flush and each fence that daxkv makes in any script is left out,
// one at a time, and each flush is made too late, behind the fence that was to order it. The images
// of the crippled store have to show it, but for the few places that are explained below.
//
//   sensitivity_test [--images=N] [--site=PART_OF_A_FUNCTION'S_NAME]
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/crash/campaign.h"

namespace daxkv::crash {
namespace {

uint64_t images = 300;
std::string only_site;

struct Mutant {
  CallSite site;
  Mutation mutation;
};

std::string Describe(const Mutant& mutant) {
  return absl::StrCat(mutant.site.kind == CallKind::kFlush ? "flush" : "fence", " of ",
                      mutant.site.name,
                      mutant.mutation == Mutation::kDropped ? " left out" : " made late");
}

// What may be mutated without harm to what is acknowledged. A build that inlines names the caller.
struct Explained {
  const char* function;
  CallKind kind;
  bool only_late;  // Left out, it has to be caught.
  const char* why;
};
constexpr Explained kExplained[] = {
    {"Index::Impl::StoreChild", CallKind::kFlush, false,
     "a node that its parent does not name is reached by its left neighbour; flushed to spare the "
     "next session the way"},
    {"Index::Impl::AddToParent", CallKind::kFlush, false, "StoreChild, inlined"},
    {"Index::Impl::CommitPlans", CallKind::kFlush, false,
     "FinishSplit: the mark of an unfinished split may stay; flushed to spare the next session the "
     "clearing of slots that are clear"},
    {"Index::Impl::FinishSplit", CallKind::kFlush, false, "as in CommitPlans"},
    {"Index::Impl::SetUp", CallKind::kFlush, false, "as in CommitPlans"},
    {"Index::Impl::SetUp", CallKind::kFence, false,
     "an inner node's link: its children on both sides are found without its mark"},
    {"Index::Impl::GrowRoot", CallKind::kFence, false,
     "the old root leads to everything, and the close's own fences come before the store is clean"},
    {"Index::Impl::GrowRoot", CallKind::kFlush, true,
     "as its fence: durable at the thread's next fence, before anything is acknowledged"},
    {"Index::Create", CallKind::kFlush, false,
     "of the root word: CommitSuperblock flushes its line; an index made by itself needs it"},
    {"Index::Create", CallKind::kFence, false, "as its flush of the root word"},
    {"CommitSuperblock", CallKind::kFlush, true,
     "of the magic: nothing is acknowledged in a new store before the thread's next fence"},
    {"dax::Pool::Close", CallKind::kFence, false,
     "the store has waited for all that counts; the fence is for other users of the pool"},
    {"Space::Open", CallKind::kFence, false,
     "its flush is complete at the thread's next fence, before the close that needs it"},
    {"Space::Open", CallKind::kFlush, true, "as its fence"},
    {"BatchTable::Pending", CallKind::kFlush, false,
     "a script's process dies at fences, its flushes made, which the redo's first fence completes; "
     "and a page cache's page has been synced with the superblock"},
    {"BatchTable::Pending", CallKind::kFence, false, "as its flush"},
    {"BatchTable::Forget", CallKind::kFlush, false,
     "a word that stays is redone once more; that it undoes later changes no script can tell, as "
     "the "
     "keys of a batch that never returned may have its values for ever"},
    {"BatchTable::Forget", CallKind::kFence, false, "as its flush"},
    {"Space::Impl::SaveMaps", CallKind::kFlush, true,
     "complete at the fence of the close's own commit"},
    {"Space::Impl::SaveMaps", CallKind::kFence, false,
     "the flushes are complete at the fence of the close's own commit"},
};

const char* WhyHarmless(const Mutant& mutant) {
  for (const Explained& explained : kExplained) {
    if (explained.only_late && mutant.mutation != Mutation::kLate) continue;
    if (explained.kind == mutant.site.kind &&
        absl::StrContains(mutant.site.name, explained.function)) {
      return explained.why;
    }
  }
  return nullptr;
}

// Each site with the scripts that come by.
struct SiteUse {
  CallSite site;
  std::vector<std::pair<uint64_t, const Script*>> scripts;  // With the calls.
};

std::map<std::string, SiteUse> FindSites(const std::vector<Script>& scripts) {
  std::map<std::string, SiteUse> uses;
  for (const Script& script : scripts) {
    Plan plan;
    plan.images = 5;
    plan.workers = 2;
    plan.recoveries_every = 0;
    plan.count_sites = true;
    const Outcome outcome = RunCampaign(script, plan);
    EXPECT_TRUE(outcome.faults.empty()) << outcome.faults[0];
    for (const CallSite& site : outcome.sites) {
      SiteUse& use = uses[absl::StrCat(site.name, site.kind == CallKind::kFlush ? " 1" : " 2")];
      use.site = site;
      use.scripts.emplace_back(site.calls, &script);
    }
  }
  // Small stores first, and those that come by most often.
  const auto before = [](const auto& a, const auto& b) {
    return std::make_pair(a.second->share, a.first) > std::make_pair(b.second->share, b.first);
  };
  for (auto& [name, use] : uses) std::sort(use.scripts.begin(), use.scripts.end(), before);
  return uses;
}

// The fault that shows the mutation, or nothing.
std::string Catch(const Mutant& mutant, const SiteUse& use) {
  for (const auto& [calls, script] : use.scripts) {
    Plan plan;
    plan.images =
        std::max<uint64_t>(20, static_cast<uint64_t>(static_cast<double>(images) * script->share));
    plan.most_faults = 1;
    plan.recoveries_every = 50;
    plan.mutated = mutant.site;
    plan.mutation = mutant.mutation;
    const Outcome outcome = RunCampaign(*script, plan);
    if (!outcome.faults.empty()) return outcome.faults[0];
  }
  return "";
}

TEST(SensitivityTest, EveryFlushAndFenceMatters) {
  const std::vector<Script> scripts = AllScripts();
  unsigned caught = 0, harmless = 0;
  for (const auto& [name, use] : FindSites(scripts)) {
    if (!absl::StrContains(name, only_site)) continue;
    for (const Mutation mutation : {Mutation::kDropped, Mutation::kLate}) {
      const Mutant mutant = {use.site, mutation};
      if (mutation == Mutation::kLate && use.site.kind == CallKind::kFence) continue;
      const std::string fault = Catch(mutant, use);
      const char* why = WhyHarmless(mutant);
      if (!fault.empty()) {
        ++caught;
        printf("caught:   %s\n          %s\n", Describe(mutant).c_str(), fault.c_str());
      } else {
        ++harmless;
        printf("survives: %s, in %zu scripts\n          %s\n", Describe(mutant).c_str(),
               use.scripts.size(), why == nullptr ? "?" : why);
        EXPECT_NE(why, nullptr) << Describe(mutant);
      }
      fflush(stdout);
    }
  }
  printf("%u mutants caught, %u harmless\n", caught, harmless);
  EXPECT_GT(caught, harmless);
}

}  // namespace
}  // namespace daxkv::crash

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    sscanf(argv[i], "--images=%" SCNu64, &daxkv::crash::images);
    if (strncmp(argv[i], "--site=", 7) == 0) daxkv::crash::only_site = argv[i] + 7;
  }
  return RUN_ALL_TESTS();
}
