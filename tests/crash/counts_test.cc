// What each operation costs in flushes and fences, on persistent memory: the lines that it writes
// back, those of them that had nothing new or were flushed before and not changed since, and its
// waits. Without such lines it writes back no more than it has changed. A store that has been at
// work for a while; what growth, new extents and splits add comes rarely and is not counted here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/crash/campaign.h"
#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

// At most so many, each time, on average. Records are 19 bytes, key (9 bytes here) and value, in
// slots that begin at multiples of 8: one that is not a multiple of a line's size in length may
// touch one line more than it fills.
struct Cost {
  const char* operation;
  double lines;
  double clean_lines;
  double repeated_lines;
  double fences;
  double empty_fences;
};

Operation As(const std::string& name, Operation operation) {
  operation.name = name;
  return operation;
}

void Add(const std::string& name, const std::vector<Operation>& operations,
         std::vector<Operation>* to) {
  for (const Operation& operation : operations) to->push_back(As(name, operation));
}

// Everything twice: only the second time counts.
std::vector<Operation> Work(int first) {
  std::vector<Operation> work;
  Add("put of 100 bytes", Puts(Keys(first, 20), 100), &work);
  Add("put of 1000 bytes", Puts(Keys(first + 20, 10), 1000), &work);
  Add("overwrite, 100 bytes", Puts(Keys(first, 20), 100), &work);
  Add("delete", Deletes(Keys(first, 10)), &work);
  Add("group of 16 puts", {PutGroup(Keys(first, 16), 100)}, &work);
  Add("group of 16 deletes", {DeleteGroup(Keys(first, 16))}, &work);
  Add("batch of 4 puts, 1 delete", {Batch(Keys(first, 4), 100, Keys(first + 16, 1))}, &work);
  Add("delete range of 10", {DeleteRange(Keys(first + 20, 10))}, &work);
  Add("take snapshot", {TakeSnapshot()}, &work);
  Add("put, a snapshot held", Puts(Keys(first, 4), 100), &work);
  Add("release snapshot", {ReleaseSnapshot()}, &work);
  Add("compact, nothing to do", {Compact()}, &work);
  return work;
}

// The store's background work is counted with the operation that it happens to meet: so the least
// of several runs.
constexpr int kRuns = 3;

void TakeLess(const FlushCounts& other, FlushCounts* least) {
  for (uint64_t FlushCounts::*const count :
       {&FlushCounts::lines, &FlushCounts::clean_lines, &FlushCounts::repeated_lines,
        &FlushCounts::fences, &FlushCounts::empty_fences}) {
    least->*count = std::min(least->*count, other.*count);
  }
}

CountsByName LeastCounts(const Script& script) {
  CountsByName least;
  for (int run = 0; run < kRuns; ++run) {
    Plan plan;
    plan.workers = 0;
    const Outcome outcome = RunCampaign(script, plan);
    EXPECT_TRUE(outcome.faults.empty()) << outcome.faults[0];
    for (const auto& [name, counts] : outcome.counts) {
      const auto known = least.emplace(name, counts).first;
      EXPECT_EQ(known->second.operations, counts.operations) << name;
      TakeLess(counts.flushes, &known->second.flushes);
    }
  }
  return least;
}

TEST(CountsTest, FlushesAndFencesOfEachOperation) {
  static constexpr Cost kCosts[] = {
      {"put of 100 bytes", 4, 0, 0, 2, 0},
      {"put of 1000 bytes", 19, 0, 0, 2.2, 0},
      {"overwrite, 100 bytes", 4, 0, 0, 2, 0},
      {"put, a snapshot held", 12, 0, 0, 2, 0},
      {"put, first of a session", 4, 0, 0, 3, 0},
      {"delete", 2, 0, 0, 1, 0},
      {"group of 16 puts", 60, 0, 0, 2, 0},
      {"group of 16 deletes", 16, 0, 0, 1, 0},
      {"delete range of 10", 10, 0, 0, 1, 0},
      {"batch of 4 puts, 1 delete", 32, 0, 0, 5, 0},
      {"take snapshot", 0, 0, 0, 0, 0},
      {"release snapshot", 0, 0, 0, 0, 0},
      {"close", 8, 1, 0, 3, 1},
      {"open", 4, 1, 0, 4, 1},
      {"open after a crash", 30, 24, 0, 5, 2},
  };
  std::vector<Operation> operations = Work(100);
  operations = operations + CloseAndOpen() + As("put, first of a session", Put("key000001", 100));
  operations.push_back(Crash());
  operations.push_back(As("open after a crash", Open()));
  const Script script{"Counts", std::vector{PutGroup(Keys(0, 10), 100)} + Work(50), operations};
  const CountsByName all = LeastCounts(script);
  printf("%-28s %8s %8s %8s %8s %8s\n", "each", "lines", "clean", "repeated", "fences", "empty");
  for (const auto& [name, counts] : all) {
    const auto each = [&](uint64_t count) {
      return static_cast<double>(count) / static_cast<double>(counts.operations);
    };
    const FlushCounts& sum = counts.flushes;
    printf("%-28s %8.2f %8.2f %8.2f %8.2f %8.2f\n", name.c_str(), each(sum.lines),
           each(sum.clean_lines), each(sum.repeated_lines), each(sum.fences),
           each(sum.empty_fences));
    for (const Cost& cost : kCosts) {
      if (name != cost.operation) continue;
      EXPECT_LE(each(sum.lines), cost.lines) << name;
      EXPECT_LE(each(sum.clean_lines), cost.clean_lines) << name;
      EXPECT_LE(each(sum.repeated_lines), cost.repeated_lines) << name;
      EXPECT_LE(each(sum.fences), cost.fences) << name;
      EXPECT_LE(each(sum.empty_fences), cost.empty_fences) << name;
    }
  }
  for (const Cost& cost : kCosts) EXPECT_EQ(all.count(cost.operation), 1u);
}

}  // namespace
}  // namespace daxkv::crash
