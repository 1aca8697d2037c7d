// Recent puts: what makes a put on an ordinary file durable by one write of its record, instead of
// one of the record and then one of the leaf that leads to it.
//
// On an ordinary file each wait for the medium is an msync: a write and a flush of the device. A put
// needs two of them if the medium may never hold a leaf's slot without the record. But the record
// says all by itself: key, value, number, place, and a checksum. So a *recent* put waits for its
// record alone, and then stores the slot, whose page goes to the medium whenever the kernel, or
// another call, writes it. If power fails before that, the next open finds the record and stores the
// slot again (BatchRedo). Where it must look is in a short list in the root area: regions of 256 KiB
// that had such puts since they were last settled (format.h, RecentPutsTable).
//
//   std::optional<Ticket> ticket = recent.Enter(address);   // None: the put waits twice.
//   write the record with kSelfPublishedFlag; wait for it
//   store the slot, without a wait
//   if (!recent.Leave(*ticket, number)) ... wait for the slot, too  // Rare.
//
// To *settle* is to msync everything and then to store, in one word, up to which number puts need no
// redo. It happens when the list is full, and at Close, when regions without later puts leave the
// list; and when something is removed that was put since, or a keyspace has gone.
//
// Thread safety: every method from any thread, but Begin.
//
// Invariants. A record is *recent* if it verifies, has kSelfPublishedFlag and a number above
// RecentPutsTable::settled, and lies in a listed region.
//   R1  A slot is stored only after its record is durable. So whatever the medium holds of a leaf,
//       it leads to complete records: it may be old, never ahead. (As without recent puts: X2.)
//   R2  A slot of the pool is reused, and an extent truncated, only after the store that unlinked
//       it is durable (Space, E2). So what an old leaf leads to is still there.
//   R3  The record of a put that has returned is recent, or a leaf on the medium holds it, or a
//       later version of its key, or its key was removed later. For the region is listed, durably,
//       before the put writes; it leaves the list only after an msync that began when all its puts
//       had left. A put whose slot is not stored by the time that an msync begins which will settle
//       its number is told so when it leaves, and waits for its slot itself.
//   R4  A recent record was published, or is of a put under way at the crash, which may as well be
//       done: who writes one and can't publish it destroys it, durably, before he says so. Records
//       of conditional puts, groups and batches never have the flag.
//   R5  Of one key's versions those that come later have higher numbers (X7, and R6 over removals).
//       So redo stores a recent record if its number is higher than that of what the leaf holds,
//       in any order, any number of times; also if a batch or group that is durable came since.
//   R6  A removal returns only when settled is, durably, at or above the removed version's number,
//       and so at or above those of all versions before: none comes back. And nothing is put where
//       its key is absent with a number at or below that of anything removed before: it gets a new
//       one first (kOutOfRange of Index::Upsert). So while a removal still waits for that, what
//       comes after it is later for a redo, too. The id of a dropped keyspace is used again only
//       after all of its puts are settled.
//   R7  Redo makes everything durable, and then settles up to a number above all of them, before
//       the batches that it did are forgotten and before anybody else changes the store.
// None of them asks for more of a page's write than that aligned words of 8 bytes come whole, in any
// mix of old and new. settled and its complement are two words: the lower one counts, and a redo
// with the old one is right until whoever settles has gone on.
#ifndef DAXKV_KV_RECENT_PUTS_H_
#define DAXKV_KV_RECENT_PUTS_H_

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "dax/pool.h"
#include "kv/format.h"
#include "kv/snapshots.h"

namespace daxkv::kv {

struct RecentPutsStats {
  uint64_t settled = 0;  // Times.
};

class RecentPuts {
 public:
  // What the pool says of a session that ended without a close.
  struct Pending {
    uint64_t settled = 0;
    bool everywhere = false;        // The list is damaged: every extent has to be looked at.
    std::vector<uint64_t> regions;  // Pool offsets.
    bool empty() const { return regions.empty() && !everywhere; }
  };
  static Pending Read(const dax::Pool& pool);

  RecentPuts(dax::Pool* pool, const Snapshots* snapshots) : pool_(*pool), snapshots_(*snapshots) {}
  RecentPuts(const RecentPuts&) = delete;
  RecentPuts& operator=(const RecentPuts&) = delete;

  // For the open, when everything found is durable (R7): nothing is recent. kInternal.
  absl::Status Begin();

  // A put that has begun.
  class Ticket {
    friend class RecentPuts;
    unsigned region_ = 0;
  };
  // Before a put writes its record. `address`: of the slot that it will have. None if there are puts
  // under way in too many regions, or the medium failed. May wait for the medium.
  std::optional<Ticket> Enter(Address address);
  // When its slot is stored, or nothing is left of its record. False: the record is not recent, or
  // may soon be so no more.
  bool Leave(Ticket ticket, uint64_t number) noexcept;
  // Instead of Leave, when it is not known what is left of it: nobody enters, nothing is settled.
  void Fail() noexcept;

  // Returns when no record with a number up to `number`, which was taken before, is recent. Locks of
  // leaves may be held. Statuses of dax::Pool::Sync; kInternal, too, after Fail.
  absl::Status Settle(uint64_t number);
  absl::Status SettleAll() { return Settle(snapshots_.LastNumber()); }
  // The same, and nothing is listed any more: for a close, so that the next open looks at nothing.
  absl::Status Close();
  RecentPutsStats stats() const;

 private:
  struct Region {
    uint64_t offset = kNone;
    uint64_t puts = 0;    // That have entered since it was listed.
    unsigned inside = 0;  // Have not left.
  };
  static constexpr uint64_t kNone = UINT64_MAX;

  static RecentPutsTable* TableOf(const dax::Pool& pool);
  static uint64_t Seal(unsigned word, uint64_t region_offset);
  // Of Enter; needs mutex_. The region's place in the list; none: it is full.
  std::optional<unsigned> Find(uint64_t offset) const;
  absl::Status List(unsigned place, uint64_t offset);
  absl::Status StoreSettled(uint64_t number);
  // `unlists`: regions without puts that go on leave the list. Removals leave them there, as puts
  // that come next would each wait for one to be listed again.
  absl::Status SettleOnce(bool unlists);

  dax::Pool& pool_;
  const Snapshots& snapshots_;
  std::mutex settle_mutex_;  // One at a time. Before the other.
  mutable std::mutex mutex_;
  bool used_ = false;    // Something was listed in this session.
  bool failed_ = false;  // The medium.
  uint64_t settled_ = 0, times_settled_ = 0;
  uint64_t settling_ = 0;  // What settled_ is, or will be when the msync under way is done.
  std::array<Region, RecentPutsTable::kRegions> regions_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_RECENT_PUTS_H_
