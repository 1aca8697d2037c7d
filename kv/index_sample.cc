// How much lies in a range, about: leaves are counted by their parents' views, and a sample of them
// is read.
#include <algorithm>
#include <random>

#include "kv/index_impl.h"

namespace daxkv::kv {

// Neighbouring leaves with one parent: the separators that begin them.
struct Index::Impl::LeafRange {
  InnerFrame* frame;
  std::string from;  // Leads to the frame; the first one's range begins here.
  unsigned first;
  unsigned count;
};

// Leaves that may hold keys of [from, to). One attempt for each parent: all but the first are
// reached by the fence that ends the one before.
absl::Status Index::Impl::LeavesBetween(std::string_view from, std::string_view to,
                                        std::vector<LeafRange>* ranges) {
  std::string next(from);
  for (bool end = false; !end;) {
    LeafRange range;
    range.from = next;
    absl::Status status = Run([&](Obstacle& obstacle) -> absl::Status {
      const InnerView* view;
      absl::Status descended =
          DescendToFrame(std::string_view(range.from), 1, &range.frame, &view, obstacle);
      if (!descended.ok()) return descended;
      const bool last = view->right() == nullptr || (!to.empty() && view->Covers(to));
      range.first = view->Search(range.from);
      range.count = (last && !to.empty() ? view->Search(to) + 1 : view->size()) - range.first;
      end = last;
      if (!last) next = std::string(view->right_fence());
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    ranges->push_back(std::move(range));
  }
  return absl::OkStatus();
}

// Adds what one leaf holds of [from, to).
absl::Status Index::Impl::CountLeaf(std::string_view from, std::string_view to, uint64_t* records,
                                    uint64_t* size_bytes, std::string* next_from, bool* end) {
  bool past_end = false;
  absl::Status scanned = ScanLeaf(
      from,
      [&](const RecordView& record) {
        past_end = !to.empty() && record.key >= to;
        if (past_end) return false;
        ++*records;
        *size_bytes += record.key.size() + record.value.size();
        return true;
      },
      next_from, end);
  *end = *end || past_end;
  return scanned;
}

absl::StatusOr<Index::RangeSample> Index::Impl::SampleRange(std::string_view from,
                                                            std::string_view to,
                                                            size_t most_leaves) {
  std::vector<LeafRange> ranges;
  RangeSample sample;
  sample.leaves = 1;
  if (root_frame.load(std::memory_order_acquire) != nullptr) {
    if (absl::Status status = LeavesBetween(from, to, &ranges); !status.ok()) return status;
    sample.leaves = 0;
    for (const LeafRange& range : ranges) sample.leaves += range.count;
  }
  std::string next(from);
  bool end = !to.empty() && to <= from;
  const bool counted = sample.leaves <= std::max<size_t>(most_leaves, 2);
  do {
    if (end) break;
    absl::Status status =
        CountLeaf(next, to, &sample.edge_records, &sample.edge_size_bytes, &next, &end);
    if (!status.ok()) return status;
  } while (counted && !end);
  if (counted) return sample;

  // A leaf from each of most_leaves - 1 equal parts of what lies between the first and the last,
  // and the last one as the other edge.
  const uint64_t between = sample.leaves - 2;
  const uint64_t picks = std::min<uint64_t>(between, most_leaves - 1);
  std::minstd_rand random(static_cast<unsigned>(std::random_device()()));
  size_t range = 0;
  uint64_t before = 0;  // Leaves of the ranges before this one.
  for (uint64_t pick = 0; pick <= picks; ++pick) {
    const uint64_t part_begin = 1 + between * pick / picks;
    const uint64_t part_end = 1 + between * (pick + 1) / picks;
    const bool last_edge = pick == picks;
    const uint64_t leaf =
        last_edge ? sample.leaves - 1 : part_begin + random() % (part_end - part_begin);
    while (leaf >= before + ranges[range].count) before += ranges[range++].count;
    std::string separator;
    absl::Status status = Run([&](Obstacle& obstacle) -> absl::Status {
      const InnerView* view = ranges[range].frame->view.load(std::memory_order_acquire);
      if (view == nullptr) return obstacle.NoView(ranges[range].frame);
      // The node may have been split meanwhile: then a neighbour's leaf does as well.
      const uint64_t child = ranges[range].first + (leaf - before);
      separator = std::string(
          view->separator(static_cast<unsigned>(std::min<uint64_t>(child, view->size() - 1))));
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    uint64_t records = 0, size_bytes = 0;
    status = CountLeaf(std::max<std::string_view>(separator, from), to, &records, &size_bytes,
                       &next, &end);
    if (!status.ok()) return status;
    if (last_edge) {
      sample.edge_records += records;
      sample.edge_size_bytes += size_bytes;
    } else {
      sample.records_and_size_bytes.emplace_back(records, size_bytes);
    }
  }
  return sample;
}

}  // namespace daxkv::kv
