// Changes that depend on what the key holds: optimistic. The version is read, its successor
// written, and published on the condition that the key still has that very version.
#include <optional>
#include <string>
#include <utility>

#include "kv/engine.h"

namespace daxkv::kv {

absl::Status Engine::ReadVersion(std::string_view key, VersionRead* read) const {
  *read = VersionRead();
  bool copied = false;
  absl::Status found = index_->Find(key, [&](const RecordView& record) -> absl::Status {
    copied = record.value.size() <= kMaxGuardedCopySizeBytes;
    if (!copied) return absl::OkStatus();
    absl::Status intact = Verify(record);
    if (!intact.ok()) return intact;
    read->copy.assign(record.value.data(), record.value.size());
    read->version = {record.address, record.sequence};
    return intact;
  });
  if (absl::IsNotFound(found)) return absl::OkStatus();
  if (!found.ok()) return WithKey(std::move(found), key);
  if (copied) {
    read->value = read->copy;
    return absl::OkStatus();
  }
  absl::Status pinned = Pin(key, PinVerify::kNow, &read->pinned);
  if (absl::IsNotFound(pinned)) return absl::OkStatus();  // Deleted since.
  if (!pinned.ok()) return pinned;
  read->version = {read->pinned.record.address, read->pinned.record.sequence};
  read->value = read->pinned.record.value;
  return absl::OkStatus();
}

absl::Status Engine::Replace(std::string_view key, const VersionRead& read,
                             std::optional<std::string_view> value) {
  if (value.has_value()) return PutIf(key, *value, &read.version);
  if (!read.value.has_value()) return absl::OkStatus();  // Absent, as it shall be.
  absl::Status removed = index_->Remove(key, &read.version);
  if (removed.ok()) removed = SettleRemoved(read.version.sequence);
  // Gone meanwhile: no longer the version that was read.
  if (absl::IsNotFound(removed)) return absl::AbortedError("");
  return WithKey(std::move(removed), key);
}

absl::Status Engine::Update(std::string_view key, UpdateFunction function) {
  absl::Status valid = CheckKey(key);
  if (!valid.ok()) return valid;
  std::string value;
  for (;;) {
    VersionRead current;
    absl::Status status = Reading([&] { return ReadVersion(key, &current); });
    if (!status.ok()) return status;
    value.clear();
    const uint64_t media_events = pool_->media_events();
    const absl::StatusOr<UpdateAction> action = function(current.value, &value);
    // A page of a long value may have been lost under the function: what it made may be of zeros.
    if (pool_->media_events() != media_events) continue;
    if (!action.ok()) return action.status();
    if (*action == UpdateAction::kKeep) return absl::OkStatus();
    const bool puts = *action == UpdateAction::kPut;
    status = Replace(key, current, puts ? std::optional<std::string_view>(value) : std::nullopt);
    if (!absl::IsAborted(status)) return status;
  }
}

absl::Status Engine::CompareAndSwap(std::string_view key, std::optional<std::string_view> expected,
                                    std::optional<std::string_view> desired) {
  absl::Status valid = CheckKey(key);
  if (valid.ok() && desired.has_value()) valid = CheckValue(*desired);
  if (!valid.ok()) return valid;
  for (;;) {
    VersionRead current;
    absl::Status status = Reading([&] { return ReadVersion(key, &current); });
    if (!status.ok()) return status;
    if (current.value != expected) {
      return absl::AbortedError(current.value.has_value() ? "the key has another value"
                                                          : "the key has no value");
    }
    status = Replace(key, current, desired);
    // The value may still be, or again be, the expected one: another look tells.
    if (!absl::IsAborted(status)) return status;
  }
}

absl::Status Engine::Insert(std::string_view key, std::string_view value) {
  absl::Status valid = CheckValue(value);
  if (!valid.ok()) return valid;
  // First without a slot: often it is there.
  absl::Status found = Contains(key);
  if (absl::IsNotFound(found)) {
    const ExpectedVersion none;
    found = PutIf(key, value, &none);
    if (!absl::IsAborted(found)) return found;
  } else if (!found.ok()) {
    return found;
  }
  return absl::AlreadyExistsError("the key is there");
}

}  // namespace daxkv::kv
