#include "dax/wait_table.h"

#include "dax/invariant.h"
#include "xarray/rcu.h"

namespace daxkv::dax {

WaitTable::WaitTable(size_t buckets) : bucket_mask_(buckets - 1), buckets_(new Bucket[buckets]) {}

WaitTable::~WaitTable() { CheckInvariant(sleepers() == 0, "a wait table died with sleepers"); }

WaitTable::Bucket* WaitTable::BucketOf(const WaitKey& key) const {
  uint64_t hash = reinterpret_cast<uintptr_t>(key.object) * 0x9e3779b97f4a7c15u + key.index;
  hash *= 0x9e3779b97f4a7c15u;
  return &buckets_[hash >> 40 & bucket_mask_];
}

void WaitTable::Wake(const WaitKey& key, size_t exclusive_wakes) {
  Bucket* bucket = BucketOf(key);
  // Relaxed: a sleeper that entered before the waker took their common lock is seen because of that
  // lock; any other sees the condition.
  if (bucket->sleepers.load(std::memory_order_relaxed) == 0) return;
  std::lock_guard lock(bucket->mutex);
  for (Sleeper* sleeper = bucket->first; sleeper != nullptr;) {
    Sleeper* next = sleeper->next_;
    const bool exclusive = sleeper->mode_ == Mode::kExclusive;
    if (sleeper->key_ == key && !(exclusive && exclusive_wakes == 0)) {
      if (exclusive) --exclusive_wakes;
      Unlink(bucket, sleeper);
      sleeper->woken_ = true;
      sleeper->wake_.notify_one();  // Under the mutex: the sleeper cannot go away meanwhile.
    }
    sleeper = next;
  }
}

void WaitTable::Unlink(Bucket* bucket, Sleeper* sleeper) {
  (sleeper->previous_ ? sleeper->previous_->next_ : bucket->first) = sleeper->next_;
  (sleeper->next_ ? sleeper->next_->previous_ : bucket->last) = sleeper->previous_;
  bucket->sleepers.fetch_sub(1, std::memory_order_relaxed);
}

size_t WaitTable::sleepers() const {
  size_t sum = 0;
  for (size_t i = 0; i <= bucket_mask_; ++i) {
    sum += buckets_[i].sleepers.load(std::memory_order_relaxed);
  }
  return sum;
}

WaitTable::Sleeper::Sleeper(WaitTable* table, const WaitKey& key, Mode mode)
    : bucket_(table->BucketOf(key)), key_(key), mode_(mode) {
  std::lock_guard lock(bucket_->mutex);
  previous_ = bucket_->last;
  (previous_ ? previous_->next_ : bucket_->first) = this;
  bucket_->last = this;
  bucket_->sleepers.fetch_add(1, std::memory_order_relaxed);
}

WaitTable::Sleeper::~Sleeper() {
  std::lock_guard lock(bucket_->mutex);
  if (!woken_) Unlink(bucket_, this);
}

bool WaitTable::Sleeper::Sleep(absl::Time deadline) {
  CheckInvariant(!rcu::InReadSection(), "a thread sleeps inside an RCU read section");
  const auto woken = [this] { return woken_; };
  std::unique_lock lock(bucket_->mutex);
  if (deadline == absl::InfiniteFuture()) {
    wake_.wait(lock, woken);
    return true;
  }
  return wake_.wait_until(lock, absl::ToChronoTime(deadline), woken);
}

}  // namespace daxkv::dax
