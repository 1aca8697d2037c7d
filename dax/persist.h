// Making stores durable, as each media class needs it.
//
// On kDax and kVolatile: cache line write-back and a fence, by libpmem's exported functions, which
// a test binary may interpose. (On kVolatile nothing depends on it; the same code runs so that what
// is tested on tmpfs is what runs on DAX.) On kPageCache: msync. A msync costs a fraction of a
// millisecond whatever its length, so ranges are only noted at first, for each thread, and written
// by one call for each neighbourhood when the thread drains.
//
// With Durability::kProcess, on kPageCache, Flush and Drain write nothing: the page cache has the
// stores, and keeps them when the process ends. What must reach the medium in an order even then
// goes through FlushToMedium and DrainToMedium, or SyncAll.
//
// Thread safety: all methods from any thread. Notes belong to a thread and a Persister; those of a
// Persister that has gone are dropped.
#ifndef DAXKV_DAX_PERSIST_H_
#define DAXKV_DAX_PERSIST_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "dax/lost_pages.h"
#include "dax/media.h"

namespace daxkv::dax {

class Persister {
 public:
  // `base` is the mapping's first byte, for the offsets in messages. `lost`, if not null, outlives
  // this: pages of it don't become durable, and say so.
  // Durable as the medium can (Durability::kPower).
  Persister(MediaClass media_class, const char* base, const LostPages* lost = nullptr);
  // Which pages hold data rather than what the pool itself lives by. Before anything is lost.
  void SetDataPages(std::function<bool(uint64_t page)> is_data) { is_data_ = std::move(is_data); }

  // Never fails: what can't be noted for want of memory is written at once.
  void Flush(const void* address, size_t size_bytes) noexcept;
  // kInternal: an msync failed, now or earlier, in any thread; the message has the pool offsets and
  // the reason. Linux tells of a failed write-back once, to whoever asks first, and takes the pages
  // for clean from then on: what other threads flushed may be lost as well, and no later msync
  // would tell. So no drain succeeds after one has failed.
  // kDataLoss: this thread flushed something on a page that is lost to a media error; the rest is
  // durable. Or the pool's own records lie on such a page: then nobody's drain succeeds any more.
  absl::Status Drain() noexcept;
  // On kPageCache: nothing that this thread has flushed has to be durable before something else is.
  // Elsewhere a Drain. Statuses of Drain: kDataLoss as there.
  absl::Status DropFlushes() noexcept;
  // Another promise from now on. The caller sees to what was flushed under the one before
  // (SyncAll). `most_bytes`: what the mapping may grow to.
  void SetDurability(Durability durability, uint64_t most_bytes = 0);
  // Whether Flush and Drain write nothing. Relaxed: who sets it needs quiet.
  bool process_only() const { return process_only_.load(std::memory_order_relaxed); }
  // Whether something was flushed since the last call that only SyncAll makes durable. False when
  // nothing was flushed since the last call but one, either: a store may reach the cache a moment
  // after its flush is seen.
  bool TakeUnsynced() noexcept;

  // Flush and Drain in the strict sense, whatever the durability: for words that must be durable
  // before what they free is used again. Statuses of Drain.
  void FlushToMedium(const void* address, size_t size_bytes) noexcept;
  absl::Status DrainToMedium() noexcept;
  // One word of the pool's own, whatever else this thread has flushed: what a later Drain of its
  // has to say stays to be said.
  absl::Status PersistWord(const void* address);
  void CopyAndFlush(void* to, const void* from, size_t size_bytes) noexcept;
  // Everything below base + size_bytes, whichever thread stored it.
  absl::Status SyncAll(size_t size_bytes);
  // The same for stores of kProcess, without disturbing those who store meanwhile so much. Where the
  // kernel cleans a mapped page it interrupts every CPU that the process runs on, page by page. So
  // blocks that were flushed often are unmapped first, at one interrupt each, and written before
  // many of their pages are mapped again, which the next access to them does. One thread at a time.
  absl::Status SyncInParts(size_t size_bytes);

 private:
  void Note(uintptr_t first, uintptr_t last);
  absl::Status WriteBack(uintptr_t first, uintptr_t last) noexcept;
  absl::Status CheckMedium() const noexcept;
  // Notes, for this thread's next drain, that it flushed a lost page, if it did.
  void NoteIfLost(const void* address, size_t size_bytes) noexcept;
  absl::Status DrainRanges() noexcept;
  absl::Status SyncRange(size_t size_bytes);
  absl::Status TakeLostNote() noexcept;

  void NoteUnsynced(const void* address) noexcept;
  bool UnmapBusyBlocks(uint64_t first, uint64_t end) noexcept;
  void Write(const void* address, size_t size_bytes) noexcept;

  const bool page_cache_;
  // Only on kPageCache. Relaxed: who changes it syncs everything afterwards.
  std::atomic<bool> process_only_{false};
  std::atomic<bool> unsynced_{false};
  bool was_unsynced_ = false;  // TakeUnsynced's, which one thread calls at a time.
  // How often each block was flushed under kProcess since it was unmapped, about, and to kBusyFlushes
  // at most. Null: without memory, or before kProcess. Never freed before the Persister.
  std::unique_ptr<std::atomic<uint8_t>[]> owned_flushes_;
  std::atomic<std::atomic<uint8_t>*> flushes_{nullptr};
  uint64_t blocks_ = 0;  // Of it; before it is published.
  const char* const base_;
  // Outlived by no note: threads hold it weakly.
  const std::shared_ptr<const Persister*> identity_;
  std::atomic<bool> failed_{false};
  const LostPages* const lost_;
  std::function<bool(uint64_t page)> is_data_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_PERSIST_H_
