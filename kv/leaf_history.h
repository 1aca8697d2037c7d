// Histories of leaves: what snapshots need to know of a leaf beyond its slots. In DRAM only: after
// a crash nobody can hold a snapshot, and what is linked nowhere on the medium is free space.
//
// A history is made of *versions* of two kinds:
//   superseded  a record that was unlinked: it is what its key has at every snapshot number in
//               [since, until), and its slot is not reused while there is such a snapshot
//   late        a record whose number (`since`) is older than its appearance (`until`): a snapshot
//               was taken between the two. It is not there yet at numbers in [since, until)
//
// Leaves of all keyspaces are in here: a leaf's address tells whose it is.
//
// Thread safety: lists are read inside a ReadGuard, without a lock; changed under a stripe's mutex
// by anybody; a version is added, and moved to another leaf, only by the holder of its leaf's lock.
//
// Invariants
//   H1  A version is in the history of the leaf that covers its key, except between the steps of
//       that leaf's split count (index.h, X4): a reader that finds the count even and unchanged has
//       seen all versions of the leaf.
//   H2  A superseded version is added before its slot is overwritten, and a late one before its
//       slot is stored: a reader that looks at the slots first misses nothing. It may meet a
//       version twice, in its slot and superseded; at two addresses, if compaction moved it in
//       between.
//   H3  A version stays until no active snapshot's number lies in [since, until). Then nobody asks
//       for its number any more, and so it does no harm in its list: removing only marks it. The
//       list is swept once half of a history is marked: two steps for each removal.
#ifndef DAXKV_KV_LEAF_HISTORY_H_
#define DAXKV_KV_LEAF_HISTORY_H_

#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kv/format.h"
#include "kv/memory.h"
#include "kv/record.h"
#include "xarray/rcu.h"
#include "xarray/typed_xarray.h"

namespace daxkv::kv {

struct Version : public rcu::Head {
  enum class Kind : uint8_t { kSuperseded, kLate };

  uint64_t since = 0;
  uint64_t until = 0;
  Address record = kNullAddress;
  Memory* memory = nullptr;        // What a superseded record's slot goes back to.
  const uint64_t* link = nullptr;  // The slot of the leaf that led to a superseded record.
  uint32_t size_bytes = 0;         // Of the superseded record.
  uint16_t tag = 0;                // Of its key.
  Kind kind = Kind::kSuperseded;

  // LeafHistories' own.
  std::atomic<Address> leaf{kNullAddress};
  // Linked one way only: who adds a version stores nothing to an older one, whose line has left the
  // cache. So a removed one stays linked until its history is swept.
  std::atomic<Version*> next{nullptr};
  std::atomic<bool> removed{false};
  Address destination = kNullAddress;  // In a split: where it goes. The leaf's lock holder's.
  // Of the list that the version's owner keeps; see snapshots.h.
  Version* next_owned = nullptr;
};

// Two lines, which the processor fetches together.
class alignas(128) LeafHistory : public rcu::Head {
 public:
  // The number from which on the record, which a slot of the leaf holds, is there.
  uint64_t BeginOf(const RecordView& record) const;
  // Calls visit(version) for each superseded version that is its key's at `number`, until it
  // returns false.
  template <typename Visit>
  void ForEachAt(uint64_t number, Visit visit) const {
    for (const std::atomic<Version*>& list : superseded_) {
      if (!ForEachIn(list, number, visit)) return;
    }
  }
  // The same for those of one tag, and some others: a part of the list.
  template <typename Visit>
  void ForEachAt(uint64_t number, uint16_t tag, Visit visit) const {
    ForEachIn(superseded_[tag % kLists], number, visit);
  }
  // Whether `record` is a superseded version that some snapshot may need.
  bool Holds(Address record) const;

 private:
  friend class LeafHistories;
  // A leaf of which each record was overwritten many times has a hundred versions and more, each in
  // a cache line of its own: who looks for one key's passes by a few of them.
  static constexpr unsigned kLists = 11;

  // Whether `visit` wants to go on.
  template <typename Visit>
  static bool ForEachIn(const std::atomic<Version*>& list, uint64_t number, Visit& visit) {
    // Acquires what Add released.
    for (const Version* version = list.load(std::memory_order_acquire); version != nullptr;
         version = version->next.load(std::memory_order_acquire)) {
      if (version->since > number || number >= version->until) continue;
      if (!visit(*version)) return false;
    }
    return true;
  }
  std::atomic<Version*>& ListOf(const Version& version) {
    return version.kind == Version::Kind::kLate ? late_ : superseded_[version.tag % kLists];
  }

  // Under the stripe's mutex.
  uint32_t pins_ = 0;
  uint32_t versions_ = 0;  // In the lists.
  uint32_t removed_ = 0;   // Of those; and of those on their way here.
  std::atomic<Version*> late_{nullptr};
  std::atomic<Version*> superseded_[kLists] = {};  // By tag.
};
static_assert(sizeof(LeafHistory) == 128);

class LeafHistories {
 public:
  LeafHistories() = default;
  LeafHistories(const LeafHistories&) = delete;
  LeafHistories& operator=(const LeafHistories&) = delete;

  // The leaf's history, inside a ReadGuard; null: none.
  const LeafHistory* Find(Address leaf) const { return histories_.Load(IndexOf(leaf)); }

  // Asks the processor for the leaf's history, if it has one, inside a ReadGuard.
  void Prefetch(Address leaf) const {
    const auto* const history = reinterpret_cast<const char*>(Find(leaf));
    if (history == nullptr) return;
    __builtin_prefetch(history);
    __builtin_prefetch(history + 64);
  }

  // Makes sure that the leaf has a history until Unpin.
  //   kResourceExhausted  out of memory
  absl::Status Pin(Address leaf);
  void Unpin(Address leaf) noexcept;
  // Adds a filled-in version to the pinned history of a leaf.
  void Add(Address leaf, Version* version) noexcept;
  // Moves each version of the leaf, which is locked and split by the caller, to the history of the
  // leaf home(version), if that is another; it is pinned. The leaf's own history goes with its last
  // version if nobody has it pinned.
  void MoveVersions(Address leaf, absl::FunctionRef<Address(const Version&)> home) noexcept;
  // Takes a version out; it is deleted a grace period after its history has been swept.
  void Remove(Version* version) noexcept;

 private:
  static constexpr unsigned kStripes = 64;

  static uint64_t IndexOf(Address leaf) { return leaf / kLeafSizeBytes; }
  std::mutex& StripeOf(Address leaf) { return stripes_[IndexOf(leaf) % kStripes]; }
  // All under the stripe's mutex.
  static void Link(LeafHistory& history, Version* version);
  // Calls visit(list) for each list of the history.
  template <typename Visit>
  static void ForEachList(LeafHistory& history, Visit visit);
  // Takes those that `wanted` says out of the lists.
  template <typename Wanted>
  static void TakeOut(LeafHistory& history, Wanted wanted);
  // Sweeps the history if that is due, and erases it if it is empty.
  void Tidy(Address leaf, LeafHistory* history);

  std::mutex stripes_[kStripes];
  xarray::TypedXArray<LeafHistory*> histories_;  // By leaf address / kLeafSizeBytes.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_LEAF_HISTORY_H_
