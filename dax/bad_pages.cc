#include "dax/bad_pages.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace daxkv::dax {
namespace {

constexpr unsigned kPageBits = 40;
constexpr uint64_t kPageMask = (uint64_t{1} << kPageBits) - 1;

uint64_t LoadWord(const pmem::obj::p<uint64_t>& word) {
  return __atomic_load_n(&word.get_ro(), __ATOMIC_ACQUIRE);
}

}  // namespace

uint64_t BadPages::Encode(uint64_t page) {
  return page | uint64_t{~Checksum(&page, sizeof(page))} << kPageBits;
}

std::optional<uint64_t> BadPages::Decode(uint64_t word) {
  const uint64_t page = word & kPageMask;
  if (Encode(page) != word) return std::nullopt;
  return page;
}

absl::Status BadPages::Load() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& place : root_->bad_pages) {
    const uint64_t word = LoadWord(place);
    if (word == 0) continue;
    const std::optional<uint64_t> page = Decode(word);
    if (!page) {
      return absl::DataLossError(
          absl::StrCat("the record of a lost page, number ", &place - root_->bad_pages,
                       " in the pool's root, is damaged; restore the pool from a copy"));
    }
    pages_.push_back(*page);
  }
  std::sort(pages_.begin(), pages_.end());
  pages_.erase(std::unique(pages_.begin(), pages_.end()), pages_.end());
  count_.store(pages_.size(), std::memory_order_relaxed);
  return absl::OkStatus();
}

// The commit point of Add and of Remove.
absl::Status BadPages::Store(size_t place, uint64_t word) {
  uint64_t& to = root_->bad_pages[place].get_rw();
  __atomic_store_n(&to, word, __ATOMIC_RELEASE);
  return persister_->PersistWord(&to);
}

absl::Status BadPages::Add(uint64_t page) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto at = std::lower_bound(pages_.begin(), pages_.end(), page);
  if (at != pages_.end() && *at == page) return absl::OkStatus();
  pages_.insert(at, page);
  count_.store(pages_.size(), std::memory_order_relaxed);
  for (size_t place = 0; place < kMaxBadPages; ++place) {
    if (LoadWord(root_->bad_pages[place]) == 0) return Store(place, Encode(page));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the pool has ", kMaxBadPages, " lost pages and can't record the loss of page ",
                   page, "; save what can be read and make a new one"));
}

absl::Status BadPages::Remove(uint64_t page) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t word = Encode(page);
  absl::Status status;
  for (size_t place = 0; place < kMaxBadPages; ++place) {
    if (LoadWord(root_->bad_pages[place]) == word) status.Update(Store(place, 0));
  }
  if (!status.ok()) return status;
  pages_.erase(std::remove(pages_.begin(), pages_.end(), page), pages_.end());
  count_.store(pages_.size(), std::memory_order_relaxed);
  return status;
}

std::vector<uint64_t> BadPages::In(uint64_t first, uint64_t end) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {std::lower_bound(pages_.begin(), pages_.end(), first),
          std::lower_bound(pages_.begin(), pages_.end(), end)};
}

bool BadPages::Overlaps(uint64_t first, uint64_t end) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto at = std::lower_bound(pages_.begin(), pages_.end(), first);
  return at != pages_.end() && *at < end;
}

}  // namespace daxkv::dax
