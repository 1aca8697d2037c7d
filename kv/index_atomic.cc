// Many entries as one change. Every leaf concerned is locked, in ascending order as groups lock
// theirs, and planned; what may fail, fails here. Then the plans are committed as a group's are, with
// the commit's steps between: see CommitPlans.
#include <utility>
#include <vector>

#include "kv/index_impl.h"

namespace daxkv::kv {

absl::Status Index::Impl::PlanAll(absl::Span<const GroupEntry> entries,
                                  std::vector<LeafPlan>* plans) {
  for (size_t planned = 0; planned < entries.size();) {
    LeafPlan& plan = plans->emplace_back();
    absl::Status status = LockLeafFor(entries[planned].key, &plan.at, &plan.lock);
    if (status.ok()) status = PlanLeaf(entries.subspan(planned), &plan);
    if (!status.ok()) return status;
    planned += plan.entries;
  }
  return absl::OkStatus();
}

absl::Status Index::Impl::ApplyAtomically(absl::Span<const GroupEntry> entries,
                                          AtomicCommit& commit) {
  if (entries.empty()) return absl::OkStatus();
  std::vector<LeafPlan> plans;
  const absl::Status planned = PlanAll(entries, &plans);
  if (!planned.ok()) return planned;
  commit.Prepare();
  return CommitRound(plans, &commit);
}

}  // namespace daxkv::kv
