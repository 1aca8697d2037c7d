#include "kv/recent_puts.h"

#include <algorithm>

#include "kv/record.h"

namespace daxkv::kv {
namespace {

constexpr unsigned kSealShift = 48;
constexpr size_t kOffsetSizeBytes = kSealShift / 8;
static_assert(kRecentPutsOffset + sizeof(RecentPutsTable) <= dax::Pool::kRootAreaSizeBytes);

}  // namespace

RecentPutsTable* RecentPuts::TableOf(const dax::Pool& pool) {
  return reinterpret_cast<RecentPutsTable*>(pool.root_area() + kRecentPutsOffset);
}

// Offset 0 is a region, too.
uint64_t RecentPuts::Seal(unsigned word, uint64_t region_offset) {
  const uint64_t value = region_offset + 1;
  return value | uint64_t{Crc32c(word, &value, kOffsetSizeBytes) & 0xffff} << kSealShift;
}

RecentPuts::Pending RecentPuts::Read(const dax::Pool& pool) {
  const RecentPutsTable& table = *TableOf(pool);
  Pending pending;
  pending.settled = std::min(table.settled, ~table.settled_complement);
  for (unsigned i = 0; i < RecentPutsTable::kRegions; ++i) {
    const uint64_t word = table.regions[i];
    if (word == 0) continue;
    const uint64_t offset = (word & kAddressMask) - 1;
    if (word != Seal(i, offset)) {
      pending.everywhere = true;
    } else {
      pending.regions.push_back(offset);
    }
  }
  return pending;
}

absl::Status RecentPuts::Begin() {
  for (uint64_t& word : TableOf(pool_)->regions) __atomic_store_n(&word, 0, __ATOMIC_RELAXED);
  return StoreSettled(snapshots_.LastNumber());
}

// Needs mutex_, or the open.
absl::Status RecentPuts::StoreSettled(uint64_t number) {
  RecentPutsTable& table = *TableOf(pool_);
  __atomic_store_n(&table.settled, number, __ATOMIC_RELAXED);
  __atomic_store_n(&table.settled_complement, ~number, __ATOMIC_RELAXED);
  absl::Status status = pool_.Persist(&table, sizeof(table));
  if (status.ok()) settled_ = settling_ = number;
  return status;
}

std::optional<unsigned> RecentPuts::Find(uint64_t offset) const {
  std::optional<unsigned> free;
  for (unsigned i = 0; i < regions_.size(); ++i) {
    if (regions_[i].offset == offset) return i;
    if (regions_[i].offset == kNone && !free) free = i;
  }
  return free;
}

// Durable before anybody enters. Numbers of before this session, which the region may hold records
// of, are settled since Begin.
absl::Status RecentPuts::List(unsigned place, uint64_t offset) {
  uint64_t* const word = &TableOf(pool_)->regions[place];
  __atomic_store_n(word, Seal(place, offset), __ATOMIC_RELEASE);
  absl::Status status = pool_.PersistWord(word);
  if (!status.ok()) return status;
  used_ = true;
  regions_[place] = Region();
  regions_[place].offset = offset;
  return status;
}

std::optional<RecentPuts::Ticket> RecentPuts::Enter(Address address) {
  const uint64_t offset = address >> kRegionShift << kRegionShift;
  std::unique_lock<std::mutex> lock(mutex_);
  std::optional<unsigned> region = Find(offset);
  if (!region) {
    lock.unlock();
    {
      const std::lock_guard<std::mutex> settle_lock(settle_mutex_);
      SettleOnce(/*unlists=*/true).IgnoreError();  // Seen in failed_.
    }
    lock.lock();
    region = Find(offset);
  }
  if (!region || failed_) return std::nullopt;
  if (regions_[*region].offset != offset && !List(*region, offset).ok()) {
    failed_ = true;
    return std::nullopt;
  }
  ++regions_[*region].puts;
  ++regions_[*region].inside;
  Ticket ticket;
  ticket.region_ = *region;
  return ticket;
}

bool RecentPuts::Leave(Ticket ticket, uint64_t number) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  --regions_[ticket.region_].inside;
  return number > settling_;
}

void RecentPuts::Fail() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  failed_ = true;
}

// Needs settle_mutex_.
absl::Status RecentPuts::SettleOnce(bool unlists) {
  std::array<uint64_t, RecentPutsTable::kRegions> puts;
  uint64_t number;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failed_) return absl::InternalError("what an earlier put has left is not known; reopen");
    // Who has left before has stored its slot; who leaves later, with a lower number, is told.
    number = settling_ = snapshots_.LastNumber();
    for (unsigned i = 0; i < puts.size(); ++i) {
      puts[i] = regions_[i].inside == 0 ? regions_[i].puts : kNone;
    }
  }
  absl::Status status = pool_.Sync();
  // Pages that media errors took are lost with the slots on them; the others are durable.
  if (absl::IsDataLoss(status)) status = absl::OkStatus();
  const std::lock_guard<std::mutex> lock(mutex_);
  RecentPutsTable& table = *TableOf(pool_);
  for (unsigned i = 0; i < puts.size() && unlists && status.ok() && !failed_; ++i) {
    // A put that has come since may have stored its slot after the msync.
    if (regions_[i].offset == kNone || regions_[i].puts != puts[i]) continue;
    __atomic_store_n(&table.regions[i], 0, __ATOMIC_RELAXED);
    regions_[i] = Region();
  }
  if (status.ok()) status = StoreSettled(number);
  failed_ |= !status.ok();
  ++times_settled_;
  return status;
}

absl::Status RecentPuts::Settle(uint64_t number) {
  const auto is_settled = [&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    return !used_ || number <= settled_;  // Before the first one entered, nothing was recent.
  };
  if (is_settled()) return absl::OkStatus();
  const std::lock_guard<std::mutex> settle_lock(settle_mutex_);
  return is_settled() ? absl::OkStatus() : SettleOnce(/*unlists=*/false);
}

absl::Status RecentPuts::Close() {
  const std::lock_guard<std::mutex> settle_lock(settle_mutex_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!used_) return absl::OkStatus();
  }
  return SettleOnce(/*unlists=*/true);
}

RecentPutsStats RecentPuts::stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {times_settled_};
}

}  // namespace daxkv::kv
