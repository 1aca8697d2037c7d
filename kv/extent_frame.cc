#include "kv/extent_frame.h"

#include "kv/extent_header.h"

namespace daxkv::kv {
namespace {

// The bits of word `word` that stand for no slot.
uint64_t BitsBehindLastSlot(uint32_t word, uint32_t slot_count) {
  const uint32_t first = word * 64;
  return slot_count - first >= 64 ? 0 : ~uint64_t{0} << (slot_count - first);
}

}  // namespace

ExtentFrame::ExtentFrame(const dax::Run& run, const SlotLayout& layout)
    : run_(run), layout_(layout), used_(new std::atomic<uint64_t>[MapWords(layout.slot_count)]) {
  for (uint32_t word = 0; word < MapWords(slot_count()); ++word) {
    used_[word].store(BitsBehindLastSlot(word, slot_count()), std::memory_order_relaxed);
  }
}

std::optional<uint32_t> ExtentFrame::SlotAt(Address address) const {
  const uint64_t offset = address - this->address();
  if (offset < layout_.first_slot_offset || offset >= run_.size_bytes()) return std::nullopt;
  const uint64_t distance = offset - layout_.first_slot_offset;
  const uint64_t slot = distance / layout_.slot_size_bytes;
  if (slot >= layout_.slot_count || slot * layout_.slot_size_bytes != distance) return std::nullopt;
  return static_cast<uint32_t>(slot);
}

std::optional<uint32_t> ExtentFrame::Claim(uint32_t* word) {
  const uint32_t words = MapWords(slot_count());
  for (; *word < words; ++*word) {
    // Acquire pairs with the release in Free.
    uint64_t used = used_[*word].load(std::memory_order_acquire);
    while (used != ~uint64_t{0}) {
      const uint32_t slot = *word * 64 + static_cast<uint32_t>(__builtin_ctzll(~used));
      // A bit seen clear nearly always stays so: only we set bits, and who sets lost slots aside.
      if (ClaimSlot(slot)) return slot;
      used = used_[*word].load(std::memory_order_acquire);
    }
  }
  return std::nullopt;
}

bool ExtentFrame::ClaimSlot(uint32_t slot) {
  const uint64_t bit = uint64_t{1} << slot % 64;
  // Acquire pairs with the release in Free.
  if ((used_[slot / 64].fetch_or(bit, std::memory_order_acquire) & bit) != 0) return false;
  used_count_.fetch_add(1, std::memory_order_seq_cst);
  return true;
}

void ExtentFrame::SetUsed(uint32_t slot) {
  used_[slot / 64].fetch_or(uint64_t{1} << slot % 64, std::memory_order_relaxed);
  used_count_.fetch_add(1, std::memory_order_seq_cst);
}

void ExtentFrame::Free(uint32_t slot) noexcept {
  // Release pairs with the acquire in Claim.
  used_[slot / 64].fetch_and(~(uint64_t{1} << slot % 64), std::memory_order_release);
  used_count_.fetch_sub(1, std::memory_order_seq_cst);
}

void ExtentFrame::LoadMap(const uint64_t* words) {
  uint32_t count = 0;
  for (uint32_t word = 0; word < MapWords(slot_count()); ++word) {
    const uint64_t behind = BitsBehindLastSlot(word, slot_count());
    count += static_cast<uint32_t>(__builtin_popcountll(words[word] & ~behind));
    used_[word].store(words[word] | behind, std::memory_order_relaxed);
  }
  used_count_.store(count, std::memory_order_seq_cst);
}

void ExtentFrame::StoreMap(uint64_t* words) const {
  for (uint32_t word = 0; word < MapWords(slot_count()); ++word) {
    words[word] =
        used_[word].load(std::memory_order_relaxed) & ~BitsBehindLastSlot(word, slot_count());
  }
}

}  // namespace daxkv::kv
