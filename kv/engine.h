// One open keyspace of a Store. db.h states what each call promises; this class is the same
// interface without the handling of exceptions, over the parts it is made of:
//
//   Engine --> Index --> Memory (= Space) --> dax::Mapping, dax::Pool
//
// engine.cc opens, closes, and does the single-record calls; update.cc those that depend on what
// the key holds; multi_get.cc MultiGet; range.cc DeleteRange and ApproximateRange;
// value_writer.cc values filled in place; group.cc PutGroup; engine_snapshot.cc reads at a
// snapshot; iterator.cc the cursor.
//
// Thread safety: as Db.
//
// Invariants
//   K1  A record is complete and durable before the index can lead anybody to it.
//   K2  Every version of a key has a higher sequence number than the version it replaces. Numbers
//       come from one counter, so this holds by itself for puts that follow each other; when two
//       puts of one key overlap, the index refuses the older number under the leaf's lock and the
//       put takes a new one. A delete leaves no version, so a put that overlaps a delete may end
//       up with a lower number than the version that was deleted; not where puts may be redone
//       (recent_puts.h, R6).
//   K3  A slot is abandoned only if the index never referred to it; who unlinks one retires it.
//   K4  Bytes of a record are read either inside the index's ReadGuard; or under pins of all its
//       extents that were taken, or confirmed by a second look-up, while the index referred to it;
//       or while a snapshot is held that sees it.
//   K5  Of a keyspace that is dropped nothing goes while a call is inside its gate, a ValueWriter
//       is there, a snapshot from before the drop is held, or (the extent's) a pin.
#ifndef DAXKV_KV_ENGINE_H_
#define DAXKV_KV_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "dax/mapping.h"
#include "dax/pool.h"
#include "kv/db.h"
#include "kv/gate.h"
#include "kv/index.h"
#include "kv/record.h"
#include "kv/snapshots.h"
#include "kv/space.h"

namespace daxkv::kv {

// Longer values are copied under a pin: a copy inside a ReadGuard holds up the reclaim of memory
// of the whole process, for 20 ms at 64 MiB.
inline constexpr uint64_t kMaxGuardedCopySizeBytes = 256 << 10;

// A record in place, held by pins on every extent that it touches.
struct PinnedRecord {
  Pins pins;
  RecordView record;
};

// A version of a key that was read: which one, and its value.
struct VersionRead {
  ExpectedVersion version;
  std::optional<std::string_view> value;  // Into one of the two below; nullopt: no such key.
  std::string copy;
  PinnedRecord pinned;  // Of a long value.
};

class BatchRedo;
class PowerCutRecovery;
class Store;

class Engine {
 public:
  // The keyspace whose index begins at the word `root` in the pool; `store`, opened up to its
  // keyspaces, must outlive the engine. Create makes an empty index (commit point: the store of
  // *root). Statuses of Space::Open, Index::Create and Index::Open.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Store* store, KeyspaceId id,
                                                        uint64_t* root);
  static absl::StatusOr<std::unique_ptr<Engine>> Open(Store* store, KeyspaceId id, uint64_t* root);
  // Opens what a power cut has left, by its records alone (power_cut.h).
  static absl::StatusOr<std::unique_ptr<Engine>> Recover(Store* store, KeyspaceId id,
                                                         PowerCutRecovery* recovery);
  // As a crash would, if Close was not called.
  ~Engine();

  KeyspaceId id() const { return id_; }
  // For messages.
  void SetName(std::string_view name) { name_ = std::string(name); }

  // ---- The end: of the store, or of the keyspace while the store goes on ----

  // Every call is inside of it as long as it runs, but for what a snapshot, a pin or a ValueWriter
  // keeps from going. Null for the default keyspace, which ends with the store only.
  Gate* gate() { return id_ == kDefaultKeyspace ? nullptr : &gate_; }
  // What a call gets that the gate has refused.
  absl::Status Refusal() const;
  // kInvalidArgument: there is no such entry of a Snapshot, or it is one of another store.
  absl::Status CheckSnapshot(const Snapshots* snapshots, const SnapshotEntry* entry) const {
    if (__builtin_expect(entry != nullptr && snapshots == &snapshots_, true)) {
      return absl::OkStatus();
    }
    return WrongSnapshot(entry != nullptr);
  }
  // Whether a snapshot shows this keyspace: it was taken before the drop.
  bool IsSeenBy(const SnapshotEntry& snapshot) const;
  // The drop is committed: new calls are refused.
  void BeginDrop();
  // K5, but for pins.
  bool IsUnusedSinceDrop();
  // Closes the gate, and waits until nobody is inside.
  void AwaitCalls();
  // Everything but this object itself goes. Nothing is in use: who died inside counts for nobody.
  void Shut();
  bool is_shut() const { return shut_.load(std::memory_order_relaxed); }

  // kFailedPrecondition, if pins or ValueWriters are still there.
  absl::Status CheckUnused() const;
  // Nothing is in use. Whatever it returns, only Shut may follow, and the writeback's hooks until
  // then.
  absl::Status Close();
  // While a redo is under way, slots that it needs are live. Waits until the one before is no
  // longer asked. Null: none.
  void SetBatchRedo(const BatchRedo* redo);

  absl::Status Put(std::string_view key, std::string_view value);
  absl::StatusOr<GroupResult> PutGroup(absl::Span<const KeyValue> records);
  absl::StatusOr<GroupResult> DeleteGroup(absl::Span<const std::string_view> keys);
  absl::Status Get(std::string_view key, std::string* value) const;
  // Whatever *pinned held before is released.
  absl::Status Pin(std::string_view key, PinVerify verify, PinnedRecord* pinned) const;
  absl::Status Contains(std::string_view key) const;
  absl::Status GetAt(const SnapshotEntry& snapshot, std::string_view key, std::string* value) const;
  absl::Status PinAt(const SnapshotEntry& snapshot, std::string_view key, PinVerify verify,
                     PinnedRecord* pinned) const;
  absl::Status ContainsAt(const SnapshotEntry& snapshot, std::string_view key) const;
  absl::Status Delete(std::string_view key);
  void MultiGet(absl::Span<const std::string_view> keys, absl::Span<std::string> values,
                absl::Span<absl::Status> statuses) const;
  absl::Status Insert(std::string_view key, std::string_view value);
  absl::Status Update(std::string_view key, UpdateFunction function);
  absl::Status CompareAndSwap(std::string_view key, std::optional<std::string_view> expected,
                              std::optional<std::string_view> desired);
  absl::StatusOr<uint64_t> DeleteRange(std::string_view from, std::string_view to);
  absl::StatusOr<RangeEstimate> ApproximateRange(std::string_view from, std::string_view to) const;

  // After an allocation failed: whether it may succeed now. First gives back what is empty, here
  // and in other keyspaces, then moves what is sparse, again and again as long as that gains.
  // *attempts begins with 0. Hold nothing. Callers have slots to give back: it does not throw.
  bool MakeRoom(unsigned* attempts) noexcept;
  // Allocates a record's slot, making room if there seems to be none, and asks the processor for it.
  absl::StatusOr<Address> AllocateRecord(uint64_t size_bytes);
  // For ValueWriter: a slot for a value of `size_bytes` with its key in place, and what becomes of
  // it. The caller owns the slot from the first until one of the others, which are called once.
  absl::StatusOr<Address> ReserveValue(std::string_view key, uint64_t size_bytes);
  char* ReservedBytes(Address address, uint64_t key_size_bytes) const;
  absl::Status CommitValue(Address address, std::string_view key, uint64_t size_bytes);
  void AbandonValue(Address address);

  Store& store() const { return store_; }
  Index& index() const { return *index_; }
  Space& space() const { return *space_; }
  Snapshots& snapshots() const { return snapshots_; }
  // Runs read(), which changes nothing, so that no lost page's zeros are believed: losses are taken
  // in before it, and when one was met by anybody meanwhile, it is run again.
  template <typename Read>
  auto Reading(Read&& read) const -> decltype(read()) {
    const dax::SurviveMediaErrors survive;
    for (;;) {
      space_->SettleMediaErrors();
      const uint64_t events = pool_->media_events();
      if (!pool_->media_settled()) continue;
      auto result = read();
      if (__builtin_expect(pool_->media_events() == events, true)) return result;
    }
  }
  // The same for write(), which may be repeated: run again only if it failed. What it acknowledges
  // is on no lost page (dax::Pool::Drain).
  template <typename Write>
  auto Writing(Write&& write) -> decltype(write()) {
    const dax::SurviveMediaErrors survive;
    for (;;) {
      space_->SettleMediaErrors();
      const uint64_t events = pool_->media_events();
      auto result = write();
      if (result.ok() || pool_->media_events() == events) return result;
    }
  }
  // kDataLoss when some of the bytes, which lie in the pool, are lost to a media error.
  absl::Status CheckLost(std::string_view bytes) const;
  const Memory& memory() const { return *space_; }
  // Keys and values of all records; reads their headers.
  absl::StatusOr<uint64_t> KeyValueSizeBytes() const;
  // VerifyRecord, if the options ask for it.
  absl::Status Verify(const RecordView& record) const;
  // VerifyRecord of what the caller has pinned: the value and, before it, header and key. The sizes
  // are those of the time of the pin, so that no damage since then leads out of the pinned bytes.
  absl::Status VerifyPinned(std::string_view value, uint64_t key_size_bytes) const;

 private:
  // Asks the index which slots live.
  class IndexOracle;
  enum class PinMode { kTry, kWait };

  Engine(Store* store, KeyspaceId id);
  static absl::Status WrongSnapshot(bool of_another_store);
  // `make_index` gets the engine's space.
  static absl::StatusOr<std::unique_ptr<Engine>> OpenWith(
      Store* store, KeyspaceId id,
      absl::FunctionRef<absl::StatusOr<std::unique_ptr<Index>>(Space*)> make_index);
  static absl::StatusOr<std::unique_ptr<Engine>> OpenOrCreate(Store* store, KeyspaceId id,
                                                              uint64_t* root, bool create);
  uint64_t NextSequence() { return snapshots_.NextNumber(); }
  // Makes a record, written but not drained, the key's; `expected` as of Index::Upsert. Abandons
  // the slot where that fails. `recent`, if given: of a recent put (recent_puts.h).
  struct RecentPut {
    uint64_t number;
    bool ended = false;  // Published, or destroyed.
  };
  absl::Status Publish(std::string_view key, Address address, uint32_t body_checksum,
                       const ExpectedVersion* expected, RecentPut* recent = nullptr);
  // A put on an ordinary file that waits for its record alone. None: it has to wait twice.
  std::optional<absl::Status> PutRecent(std::string_view key, std::string_view value,
                                        Address address);
  // Leaves nothing of a recent put's record, durably. Whether that is so.
  bool Destroy(Address address) noexcept;
  // What was removed stays so. Statuses of RecentPuts::Settle.
  absl::Status SettleRemoved(uint64_t number);
  // Put and Delete on a condition. kAborted: `expected` is not what the key has.
  absl::Status PutIf(std::string_view key, std::string_view value, const ExpectedVersion* expected);
  absl::Status ReadVersion(std::string_view key, VersionRead* read) const;
  // Makes `value` the key's, or deletes it. kAborted: the key's version is not `read`'s any more.
  absl::Status Replace(std::string_view key, const VersionRead& read,
                       std::optional<std::string_view> value);
  // What a pin with `verify` checks of its record.
  absl::Status Verify(const RecordView& record, PinVerify verify) const;
  absl::Status PinExtents(Address address, uint64_t size_bytes, PinMode mode, Pins* pins) const;
  // Writes and publishes a round of PutGroup: records[order[i]] in ascending key order.
  absl::Status PutRound(absl::Span<const KeyValue> records, absl::Span<const size_t> order,
                        GroupResult* result);
  absl::Status PublishRound(absl::Span<const KeyValue> records, absl::Span<const size_t> order,
                            absl::Span<const Index::GroupEntry> entries, GroupResult* result);

  const bool verify_checksums_;
  Store& store_;
  dax::Pool* const pool_;
  Snapshots& snapshots_;
  std::unique_ptr<Space> space_;
  std::unique_ptr<Index> index_;
  std::unique_ptr<IndexOracle> oracle_;
  std::atomic<uint64_t> reserved_values_{0};  // By ValueWriters that are still there.

  const KeyspaceId id_;
  std::string name_;
  Gate gate_;
  std::atomic<bool> shut_{false};
  // Snapshots of this number and above do not show the keyspace. kNotKnown while it is being taken.
  static constexpr uint64_t kNotKnown = 0;
  std::atomic<uint64_t> dropped_since_{UINT64_MAX};
  // Of IsUnusedSinceDrop: snapshots from this number on own nothing of the keyspace. 0: not known.
  uint64_t nothing_owned_since_ = 0;
};

// kInvalidArgument naming the size and the limit.
absl::Status CheckKey(std::string_view key);
absl::Status CheckValueSize(uint64_t size_bytes);
inline absl::Status CheckValue(std::string_view value) { return CheckValueSize(value.size()); }
// `status`, with the key in front of its message if it tells of damage.
absl::Status WithKey(absl::Status status, std::string_view key);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_ENGINE_H_
