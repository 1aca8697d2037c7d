// What a power cut may do to a store that was open with process durability on an ordinary file, and
// why no value comes back from it that was never the key's, or was replaced or deleted long before.
//
// In that mode nobody waits for the medium. A background writeback (kv/writeback.h) msyncs
// everything once an interval; the kernel may write any page at any time. So a cut leaves each page
// of the files as it was at some moment since the last writeback that was completed began, each at
// another one; and what is below a page may be torn, but for aligned words of 8 bytes. In such a
// state the index proves nothing: a leaf may have lost the half that a split moved to a page which
// never came. The records do: each names its key, its number and its own address under a checksum.
// So an open after a power cut (kv/power_cut.h) takes the records alone, and builds the index anew:
// of each key the record with the highest sequence number that verifies and has no stamp.
//
// Invariants, "durable" meaning that a writeback has been completed which began afterwards
//   V1  A record is stamped, and its slot free, only after the store that unlinked it is durable,
//       and with it the record that replaced it. So no key loses its last durable record.
//   V2  What was *removed* leaves nothing behind that says so, but its stamp: its slot is reused
//       only when that is durable. What was *replaced* needs no stamp: its key always has a record
//       on the medium with a higher number, and its slot is free at once (ExtentFrame::
//       may_lack_stamps); whoever is handed a slot stamps it. Only when its key is removed would it
//       be the highest. So when anything is removed, all free slots are stamped before the
//       writeback begins that the removed record waits for; and until that has its stamp, what is
//       replaced gets one, too. So a page of an old time never shows a record that another page's
//       later time has deleted, for longer than two writebacks after its unlinking. An extent is
//       truncated, and a map saved, only with stamps in all free slots, durable ones for an extent.
//   V3  A record that snapshots or pins still show can't lose its header: it gets the flag
//       kUnlinkedFlag, which no checksum covers, and its stamp when they are gone.
//   V4  A slot that was written and never published is stamped at once: it is nobody's version.
//   V5  Superblock::durability is not 0 only while V1 and V2 have held ever since, and before that
//       every slot that was given back was stamped. An open in this mode of a store that was
//       written in another looks through all its free slots first.
//   V6  The process that dies takes the list of what is to be stamped with it. The next open has
//       all extents looked through, in the background, for dead records to stamp; until that is
//       done it stamps and reuses nothing that it unlinks itself: a stamp on the newer of two
//       versions must not be on the medium before one on the older.
//   V7  Runs are released (their words msynced, their blocks punched) and pages reused only after
//       V2, so a run that the medium calls live never lies under one that was made after it; what
//       is in a live run that is not older than the last writeback is found by its checksums.
//   V8  The records of an atomic batch carry kOfBatchFlag. They count if the batch's number is not
//       above Superblock::horizon, or else if its batch record verifies and all that it names do.
//       So none of them is stamped before a horizon that includes the batch is durable (W2),
//       however long another batch holds that up. A delete of a batch counts as a version without a
//       value until it is stamped, which comes when the stamp of what it deleted is durable. So a
//       batch is wholly there or not at all.
//
// What is not held. A put that ran at the same time as another put and a delete of its key, and
// that took its number before that other put, may lose to the deleted version until that is
// stamped. A conditional put that lost a race in the very moment at which the kernel wrote its page
// shows as done if power fails before the next writeback.
#ifndef DAXKV_KV_STAMPS_H_
#define DAXKV_KV_STAMPS_H_

#include "dax/pool.h"
#include "kv/format.h"
#include "kv/record.h"

namespace daxkv::kv {

// Stamps the record in a slot dead, for good. Commit point: the 8-byte store.
inline void StampDead(dax::Pool& pool, Address address) {
  auto* header = reinterpret_cast<RecordHeader*>(pool.At(address));
  // Whoever could read it has gone; relaxed, as nobody else looks at it but who scans.
  __atomic_store_n(reinterpret_cast<uint64_t*>(header), uint64_t{0}, __ATOMIC_RELAXED);
  __atomic_store_n(&header->kind_and_flags, uint8_t{0}, __ATOMIC_RELAXED);
  pool.Flush(header, sizeof(*header));
}

inline bool IsStampedDead(const dax::Pool& pool, Address address) {
  return __atomic_load_n(reinterpret_cast<const uint64_t*>(pool.At(address)), __ATOMIC_RELAXED) ==
         0;
}

// Says of a record that may still be read that no index slot refers to it (V3).
inline void StampUnlinked(dax::Pool& pool, Address address) {
  auto* header = reinterpret_cast<RecordHeader*>(pool.At(address));
  __atomic_fetch_or(&header->kind_and_flags, kUnlinkedFlag, __ATOMIC_RELAXED);
  pool.Flush(header, sizeof(*header));
}

}  // namespace daxkv::kv

#endif  // DAXKV_KV_STAMPS_H_
