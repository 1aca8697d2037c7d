// The iterator: copies the records of a leaf, or a part of them, into a buffer and walks that.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kv/engine.h"
#include "kv/exceptions.h"

namespace daxkv::kv {
namespace {

// What a refill copies inside one ReadGuard stays near this.
constexpr size_t kMaxRefillSizeBytes = 256 << 10;
// A longer value is not copied, but pinned when the walk comes to it.
constexpr size_t kMaxBufferedValueSizeBytes = 64 << 10;
// The first refill after a Seek is this short, each later one twice as long: a short scan does not
// pay for records that it never looks at.
constexpr size_t kFirstRefillRecords = 16;
constexpr size_t kMaxRefillRecords = 1024;  // More than a leaf holds.

}  // namespace

struct Iterator::Impl {
  // A record of the buffer: its key, and right behind it its value if that is buffered.
  struct Entry {
    size_t key_offset = 0;
    uint32_t key_size_bytes = 0;
    uint32_t value_size_bytes = 0;
    bool value_pending = false;  // To be pinned when the walk comes to it.
  };

  Impl(const Engine* engine, IteratorOptions options)
      : engine(engine), options(std::move(options)) {}

  absl::Status Seek(std::string_view key);
  absl::Status Next();
  // Makes `position` stand on a record with its value at hand, or ends the walk.
  absl::Status Settle();
  absl::Status Refill();
  absl::Status Buffer(const RecordView& record);
  void DropBuffer() {
    pinned = PinnedRecord();
    entries.clear();
    bytes.clear();
    position = 0;
  }
  void Stop(absl::Status reason) {
    status = std::move(reason);
    DropBuffer();
    end = true;
  }
  std::string_view KeyOf(const Entry& entry) const {
    return {bytes.data() + entry.key_offset, entry.key_size_bytes};
  }

  const Engine* const engine;  // Null when the store was closed before.
  const IteratorOptions options;
  absl::Status status;

  std::vector<Entry> entries;
  std::string bytes;
  size_t position = 0;
  PinnedRecord pinned;  // The value at `position`, if it is too long for the buffer.

  // Where the next refill begins, and what it must not repeat. After `end` there is none.
  std::string from;
  std::string last_key;
  size_t refill_records = 0;
  bool end = true;
  absl::Status damage;  // Met by the last refill, behind its records.
};

absl::Status Iterator::Impl::Seek(std::string_view key) {
  DropBuffer();
  status = absl::OkStatus();
  damage = absl::OkStatus();
  from.assign(std::max<std::string_view>(key, options.lower_bound));
  last_key.clear();
  refill_records = kFirstRefillRecords;
  end = false;
  return Settle();
}

absl::Status Iterator::Impl::Next() {
  ++position;
  return Settle();
}

absl::Status Iterator::Impl::Settle() {
  pinned = PinnedRecord();
  for (;;) {
    if (position == entries.size()) {
      if (!damage.ok()) return std::move(damage);
      if (end) return absl::OkStatus();
      absl::Status refilled = Refill();
      if (!refilled.ok()) return refilled;
      continue;
    }
    if (!entries[position].value_pending) return absl::OkStatus();
    absl::StatusOr<PinnedRecord> value =
        engine->Reading([&] { return engine->Pin(KeyOf(entries[position])); });
    if (value.ok()) {
      pinned = *std::move(value);
      return absl::OkStatus();
    }
    if (!absl::IsNotFound(value.status())) return value.status();
    ++position;  // Deleted since it was buffered.
  }
}

absl::Status Iterator::Impl::Refill() {
  if (!entries.empty()) last_key.assign(KeyOf(entries.back()));
  bool past_upper_bound = false;
  std::string next_from;
  absl::Status scanned = engine->Reading([&] {
    DropBuffer();
    damage = absl::OkStatus();
    past_upper_bound = false;
    return engine->index().ScanLeaf(
        from,
        [&](const RecordView& record) {
          past_upper_bound = !options.upper_bound.empty() && record.key >= options.upper_bound;
          if (past_upper_bound) return false;
          if (record.key <= (entries.empty() ? last_key : KeyOf(entries.back()))) return true;
          damage = Buffer(record);
          return damage.ok() && entries.size() < refill_records &&
                 bytes.size() < kMaxRefillSizeBytes;
        },
        &next_from, &end);
  });
  if (!scanned.ok()) return scanned;
  from = std::move(next_from);
  end = end || past_upper_bound;
  refill_records = std::min(refill_records * 2, kMaxRefillRecords);
  return absl::OkStatus();
}

absl::Status Iterator::Impl::Buffer(const RecordView& record) {
  Entry entry;
  entry.key_offset = bytes.size();
  entry.key_size_bytes = static_cast<uint32_t>(record.key.size());
  const bool long_value = record.value.size() > kMaxBufferedValueSizeBytes;
  entry.value_pending = long_value && !options.keys_only;
  const bool copies_value = !long_value && !options.keys_only;
  if (copies_value) {
    absl::Status intact = engine->Verify(record);
    if (!intact.ok()) return WithKey(std::move(intact), record.key);
    entry.value_size_bytes = static_cast<uint32_t>(record.value.size());
  }
  bytes.append(record.key);
  if (copies_value) bytes.append(record.value);
  entries.push_back(entry);
  return absl::OkStatus();
}

Iterator::Iterator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Iterator::~Iterator() = default;

std::unique_ptr<Iterator> Db::NewIterator(IteratorOptions options) const {
  return std::unique_ptr<Iterator>(
      new Iterator(std::make_unique<Iterator::Impl>(engine_.get(), std::move(options))));
}

void Iterator::SeekToFirst() { Seek({}); }

void Iterator::Seek(std::string_view key) {
  absl::Status moved = impl_->engine == nullptr
                           ? absl::FailedPreconditionError("the store is closed")
                           : WithoutExceptions([&] { return impl_->Seek(key); });
  if (!moved.ok()) impl_->Stop(std::move(moved));
}

void Iterator::Next() {
  absl::Status moved = WithoutExceptions([&] { return impl_->Next(); });
  if (!moved.ok()) impl_->Stop(std::move(moved));
}

bool Iterator::Valid() const { return impl_->position < impl_->entries.size(); }

const absl::Status& Iterator::status() const { return impl_->status; }

std::string_view Iterator::key() const { return impl_->KeyOf(impl_->entries[impl_->position]); }

std::string_view Iterator::value() const {
  const Impl::Entry& entry = impl_->entries[impl_->position];
  if (entry.value_pending) return impl_->pinned.record.value;
  return {impl_->bytes.data() + entry.key_offset + entry.key_size_bytes, entry.value_size_bytes};
}

}  // namespace daxkv::kv
