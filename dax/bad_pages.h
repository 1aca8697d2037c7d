// The persistent list of lost data pages: PoolRoot::bad_pages, one 8-byte word for each page.
//
// A word is the page number and a check of it (pool_format.h). One 8-byte store enters a page and
// one takes it out; after a crash before that store is durable the page counts as it did before. A
// loss that was forgotten so is met again when the page is touched.
//
// A page is in the list from the moment its loss is settled until it got fresh blocks: its run was
// released, its blocks were punched, and it was mapped anew (PageSpace::ReleaseRun). Entries whose
// page is in no run at an open are what a crash left between those steps; the segment's first use
// finishes them.
//
// Thread safety: all methods from any thread, Load before the others.
#ifndef DAXKV_DAX_BAD_PAGES_H_
#define DAXKV_DAX_BAD_PAGES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "dax/persist.h"
#include "dax/pool_format.h"

namespace daxkv::dax {

class BadPages {
 public:
  // The parts must outlive it.
  BadPages(PoolRoot* root, Persister* persister) : root_(root), persister_(persister) {}

  // Reads the list. kDataLoss: a word of it is damaged.
  absl::Status Load();

  static uint64_t Encode(uint64_t page);
  // Nothing for a word that Encode did not make, 0 among them.
  static std::optional<uint64_t> Decode(uint64_t word);

  // Enters a page, durably; nothing happens if it is there. On an error it is entered until the end
  // of this session only.
  //   kResourceExhausted  the list is full
  //   kInternal, kDataLoss  the medium failed
  absl::Status Add(uint64_t page);
  // Takes a page out, durably. On an error it stays.
  absl::Status Remove(uint64_t page);

  // The listed pages of [first, end), ascending.
  std::vector<uint64_t> In(uint64_t first, uint64_t end) const;
  // Whether a page of [first, end) is listed. Orders everything before an Add before whoever finds
  // it, and everything before a miss before the Add that comes later.
  bool Overlaps(uint64_t first, uint64_t end) const;
  // Whether any is listed: one load, and no ordering.
  bool any() const { return count_.load(std::memory_order_relaxed) != 0; }

 private:
  absl::Status Store(size_t place, uint64_t word);

  PoolRoot* const root_;
  Persister* const persister_;
  mutable std::mutex mutex_;
  std::vector<uint64_t> pages_;  // Sorted. Guarded by mutex_.
  std::atomic<size_t> count_{0};
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_BAD_PAGES_H_
