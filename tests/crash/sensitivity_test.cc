// What the harness is worth: each flush and each fence that daxkv makes in any script is left out,
// one at a time, and each flush is made too late, behind the fence that was to order it. The images
// of the crippled store have to show it, but for the few places that are explained below.
//
//   sensitivity_test [--list] [--images=N] [--scripts=N] [--site=PART_OF_A_SITE'S_NAME|...]
//                    [--script=PART_OF_ITS_NAME] [--from=SITE] [--seed=N]
//
// --images: of each script, about; --scripts: how many of those that come by are tried for a mutant
// that is explained; others meet all, up to the first that shows them.
// --from: the first site to be tried, in the order of their names; for a run that was broken off.
//
// A mutation is looked for where it can be seen: from the moment at which a line should have been
// made durable until something else makes it so (CrashImage::IsMutated), and in images that lack
// just that line, or just what the last mutated call left out, or some words of it, and have all
// the rest. So a few images of a script are enough: with --scripts=6 --images=240 all of it takes
// four minutes on two quiet cores, a quarter of an hour on busy ones.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "tests/crash/campaign.h"

namespace daxkv::crash {
namespace {

constexpr uint64_t kLeastImages = 100;  // Of a script, however big its store.

uint64_t images = 300;
uint64_t seed = 1;
size_t most_scripts = 12;
std::string only_site;
std::string only_script;
std::string first_site;
bool list_only = false;

bool IsWanted(const std::string& name) {
  const std::vector<std::string> wanted = absl::StrSplit(only_site, '|');
  return name >= first_site &&
         std::any_of(wanted.begin(), wanted.end(),
                     [&](const std::string& part) { return absl::StrContains(name, part); });
}

struct Mutant {
  CallSite site;
  std::string name;  // Of the site.
  Mutation mutation;
};

const char* KindName(CallKind kind) { return kind == CallKind::kFlush ? "flush" : "fence"; }

std::string Describe(const Mutant& mutant) {
  return absl::StrCat(mutant.name, mutant.mutation == Mutation::kDropped ? " left out" : " late");
}

// What may be mutated without harm to what is acknowledged, and why. Of anything else, and of what
// is here and caught all the same, the test complains.
struct Explained {
  const char* mutant;
  const char* why;
  // Whether it is caught depends on how threads happen to interleave.
  bool may_be_caught = false;
};
constexpr const char* kMovedSlotsFlag =
    "the flag of a split that is done: where it stays, the next set-up clears the moved slots "
    "again, and changes nothing. The flush spares the next session that";
constexpr const char* kParentsEntry =
    "a child that its parent does not name is found through its left neighbour "
    "(AddMissingChildren). The flush spares the next view that";
constexpr const char* kNewExtent =
    "what it points to lies in a new extent, whose header and commit bring two fences before the "
    "word that refers to it is stored (DrainAndCommit)";
constexpr const char* kRootOfNewIndex =
    "who makes the store or the keyspace known, CommitSuperblock or KeyspaceTable::SetState, "
    "drains before; an index by itself is durable all the same";
constexpr const char* kGracePeriod =
    "nobody waits for it: a grace period, in which each processor passes a barrier, comes before "
    "what the word led to is reused (Memory::Retire) or given back (MappingImpl::Truncate). Late, "
    "it comes still before that";
constexpr const char* kGracePeriodInTime =
    "as nobody waits for it, late it comes after the thread's next fence, which may be the next "
    "round's: before or after the grace period behind which the old place is reused";
constexpr const char* kOvertaken =
    "it matters where a settle begins between a put's record and its slot, which scripts come to "
    "by "
    "chance; recent_puts_test forces that (APutThatASettleOvertakesWaitsForItsSlot), and fails";
constexpr const char* kUntilClose =
    "late, it is still durable when the repair returns: Pool::Close fences twice, for all and for "
    "the word that marks the pool clean; where nothing was wrong, pmemobj_close fences, as it "
    "persists its statistics. A repair that is cut short is done again";
constexpr const char* kLineOfSuperblock =
    "Repairer::ForgetMaps, which follows, flushes the same line, and a session after a crash does "
    "so, too (Space::Open). The flush is for a repair that then fails for want of room";
constexpr Explained kExplained[] = {
    {"kv::Compactor::Compact fence 1 left out",
     "nothing is flushed before it: it asks whether the medium has failed"},
    {"kv::Index::Create flush 1 late", kNewExtent},
    {"kv::Index::Create fence 1 left out", kRootOfNewIndex},
    {"kv::Index::Create flush 2 late", kRootOfNewIndex},
    {"kv::Index::Impl::FinishSplit flush 1 left out", kMovedSlotsFlag},
    {"kv::Index::Impl::FinishSplit flush 1 late", kMovedSlotsFlag},
    {"kv::Index::Impl::FinishInheritedSplit flush 2 left out", kMovedSlotsFlag},
    {"kv::Index::Impl::FinishInheritedSplit flush 2 late", kMovedSlotsFlag},
    {"kv::Index::Impl::KeepChildren flush 2 left out", kMovedSlotsFlag},
    {"kv::Engine::PutRecent fence 1 left out", kOvertaken, /*may_be_caught=*/true},
    {"kv::Index::Impl::KeepChildren flush 2 late", kMovedSlotsFlag},
    {"kv::Index::Impl::KeepChildren flush 1 late", kGracePeriod},
    {"kv::Index::Impl::RelocateInLeaf flush 1 late", kGracePeriodInTime, /*may_be_caught=*/true},
    {"kv::Index::Impl::RelocateInLeaf flush 2 late", kGracePeriodInTime, /*may_be_caught=*/true},
    {"kv::Index::Impl::StoreChild flush 1 left out", kParentsEntry},
    {"kv::Index::Impl::StoreChild flush 1 late", kParentsEntry},
    {"kv::KeyspaceTable::Reserve flush 1 late",
     "two fences come before the state that makes the entry count: of the index that is made "
     "(Index::Create), and of KeyspaceTable::SetState before it stores"},
    {"kv::RepairKeyspaceTable flush 1 left out", kLineOfSuperblock},
    {"kv::RepairKeyspaceTable flush 1 late", kLineOfSuperblock},
    {"kv::RepairKeyspaceTable flush 2 late", kUntilClose},
    {"kv::Repairer::Rebuild flush 2 late", kUntilClose},
    {"kv::Repairer::MakeInheritedDurable flush 1 late", kUntilClose},
};

const Explained* ExplanationOf(const Mutant& mutant) {
  for (const Explained& explained : kExplained) {
    if (Describe(mutant) == explained.mutant) return &explained;
  }
  return nullptr;
}

// A site with the scripts that come by, and its calls there.
struct SiteUse {
  CallSite site;
  std::vector<std::pair<uint64_t, const Script*>> scripts;
};

// By "function flush 2": the second one of that function, by the place in its code.
std::map<std::string, SiteUse> FindSites(const std::vector<Script>& scripts) {
  std::map<const void*, SiteUse> by_address[2];  // By kind.
  for (const Script& script : scripts) {
    Plan plan;
    plan.workers = 0;
    plan.count_sites = true;
    const Outcome outcome = RunCampaign(script, plan);
    EXPECT_TRUE(outcome.faults.empty()) << script.name << ": " << outcome.faults[0];
    for (const CallSite& site : outcome.sites) {
      SiteUse& use = by_address[site.kind == CallKind::kFence][site.return_address];
      use.site = site;
      use.scripts.emplace_back(site.calls, &script);
    }
  }
  std::map<std::string, SiteUse> uses;
  for (auto& of_kind : by_address) {
    std::map<std::string, unsigned> numbers;
    for (auto& [address, use] : of_kind) {
      const std::string function = use.site.name.substr(0, use.site.name.rfind('+'));
      const std::string name = absl::StrCat(absl::StripPrefix(function, "daxkv::"), " ",
                                            KindName(use.site.kind), " ", ++numbers[function]);
      // Small stores first, and those that come by most often.
      std::sort(use.scripts.begin(), use.scripts.end(), [](const auto& a, const auto& b) {
        return std::make_pair(a.second->share, a.first) > std::make_pair(b.second->share, b.first);
      });
      uses[name] = std::move(use);
    }
  }
  return uses;
}

struct Caught {
  std::string script;  // Empty: none.
  std::string fault;
  size_t scripts = 0;   // That were tried,
  uint64_t images = 0;  // and judged of them.
};

Caught Catch(const Mutant& mutant, const SiteUse& use, size_t most) {
  const size_t tried = std::min(most, use.scripts.size());
  uint64_t judged = 0;
  for (size_t i = 0; i < tried; ++i) {
    const Script* const script = use.scripts[i].second;
    Plan plan;
    plan.images = std::max<uint64_t>(
        kLeastImages, static_cast<uint64_t>(static_cast<double>(images) * script->share));
    plan.for_mutation = true;
    plan.seed = seed;
    plan.workers = 2;
    plan.most_faults = 1;
    plan.recoveries_every = 0;
    plan.mutated = mutant.site;
    plan.mutation = mutant.mutation;
    const Outcome outcome = RunCampaign(*script, plan);
    judged += outcome.images;
    if (!outcome.faults.empty()) return {script->name, outcome.faults[0], i + 1, judged};
  }
  return {"", "", tried, judged};
}

class SensitivityTest : public testing::Test {
 protected:
  void Try(const Mutant& mutant, const SiteUse& use) {
    const Explained* explained = ExplanationOf(mutant);
    const Caught caught = Catch(mutant, use, explained == nullptr ? SIZE_MAX : most_scripts);
    std::string& cell = table_[mutant.name][mutant.mutation == Mutation::kLate];
    if (!caught.script.empty()) {
      ++caught_;
      cell = "caught by " + caught.script;
      printf("caught:   %s\n          %s\n", Describe(mutant).c_str(), caught.fault.c_str());
      EXPECT_TRUE(explained == nullptr || explained->may_be_caught)
          << Describe(mutant) << " is caught: strike its explanation out";
    } else {
      ++survived_;
      cell = explained == nullptr ? "survives" : "explained";
      printf("survives: %s, in %zu scripts, %" PRIu64 " images\n          %s\n",
             Describe(mutant).c_str(), caught.scripts, caught.images,
             explained == nullptr ? "?" : explained->why);
      EXPECT_NE(explained, nullptr) << Describe(mutant) << " survives without an explanation";
    }
    fflush(stdout);
  }

  void PrintTable() const {
    printf("%-58s %-36s %s\n", "site", "left out", "late");
    for (const auto& [name, cells] : table_) {
      const auto late = cells.find(true);
      printf("%-58s %-36s %s\n", name.c_str(), cells.at(false).c_str(),
             late == cells.end() ? "-" : late->second.c_str());
    }
  }

  unsigned caught_ = 0, survived_ = 0;
  std::map<std::string, std::map<bool, std::string>> table_;  // By site, and whether late.
};

TEST_F(SensitivityTest, EveryFlushAndFenceMatters) {
#if defined(__OPTIMIZE__) && !defined(DAXKV_NAMED_SITES)
  GTEST_SKIP() << "functions that are inlined have no name: build with --config=sites";
#endif
  std::vector<Script> scripts = AllScripts();
  scripts.erase(std::remove_if(scripts.begin(), scripts.end(),
                               [](const Script& script) {
                                 return !absl::StrContains(script.name, only_script);
                               }),
                scripts.end());
  const std::map<std::string, SiteUse> sites = FindSites(scripts);
  std::set<std::string> tried;
  for (const auto& [name, use] : sites) {
    printf("%s, %zu scripts, %" PRIu64 " calls in %s\n", name.c_str(), use.scripts.size(),
           use.scripts[0].first, use.scripts[0].second->name.c_str());
  }
  for (const auto& [name, use] : sites) {
    if (list_only || !IsWanted(name)) continue;
    for (const Mutation mutation : {Mutation::kDropped, Mutation::kLate}) {
      if (mutation == Mutation::kLate && use.site.kind == CallKind::kFence) continue;
      const Mutant mutant = {use.site, name, mutation};
      tried.insert(Describe(mutant));
      Try(mutant, use);
    }
  }
  if (!list_only) PrintTable();
  printf("%zu sites; %u mutants caught, %u survived\n", sites.size(), caught_, survived_);
  for (const Explained& explained : kExplained) {
    if (list_only || !IsWanted(explained.mutant)) continue;
    EXPECT_EQ(tried.count(explained.mutant), 1u) << "no script comes by: " << explained.mutant;
  }
}

}  // namespace
}  // namespace daxkv::crash

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    sscanf(argv[i], "--images=%" SCNu64, &daxkv::crash::images);
    sscanf(argv[i], "--scripts=%zu", &daxkv::crash::most_scripts);
    sscanf(argv[i], "--seed=%" SCNu64, &daxkv::crash::seed);
    if (strncmp(argv[i], "--from=", 7) == 0) daxkv::crash::first_site = argv[i] + 7;
    if (strncmp(argv[i], "--site=", 7) == 0) daxkv::crash::only_site = argv[i] + 7;
    if (strncmp(argv[i], "--script=", 9) == 0) daxkv::crash::only_script = argv[i] + 9;
    if (strcmp(argv[i], "--list") == 0) daxkv::crash::list_only = true;
  }
  return RUN_ALL_TESTS();
}
