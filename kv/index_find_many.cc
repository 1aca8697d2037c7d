// Many look-ups whose cache misses overlap: each stage runs over all keys before the next begins,
// and asks for the lines that the next one reads.
#include <algorithm>
#include <cstdint>

#include "kv/index_impl.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kLineSizeBytes = 64;
// Of a record's value; the processor's own prefetching sees to longer ones.
constexpr uint64_t kMostPrefetchedSizeBytes = 1024;

void Prefetch(const char* from, const char* to) {
  for (; from < to; from += kLineSizeBytes) __builtin_prefetch(from);
}

// One key on its way.
struct Look {
  uint16_t tag = 0;
  // OK as long as no obstacle was met. Whatever else it is, the key is looked up again, alone.
  absl::Status status;
  LeafGuess guess;
  LeafPosition at;
  Hit hit;
};

}  // namespace

void Index::Impl::FindMany(absl::Span<const std::string_view> keys,
                           absl::FunctionRef<absl::Status(size_t, const RecordView&)> visit,
                           absl::Span<absl::Status> statuses) {
  for (size_t begin = 0; begin < keys.size(); begin += kFindsTogether) {
    const size_t count = std::min(kFindsTogether, keys.size() - begin);
    Look looks[kFindsTogether];
    {
      rcu::ReadGuard guard;
      Obstacle obstacle;  // Overcome by the look-up that is made again.
      for (size_t i = 0; i < count; ++i) {
        Look& look = looks[i];
        look.tag = KeyTag(keys[begin + i]);
        look.status = GuessLeaf(keys[begin + i], &look.guess, obstacle);
        if (!look.status.ok()) continue;
        PrefetchLeaf(look.guess.address, look.tag);
      }
      for (size_t i = 0; i < count; ++i) {
        Look& look = looks[i];
        if (!look.status.ok()) continue;
        look.status = GoToCoveringLeaf(keys[begin + i], look.guess, &look.at, obstacle);
        if (look.status.ok()) look.status = CheckLost(look.at);
        if (!look.status.ok()) continue;
        PrefetchRecords(*look.at.leaf, look.tag, sizeof(RecordHeader) + keys[begin + i].size());
      }
      for (size_t i = 0; i < count; ++i) {
        Look& look = looks[i];
        if (!look.status.ok()) continue;
        look.status = Probe(*look.at.leaf, keys[begin + i], look.tag, &look.hit, obstacle);
        if (!look.status.ok() || look.hit.place < 0) continue;
        const std::string_view value = look.hit.record.value;
        Prefetch(value.data(),
                 value.data() + std::min<uint64_t>(value.size(), kMostPrefetchedSizeBytes));
      }
      for (size_t i = 0; i < count; ++i) {
        Look& look = looks[i];
        if (!look.status.ok()) continue;
        if (look.hit.place >= 0) {
          // Why this record may be shown, and when a miss is one: see Find.
          look.status = visit(begin + i, look.hit.record);
          statuses[begin + i] = look.status;
          if (!absl::IsUnavailable(look.status)) look.status = absl::OkStatus();
        } else if (look.hit.lost == kNullAddress && look.hit.damage.ok() &&
                   SplitCount(look.at.leaf->header) == look.at.split_count) {
          statuses[begin + i] = absl::Status(absl::StatusCode::kNotFound, "");
        } else {
          look.status = absl::Status(absl::StatusCode::kUnavailable, "");
        }
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (looks[i].status.ok()) continue;
      statuses[begin + i] =
          Find(keys[begin + i], [&](const RecordView& record) { return visit(begin + i, record); });
    }
  }
}

}  // namespace daxkv::kv
