// A campaign: a script is recorded in one process, and images of all that a power cut could have
// left are opened and judged in others.
//
// Every acknowledged operation has to be there, those in flight wholly or not at all (of a group:
// each record; of an atomic operation: all its changes), Check has to find neither damage nor a
// leak, and the store has to take new writes. Of some images the recovery is recorded in its turn,
// and images of power cuts during that are judged as well.
#ifndef DAXKV_TESTS_CRASH_CAMPAIGN_H_
#define DAXKV_TESTS_CRASH_CAMPAIGN_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/crash/interposer.h"
#include "tests/crash/recording.h"
#include "tests/crash/script.h"

namespace daxkv::crash {

struct Plan {
  uint64_t images = 1000;  // About so many, at first level.
  uint64_t seed = 1;
  unsigned workers = 6;
  unsigned recoveries_every = 100;  // One recovery is recorded for so many images; 0: none.
  unsigned images_of_recovery = 25;
  unsigned most_faults = 5;  // A worker stops there.
  bool count_sites = false;
  CallSite mutated;  // Null return address: none.
  Mutation mutation = Mutation::kDropped;
  // What failed is kept in a directory here: the trace, and each image. Empty: nothing is.
  std::string keep_in;
  // To judge a kept trace again: its path, and the number of the point and of the variant. Points
  // count from 1; 0: all.
  std::string trace;
  uint64_t only_point = 0, only_variant = 0;
};

struct Outcome {
  std::vector<std::string> faults;  // A line or two each: where it was, and what is wrong.
  uint64_t points = 0;              // Fences, punches and returns in the trace.
  uint64_t images = 0;              // Judged, both levels.
  uint64_t distinct_images = 0;
  uint64_t recovery_images = 0;  // Second level, of `images`.
  uint64_t real_opens = 0;       // The others took an open libpmemobj pool over.
  double seconds = 0, cpu_seconds = 0;
  CountsByName counts;
  std::vector<CallSite> sites;
};

Outcome RunCampaign(const Script& script, const Plan& plan);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_CAMPAIGN_H_
