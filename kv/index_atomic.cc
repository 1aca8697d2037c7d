// Many entries as one change. Every leaf concerned is locked, in ascending order as groups lock
// theirs, and planned; what may fail, fails here. Then the plans are committed as a group's are,
// with the commit's steps between: see CommitPlans.
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

absl::Status Index::Impl::ApplyAtomically(absl::Span<const IndexEntries> changes,
                                          AtomicCommit& commit) {
  std::vector<RoundPart> parts;
  parts.reserve(changes.size());
  for (const IndexEntries& change : changes) {
    if (change.entries.empty()) continue;
    RoundPart& part = parts.emplace_back(RoundPart{change.index->impl_.get(), {}});
    const absl::Status planned = part.index->PlanAll(change.entries, &part.plans);
    if (!planned.ok()) return planned;
  }
  if (parts.empty()) return absl::OkStatus();
  commit.Prepare();
  return CommitRound(absl::MakeSpan(parts), &commit);
}

}  // namespace daxkv::kv
