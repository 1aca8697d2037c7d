// What the index needs from below: slots to write in, presence of what it reads, durability.
//
// kv/space.h implements it on a pool; tests implement it on an arena to see every flush.
//
// Thread safety: all methods from any thread at the same time.
#ifndef DAXKV_KV_MEMORY_H_
#define DAXKV_KV_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv/format.h"

namespace daxkv::kv {

// A fence is a record, too: kept apart, as it is never moved.
enum class SlotKind { kRecord, kFence, kLeaf, kInner };

constexpr bool IsNode(SlotKind kind) { return kind == SlotKind::kLeaf || kind == SlotKind::kInner; }

class Memory {
 public:
  virtual ~Memory() = default;

  char* At(Address address) const { return base_ + address; }
  uint64_t open_epoch() const { return open_epoch_; }
  // Whose records these are.
  KeyspaceId keyspace() const { return keyspace_; }

  // Whether the extent at `address` is present, and where it ends. 0: absent (FaultIn it, outside
  // any ReadGuard, and look again); otherwise the address one past the extent's last byte, and
  // bytes up to there may be read until the caller leaves its ReadGuard. Wait-free. Any 64-bit
  // value may be asked for: what comes from the medium is hostile until checked here.
  virtual Address PresentUntil(Address address) const = 0;
  // Validates and maps the extent at `address`. Sleeps; never inside a ReadGuard.
  //   kDataLoss  no extent there, or a damaged one (message names the pool offset)
  virtual absl::Status FaultIn(Address address) = 0;

  // ---- Media errors: pages that are lost ----
  // Bytes may turn to zeros under a reader at any time. Who runs a call of the store settles losses
  // before it and repeats what met a new one (Engine::Reading), so here only settled ones matter.

  // Whether any page was lost since open: one load.
  bool AnyLost() const { return media_events_->load(std::memory_order_acquire) != 0; }
  // Whether a page of the range is lost. Slow; to be asked after AnyLost, or when bytes are absent.
  virtual bool IsLost(Address /*address*/, uint64_t /*size_bytes*/) const { return false; }
  // How far bytes are present from `end` on, which PresentUntil has returned: the extent may go on
  // there, in pieces around lost pages. At least `wanted` if they are present up to there; less if
  // the run ends before, or a lost page is in the way; 0 if something is absent. In the same
  // ReadGuard.
  virtual Address PresentBeyond(Address end, Address /*wanted*/) const { return end; }

  // A slot of at least `size_bytes` for a record (19 bytes .. 19 + 64 KiB + 1 GiB), or a node's
  // slot (size_bytes ignored; aligned to 1024 or 2048). Its extent is present. It belongs to the
  // caller until the index refers to it; if it never does, and the process dies, it is free again.
  // May call back into Index::RefersToRecord and RefersToNode.
  //   kResourceExhausted  pool or file system full; nothing changed
  virtual absl::StatusOr<Address> Allocate(SlotKind kind, uint64_t size_bytes) = 0;
  // Gives back a slot that no reader can have seen. Never fails.
  virtual void Abandon(Address address) noexcept = 0;
  // Makes sure that the next `count` Retires of this thread find the memory that they need. Those
  // not made stay promised.
  //   kResourceExhausted  there is none
  virtual absl::Status ReserveRetires(size_t /*count*/) { return absl::OkStatus(); }
  // Takes back what this thread reserved and will not retire now: the slot is kept for a snapshot,
  // or was not unlinked.
  virtual void CancelRetires(size_t /*count*/) noexcept {}
  // Gives back a slot that was just unlinked by a store to `link`, in the same ReadGuard as that
  // store, whose flush was started before. The slot is reused only when the store is durable (until
  // then a crash may bring the link back), after a grace period, and while its extent has no pin.
  // `link` is null when nothing on the medium ever referred to the slot. Without ReserveRetires and
  // without memory the slot stays used for this session.
  virtual void Retire(Address address, const uint64_t* link) noexcept = 0;
  // Called before Retire or NoteKept of a record that leaves its key without a value. A record that
  // is not told of so was replaced by one of its key with a higher number, or by its copy.
  virtual void NoteRemoved() noexcept {}
  // Tells of a slot that was unlinked likewise, but is still shown by snapshots: it is retired when
  // they are gone. Until then a power cut must not make it the key's again (stamps.h, V3).
  virtual void NoteKept(Address /*address*/) noexcept {}

  // As in dax::Pool: Flush starts, Drain waits for everything this thread has flushed.
  //   kInternal  the medium failed; what was flushed may not be durable
  virtual void Flush(const void* address, size_t size_bytes) noexcept = 0;
  virtual absl::Status Drain() = 0;
  // Drain where that is a fence alone and so may be made inside a ReadGuard; *status is its. False:
  // nothing was done, as it might sleep.
  virtual bool DrainAtOnce(absl::Status* /*status*/) noexcept { return false; }
  // The same, after a Drain of other memory of the pool, which has waited for what this thread
  // flushed here, too: only what that can't do is left, as committing new extents.
  virtual absl::Status DrainRest() { return Drain(); }
  // Instead of Drain: on an ordinary file what this thread has flushed need not be durable now, as
  // something else will see to it. Statuses of Drain.
  virtual absl::Status DropFlushes() { return Drain(); }
  // Starts flushing what a process that died may have stored here without flushing it. We see its
  // stores, but they may be in the processor's caches only, and a power cut would undo them: what
  // they unlinked must not be reused before they are durable. A no-op where that is seen to
  // otherwise, and after a clean close.
  virtual void FlushInherited(const void* /*address*/, size_t /*size_bytes*/) noexcept {}
  // Copies into [to, to + size_bytes), past the cache where that is quicker, and flushes it.
  virtual void CopyAndFlush(Address to, const void* from, size_t size_bytes) noexcept {
    std::memcpy(At(to), from, size_bytes);
    Flush(At(to), size_bytes);
  }

 protected:
  // `media_events` grows with each page that is lost; null: none ever is.
  Memory(char* base, uint64_t open_epoch, KeyspaceId keyspace = kDefaultKeyspace,
         const std::atomic<uint64_t>* media_events = nullptr)
      : base_(base),
        open_epoch_(open_epoch),
        keyspace_(keyspace),
        media_events_(media_events != nullptr ? media_events : &no_events_) {}

 private:
  char* const base_;
  const uint64_t open_epoch_;
  const KeyspaceId keyspace_;
  const std::atomic<uint64_t>* const media_events_;
  static inline std::atomic<uint64_t> no_events_{0};
};

// A slot that its owner gives back, unless it is released: to the index, by the store that makes it
// reachable.
class OwnedSlot {
 public:
  OwnedSlot() = default;
  OwnedSlot(Memory* memory, Address address) : memory_(memory), address_(address) {}
  OwnedSlot(OwnedSlot&& other) noexcept
      : memory_(other.memory_), address_(std::exchange(other.address_, kNullAddress)) {}
  OwnedSlot& operator=(OwnedSlot&& other) noexcept {
    if (this == &other) return *this;
    if (address_ != kNullAddress) memory_->Abandon(address_);
    memory_ = other.memory_;
    address_ = std::exchange(other.address_, kNullAddress);
    return *this;
  }
  ~OwnedSlot() {
    if (address_ != kNullAddress) memory_->Abandon(address_);
  }
  // kNullAddress: none.
  Address address() const { return address_; }
  Address Release() { return std::exchange(address_, kNullAddress); }

 private:
  Memory* memory_ = nullptr;
  Address address_ = kNullAddress;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_MEMORY_H_
