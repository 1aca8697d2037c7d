// ExtentFrame: what Space knows, in DRAM, about one extent: which of its slots are used.
//
// Thread safety: Claim needs that the frame is the current one of the caller's shard; Free and the
// readers may run beside it. The fields that belong to Space say which lock guards them.
#ifndef DAXKV_KV_EXTENT_FRAME_H_
#define DAXKV_KV_EXTENT_FRAME_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_set>

#include "dax/pool.h"
#include "kv/format.h"
#include "kv/size_classes.h"
#include "xarray/rcu.h"

namespace daxkv::kv {

// Where Space keeps a frame. Changes under the class's mutex; read anywhere.
enum class Place : uint8_t {
  kDetached,    // Nobody allocates from it: being derived or truncated, or a large extent.
  kFull,        // In no list.
  kNearlyFull,  // In the class's list of that name: some slot is free, but less than 1/8 of them.
  kRoomy,       // In the class's list of that name.
  kCurrent,     // A shard allocates from it.
  kEmptying,    // Compaction moves its records away: it is neither allocated from nor truncated.
};

class ExtentFrame : public rcu::Head {
 public:
  // All slots free.
  ExtentFrame(const dax::Run& run, const SlotLayout& layout);

  Address address() const { return run_.offset(); }
  const dax::Run& run() const { return run_; }
  const SlotLayout& layout() const { return layout_; }
  bool is_large() const { return layout_.size_class == kLargeClass; }
  bool is_of_records() const { return is_large() || !IsNode(SlotKindOf(layout_.size_class)); }
  uint32_t slot_count() const { return layout_.slot_count; }

  Address SlotAddress(uint32_t slot) const {
    return address() + layout_.first_slot_offset + uint64_t{slot} * layout_.slot_size_bytes;
  }
  // The slot that begins at `address`; nullopt if none does.
  std::optional<uint32_t> SlotAt(Address address) const;

  // Takes a free slot at or behind word *word of the bitmap, which moves along; nullopt: none left.
  std::optional<uint32_t> Claim(uint32_t* word);
  // Takes this slot, if it is free.
  bool ClaimSlot(uint32_t slot);
  // Marks a slot used, while nobody else knows the frame.
  void SetUsed(uint32_t slot);
  bool IsUsed(uint32_t slot) const {
    return (used_[slot / 64].load(std::memory_order_relaxed) >> slot % 64 & 1) != 0;
  }
  // Frees a used slot. Everything that happened to its bytes before happens before its next Claim.
  void Free(uint32_t slot) noexcept;
  uint32_t used_count() const { return used_count_.load(std::memory_order_seq_cst); }

  // Between the medium's map and this one. Both need that no slot comes or goes.
  void LoadMap(const uint64_t* words);
  void StoreMap(uint64_t* words) const;

  // The rest belongs to Space.
  std::atomic<Place> place{Place::kDetached};
  size_t list_index = 0;               // In the list of its place; the class's mutex.
  std::atomic<bool> ordered{false};    // Written in the order of keys since the last EndOrdering.
  std::atomic<bool> changed{false};    // Differs from the map that the medium has.
  std::atomic<bool> abandoned{false};  // A large extent that its only owner gave back.
  ExtentFrame* next_aside = nullptr;   // The maintenance mutex.
  bool may_lack_stamps = false;        // Free slots may; the maintenance mutex. See stamps.h.
  std::unordered_set<uint32_t> lost;   // Dead slots on lost pages; used for good. media_mutex.
  std::unordered_set<uint32_t> held;   // Dead slots that a pin may still show; maintenance mutex.

 private:
  const dax::Run run_;
  const SlotLayout layout_;
  // 1 = used; bits behind the last slot are 1 and count nowhere.
  const std::unique_ptr<std::atomic<uint64_t>[]> used_;
  // Sequentially consistent together with `place`: see Space::Impl::Relist.
  std::atomic<uint32_t> used_count_{0};
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_EXTENT_FRAME_H_
