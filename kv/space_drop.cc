// The end of a keyspace: every extent goes, whatever it holds.
#include <algorithm>

#include "kv/space_impl.h"
#include "kv/stamps.h"

namespace daxkv::kv {
namespace {

// Neighbours that are truncated together: one grace period and one hole for all.
constexpr size_t kRunsTogether = 256;

bool Follows(const dax::Run& run, const dax::Run& before) {
  return run.first_page == before.first_page + before.pages;
}

}  // namespace

absl::Status Space::Impl::ListRunsToDrop() {
  // What is not committed yet is not among the live runs.
  absl::Status status = DrainAndCommit();
  if (!status.ok()) return status;
  std::vector<dax::Run> runs;
  status = pool->ForEachRun([&](const dax::Run& run) {
    if (UseOf(run).IsExtentOf(keyspace)) runs.push_back(run);
    return absl::OkStatus();
  });
  if (status.ok()) runs_to_drop = std::move(runs);
  return status;
}

// Keeps those that are pinned. The first other error ends it.
absl::Status Space::Impl::DropRuns(absl::Span<const dax::Run> group,
                                   std::vector<dax::Run>* pinned) {
  const uint64_t first_page = group.front().first_page;
  const uint64_t end_page = group.back().first_page + group.back().pages;
  absl::Status status = WithoutExceptions(
      [&] { return mapping.Truncate(first_page, end_page - first_page, absl::InfinitePast()); });
  if (!absl::IsDeadlineExceeded(status)) return status;
  if (group.size() == 1) {
    pinned->push_back(group.front());
    return absl::OkStatus();
  }
  const size_t half = group.size() / 2;
  status = DropRuns(group.first(half), pinned);
  return status.ok() ? DropRuns(group.subspan(half), pinned) : status;
}

// With process durability no page may show a record again once others use it (stamps.h, V2). No run
// is pinned, nor will be.
absl::Status Space::Impl::StampRuns(absl::Span<const dax::Run> runs) {
  for (const dax::Run& run : runs) {
    // Nodes are nothing to a power cut.
    const RunUse use = UseOf(run);
    if (use.kind == RunUse::Kind::kSlab && IsNode(SlotKindOf(use.size_class))) continue;
    const absl::StatusOr<SlotLayout> layout = CheckExtent(*pool, run);
    if (!layout.ok()) continue;
    for (uint32_t slot = 0; slot < layout->slot_count; ++slot) {
      const Address address =
          run.offset() + layout->first_slot_offset + uint64_t{slot} * layout->slot_size_bytes;
      if (!IsStampedDead(*pool, address) && !space->IsLost(address, 1)) {
        kv::StampDead(*pool, address);
      }
    }
  }
  return pool->Sync();
}

absl::StatusOr<Space::DropResult> Space::Impl::DropSome(size_t most_extents) {
  if (!runs_to_drop.has_value()) {
    absl::Status listed = ListRunsToDrop();
    if (!listed.ok()) return listed;
  }
  std::vector<dax::Run>& runs = *runs_to_drop;
  std::vector<dax::Run> pinned;
  size_t end = std::min(most_extents, runs.size());
  size_t held_back = 0;
  absl::Status status;
  if (pool->media().durability == dax::Durability::kProcess) {
    // What is pinned now must not change, nor go without a stamp if it is unpinned meanwhile.
    const auto tried_end = runs.begin() + static_cast<ptrdiff_t>(end);
    const auto first_pinned = std::stable_partition(
        runs.begin(), tried_end,
        [&](const dax::Run& run) { return mapping.PinCount(run.first_page) == 0; });
    held_back = static_cast<size_t>(tried_end - first_pinned);
    end -= held_back;
    std::rotate(first_pinned, tried_end, runs.end());
    status = StampRuns(absl::MakeConstSpan(runs).first(end));
  }
  size_t done = 0;
  while (done < end && status.ok()) {
    size_t next = done + 1;
    while (next < end && next - done < kRunsTogether && Follows(runs[next], runs[next - 1])) {
      ++next;
    }
    status = DropRuns(absl::MakeConstSpan(runs).subspan(done, next - done), &pinned);
    if (status.ok()) done = next;
  }
  // Of a group that failed some runs may be gone: Truncate passes over pages of no run.
  runs.erase(runs.begin(), runs.begin() + static_cast<ptrdiff_t>(done));
  runs.insert(runs.end(), pinned.begin(), pinned.end());
  if (!status.ok()) return status;
  return DropResult{runs.size(), pinned.size() + held_back};
}

absl::StatusOr<Space::DropResult> Space::Drop(size_t most_extents) {
  impl_->StopWorker();
  std::lock_guard<std::mutex> lock(impl_->maintenance);
  return WithoutExceptions([&] { return impl_->DropSome(most_extents); });
}

}  // namespace daxkv::kv
