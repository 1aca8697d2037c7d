// The iterator: one leaf at a time as its snapshot sees it, in order, walked in place.
#include <algorithm>
#include <string>
#include <utility>

#include "kv/engine.h"
#include "kv/exceptions.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// What the processor is asked for ahead of the walk: so many bytes of records, as far as that is
// not too few records or too many, and of each record its beginning; longer ones have the
// processor's own prefetching.
constexpr uint64_t kPrefetchedAheadSizeBytes = 4096;
constexpr size_t kFewestPrefetchedRecords = 3, kMostPrefetchedRecords = 16;
constexpr uint64_t kMostPrefetchedSizeBytes = 1280;
constexpr uint64_t kLineSizeBytes = 64;
// The record that this thread came by last: the next one is as long, mostly. A guess only, of any
// store.
thread_local uint64_t t_last_seen_size_bytes = kShortKeyEnd;

}  // namespace

struct Iterator::Impl {
  Impl(std::shared_ptr<Engine> engine, IteratorOptions options)
      : engine(std::move(engine)), options(std::move(options)) {}
  ~Impl() { Release(); }

  void Release() {
    if (snapshot != nullptr) engine->snapshots().Release(std::exchange(snapshot, nullptr));
  }
  absl::Status Refresh();

  // Each move ends by Arrive.
  absl::Status SeekAtOrAfter(std::string_view key);
  // To the last key below `key`, or not above it.
  absl::Status SeekBelow(std::string_view key, bool or_at);
  absl::Status SeekToLast();
  absl::Status Next();
  absl::Status Prev();

  // Reads the leaf meant by `target`.
  absl::Status ReadLeaf(const LeafTarget& target);
  // Takes the leaf that covers `key`, which may be the one at hand.
  absl::Status ReadLeafCovering(std::string_view key);
  // Goes on to the next leaf that has a record while `position` is behind the last.
  absl::Status SettleForwards();
  // Goes on to the leaves to the left until one has a record below position, and stands on that.
  absl::Status SettleBackwards();
  absl::Status Arrive();
  absl::Status Look();
  // Sets `record` to the one at `address`.
  absl::Status View(Address address);
  void PrefetchAhead();
  void PrefetchLines(Address address, uint64_t size_bytes);

  // The position of the first record of the leaf whose key is not below `key`, or above it.
  size_t LowerBound(std::string_view key) const { return leaf.LowerBound(engine->memory(), key); }
  size_t UpperBound(std::string_view key) const;
  std::string_view KeyAt(size_t i) const {
    return RecordAt(engine->memory(), leaf.entries[i].record).key;
  }
  void Stop(absl::Status reason) {
    status = std::move(reason);
    valid = false;
  }

  const std::shared_ptr<Engine> engine;  // Null when the store was closed before.
  IteratorOptions options;
  SnapshotEntry* snapshot = nullptr;
  absl::Status status;

  bool has_leaf = false;
  LeafContents leaf;
  size_t position = 0;           // In it.
  size_t prefetched = 0;         // The processor was asked for its records before this position,
  bool next_prefetched = false;  // and for the leaf to the right.
  Address prefetched_line = 0;   // The last that was asked for.
  uint64_t ahead_of_size_bytes = 0;
  size_t ahead = 0;  // How many records, where they are of that size.
  // Bytes from here to there are present: a record that the snapshot sees lies there, so nobody
  // truncates their extent.
  Address seen_from = 0, seen_end = 0;
  bool valid = false;
  RecordView record;  // At the position, if valid.
};

absl::Status Iterator::Impl::Refresh() {
  Release();
  seen_from = seen_end = 0;
  valid = has_leaf = false;
  if (engine->is_shut()) return engine->Refusal();
  snapshot = engine->snapshots().Acquire();
  if (engine->IsSeenBy(*snapshot)) return absl::OkStatus();
  Release();
  return engine->Refusal();
}

absl::Status Iterator::Impl::ReadLeaf(const LeafTarget& target) {
  has_leaf = false;
  LeafContents next;
  next.entries.swap(leaf.entries);  // Its memory is used again; `target` may be a fence of `leaf`.
  absl::Status read =
      engine->Reading([&] { return engine->index().ReadLeafAt(*snapshot, target, &next); });
  if (!read.ok()) return read;
  leaf = std::move(next);
  has_leaf = true;
  prefetched = 0;
  next_prefetched = false;
  return absl::OkStatus();
}

absl::Status Iterator::Impl::ReadLeafCovering(std::string_view key) {
  // What the snapshot sees does not change.
  if (has_leaf && key >= leaf.low && (!leaf.has_upper || key < leaf.upper)) return absl::OkStatus();
  return ReadLeaf(key);
}

size_t Iterator::Impl::UpperBound(std::string_view key) const {
  const size_t at = LowerBound(key);
  return at < leaf.entries.size() && KeyAt(at) == key ? at + 1 : at;
}

absl::Status Iterator::Impl::SeekAtOrAfter(std::string_view key) {
  key = std::max<std::string_view>(key, options.lower_bound);
  absl::Status read = ReadLeafCovering(key);
  if (!read.ok()) return read;
  // The records at hand are asked for before the first of them is compared.
  position = leaf.LowerBoundOfHead(engine->memory(), key);
  PrefetchAhead();
  position = LowerBound(key);
  return SettleForwards();
}

absl::Status Iterator::Impl::SeekBelow(std::string_view key, bool or_at) {
  if (!options.upper_bound.empty() && key >= options.upper_bound) {
    key = options.upper_bound;
    or_at = false;
  }
  absl::Status read = ReadLeafCovering(key);
  if (!read.ok()) return read;
  position = or_at ? UpperBound(key) : LowerBound(key);
  return SettleBackwards();
}

absl::Status Iterator::Impl::SeekToLast() {
  if (!options.upper_bound.empty()) return SeekBelow(options.upper_bound, /*or_at=*/false);
  absl::Status read = ReadLeaf(LeafTarget::Last());
  if (!read.ok()) return read;
  position = leaf.entries.size();
  return SettleBackwards();
}

absl::Status Iterator::Impl::Next() {
  ++position;
  return SettleForwards();
}

absl::Status Iterator::Impl::Prev() { return SettleBackwards(); }

absl::Status Iterator::Impl::SettleForwards() {
  while (position == leaf.entries.size()) {
    if (!leaf.has_upper || (!options.upper_bound.empty() && leaf.upper >= options.upper_bound)) {
      valid = false;
      return absl::OkStatus();
    }
    // Leaves are merged meanwhile: the one that covers this now may begin below it.
    const std::string from = leaf.upper;
    absl::Status read = ReadLeaf(std::string_view(from));
    if (!read.ok()) return read;
    position = LowerBound(from);
  }
  return Arrive();
}

absl::Status Iterator::Impl::SettleBackwards() {
  while (position == 0) {
    if (leaf.low.empty() || leaf.low <= options.lower_bound) {
      valid = false;
      return absl::OkStatus();
    }
    // And the one before this may end above it.
    const std::string below = leaf.low;
    absl::Status read = ReadLeaf(LeafTarget::Before(below));
    if (!read.ok()) return read;
    position = LowerBound(below);
  }
  --position;
  return Arrive();
}

// Forwards.
void Iterator::Impl::PrefetchAhead() {
  const uint64_t record_size_bytes = options.keys_only ? kShortKeyEnd : t_last_seen_size_bytes;
  if (record_size_bytes != ahead_of_size_bytes) {
    ahead_of_size_bytes = record_size_bytes;
    ahead = std::clamp<size_t>(kPrefetchedAheadSizeBytes / record_size_bytes,
                               kFewestPrefetchedRecords, kMostPrefetchedRecords);
  }
  const uint64_t size_bytes = std::min(record_size_bytes, kMostPrefetchedSizeBytes);
  // Several at once: page walks overlap only if the prefetches follow one another closely.
  if (prefetched > position + ahead / 2 && prefetched < leaf.entries.size()) return;
  const size_t end = std::min(position + ahead, leaf.entries.size());
  const size_t begin = std::max(prefetched, position);
  for (size_t i = begin; i < end; ++i) {
    __builtin_prefetch(engine->memory().At(leaf.entries[i].record));
  }
  for (prefetched = begin; prefetched < end; ++prefetched) {
    PrefetchLines(leaf.entries[prefetched].record, size_bytes);
  }
  if (next_prefetched || end < leaf.entries.size() || leaf.next == kNullAddress) return;
  next_prefetched = true;
  engine->index().PrefetchLeaf(leaf.next);
}

// Records that were placed in order share lines.
void Iterator::Impl::PrefetchLines(Address address, uint64_t size_bytes) {
  const Address end = address + size_bytes;
  for (Address line = address & ~(kLineSizeBytes - 1); line < end; line += kLineSizeBytes) {
    if (line == prefetched_line) continue;
    __builtin_prefetch(engine->memory().At(line));
    prefetched_line = line;
  }
}

absl::Status Iterator::Impl::Arrive() {
  PrefetchAhead();
  return engine->Reading([this] { return Look(); });
}

absl::Status Iterator::Impl::View(Address address) {
  const Memory& memory = engine->memory();
  // Where bytes are lost, extents come in pieces.
  if (address >= seen_from && !memory.AnyLost() &&
      TryViewRecord(memory, address, seen_end, &record)) {
    return absl::OkStatus();
  }
  rcu::ReadGuard guard;
  seen_from = address;
  seen_end = memory.PresentUntil(address);
  if (TryViewRecord(memory, address, seen_end, &record)) return absl::OkStatus();
  seen_end = 0;
  absl::StatusOr<RecordView> viewed = ViewRecord(memory, address);
  if (viewed.ok()) record = *viewed;
  return viewed.status();
}

absl::Status Iterator::Impl::Look() {
  absl::Status viewed = View(leaf.entries[position].record);
  if (!viewed.ok()) return viewed;
  t_last_seen_size_bytes = RecordSizeBytes(record.key.size(), record.value.size());
  valid = (options.upper_bound.empty() || record.key < options.upper_bound) &&
          (options.lower_bound.empty() || record.key >= options.lower_bound);
  if (!valid || options.keys_only) return absl::OkStatus();
  absl::Status intact =
      options.always_verify ? VerifyRecord(engine->memory(), record) : engine->Verify(record);
  return intact.ok() ? intact : WithKey(std::move(intact), record.key);
}

Iterator::Iterator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Iterator::~Iterator() = default;

std::unique_ptr<Iterator> Keyspace::NewIterator(IteratorOptions options) const noexcept {
  try {
    auto impl = std::make_unique<Iterator::Impl>(engine_, std::move(options));
    const Snapshot* const given = impl->options.snapshot;
    if (engine_ == nullptr || engine_->is_shut()) {
      impl->status = engine_ == nullptr ? absl::FailedPreconditionError("the store is closed")
                                        : engine_->Refusal();
    } else if (given == nullptr) {
      impl->status = WithoutExceptions([&] { return impl->Refresh(); });
    } else {
      impl->status = engine_->CheckSnapshot(given->snapshots_, given->entry_);
      if (impl->status.ok() && !engine_->IsSeenBy(*given->entry_))
        impl->status = engine_->Refusal();
      if (impl->status.ok()) impl->snapshot = engine_->snapshots().Share(given->entry_);
    }
    return std::unique_ptr<Iterator>(new Iterator(std::move(impl)));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

template <typename Move>
void Iterator::Do(Move move) {
  // Without a snapshot there was an error that stays.
  if (impl_->snapshot == nullptr) return;
  impl_->status = absl::OkStatus();
  absl::Status moved = WithoutExceptions([&] { return move(*impl_); });
  if (!moved.ok()) impl_->Stop(std::move(moved));
}

void Iterator::SeekToFirst() { Seek({}); }
void Iterator::Seek(std::string_view key) {
  Do([&](Impl& impl) { return impl.engine->Reading([&] { return impl.SeekAtOrAfter(key); }); });
}
void Iterator::SeekToLast() {
  Do([](Impl& impl) { return impl.engine->Reading([&] { return impl.SeekToLast(); }); });
}
void Iterator::SeekForPrev(std::string_view key) {
  Do([&](Impl& impl) {
    return impl.engine->Reading([&] { return impl.SeekBelow(key, /*or_at=*/true); });
  });
}
void Iterator::Next() {
  Do([](Impl& impl) {
    const dax::SurviveMediaErrors survive;
    return impl.Next();
  });
}
void Iterator::Prev() {
  Do([](Impl& impl) {
    const dax::SurviveMediaErrors survive;
    return impl.Prev();
  });
}
void Iterator::Refresh() {
  if (impl_->engine == nullptr) return;
  absl::Status refreshed = WithoutExceptions([&] { return impl_->Refresh(); });
  impl_->Stop(std::move(refreshed));
}

bool Iterator::Valid() const { return impl_->valid; }
const absl::Status& Iterator::status() const { return impl_->status; }
std::string_view Iterator::key() const { return impl_->record.key; }
std::string_view Iterator::value() const {
  return impl_->options.keys_only ? std::string_view() : impl_->record.value;
}

}  // namespace daxkv::kv
