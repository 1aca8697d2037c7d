// Repair: what can be saved of a store that is damaged, made whole again.
//
// Everything is verified. What holds is kept; what does not is rebuilt from what describes itself:
// records whose checksum, which covers their address, holds; fences; leaves. What an intact leaf
// says of a key is the truth: where it names a record that is damaged, the key is lost, and no
// older version is put in its place. Only where a leaf is damaged, or lost, its keys are looked for
// among all records that nothing refers to; of several for one key the highest sequence number
// counts.
//
// Nothing is invented. A record that was deleted or replaced does not come back: after a clean
// close the maps tell which slots were in use, and a slot that becomes free is stamped dead. What
// remains doubtful, after a crash and only for keys of damaged leaves: records that were deleted a
// moment before the process died, or while a snapshot held them; after a power cut, those whose
// stamp was not yet on the medium; of a process that died with process durability, what it replaced
// (stamps.h, V2), if the record that replaced it is damaged as well; and a record that was being written when the crash came, whose
// call had not returned.
//
// Keyspaces are repaired one by one. What belongs to which is told by the runs of extents. A
// keyspace whose state in the table is damaged lives if it has extents: one that was being dropped
// may come back. One whose name is lost gets a new name, which the report tells.
//
// A new index is built aside, and one 8-byte store (of the root) puts it in the old one's place. A
// crash before it leaves the store as it was: a repair that comes next knows all that this one did,
// and finds the same. After it the old index is gone, and what was lost with it only this repair
// could tell: a RepairListener is told before.
#ifndef DAXKV_KV_REPAIR_H_
#define DAXKV_KV_REPAIR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kv/db.h"

namespace daxkv::kv {

struct RepairReport {
  // [from, to): keys there may be lost.
  struct LostRange {
    std::string from;
    std::optional<std::string> to;  // Nullopt: no end.
    std::string keyspace;           // Empty: the default one.
  };
  static constexpr size_t kMostLines = 1000;

  bool changed = false;            // False: nothing was wrong.
  uint64_t records = 0;            // That the store has now, in all keyspaces.
  uint64_t records_recovered = 0;  // Of these, found by their checksums alone.
  uint64_t records_lost = 0;       // Known to be; lost_ranges may hide more.
  uint64_t batches_finished = 0, batches_dropped = 0;
  uint64_t size_bytes_verified = 0;
  // At most kMostLines of each. Every key that had a value and has none now is in the first two (of
  // the default keyspace; of others, behind the keyspace's name), or in one of lost_ranges, unless
  // lists_cut.
  bool lists_cut = false;
  std::vector<std::string> lost_keys;
  std::vector<std::pair<std::string, std::string>> lost_keys_of_keyspaces;
  std::vector<LostRange> lost_ranges;
  std::vector<std::string> rebuilt;  // A line for each thing that was wrong.
  std::vector<std::string> lost;     // A line for each thing that is lost.

  bool lossless() const { return lost.empty(); }
};

// Gets the report when it is complete, before anything is changed but the table of keyspaces. Is
// not called where nothing is to be changed.
using RepairListener = std::function<void(const RepairReport&)>;

// Opens the store at `path`, which nobody else may have open, repairs and closes it. Where all is
// well it changes nothing. Costs a read of everything, memory of about a byte for each slot, and
// for a rebuild the space of a new index (an eightieth of 1 KB records; a tenth of 100-byte ones),
// of which the old one's comes back. `listener` may be null; it may not throw.
//   kNotFound, kFailedPrecondition  as of Db::Open
//   kDataLoss           damage that can't be repaired: the pool's root, its run descriptors, or the
//                       superblock's format
//   kResourceExhausted  no room for the new index: the message says how much it takes; or no
//                       memory. Nothing changed but the table of keyspaces
//   kInternal           the medium failed
absl::StatusOr<RepairReport> Repair(const std::string& path, const Options& options,
                                    const RepairListener& listener = nullptr);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_REPAIR_H_
