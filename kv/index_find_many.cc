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

// Of the slots of a tag in the line where that begins; 0: there is none.
uint64_t FirstSlotOf(const LeafNode& leaf, uint16_t tag) {
  const uint64_t* const slots = leaf.slots + HomeLine(tag) * kSlotsPerLine;
  const unsigned matches = MatchTags(slots, tag);
  return matches == 0 ? 0 : LoadWord(slots[__builtin_ctz(matches)]);
}

}  // namespace

// Look-ups of up to kFindsTogether keys, in one ReadGuard. Where a stage asks for lines of which the
// processor may not know the page, it does little else: page walks overlap only if the prefetches
// follow one another closely.
class Index::Impl::ManyFinds {
 public:
  ManyFinds(const Impl& index, absl::Span<const std::string_view> keys)
      : index_(index), keys_(keys) {}

  // Not OK: an obstacle was met, and the key is to be looked up again, alone.
  absl::Status& status(size_t i) { return looks_[i].status; }
  const Hit& hit(size_t i) const { return looks_[i].hit; }

  void Find() {
    GuessLeaves();
    PrefetchLeaves();
    GoToLeaves();
    PrefetchRecords();
    Probe();
  }
  // Whether a key without a hit is in no leaf.
  bool IsMiss(size_t i) const {
    const Look& look = looks_[i];
    return look.hit.lost == kNullAddress && look.hit.damage.ok() &&
           SplitCount(look.at.leaf->header) == look.at.split_count;
  }

 private:
  // One key on its way.
  struct Look {
    uint16_t tag = 0;
    absl::Status status;
    InnerFrame* frame = nullptr;  // With its view in `guess`, as far as the descent got.
    LeafGuess guess;
    LeafPosition at;
    Hit hit;
  };

  // Calls what(i, look) for the keys that met no obstacle yet.
  template <typename What>
  void ForEach(What what) {
    for (size_t i = 0; i < keys_.size(); ++i) {
      if (looks_[i].status.ok()) what(i, looks_[i]);
    }
  }

  // GuessLeaf for all, level by level.
  void GuessLeaves() {
    InnerFrame* const root = index_.root_frame.load(std::memory_order_acquire);
    ForEach([&](size_t i, Look& look) {
      look.tag = KeyTag(keys_[i]);
      look.frame = root;
      look.guess = {index_.root_leaf, InnerView::kUnknownSplitCount, nullptr, 0};
    });
    for (unsigned level = root == nullptr ? 0 : root->level; level > 0; --level) {
      ForEach([&](size_t i, Look& look) {
        look.guess.view = ViewToSearch(keys_[i], &look.frame);
        if (look.guess.view == nullptr) look.status = obstacle_.NoView(look.frame);
      });
      ForEach([&](size_t i, Look& look) {
        look.guess.child = look.guess.view->Search(keys_[i]);
        look.guess.view->PrefetchChild(look.guess.child);
      });
      if (level == 1) break;
      ForEach([&](size_t, Look& look) {
        look.frame = look.guess.view->frame(look.guess.child);
        __builtin_prefetch(look.frame->view.load(std::memory_order_acquire));
      });
    }
    if (root == nullptr) return;
    ForEach([&](size_t, Look& look) {
      look.guess.address = look.guess.view->leaf(look.guess.child);
      look.guess.split_count = look.guess.view->split_count(look.guess.child);
    });
  }

  void PrefetchLeaves() {
    ForEach([&](size_t, Look& look) { index_.PrefetchLeaf(look.guess.address, look.tag); });
  }

  void GoToLeaves() {
    ForEach([&](size_t i, Look& look) {
      look.status = index_.GoToCoveringLeaf(keys_[i], look.guess, &look.at, obstacle_);
      if (look.status.ok()) look.status = index_.CheckLost(look.at);
    });
  }

  // Of the first record that may be the key's; there is a second one rarely.
  void PrefetchRecords() {
    const char* heads[kFindsTogether];
    size_t count = 0;
    ForEach([&](size_t, Look& look) {
      const uint64_t slot = FirstSlotOf(*look.at.leaf, look.tag);
      if (slot != 0) heads[count++] = index_.memory->At(SlotAddress(slot));
    });
    for (size_t i = 0; i < count; ++i) __builtin_prefetch(heads[i]);
    for (size_t i = 0; i < count; ++i) __builtin_prefetch(heads[i] + kShortKeyEnd - 1);
  }

  void Probe() {
    ForEach([&](size_t i, Look& look) {
      look.status = index_.Probe(*look.at.leaf, keys_[i], look.tag, &look.hit, obstacle_);
      if (!look.status.ok() || look.hit.place < 0) return;
      const std::string_view value = look.hit.record.value;
      Prefetch(value.data(),
               value.data() + std::min<uint64_t>(value.size(), kMostPrefetchedSizeBytes));
    });
  }

  const Impl& index_;
  const absl::Span<const std::string_view> keys_;
  Obstacle obstacle_;  // Overcome by the look-up that is made again.
  Look looks_[kFindsTogether];
};

void Index::Impl::FindMany(absl::Span<const std::string_view> keys,
                           absl::FunctionRef<absl::Status(size_t, const RecordView&)> visit,
                           absl::Span<absl::Status> statuses) {
  for (size_t begin = 0; begin < keys.size(); begin += kFindsTogether) {
    const size_t count = std::min(kFindsTogether, keys.size() - begin);
    ManyFinds finds(*this, keys.subspan(begin, count));
    {
      rcu::ReadGuard guard;
      finds.Find();
      for (size_t i = 0; i < count; ++i) {
        absl::Status& status = finds.status(i);
        if (!status.ok()) continue;
        if (finds.hit(i).place >= 0) {
          // Why this record may be shown, and when a miss is one: see Find.
          status = visit(begin + i, finds.hit(i).record);
          statuses[begin + i] = status;
          if (!absl::IsUnavailable(status)) status = absl::OkStatus();
        } else if (finds.IsMiss(i)) {
          statuses[begin + i] = absl::Status(absl::StatusCode::kNotFound, "");
        } else {
          status = absl::Status(absl::StatusCode::kUnavailable, "");
        }
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (finds.status(i).ok()) continue;
      statuses[begin + i] =
          Find(keys[begin + i], [&](const RecordView& record) { return visit(begin + i, record); });
    }
  }
}

}  // namespace daxkv::kv
