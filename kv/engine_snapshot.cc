// Reads at a snapshot. What it sees stays in place while it is held, so bytes are read outside of
// any ReadGuard, and pins may be waited for without a second look-up.
#include <utility>

#include "kv/engine.h"

namespace daxkv::kv {
namespace {

absl::StatusOr<RecordView> RecordOf(const Index& index, const SnapshotEntry& snapshot,
                                    std::string_view key) {
  absl::Status valid = CheckKey(key);
  if (!valid.ok()) return valid;
  RecordView record;
  absl::Status found = index.FindAt(snapshot, key, [&record](const RecordView& seen) {
    record = seen;
    return absl::OkStatus();
  });
  if (!found.ok()) return WithKey(std::move(found), key);
  return record;
}

}  // namespace

absl::Status Engine::GetAt(const SnapshotEntry& snapshot, std::string_view key,
                           std::string* value) const {
  absl::StatusOr<RecordView> record = RecordOf(*index_, snapshot, key);
  if (!record.ok()) return record.status();
  absl::Status intact = Verify(*record);
  if (!intact.ok()) return WithKey(std::move(intact), key);
  value->assign(record->value.data(), record->value.size());
  return absl::OkStatus();
}

absl::StatusOr<PinnedRecord> Engine::PinAt(const SnapshotEntry& snapshot,
                                           std::string_view key) const {
  absl::StatusOr<RecordView> record = RecordOf(*index_, snapshot, key);
  if (!record.ok()) return record.status();
  PinnedRecord result;
  result.record = *record;
  absl::Status pinned =
      PinExtents(record->address, RecordSizeBytes(record->key.size(), record->value.size()),
                 PinMode::kWait, &result.pins);
  if (pinned.ok()) pinned = Verify(*record);
  if (!pinned.ok()) return WithKey(std::move(pinned), key);
  return result;
}

absl::Status Engine::ContainsAt(const SnapshotEntry& snapshot, std::string_view key) const {
  return RecordOf(*index_, snapshot, key).status();
}

}  // namespace daxkv::kv
