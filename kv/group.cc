// PutGroup and DeleteGroup: many records with a few waits for the medium.
//
// A group is handled in rounds of bounded size. A round of puts writes its records one after the
// other, mostly into neighbouring slots, flushing as it goes; the index then drains once for the
// records and once for the slots of its leaves. A round of deletes has only the latter.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/engine.h"
#include "kv/key_order.h"

namespace daxkv::kv {
namespace {

// Large enough that a round's msyncs are shared by thousands of records, small enough that the
// space which is written but not yet published stays negligible.
constexpr size_t kMaxRoundRecords = 16384;
constexpr uint64_t kMaxRoundSizeBytes = 64 << 20;

std::string_view KeyOf(const KeyValue& record) { return record.key; }
std::string_view KeyOf(std::string_view key) { return key; }
std::string_view ValueOf(const KeyValue& record) { return record.value; }
std::string_view ValueOf(std::string_view) { return {}; }

// Record: KeyValue, or a key alone.
template <typename Record>
absl::Status CheckGroup(absl::Span<const Record> records) {
  for (size_t i = 0; i < records.size(); ++i) {
    absl::Status valid = CheckKey(KeyOf(records[i]));
    if (valid.ok()) valid = CheckValue(ValueOf(records[i]));
    if (!valid.ok()) {
      return absl::Status(
          valid.code(),
          absl::StrCat("record ", i, " of the group: ", valid.message(), "; nothing was changed"));
    }
  }
  return absl::OkStatus();
}

template <typename Record>
std::vector<size_t> SortedDistinct(absl::Span<const Record> records) {
  return DistinctInKeyOrder(records.size(), [&](size_t i) { return KeyOf(records[i]); });
}

uint64_t SizeBytesOf(const KeyValue& record) {
  return RecordSizeBytes(record.key.size(), record.value.size());
}

absl::Status WithProgress(const absl::Status& status, size_t done, size_t all) {
  return absl::Status(status.code(), absl::StrCat(status.message(), " (", done, " of ", all,
                                                  " keys of the group were done)"));
}

}  // namespace

absl::StatusOr<GroupResult> Engine::PutGroup(absl::Span<const KeyValue> records) {
  absl::Status status = CheckGroup(records);
  if (!status.ok()) return status;
  const std::vector<size_t> order = SortedDistinct(records);
  GroupResult result;
  result.superseded = records.size() - order.size();
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    uint64_t size_bytes = 0;
    while (end < order.size() && end - begin < kMaxRoundRecords &&
           size_bytes < kMaxRoundSizeBytes) {
      size_bytes += SizeBytesOf(records[order[end++]]);
    }
    status = PutRound(records, absl::MakeSpan(order).subspan(begin, end - begin), &result);
    if (!status.ok()) return WithProgress(status, result.stored, order.size());
    begin = end;
  }
  return result;
}

absl::StatusOr<GroupResult> Engine::DeleteGroup(absl::Span<const std::string_view> keys) {
  absl::Status status = CheckGroup(keys);
  if (!status.ok()) return status;
  const std::vector<size_t> order = SortedDistinct(keys);
  GroupResult result;
  result.superseded = keys.size() - order.size();
  std::vector<Index::GroupEntry> entries;
  for (size_t begin = 0; begin < order.size(); begin += entries.size()) {
    entries.clear();
    const size_t end = std::min(order.size(), begin + kMaxRoundRecords);
    for (size_t i = begin; i < end; ++i) entries.push_back({keys[order[i]], kNullAddress});
    size_t done = 0;
    status = index_->UpsertSorted(entries, &done, &result.replaced);
    status.Update(SettleRemoved(snapshots_.LastNumber()));
    if (!status.ok()) return WithProgress(status, begin + done, order.size());
  }
  return result;
}

absl::Status Engine::PutRound(absl::Span<const KeyValue> records, absl::Span<const size_t> order,
                              GroupResult* result) {
  std::vector<Index::GroupEntry> entries;
  entries.reserve(order.size());
  absl::Status status;
  for (size_t position : order) {
    const KeyValue& record = records[position];
    absl::StatusOr<Address> address = AllocateRecord(SizeBytesOf(record));
    if (!address.ok()) {
      // What found room is stored all the same.
      status = address.status();
      break;
    }
    WriteRecord(*space_, *address, kValueRecord, NextSequence(), record.key, record.value);
    entries.push_back({record.key, *address});
  }
  absl::Status published = PublishRound(records, order, entries, result);
  return published.ok() ? status : published;
}

absl::Status Engine::PublishRound(absl::Span<const KeyValue> records,
                                  absl::Span<const size_t> order,
                                  absl::Span<const Index::GroupEntry> entries,
                                  GroupResult* result) {
  unsigned attempts = 0;
  for (size_t begin = 0; begin < entries.size();) {
    size_t done = 0;
    absl::Status published = index_->UpsertSorted(entries.subspan(begin), &done, &result->replaced);
    begin += done;
    result->stored += done;
    if (published.ok()) continue;
    if (absl::IsAborted(published) || absl::IsOutOfRange(published)) {
      // A put that overlapped this one has published a higher sequence number (K2).
      const KeyValue& record = records[order[begin]];
      WriteRecord(*space_, entries[begin].address, kValueRecord, NextSequence(), record.key,
                  record.value);
      continue;
    }
    if (absl::IsResourceExhausted(published) && MakeRoom(&attempts)) continue;
    // What the index has not published belongs to this call still (K3).
    for (const Index::GroupEntry& entry : entries.subspan(begin)) space_->Abandon(entry.address);
    if (begin == entries.size()) return published;
    return WithKey(std::move(published), entries[begin].key);
  }
  return absl::OkStatus();
}

}  // namespace daxkv::kv
