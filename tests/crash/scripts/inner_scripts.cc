// Splits of inner nodes: at the right edge, where ascending keys fill a level, and in the middle;
// of the root, and below it; and leaves that moved with them and are merged later.
//
// An inner node has 248 children. The leaves stay though most of their keys are deleted again, so
// that images are small and quickly checked.
#include <string>
#include <utility>
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

constexpr int kKeys = 24500;      // In about 240 leaves.
constexpr int kMoreKeys = 26000;  // In about 255: one inner node is full, and there is a second.
constexpr int kSpacing = 4;       // Room for more keys in the middle.
constexpr int kStep = 50;         // Each leaf keeps two of them.
constexpr int kEnd = kKeys * kSpacing;
constexpr unsigned kLinkFence = 4;  // Of a group whose new leaves split their parent.

// Leaves from that key on keep few of their keys.
std::vector<Operation> WideTree(int keys, int first_sparse = 0) {
  std::vector<Operation> operations = {PutGroup(Keys(0, keys, kSpacing), 0)};
  for (int i = 1; i < kStep; ++i) {
    operations.push_back(DeleteGroup(
        Keys((first_sparse + i) * kSpacing, (keys - first_sparse) / kStep, kStep * kSpacing)));
  }
  return operations;
}

std::vector<Script> SplitsOfTheRoot() {
  const std::vector<Operation> at_edge = {PutGroup(Keys(kEnd, 900), 0),
                                          PutGroup(Keys(kEnd + 900, 900), 0),
                                          PutGroup(Keys(kEnd + 1800, 400), 0)};
  const std::vector<Operation> in_middle = {
      PutGroup(Keys(24001, 900), 0), PutGroup(Keys(48001, 900), 0), PutGroup(Keys(30001, 400), 0)};
  std::vector<Script> scripts = {
      {"InnerSplitAtEdge", WideTree(kKeys), at_edge + CloseAndOpen() + Put("key000001", 10)},
      {"InnerSplitInMiddle", WideTree(kKeys), in_middle + CloseAndOpen() + Put("key000001", 10)},
      {"KilledInnerSplits", WideTree(kKeys), {}}};
  for (unsigned fence = 0; fence < 6; ++fence) {
    const int first = 6001 + 6000 * static_cast<int>(fence);
    scripts[2].operations = scripts[2].operations + Killed(PutGroup(Keys(first, 900), 0), fence) +
                            Open() + Put("key000001", 10);
  }
  scripts.push_back(OnPages(scripts[1]));
  return scripts;
}

// The right half belongs into a parent that is there.
std::vector<Script> SplitsBelowTheRoot() {
  const Operation split = PutGroup(Keys(24001, 400), 0);
  Script below{"InnerSplitBelowRoot", WideTree(kMoreKeys),
               std::vector{split} + CloseAndOpen() + Put("key000001", 10)};
  // At the fence that makes the link durable.
  const Script killed{
      "KilledInnerSplitBelowRoot", WideTree(kMoreKeys),
      std::vector{Killed(split, kLinkFence), Open()} + Put("key000001", 10) + Put("key000003", 10)};
  // Leaves that went right with a split are merged there, and their slots get other bytes. The left
  // node, which had slots for them once, has nothing to do with that: its own leaves are full.
  const std::vector<Operation> sparse_right = WideTree(kMoreKeys, kMoreKeys / 2);
  const std::vector<Operation> merge =
      std::vector{Compact()} + Put("key000001", 10) + PutGroup(Keys(60001, 500), 0);
  const Script merged{"InnerSplitMerged", sparse_right, std::vector{InOtherThread(split)} + merge};
  // The same with slots of a session that died: a reader is the first to meet the node, or comes
  // when what was inherited is durable.
  const Operation read = InOtherThread(Read("key000000"));
  const Script read_first{"KilledInnerSplitReadAndMerged", sparse_right,
                          std::vector{Killed(split, kLinkFence), Open(), read} + merge};
  const Script synced_first{
      "KilledInnerSplitMerged", sparse_right,
      std::vector{Killed(split, kLinkFence), Open(), Put("key103000", 10), read} + merge};
  return {below,      OnPages(below),      killed,       OnPages(killed),      merged,
          read_first, OnPages(read_first), synced_first, OnPages(synced_first)};
}

std::vector<Script> Scripts() {
  std::vector<Script> scripts = SplitsOfTheRoot();
  for (Script& script : SplitsBelowTheRoot()) scripts.push_back(std::move(script));
  for (Script& script : scripts) script.share = 0.03;
  return scripts;
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
