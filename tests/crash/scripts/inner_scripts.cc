// Splits of inner nodes: at the right edge, where ascending keys fill a level, and in the middle.
//
// An inner node has 248 children. The leaves stay though most of their keys are deleted again, so
// that images are small and quickly checked.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

constexpr int kKeys = 24500;  // In about 240 leaves.
constexpr int kSpacing = 4;   // Room for more keys in the middle.
constexpr int kStep = 50;     // Each leaf keeps two of them.
constexpr int kEnd = kKeys * kSpacing;

std::vector<Operation> WideTree() {
  std::vector<Operation> operations = {PutGroup(Keys(0, kKeys, kSpacing), 0)};
  for (int first = 1; first < kStep; ++first) {
    operations.push_back(DeleteGroup(Keys(first * kSpacing, kKeys / kStep, kStep * kSpacing)));
  }
  return operations;
}

std::vector<Script> Scripts() {
  const std::vector<Operation> at_edge = {PutGroup(Keys(kEnd, 900), 0),
                                          PutGroup(Keys(kEnd + 900, 900), 0),
                                          PutGroup(Keys(kEnd + 1800, 400), 0)};
  const std::vector<Operation> in_middle = {
      PutGroup(Keys(24001, 900), 0), PutGroup(Keys(48001, 900), 0), PutGroup(Keys(30001, 400), 0)};
  std::vector<Script> scripts = {
      {"InnerSplitAtEdge", WideTree(), at_edge + CloseAndOpen() + Put("key000001", 10)},
      {"InnerSplitInMiddle", WideTree(), in_middle + CloseAndOpen() + Put("key000001", 10)},
      {"KilledInnerSplits", WideTree(), {}}};
  for (unsigned fence = 0; fence < 6; ++fence) {
    const int first = 6001 + 6000 * static_cast<int>(fence);
    scripts[2].operations = scripts[2].operations + Killed(PutGroup(Keys(first, 900), 0), fence) +
                            Open() + Put("key000001", 10);
  }
  for (Script& script : scripts) script.share = 0.03;
  scripts.push_back(OnPages(scripts[1]));
  return scripts;
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
