// Which segment covers a page: a sorted table that readers search without a lock.
//
// Segments mostly come in ascending order, so an insertion appends and publishes a count. One that
// comes out of order, and each that goes, makes a new table; old tables are kept until ForgetOld,
// because readers may be in them. Readers are in RCU sections, or under the pool's allocation
// mutex.
#ifndef DAXKV_DAX_SEGMENT_INDEX_H_
#define DAXKV_DAX_SEGMENT_INDEX_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "dax/segment.h"

namespace daxkv::dax {

class SegmentIndex {
 public:
  SegmentIndex() { AddTable(); }

  // One thread at a time. At most kMaxSegments in all, none overlapping.
  void Insert(Segment* segment) {
    Table* table = tables_.back().get();
    const size_t count = table->count.load(std::memory_order_relaxed);
    if (count != 0 && table->segments[count - 1]->first_page() > segment->first_page()) {
      Table* sorted = AddTable();
      std::copy_n(table->segments, count, sorted->segments);
      Segment** place =
          std::upper_bound(sorted->segments, sorted->segments + count, segment, Before);
      std::copy_backward(place, sorted->segments + count, sorted->segments + count + 1);
      *place = segment;
      sorted->count.store(count + 1, std::memory_order_relaxed);
    } else {
      table->segments[count] = segment;
      // Pairs with View's acquire: who sees the count sees the slot.
      table->count.store(count + 1, std::memory_order_release);
    }
    // Pairs with View's acquire: who sees the table sees its content.
    current_.store(tables_.back().get(), std::memory_order_release);
  }

  // One thread at a time. Readers may still be in the segment until a grace period has passed.
  void Remove(const Segment* segment) {
    const View view = All();
    Table* table = AddTable();
    Segment** end = std::copy_if(view.begin(), view.end(), table->segments,
                                 [segment](const Segment* other) { return other != segment; });
    table->count.store(static_cast<size_t>(end - table->segments), std::memory_order_relaxed);
    current_.store(table, std::memory_order_release);  // Pairs with View's acquire.
  }
  // After a grace period.
  void ForgetOld() { tables_.erase(tables_.begin(), tables_.end() - 1); }

  // From any thread: the segments there are, in ascending order.
  struct View {
    Segment* const* first;
    size_t count;
    Segment* const* begin() const { return first; }
    Segment* const* end() const { return first + count; }
  };
  View All() const {
    const Table* table = current_.load(std::memory_order_acquire);
    return {table->segments, table->count.load(std::memory_order_acquire)};
  }

  // From any thread: null when no segment covers the page.
  Segment* Find(uint64_t page) const {
    const View view = All();
    Segment* const* after = std::upper_bound(
        view.begin(), view.end(), page,
        [](uint64_t wanted, const Segment* segment) { return wanted < segment->first_page(); });
    if (after == view.begin() || !after[-1]->Covers(page)) return nullptr;
    return after[-1];
  }

 private:
  struct Table {
    std::atomic<size_t> count{0};
    Segment* segments[kMaxSegments];
  };

  static bool Before(const Segment* a, const Segment* b) {
    return a->first_page() < b->first_page();
  }
  Table* AddTable() {
    tables_.push_back(std::make_unique<Table>());
    if (current_.load(std::memory_order_relaxed) == nullptr) {
      current_.store(tables_.back().get(), std::memory_order_relaxed);
    }
    return tables_.back().get();
  }

  std::vector<std::unique_ptr<Table>> tables_;
  std::atomic<const Table*> current_{nullptr};
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_SEGMENT_INDEX_H_
