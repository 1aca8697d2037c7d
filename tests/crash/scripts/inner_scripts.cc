// Splits of inner nodes: at the right edge, where ascending keys fill a level, and in the middle.
//
// An inner node has 248 children. The leaves stay though most of their keys are deleted again, so
// that images are small and quickly checked.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

constexpr int kKeys = 28500;  // In about 240 leaves.
constexpr int kStep = 60;     // Each leaf keeps two keys or so.

std::vector<Operation> WideTree() {
  std::vector<Operation> operations = {PutGroup(Keys(0, kKeys), 0)};
  for (int first = 1; first < kStep; ++first) {
    operations.push_back(DeleteGroup(Keys(first, kKeys / kStep, kStep)));
  }
  return operations;
}

std::vector<Script> Scripts() {
  const std::vector<Operation> at_edge = {PutGroup(Keys(kKeys, 900), 0),
                                          PutGroup(Keys(kKeys + 900, 900), 0),
                                          PutGroup(Keys(kKeys + 1800, 400), 0)};
  const std::vector<Operation> in_middle = {
      PutGroup(Keys(6001, 900), 0), PutGroup(Keys(12001, 900), 0), PutGroup(Keys(6961, 400), 0)};
  std::vector<Script> scripts = {
      {"InnerSplitAtEdge", WideTree(), at_edge + CloseAndOpen() + Put("key000001", 10)},
      {"InnerSplitInMiddle", WideTree(), in_middle + CloseAndOpen() + Put("key000001", 10)},
      {"KilledInnerSplits", WideTree(), {}}};
  for (unsigned fence = 0; fence < 6; ++fence) {
    const int first = 1501 + 1500 * static_cast<int>(fence);
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
