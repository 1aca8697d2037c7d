// Which pages of a pool's mapping turned out to be lost in this session: the meeting point between
// the SIGBUS handler, which may do next to nothing, and everybody else.
//
// A page's word goes  none -> reported -> replacing -> replaced -> restored -> (again) ...
//   reported   lost, and still mapped: touching it raises SIGBUS
//   replacing  a handler is mapping private memory there; others wait for that
//   replaced   private memory, zeros at first, lies where the file's page was. Whoever touches it
//              survives. What is stored there goes nowhere, so Persister acknowledges none of it.
//   restored   a fresh page of the file is mapped there again
// A page keeps its word for good, so two handlers can't enter it twice.
//
// How a reader knows that it has read none of that: events() grows before private memory appears.
// A reader that found the value settled before it began, and unchanged when it had done, has seen
// the file's own bytes, or entries that were poisoned (Pool::SettleMediaErrors) and so no bytes.
//
// Thread safety: everything from any thread; what is marked so, in a signal handler too.
#ifndef DAXKV_DAX_LOST_PAGES_H_
#define DAXKV_DAX_LOST_PAGES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace daxkv::dax {

class LostPages {
 public:
  // Distinct pages that can be lost in one session. When there are more, SIGBUS is not handled.
  static constexpr size_t kCapacity = 512;

  LostPages() = default;
  LostPages(const LostPages&) = delete;
  LostPages& operator=(const LostPages&) = delete;

  // Losses so far. Acquire: pairs with the release of the loss that was counted.
  uint64_t events() const { return events_.load(std::memory_order_acquire); }
  // The same to look at from elsewhere.
  const std::atomic<uint64_t>* event_counter() const { return &events_; }
  bool any() const { return events() != 0; }
  // Up to which event everything has been taken in.
  uint64_t settled() const { return settled_.load(std::memory_order_acquire); }
  void SetSettled(uint64_t events) { settled_.store(events, std::memory_order_release); }

  // Enters a page as lost. False: there are too many. Async-signal-safe.
  bool Report(uint64_t page);
  // Puts private memory in the place of the page, in the mapping at `base`, unless it is there.
  // False: too many, or no memory. Async-signal-safe; leaves errno changed.
  bool Replace(uint64_t page, char* base);
  // The file's page is mapped again. Nobody may be using the page.
  void SetRestored(uint64_t page);

  // Calls visit(page) for each page that is lost now.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const std::atomic<uint64_t>& word : words_) {
      const uint64_t seen = word.load(std::memory_order_acquire);
      if (seen == 0) return;
      if ((seen & kStateMask) != kRestored) visit(seen >> kStateBits);
    }
  }
  // Whether a page of first..last is lost now.
  bool Overlaps(uint64_t first, uint64_t last) const;
  bool IsReplaced(uint64_t page) const;

 private:
  enum State : uint64_t { kReported = 1, kReplacing = 2, kReplaced = 3, kRestored = 4 };
  static constexpr unsigned kStateBits = 3;
  static constexpr uint64_t kStateMask = (1 << kStateBits) - 1;

  static uint64_t Word(uint64_t page, State state) { return page << kStateBits | state; }
  // The word of `page`, entered as reported if it has none; null: there are too many.
  std::atomic<uint64_t>* Enter(uint64_t page);
  std::atomic<uint64_t>* Find(uint64_t page);
  void Count() { events_.fetch_add(1, std::memory_order_acq_rel); }

  // Read by every operation of a store, written next to never.
  alignas(64) std::atomic<uint64_t> events_{0};
  std::atomic<uint64_t> settled_{0};
  // Filled from the front; 0: free.
  alignas(64) std::atomic<uint64_t> words_[kCapacity] = {};
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_LOST_PAGES_H_
