// A mapping: which pages of an index space are present, who holds them, and how they leave.
//
// The user-space counterpart of the kernel's address_space with DAX entries. An XArray maps page
// indices to DAX entries (frame number, order, flags). It is empty after open and fills by faults;
// each entry has its own lock bit; readers pin what they use for long; BreakLayouts and Truncate
// take pages away without ever disturbing a pinned byte.
//
//   Mapping mapping(pool, provider);
//   absl::StatusOr<Pinned> pinned = mapping.Pin(index, Access::kRead);  // Faults it in if need be.
//   std::string_view bytes(pinned->data(), pinned->size_bytes());
//   ... the Pinned handle goes; the extent may leave again.
//
// Definitions
//   index    a page's place in the mapping's own index space, 64 bits.
//   frame    a page of the pool: pool offset / 4096. Indices and frames are related by the
//            ExtentProvider alone.
//   extent   2^order (order 0..9) pages, aligned to their size both as indices and as frames: what
//            one entry maps, what is pinned and locked as a whole.
//   fault    the first touch of an extent, which asks the provider and installs the entry.
//   hole     an extent without frames that reads as zeroes, if the provider knows of such. The
//            first write into it asks the provider for frames.
//   break    a stretch of indices in which nobody may pin, fault or lock until the break's end.
//
// Thread safety: every method from any thread at the same time. The destructor needs quiet, except
// from LockFrame, which may find the mapping through a frame at any time.
//
// Which call may sleep, and what may be held meanwhile
//   Call                       sleeps  under rcu ReadGuard   notes
//   Present, LookUp            no      required              wait-free
//   TryPin, TryPinRange        no      allowed               kUnavailable: locked or absent
//   PinCount, ReportPins       no      allowed
//   Unpinning, unlocking       no      allowed
//   Fault, Pin, LockEntry      yes     forbidden             starts from the lookup after a sleep
//   PinRange, Prefault         yes     forbidden             hold no pin while they sleep
//   LockFrame                  yes     forbidden             never touches a mapping after a sleep
//   BreakLayouts, Truncate     yes     forbidden             wait for pins and for readers
//   Split, Writeback           yes     forbidden             wait for the entry lock, for msync
// A call that may sleep must not be made by a thread whose own EntryLock or LayoutBreak covers the
// index: it would wait for itself. Likewise a thread that holds a pin should not sleep in Pin or
// Fault where another thread may break both extents' range without a deadline: the breaker waits
// for the pin, the pinner for the break. Let one of the two use TryPin or a deadline.
//
// Invariants (mapping_impl.h tells how the kernel's I1..I15 of fs/dax.c are met)
//   M1  The LOCKED bit lives only in the entry's slot; an EntryLock handle remembers the exact
//       unlocked entry and its order, and unlocking consumes the handle.
//   M2  Waiter and waker share one key: mapping and the first index of the entry that was seen.
//   M3  After any sleep everything is looked up again.
//   M4  Unlocking wakes one locker, and everybody who waits but will not lock; erasing an entry or
//       changing its order wakes all, by the old entry's key.
//   M5  A pin is taken only on a present entry that is not locked; an entry is erased only while
//       locked and with no pin on its frames.
//   M6  A huge request that meets small entries falls back, never evicts; a small request inside a
//       huge entry uses the huge entry.
//   M7  Bytes of an erased entry are released only after an RCU grace period: a reader that found
//       the entry present inside a ReadGuard may use its bytes until it leaves the guard.
//   M8  What a provider answered before a break of that range began is never installed after it.
#ifndef DAXKV_DAX_MAPPING_H_
#define DAXKV_DAX_MAPPING_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "dax/pinned.h"
#include "dax/pool.h"

namespace daxkv::dax {

namespace internal {
class MappingImpl;
}  // namespace internal

// What the toucher wants to do. The mapping only hands it on to the provider.
enum class Access { kRead, kWrite };

// The first frame of a hole.
inline constexpr uint64_t kNoFrame = UINT64_MAX;

// Where an extent lies: indices [first_index, first_index + 2^order) are the frames from
// first_frame on, or a hole. A run of n * 2 MiB is several extents of order 9 to the mapping.
struct Extent {
  uint64_t first_index = 0;
  uint64_t first_frame = 0;
  unsigned order = 0;

  uint64_t pages() const { return uint64_t{1} << order; }
};

// Tells the mapping what lies at an index: the file system's part in a fault. The first touch of
// an extent goes through here, so this is where its owner validates it and finishes what a crash
// left half done. Both calls come from any thread, without locks and outside RCU sections.
class ExtentProvider {
 public:
  virtual ~ExtentProvider() = default;

  // The extent that covers `index`, of an order <= `max_order` (0..9), validated. A smaller order
  // than the owner would like is asked for when smaller entries are in the way. May be called
  // several times for one extent, also by two threads at once; surplus results are dropped. What a
  // truncation has released to the pool must not be provided again (it ends at ReleaseRun, before
  // Truncate returns): a provider that finds its extents by Pool::FindRun sees to that by itself.
  // A provider whose holes read as zeroes answers kRead in one with the hole: first_frame kNoFrame,
  // and no index of the extent has frames. Frames come to a hole only by Provide with kWrite, whose
  // answer must have some, full of zeroes.
  // Whatever status is returned (kNotFound: nothing there; kDataLoss: damaged) is what the fault
  // returns.
  virtual absl::StatusOr<Extent> Provide(uint64_t index, unsigned max_order, Access access) = 0;

  // The frame at `index`, not validated: Truncate asks it for pages that were never faulted in.
  // kNotFound: nothing there. The default is for providers whose frames are their indices.
  virtual absl::StatusOr<uint64_t> Locate(uint64_t index) { return index; }
};

// The provider for whole pools: index = page number, extents = the pool's runs, nothing to
// validate. `pool` must outlive it.
std::unique_ptr<ExtentProvider> NewIdentityProvider(const Pool* pool);

class Mapping;

// A locked entry. Move-only; unlocks when it goes. While one is held, further entries may be locked
// only at higher indices, and in other mappings only at higher mapping addresses.
class EntryLock {
 public:
  EntryLock() = default;
  EntryLock(EntryLock&& other) noexcept { *this = std::move(other); }
  EntryLock& operator=(EntryLock&& other) noexcept;
  ~EntryLock() { Unlock(); }
  // Unlocks, and wakes a waiter; does nothing without a lock.
  void Unlock();

  // Marks the extent as lost to a media error. From now on it is not Present; Pin and Fault return
  // kDataLoss; pins that exist stay. Only truncating it ends this. Nothing happens to a hole.
  void Poison();

  bool valid() const { return mapping_ != nullptr; }
  const Extent& extent() const { return extent_; }
  // Alive while the handle lives: its destructor waits for entry locks.
  Mapping* mapping() const { return mapping_; }

 private:
  friend class internal::MappingImpl;

  Mapping* mapping_ = nullptr;
  Extent extent_;
  uint64_t unlocked_entry_ = 0;  // The slot's word without LOCKED.
};

// A broken range: nobody may pin, fault or lock in it until the handle goes. Move-only.
class LayoutBreak {
 public:
  LayoutBreak() = default;
  LayoutBreak(LayoutBreak&& other) noexcept { *this = std::move(other); }
  LayoutBreak& operator=(LayoutBreak&& other) noexcept;
  ~LayoutBreak() { Release(); }
  // Ends the break and wakes everybody who waits for it; does nothing without one.
  void Release();

  bool valid() const { return impl_ != nullptr; }
  uint64_t first_index() const { return first_; }
  uint64_t last_index() const { return last_; }

 private:
  friend class internal::MappingImpl;

  internal::MappingImpl* impl_ = nullptr;
  uint64_t first_ = 0;
  uint64_t last_ = 0;
};

enum class FaultResult {
  kNoPage,    // The index is mapped by an entry of the wanted order or more (VM_FAULT_NOPAGE).
  kFallback,  // The index is mapped, but by an entry of a smaller order than wanted.
};

struct MappingStats {
  uint64_t entries = 0;
  uint64_t entries_by_order[kHugeOrder + 1] = {};
  uint64_t pages = 0;         // Mapped by them.
  uint64_t huge_entries = 0;  // Of order 9.
  uint64_t hole_entries = 0;
  uint64_t locked_entries = 0;
  uint64_t dirty_entries = 0;
  uint64_t pins = 0;     // Held now.
  uint64_t waiters = 0;  // Threads asleep now on entries and breaks, in all mappings of this pool.
  // Since open, by the order that was wanted: faults that installed just that, and faults that
  // ended in kFallback. Those that found what they wanted are not counted.
  uint64_t faults_no_page_by_order[kHugeOrder + 1] = {};
  uint64_t faults_fallback_by_order[kHugeOrder + 1] = {};
  uint64_t faults_no_page = 0;  // Sums.
  uint64_t faults_fallback = 0;
  uint64_t waits = 0;  // Sleeps on entries, breaks and pins, since open.
};

struct MappingOptions {
  // What a fault that installs an extent makes the kernel do with its pages at once, so that no
  // later touch takes a page fault (MADV_POPULATE_READ or _WRITE, Linux 5.14). It costs the time of
  // those page faults, and blocks for pages of the run that had none; kWrite makes all of them
  // dirty in the page cache, too. A failure is no error.
  enum class Prefault { kNone, kRead, kWrite };
  Prefault prefault = Prefault::kNone;
  // Whether each pin's thread and time are kept, for ReportPins and for the messages of a break
  // that can't be had. For their cost see pinned.h.
  bool track_pins = false;
  // How many pins the mapping may have at a time; 0: no limit. A limit counts pins exactly, and
  // tracks them.
  uint64_t max_pins = 0;
  // How many pins one extent may have at a time, 1..kMostPinsPerExtent (others are brought into
  // that range). Costs nothing.
  uint32_t max_pins_per_extent = kMostPinsPerExtent;

  static constexpr uint32_t kMostPinsPerExtent = uint32_t{1} << 30;
};

class Mapping {
 public:
  // `pool` and `provider` must outlive the mapping. Mappings of one pool share its frames: a frame
  // is in one entry of one mapping at most.
  Mapping(Pool* pool, ExtentProvider* provider, const MappingOptions& options = MappingOptions());
  // Waits for entry locks. Everything must have been unpinned (else the process is stopped with a
  // message: somebody would go on reading what is no longer kept).
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Whether the page is mapped by an entry whose frames may be read: no hole and not poisoned. If
  // so, they may be read until the caller leaves its ReadGuard (M7), locked or not. The hot path of
  // copying readers: one XArray lookup.
  bool Present(uint64_t index) const;
  // The extent of the entry at `index`, if Present. Same rules.
  std::optional<Extent> LookUp(uint64_t index) const;

  // Makes sure that an entry covers `index`, installing one of `order` (0..9) if the provider and
  // the neighbours allow. After kNoPage and kFallback alike the index was mapped a moment ago; only
  // a pin or a lock keeps it so. A write into a hole takes the hole's entry away, whatever its
  // order, and installs frames; the rest of a larger hole is asked for again when it is touched.
  //   Statuses: the provider's; kInvalidArgument: order > 9; kResourceExhausted: no memory (a hole
  //   may have lost its entry; nothing else has changed);
  //   kDataLoss: poisoned; kInternal: the provider's extent does not cover the index, is too large
  //   or misaligned, or its frames are mapped elsewhere.
  absl::StatusOr<FaultResult> Fault(uint64_t index, unsigned order, Access access);

  // Pins the extent at `index`, faulting it in first (in the provider's own order). Pin sleeps
  // while the entry is locked; TryPin (which pins for reading) returns kUnavailable instead, and
  // for an absent entry too. Statuses of Fault; kResourceExhausted also at a limit of
  // MappingOptions (the message names it).
  absl::StatusOr<Pinned> Pin(uint64_t index, Access access);
  absl::StatusOr<Pinned> TryPin(uint64_t index);
  // Pins the bytes [first_byte, first_byte + size_bytes) of the index space, byte b being one of
  // index b / 4096: every extent that they touch, once each, or none. While it sleeps it holds no
  // pin, so unlike a sequence of Pins it can't come to wait for a break that waits for it; two
  // extents may have been replaced between its looks at them. Cost: a Pin for each extent.
  //   Statuses of Pin and TryPin; kInvalidArgument: size_bytes is 0 or the range leaves 64 bits
  absl::StatusOr<PinnedRange> PinRange(uint64_t first_byte, uint64_t size_bytes, Access access);
  absl::StatusOr<PinnedRange> TryPinRange(uint64_t first_byte, uint64_t size_bytes);
  // Pins held on the extent at `index` now, those from before a Split included; 0 when absent.
  // Exact only to someone who excludes new pins.
  uint32_t PinCount(uint64_t index) const;
  // Which extents are pinned and, where tracked, by whom. Walks the entries. Names at most
  // `most_extents`.
  PinReport ReportPins(size_t most_extents = 16) const;

  // Faults the range's extents in, in the provider's own orders, and has the kernel map their pages
  // (what MappingOptions::prefault does at each fault): those of extents of order 9 by huge pages,
  // where it can (huge_pages.h).
  //   Statuses of Fault; kInvalidArgument of Truncate; kUnimplemented: a kernel before 5.14;
  //   kResourceExhausted: no memory, or no blocks for pages that have none
  absl::Status Prefault(uint64_t first_index, uint64_t pages, Access access);

  // Locks the entry that covers `index`. kNotFound when there is none (it may have gone while we
  // slept).
  absl::StatusOr<EntryLock> LockEntry(uint64_t index);
  // Locks the entry of a frame, whichever mapping of this pool it is in: how a media error finds
  // what it hit. kNotFound when it is in none, also when its mapping died while we slept (kernel:
  // dax_lock_page, commit 55e56f06).
  static absl::StatusOr<EntryLock> LockFrame(Pool* pool, uint64_t frame);

  // Keeps new pins, faults and locks out of every extent that touches [first_index, first_index +
  // pages), and waits until none of them is pinned or locked. A deadline in the past means: try,
  // without sleeping. Breaks of overlapping ranges wait for each other. Cost: the entries present.
  //   kDeadlineExceeded  the deadline passed; everything is as before. The message names the busy
  //                      extents (the first four) with their pins and for how long they have been
  //                      busy, and where tracked the threads that took the pins
  //   kInvalidArgument   pages is 0 or the range leaves the index space
  absl::StatusOr<LayoutBreak> BreakLayouts(uint64_t first_index, uint64_t pages,
                                           absl::Time deadline);

  // Breaks layouts, removes the entries, waits once for readers (RCU, milliseconds), then releases
  // every run of the range to the pool, which punches it; also runs that were never faulted in. The
  // runs must lie in the range as a whole; pages of no run are skipped, each at the cost of a look.
  //   Statuses of BreakLayouts; kInvalidArgument: a run lies partly outside the range, or its pages
  //   are not neighbours in index space; the provider's of Locate; kDataLoss of the pool. After any
  //   of these nothing has changed. An error of Pool::ReleaseRun: that run stays live, the others
  //   of the range are released.
  absl::Status Truncate(uint64_t first_index, uint64_t pages, absl::Time deadline);

  // Replaces the entry at `index` by entries of `new_order`, each with its marks, unseen by
  // readers. Pins that exist count for each of them until they drop.
  //   kNotFound; kInvalidArgument (new_order not below the entry's, or a hole); kResourceExhausted
  //   (nothing has changed).
  absl::Status Split(uint64_t index, unsigned new_order);

  // Dirty tracking for msync. MarkDirty *after* storing: stores that happened before a MarkDirty
  // are covered by every Writeback that starts after it. (No page protection tells us of a later
  // store, so a mark set before storing could be cleaned away between the two.)
  void MarkDirty(uint64_t first_index, uint64_t pages);
  // Makes the dirty extents that touch the range durable, as far as the medium's promise goes, and
  // cleans them. Pins and locks are not disturbed. One Writeback at a time; others wait. On an
  // error of the pool's msync (kInternal, with the range) the extents stay dirty.
  absl::Status Writeback(uint64_t first_index, uint64_t pages);

  // Walks the entries.
  MappingStats stats() const;

 private:
  friend class EntryLock;
  friend class internal::MappingImpl;

  std::unique_ptr<internal::MappingImpl> impl_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_MAPPING_H_
