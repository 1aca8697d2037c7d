#include <cstddef>
#include <string>
#include <vector>

#include "kv/engine.h"

namespace daxkv::kv {

void Engine::MultiGet(absl::Span<const std::string_view> keys, absl::Span<std::string> values,
                      absl::Span<absl::Status> statuses) const {
  bool all_valid = true;
  for (size_t i = 0; i < keys.size(); ++i) {
    statuses[i] = CheckKey(keys[i]);
    all_valid = all_valid && statuses[i].ok();
  }
  if (!all_valid) {
    for (size_t i = 0; i < keys.size(); ++i) {
      if (statuses[i].ok()) statuses[i] = Get(keys[i], &values[i]);
    }
    return;
  }
  std::vector<size_t> long_values;
  index_->FindMany(
      keys,
      [&](size_t i, const RecordView& record) -> absl::Status {
        if (record.value.size() > kMaxGuardedCopySizeBytes) {
          long_values.push_back(i);
          return absl::OkStatus();
        }
        absl::Status intact = Verify(record);
        if (intact.ok()) values[i].assign(record.value.data(), record.value.size());
        return intact;
      },
      statuses);
  for (const size_t i : long_values) statuses[i] = Get(keys[i], &values[i]);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (absl::IsDataLoss(statuses[i])) statuses[i] = WithKey(statuses[i], keys[i]);
  }
}

}  // namespace daxkv::kv
