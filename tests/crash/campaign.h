// Crash consistency, proved by trying. A campaign: a script is recorded in one process, and images
// of all that a power cut could have left are opened and judged in others.
//
// ---- What the recorder sees (interposer.h, recorder.h) ----
// The binary defines libpmem's functions itself, so each flush and fence of libpmemobj and of daxkv
// comes by, with the thread that made it; so do holes that are punched, parts that are added, and
// RCU's grace periods, in which every processor passes a barrier. What is in memory is compared
// with what was seen last at each of these events: stores that nobody flushed are known, too,
// though not in which order they came. On the platform kPages there are no flushes, and msync makes
// whole pages durable. (The open, the script and all background threads are recorded.)
//
// ---- What a crash may leave (crash_image.h) ----
// At each point (before a fence or msync takes effect, before a hole, after each operation):
//   1 what is durable, and nothing else
//   2 that, and all that was flushed
//   3 all that is in memory: the end of a process that loses nothing
//   4 random choices, many: of flushed lines with the bytes that they had at the flush or have now,
//     and of lines that nobody flushed. A line comes whole or torn at its 8-byte words; a page of
//     an ordinary file comes whole or torn at its 512-byte sectors.
// A process that dies takes its threads along, before they have flushed what no fence has
// completed: it is in the caches, and no later fence completes it.
//
// ---- What an image is judged by (judge.h, expectation.h) ----
// Every acknowledged operation has to be there, those in flight wholly or not at all (of a group:
// each record; of an atomic operation: all its changes), Check has to find neither damage nor a
// leak, and the store has to take new writes. Of some images the recovery is recorded in its turn,
// and images of power cuts during that are judged as well.
//
// ---- What can't be caught here ----
// - Changes of files and directories (names, lengths, blocks) count as durable at once: what
//   dax/store_directory and dax/backing_files do to make them so is argued there.
// - Between two events only the last state of a word is seen: one that was wrong for a moment in
//   between, and was written back just then, is not.
// - Threads interleave as they happen to, with delays where a script asks for them (Slowed).
// - What libpmemobj does inside its transactions is recorded, and takes part in images, but none of
//   it is mutated: it is taken to be right.
// - Real caches, memory controllers and disks: tests/dax_vm pulls a real cord.
// What the harness is worth is measured by leaving out, and delaying, each flush and fence in turn:
// sensitivity_test. What each operation costs: counts_test.
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
  // Only points at which something is missing for the mutation, and images for that: with all that
  // is in memory but what is missing, and the like.
  bool for_mutation = false;
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
