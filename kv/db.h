// daxkv: an embedded, ordered, persistent key-value store on memory-mapped media.
//
//   absl::StatusOr<std::unique_ptr<Db>> db = Db::Open("/mnt/pmem/store", Options());
//   if (!db.ok()) return db.status();
//   absl::Status put = (*db)->Put("planet", "Saturn");
//   absl::StatusOr<std::string> value = (*db)->Get("planet");         // A copy.
//   absl::StatusOr<PinnedValue> pinned = (*db)->Pin("planet");        // The bytes in the pool.
//   std::unique_ptr<Iterator> it = (*db)->NewIterator();
//   for (it->Seek("p"); it->Valid(); it->Next()) Use(it->key(), it->value());
//   absl::StatusOr<Snapshot> before = (*db)->GetSnapshot();
//   value = (*db)->Get("planet", *before);                            // Whatever came since.
//   absl::StatusOr<Keyspace> moons = (*db)->CreateKeyspace("moons");  // Another ordered map.
//   put = moons->Put("Titan", "Saturn");
//   absl::Status closed = (*db)->Close();
//
// Keys are 1..65536 arbitrary bytes, ordered as unsigned bytes; values are 0 bytes..1 GiB.
//
// A store holds one keyspace without a name and any number (to 2047) with names: ordered maps of
// their own, in extents of their own. A snapshot shows all of them at one moment, and a batch may
// change several.
//
// Thread safety: every method of Db and Keyspace from any thread at the same time, except Open,
// Close and the destructor of Db. An Iterator or PinnedValue belongs to one thread at a time, a
// Snapshot to any. Readers take no lock and never block writers; writers of different leaves do not
// block each other. One process at a time may have a store open.
//
// Durability: what a returned Put or Delete survives is the medium's promise (Info::media):
// power loss on kDax and kPageCache (there a Put waits for one msync; PutGroup shares it, and a
// Delete of what was put a moment ago needs some), the end of the process on kVolatile, and on
// kPageCache with Options::durability kProcess. A crash while a call runs leaves it done or not
// done, never half. A reader may see a value whose Put has not returned yet.
//
// Media errors: a page that can't be read any more is lost, and whoever needs its bytes gets
// kDataLoss; the records on other pages stay readable, and no slot on it is used again until its
// whole extent is empty and was given back (Compact). A key whose record is lost can be put again
// and then reads as put; it can be deleted if its key can still be read (of a long value mostly),
// else Delete returns kDataLoss. A lost page of the index takes the keys of its leaf with it;
// writes to the others go on.
//
// Errors: kNotFound no such key; kInvalidArgument a key, value or option out of its range;
// kResourceExhausted pool, file system or memory full, nothing changed; kDataLoss damage, naming
// the pool offset; kInternal the medium failed; kFailedPrecondition the store can't be opened like
// this.
#ifndef DAXKV_KV_DB_H_
#define DAXKV_KV_DB_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "dax/dax_stats.h"
#include "dax/media.h"
#include "dax/pinned.h"
#include "dax/pool.h"
#include "kv/backup.h"
#include "kv/format.h"
#include "kv/power_cut_report.h"
#include "kv/slot_usage.h"
#include "kv/write_batch.h"

namespace daxkv::kv {

class Engine;
class SnapshotEntry;
struct PinnedRecord;
struct RepairReport;
class Snapshots;
class Store;

struct Options {
  bool create_if_missing = true;
  bool error_if_exists = false;
  // The shape counts at creation: a directory that grows by itself, or one file of fixed_size_bytes
  // (or a device). An existing store's shape is read from its path.
  dax::PoolShape shape = dax::PoolShape::kDirectory;
  // kFixed: the file's size, 16 MiB or more; 0 for a device, which is used whole.
  uint64_t fixed_size_bytes = 0;
  // kDirectory: what the store may grow to, 64 MiB..16 TiB. It is address space, not blocks.
  uint64_t max_size_bytes = uint64_t{1} << 40;
  // What SIGBUS, which the kernel sends for a page that can't be read, means to this process: see
  // dax/media_guard.h. By default calls of the store survive it and return kDataLoss, and programs
  // that read pinned bytes do not.
  dax::SigbusPolicy sigbus = dax::SigbusPolicy::kGuarded;
  // Whether Get, Pin and iterators check each record's CRC32C before they hand it out (Pin unless
  // it is told PinVerify::kLater).
  bool verify_checksums = true;
  // Pins: their limits, and whether their holders are known; prefaulting.
  dax::MappingOptions mapping;
  // dax::PoolOptions::huge_pages.
  bool huge_pages = false;
  // On an ordinary file (dax::MediaClass::kPageCache): what a returned write survives. On other
  // media it changes nothing. Any store can be opened with either, at any time; but the first open
  // with kProcess after others looks at every free slot (O(store), once). See stamps.h.
  dax::Durability durability = dax::Durability::kPower;
  // kProcess: how often everything is written to the medium in the background, 1 ms..1 h. A power
  // cut costs writes of about the last interval, and may bring back what was deleted or replaced in
  // the last two; Sync() bounds it now. The open after it reads the whole store.
  absl::Duration writeback_interval = absl::Seconds(1);
  // kProcess: the file that tells one run of the kernel from another; empty: Linux's
  // (kv/boot_id.h).
  std::string boot_id_file;
  // What compaction in the background may read and write, when extents that are half empty hold
  // 4 MiB or more of free space. 0: space comes back by Compact alone.
  uint64_t compaction_bytes_per_second = 32 << 20;
  // What a scrub in the background may read: it verifies the checksums of all records of all
  // keyspaces, which it opens, round after round, for damage to be known (Info::scrub) before
  // somebody needs the value. 0: there is none, as every record is verified anyway whenever it is
  // read.
  uint64_t scrub_bytes_per_second = 0;
};

// Views of one record, for PutGroup.
struct KeyValue {
  std::string_view key;
  std::string_view value;
};

// When a pinned value's CRC32C is checked.
enum class PinVerify {
  kNow,  // Before Pin returns, unless Options::verify_checksums says otherwise: every byte is read.
  kLater,  // When PinnedValue::Verify is called, if ever: Pin reads the header and the key alone.
};

// One for each extent that a record touches, which mostly is one.
using Pins = absl::InlinedVector<dax::Pinned, 1>;

// A value in place in the pool. While it lives, the bytes stay mapped and unchanged, whatever
// happens to the key; the space of its extent is not reclaimed. Move-only. Must not outlive the Db.
//
// Of a value that was pinned with kLater, value() may be wrong until Verify said OK. Where the
// medium is undamaged it is what was put. Otherwise any of its bytes may be others; and if what is
// damaged is the record's header, there may be more or fewer of them: they may run into the records
// behind, of other keys, which may be written while they are read. But they all lie in extents that
// are pinned, and the key is the one that was asked for.
class PinnedValue {
 public:
  PinnedValue() = default;
  PinnedValue(PinnedValue&& other) noexcept
      : engine_(std::exchange(other.engine_, nullptr)),
        pins_(std::move(other.pins_)),
        key_size_bytes_(other.key_size_bytes_),
        value_(std::exchange(other.value_, {})) {}
  PinnedValue& operator=(PinnedValue&& other) noexcept;
  std::string_view value() const { return value_; }
  // Checks the CRC32C of the bytes as they are now, whenever the pin was verified, and whatever
  // Options::verify_checksums says. OK too where nothing is pinned: by default, or after a move.
  //   kDataLoss naming key and offset: they are not what was put, or a media error took some
  absl::Status Verify() const;
  // Whether the medium still has the bytes. kDataLoss: a page of them was lost while they were
  // pinned. Reading that page then raises SIGBUS, unless Options::sigbus is kAlways or the reader
  // is inside a dax::SurviveMediaErrors: then it may have read zeros, and asks this afterwards.
  absl::Status CheckMedium() const;

 private:
  friend class Keyspace;
  PinnedValue(const Engine& engine, PinnedRecord pinned);

  const Engine* engine_ = nullptr;  // Null: nothing is pinned.
  Pins pins_;
  uint64_t key_size_bytes_ = 0;  // Of the key, which lies before the value.
  std::string_view value_;
};

// The store at a moment: reads with it see every change that was complete before it was taken, and
// none that began after; one that ran meanwhile it sees or not, but always alike. It keeps values
// that are overwritten and deleted meanwhile, and their space, until it is released; Stats tells
// how many. Readers are not slowed down; puts are, by a tenth to a fifth. It is gone when the
// process ends, however that ends. Any number of threads may read with one; move-only; must not
// outlive the Db.
class Snapshot {
 public:
  Snapshot(Snapshot&& other) noexcept;
  Snapshot& operator=(Snapshot&& other) noexcept;
  ~Snapshot();

 private:
  friend class Db;
  friend class Keyspace;
  Snapshot(Snapshots* snapshots, SnapshotEntry* entry) : snapshots_(snapshots), entry_(entry) {}
  Snapshots* snapshots_;
  SnapshotEntry* entry_;  // Null when moved from.
};

struct IteratorOptions {
  std::string lower_bound;  // Inclusive; empty: none.
  std::string upper_bound;  // Exclusive; empty: none.
  bool keys_only = false;   // value() stays empty; values are neither read nor verified.
  bool always_verify =
      false;  // Checks each record's CRC32C also without Options::verify_checksums.
  // What to look at; null: a snapshot of its own, taken now. Not used after NewIterator.
  const Snapshot* snapshot = nullptr;
};

// Walks the store in key order, both ways, as it was when the iterator was made (or as
// IteratorOptions::snapshot saw it), whatever is written meanwhile. Nothing is copied: key() and
// value() are the bytes in the pool, and stay good until the iterator is refreshed or destroyed,
// also after it has moved on. Like a Snapshot it keeps what is overwritten and deleted meanwhile
// from being reused, so it should not live for long without need. Must not outlive the Db.
//
// Costs: making one about as much as a Get of a cached key, and it waits for the slot stores under
// way; a Seek reads and sorts one leaf (up to 120 keys) unless the iterator is in that leaf
// already.
class Iterator {
 public:
  ~Iterator();
  void SeekToFirst();
  void SeekToLast();
  // To the first key >= `key` (and >= lower_bound).
  void Seek(std::string_view key);
  // To the last key <= `key` (and < upper_bound).
  void SeekForPrev(std::string_view key);
  void Next();  // Requires Valid().
  void Prev();  // Requires Valid().
  // Looks at the store as it is now, also if it began with a snapshot. Not Valid() until a Seek.
  void Refresh();
  // False at either end and after an error; status() tells which.
  bool Valid() const;
  // kDataLoss naming key or offset, kResourceExhausted without memory, kFailedPrecondition of a
  // closed store; kInvalidArgument as of Get at a snapshot.
  const absl::Status& status() const;
  std::string_view key() const;    // Requires Valid().
  std::string_view value() const;  // Requires Valid().

 private:
  friend class Keyspace;
  struct Impl;
  explicit Iterator(std::unique_ptr<Impl> impl);
  template <typename Move>
  void Do(Move move);
  std::unique_ptr<Impl> impl_;
};

struct GroupResult {
  size_t stored = 0;      // Distinct keys written; 0 for deletes.
  size_t superseded = 0;  // Records passed over, as a later one of the group has the same key.
  uint64_t replaced = 0;  // Keys that existed before: replaced or deleted.
};

struct CompactOptions {
  // Until when empty extents that are pinned are tried again.
  absl::Time deadline = absl::InfinitePast();
  // Also writes records anew that do not lie near the record of the key before theirs, in the order
  // of the keys, so that a scan walks memory forwards. Costs about two copies of each such record
  // (the second when what lies between their old places is packed); what is in place already stays,
  // so that another call costs a look at each record. Values above 32 KiB stay where they are.
  // Meanwhile the store grows by 16 MiB or an eighth, whichever is more, or by what room there is
  // if that is less; snapshots and iterators that are held keep the old places of records besides.
  // kResourceExhausted: there was room for next to nothing, or what snapshots keep has grown to the
  // like of that; what was written in order by then stays so, and nothing is lost.
  bool order_by_key = false;
};

struct CompactionResult {
  uint64_t extents_freed = 0;
  uint64_t size_bytes_freed = 0;    // Of page runs released.
  uint64_t extents_pinned = 0;      // Empty, but held by a pin.
  uint64_t trimmed_size_bytes = 0;  // Spare blocks given back besides.
  uint64_t records_moved = 0;       // Out of sparse extents, or into order.
  uint64_t records_ordered = 0;     // Of these, into order.
  uint64_t moved_size_bytes = 0;    // Of these records.
  uint64_t leaves_merged = 0;       // Leaves of the index that others took in.
};

struct CheckReport {
  uint64_t records = 0, nodes = 0, fences = 0, extents = 0, slots = 0;
  uint64_t record_size_bytes = 0;      // Keys and values.
  bool recovered_after_crash = false;  // Extents had to be derived anew.
  uint64_t lost_pages = 0;             // To media errors; each is a fault, too.
  std::vector<std::string> faults;     // Empty: clean. One line each, at most 1000.
};

struct ScrubReport {
  uint64_t records = 0, size_bytes = 0;  // That were verified.
  std::vector<std::string> faults;       // Key and offset; one line each, at most 1000.
};

// Of every scrub since the open.
struct ScrubStats {
  uint64_t rounds = 0;  // Complete ones.
  uint64_t size_bytes = 0;
  uint64_t faults = 0;                    // Each time that one was met.
  std::vector<std::string> first_faults;  // At most 100.
};

// What the writeback of process durability has done since the open.
struct WritebackInfo {
  uint64_t completed = 0;
  absl::Duration last_took;
};

struct KeyspaceInfo {
  std::string name;
  uint64_t size_bytes = 0;  // Of its extents.
  uint64_t records = 0;     // These two only with `count_bytes`: they open the keyspace.
  uint64_t key_value_size_bytes = 0;
};

struct Info {
  std::string path;
  dax::PoolShape shape = dax::PoolShape::kDirectory;
  dax::MediaInfo media;
  uint32_t format_version = 0;
  uint64_t open_epoch = 0;
  bool was_clean = true;                    // The close before this open.
  std::optional<WritebackInfo> writeback;   // With process durability.
  std::optional<PowerCutReport> power_cut;  // What this open made of a power cut it found.
  // Of the default keyspace.
  uint64_t records = 0;
  uint64_t key_value_size_bytes = 0;  // 0 unless asked for: it reads every record's header.
  uint64_t leaves = 0, inner_nodes = 0;
  unsigned index_height = 0;
  uint64_t index_view_size_bytes = 0;                  // DRAM.
  uint64_t slab_size_bytes = 0, large_size_bytes = 0;  // Of all keyspaces.
  std::vector<KeyspaceInfo> keyspaces;                 // Besides the default one.
  uint64_t keyspaces_dropping = 0;                     // Dropped, and not all given back.
  uint64_t snapshots = 0;  // Different ones, those of iterators included.
  absl::Duration oldest_snapshot_age;
  uint64_t snapshot_versions = 0;            // Superseded records that are kept for them,
  uint64_t snapshot_version_size_bytes = 0;  // and their size.
  std::vector<SlotClassUsage> slot_classes;  // Of extents that were looked at since open.
  // Extents by the order of their run; a run of n * 2 MiB counts n times at the last.
  uint64_t live_extents_by_order[dax::kHugeOrder + 1] = {};
  ScrubStats scrub;
  dax::DaxStats dax;
};

// What an open store can tell of itself in a time that does not grow with it: for who watches it
// all the time. How many records there are is not in it: ApproximateRange tells about, Info just.
struct Stats {
  uint64_t file_size_bytes = 0;    // Sum of the backing files' lengths.
  uint64_t file_blocks_bytes = 0;  // What the file system really holds for them.
  uint64_t snapshots = 0;          // This and the next four as in Info.
  absl::Duration oldest_snapshot_age;
  uint64_t snapshot_versions = 0;
  uint64_t snapshot_version_size_bytes = 0;
  uint64_t keyspaces_dropping = 0;
  uint64_t lost_pages = 0;  // To media errors.
  std::optional<WritebackInfo> writeback;
  ScrubStats scrub;
};

// A value that is written in place in the pool: no copy of it is made. Until Commit nobody sees it,
// and a crash leaves nothing of it. Move-only; used by one thread at a time, but the bytes may be
// filled by several. Must not outlive the Db. Without Commit, the destructor gives the space back.
class ValueWriter {
 public:
  ValueWriter(ValueWriter&&) noexcept;
  ValueWriter& operator=(ValueWriter&&) noexcept;
  ~ValueWriter();
  // The value's bytes, unspecified at first, to be filled in any order; not aligned. Empty after
  // Commit.
  absl::Span<char> bytes() const;
  // Stores what the bytes hold as the key's value; durable on return. Nothing may write to them
  // from here on. Statuses of Put; kFailedPrecondition the second time. Whatever it returns, the
  // writer is done. Costs one pass over the bytes, for checksum and flush.
  absl::Status Commit();

 private:
  friend class Keyspace;
  struct Impl;
  explicit ValueWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What an Update's function wants done.
enum class UpdateAction { kKeep, kPut, kDelete };

// Gets the key's value, nullopt if it has none, good during the call only; for kPut it stores the
// new value into *value, which is empty at first. A status that is not OK ends the Update with it.
using UpdateFunction = absl::FunctionRef<absl::StatusOr<UpdateAction>(
    std::optional<std::string_view> current, std::string* value)>;

struct RangeEstimate {
  uint64_t records = 0;
  uint64_t size_bytes = 0;  // Of keys and values.
  // Two standard errors of each: 19 times of 20 the true number is no farther away, as long as no
  // few leaves are far from all others. 0: it was counted, not estimated.
  uint64_t records_error = 0;
  uint64_t size_bytes_error = 0;
};

// An ordered map of its own in a store: a cheap handle, to be copied freely. All handles of one
// keyspace are alike. When it is dropped, every call returns kNotFound naming it; but what was
// pinned, iterated or shown by a snapshot before that stays good, through its handles, until it is
// released. A handle may outlive the Db, but not its use: every call then returns
// kFailedPrecondition, as after Close.
class Keyspace {
 public:
  // Stores `value` under `key`, in place of what was there. Durable on return.
  //   kInvalidArgument, kResourceExhausted, kDataLoss, kInternal; nothing changed, except that
  //   after kInternal the new value may be there without being durable.
  absl::Status Put(std::string_view key, std::string_view value);
  // Puts many records with a few waits for the medium in all. Each is atomic by itself, the group
  // is not: on an error (statuses of Put; the message says how many were stored) any of them may
  // have been stored. Keys in any order; a key met twice keeps the last. Every key and value is
  // checked before the first is written. The views must stay good until the call returns.
  absl::StatusOr<GroupResult> PutGroup(absl::Span<const KeyValue> records);

  // A copy of the value. kNotFound, kInvalidArgument, kDataLoss; kResourceExhausted without memory.
  absl::StatusOr<std::string> Get(std::string_view key) const;
  // The same into *value, whose capacity is reused.
  absl::Status Get(std::string_view key, std::string* value) const;
  // The value where it lies, without a copy. Statuses of Get. Costs two atomic operations more
  // than a Get of a short value, and nothing for each byte but kNow's read of it. With kLater,
  // damage to the value is not told here: see PinnedValue.
  absl::StatusOr<PinnedValue> Pin(std::string_view key, PinVerify verify = PinVerify::kNow) const;
  // OK or kNotFound; kInvalidArgument, kDataLoss. The value is neither read nor verified.
  absl::Status Contains(std::string_view key) const;
  // As these, of the store as the snapshot sees it. kInvalidArgument: the snapshot is of another
  // store, or was moved from.
  absl::StatusOr<std::string> Get(std::string_view key, const Snapshot& snapshot) const;
  absl::Status Get(std::string_view key, const Snapshot& snapshot, std::string* value) const;
  absl::StatusOr<PinnedValue> Pin(std::string_view key, const Snapshot& snapshot,
                                  PinVerify verify = PinVerify::kNow) const;
  absl::Status Contains(std::string_view key, const Snapshot& snapshot) const;
  // Durable on return, never needs space in the pool. On kPageCache it waits for one msync, and for
  // two more if the key was put since any call last waited for those two (kv/recent_puts.h);
  // DeleteGroup, DeleteRange and threads share them. kNotFound when there is none;
  // kInvalidArgument, kInternal as of Put; kDataLoss also when what is damaged may be the key's:
  // repair the store, or put the key anew; kResourceExhausted: no memory, nothing changed.
  absl::Status Delete(std::string_view key);

  // Get for many keys at once, into values[i], whose capacity is reused, and statuses[i]: the
  // cache misses of 16 look-ups overlap. Each value was current at some moment of the call; not
  // all at the same. kInvalidArgument: the spans' sizes differ; nothing was done. Otherwise OK,
  // whatever each key's status (those of Get).
  absl::Status MultiGet(absl::Span<const std::string_view> keys, absl::Span<std::string> values,
                        absl::Span<absl::Status> statuses) const;

  // Stores `value` unless the key is there: kAlreadyExists. Otherwise as Put.
  absl::Status Insert(std::string_view key, std::string_view value);
  // Replaces the key's value by what `function` makes of it, atomically: it is called again, with
  // the new value, if another thread changed the key meanwhile, so it should have no effects of its
  // own. It runs in no lock and may use this Db. With many threads at one key, a slow function may
  // be called often. Statuses of `function`, and of Get and Put but kNotFound. Durable on return.
  absl::Status Update(std::string_view key, UpdateFunction function);
  // If the key's value is `expected` (nullopt: it has none), makes it `desired` (nullopt: deletes
  // it). kAborted: it is another one; nothing changed. Otherwise as Update.
  absl::Status CompareAndSwap(std::string_view key, std::optional<std::string_view> expected,
                              std::optional<std::string_view> desired);
  // Reserves space for a value of size_bytes (0..1 GiB), to be filled in place and committed.
  // kInvalidArgument, kResourceExhausted, kInternal; nothing changed.
  absl::StatusOr<ValueWriter> NewValueWriter(std::string_view key, uint64_t size_bytes);

  // Deletes every key of [from, to) that is there throughout the call; an empty `to` means no end.
  // Each delete is atomic by itself, the range is not. Returns how many. Durable on return. Needs
  // no space; O(keys in the range).
  //   kInvalidArgument: to < from. kDataLoss, kInternal: any of them may be deleted.
  absl::StatusOr<uint64_t> DeleteRange(std::string_view from, std::string_view to);
  // About how many records, and bytes of keys and values, lie in [from, to); an empty `to` means no
  // end. Counts up to 64 leaves of about 90 records, else reads a sample of so many and says its
  // error. Microseconds, but the first look at a part of the index since the open costs more.
  //   kInvalidArgument: to < from. kDataLoss, kResourceExhausted without memory.
  absl::StatusOr<RangeEstimate> ApproximateRange(std::string_view from, std::string_view to) const;

  // How many keys there are: reads every leaf of the index, no record. kDataLoss,
  // kResourceExhausted.
  absl::StatusOr<uint64_t> Count() const;

  // Deletes many keys with a few waits for the medium in all; keys that are not there are passed
  // over. Each delete is atomic by itself, the group is not. Keys in any order. Needs no space.
  //   kInvalidArgument: nothing changed. kDataLoss, kInternal, kResourceExhausted (no memory): any
  //   of them may be deleted.
  absl::StatusOr<GroupResult> DeleteGroup(absl::Span<const std::string_view> keys);

  // Null when there is no memory for it, and only then.
  std::unique_ptr<Iterator> NewIterator(IteratorOptions options = {}) const noexcept;

 protected:
  Keyspace() = default;

 private:
  friend class Db;
  friend class WriteBatch;
  explicit Keyspace(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}
  std::shared_ptr<Engine> engine_;
};

// A store, and its default keyspace: the calls of Keyspace work on that.
class Db : public Keyspace {
 public:
  // Opens or creates the store. Constant time: libpmemobj's own open plus a few page touches,
  // after a crash too; what a crash left is finished when it is first met. Statuses of
  // dax::Pool::Open; kFailedPrecondition too when the pool belongs to another program or a newer
  // format.
  static absl::StatusOr<std::unique_ptr<Db>> Open(const std::string& path, const Options& options);
  // As a crash would, if Close was not called.
  ~Db();
  // Saves what makes the next open's first writes quick, and closes. Iterators, snapshots and pins
  // must be gone (kFailedPrecondition: they are not, and nothing was done). Every later call
  // returns kFailedPrecondition. Takes longer the more this session has changed; of one that began
  // after a crash it also reads the descriptor words of all pages (8 bytes each: 2 GiB of them in
  // 1 TiB), for free ones that hide blocks. Measured: 10 ms for ten million records of 100 bytes.
  absl::Status Close();

  // Makes an empty keyspace. Its name: 1..64 arbitrary bytes. Durable on return, whole or not at
  // all. Costs some waits for the medium, and 128 KiB of the pool once it has its first record.
  //   kAlreadyExists; kInvalidArgument: the name's size; kResourceExhausted: pool, file system or
  //   memory full, or 2047 keyspaces; kDataLoss: a damaged table of keyspaces, kInternal
  absl::StatusOr<Keyspace> CreateKeyspace(std::string_view name);
  // kNotFound; kInvalidArgument; kDataLoss: the table or the keyspace's root is damaged, and when
  // damage hides whether it is there. Constant time.
  absl::StatusOr<Keyspace> OpenKeyspace(std::string_view name) const;
  // Drops it with all it holds, at once and durably: it is done or not done, also when a crash
  // comes, and the name is free. Its space is given back in the background, whole extents at a
  // time, when the calls under way have ended and what shows it is released: pins (each keeps its
  // extent), iterators, snapshots taken before, ValueWriters. Compact waits for that until its
  // deadline, and Close finishes it; so does the next open, if the process ends before. Statuses of
  // OpenKeyspace; kInternal.
  absl::Status DropKeyspace(std::string_view name);
  // The names of all, the default one (which has none) left out, in ascending order. kDataLoss.
  absl::StatusOr<std::vector<std::string>> ListKeyspaces() const;

  // Does all of the batch's operations, in whatever keyspaces, or none, also when a crash comes:
  // what returned OK is durable as a whole. A snapshot or iterator sees all of them or none; other
  // reads may see some before others. Up to 2^27 keys, as long as they fit the pool; deletes need
  // space here, too, until the call is done. A batch keeps the leaves that it changes locked for
  // five waits for the medium, and writers there wait. Statuses of Put; kNotFound: one of its
  // keyspaces was dropped, nothing changed; kInvalidArgument, if one is another store's. After
  // kInternal, reads may see a part of it until the store is opened anew.
  absl::Status Write(const WriteBatch& batch);

  // Waits for the slot stores under way (microseconds), and if there was no other snapshot for a
  // round of a PutGroup that is being published. kResourceExhausted without memory.
  absl::StatusOr<Snapshot> GetSnapshot() const;
  // Everything acknowledged so far becomes as durable as the medium can make it.
  absl::Status Sync();
  // Moves records out of sparse extents, and gives empty extents and spare blocks back to the file
  // system. Readers, writers and pins go on meanwhile. Needs little room: a full store can be
  // compacted. Extents that are pinned are left alone; the empty ones among them are tried again
  // until `deadline`. Nobody waits for this wait: a pin's holder may put, also into a full store.
  absl::StatusOr<CompactionResult> Compact(absl::Time deadline = absl::InfinitePast());
  absl::StatusOr<CompactionResult> Compact(const CompactOptions& options);
  // Walks and verifies everything. No writer may run meanwhile. An unclean pool is recovered
  // first, so what is reported is damage or a leak. The status is OK also when faults were found
  // (see faults); it is an error only when the walk could not be done.
  absl::StatusOr<CheckReport> Check() const;
  // Verifies the checksum of every record, at full speed, while readers and writers go on. OK also
  // when faults were found. kResourceExhausted without memory.
  absl::StatusOr<ScrubReport> Scrub() const;
  // Verifies and mends the store at `path`, which nobody may have open: see kv/repair.h. The
  // listener gets the report before anything is changed.
  static absl::StatusOr<RepairReport> Repair(
      const std::string& path, const Options& options,
      const std::function<void(const RepairReport&)>& listener = nullptr);
  // Everything that can be told of the store. Takes longer the larger that is: it reads every leaf
  // to count the records, the descriptor words of all pages (8 bytes each: 2 GiB of them in 1 TiB)
  // and the kernel's list of mapped pages; with `count_bytes` every record's header, too. Measured:
  // 14 ms for a million records of 100 bytes, 0.25 s for ten.
  absl::StatusOr<Info> GetInfo(bool count_bytes = false) const;
  // What can be told at once. Makes a system call for each of the pool's files.
  absl::StatusOr<Stats> GetStats() const;

  // Writes a snapshot of the store, taken now, to `sink` as a stream (kv/backup_format.h), with
  // every record verified. Writers go on meanwhile; what they supersede is kept until it is done.
  // Takes 1 MiB of memory besides, whatever the store's size. After an error the stream is useless.
  //   kDataLoss naming key and offset, kResourceExhausted without memory; statuses of the sink
  absl::StatusOr<BackupSummary> Backup(ByteSink* sink) const;
  // Makes a new store at `path` of a backup's stream, which may come from anywhere: nothing of it
  // is believed unchecked. The store is made at `path`.restoring and appears at `path` when it is
  // whole and durable; a failure leaves nothing. `options` are those of creating it, on no device.
  // Takes 32 MiB of memory besides. Does not open it.
  //   kAlreadyExists       something is at `path`
  //   kDataLoss            the stream is damaged or cut short; the message has its byte offset
  //   kFailedPrecondition  the stream's format is newer; another restore to `path` is running
  //   otherwise            statuses of Open, PutGroup and NewValueWriter, and of the source
  static absl::StatusOr<BackupSummary> Restore(ByteSource* source, const std::string& path,
                                               Options options,
                                               RestoreExtent extent = RestoreExtent::kBackupOnly);

 private:
  explicit Db(std::unique_ptr<Store> store);
  std::unique_ptr<Store> store_;  // Null once closed.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_DB_H_
