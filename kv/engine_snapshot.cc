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

absl::Status Engine::PinAt(const SnapshotEntry& snapshot, std::string_view key, PinVerify verify,
                           PinnedRecord* pinned) const {
  absl::StatusOr<RecordView> record = RecordOf(*index_, snapshot, key);
  if (!record.ok()) return record.status();
  pinned->pins.clear();
  pinned->record = *record;
  absl::Status status =
      PinExtents(record->address, RecordSizeBytes(record->key.size(), record->value.size()),
                 PinMode::kWait, &pinned->pins);
  if (status.ok()) status = Verify(*record, verify);
  return WithKey(std::move(status), key);
}

absl::Status Engine::ContainsAt(const SnapshotEntry& snapshot, std::string_view key) const {
  return RecordOf(*index_, snapshot, key).status();
}

}  // namespace daxkv::kv
