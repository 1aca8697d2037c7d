#include "kv/writeback.h"

#include <utility>

#include "absl/time/clock.h"
#include "dax/media_guard.h"
#include "kv/superblock.h"

namespace daxkv::kv {

Writeback::Writeback(dax::Pool* pool, absl::Duration interval, Hooks hooks)
    : pool_(pool), interval_(interval), hooks_(std::move(hooks)), thread_([this] { Loop(); }) {}

Writeback::~Writeback() { Stop(); }

void Writeback::Stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wakeup_.notify_one();
  thread_.join();
  std::lock_guard<std::mutex> lock(run_mutex_);
  stopped_ = true;
}

absl::Status Writeback::Now() {
  const uint64_t since = begun();
  std::lock_guard<std::mutex> lock(run_mutex_);
  // Another thread's may have begun and ended while we waited.
  if (done() > since) return absl::OkStatus();
  if (stopped_) return absl::FailedPreconditionError("the store is closed");
  return RunOne();
}

absl::Status Writeback::Run() {
  hooks_.before();
  absl::Status status = Now();
  if (status.ok()) hooks_.after();
  return status;
}

// Needs run_mutex_.
absl::Status Writeback::RunOne() {
  const absl::Time start = absl::Now();
  // Sequentially consistent: whoever reads the number before this has stored before it (W1).
  const uint64_t number = begun_.fetch_add(1, std::memory_order_seq_cst) + 1;
  const uint64_t horizon = hooks_.horizon();
  absl::Status status = pool_->SyncIfNeeded();
  if (status.ok()) status = StoreHorizon(horizon);
  if (!status.ok()) return status;
  last_took_ns_.store(absl::ToInt64Nanoseconds(absl::Now() - start), std::memory_order_relaxed);
  done_.store(number, std::memory_order_release);
  return absl::OkStatus();
}

// Two words of one page. A cut between them leaves the lower one to count, which is right: nothing
// that the higher one allows has happened yet.
absl::Status Writeback::StoreHorizon(uint64_t horizon) {
  Superblock& superblock = *SuperblockOf(*pool_);
  // A batch that began long before it noted so may ask for less than there is.
  if (horizon_.load(std::memory_order_relaxed) >= horizon) return absl::OkStatus();
  __atomic_store_n(&superblock.horizon, horizon, __ATOMIC_RELAXED);
  __atomic_store_n(&superblock.horizon_complement, ~horizon, __ATOMIC_RELAXED);
  absl::Status status = pool_->PersistWord(&superblock.horizon);
  if (status.ok()) status = pool_->PersistWord(&superblock.horizon_complement);
  if (status.ok()) horizon_.store(horizon, std::memory_order_release);
  return status;
}

void Writeback::Hurry() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (hurry_) return;
    hurry_ = true;
  }
  wakeup_.notify_one();
}

WritebackStats Writeback::stats() const {
  return {done(), absl::Nanoseconds(last_took_ns_.load(std::memory_order_relaxed))};
}

void Writeback::Loop() noexcept {
  const dax::SurviveMediaErrors survive;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    wakeup_.wait_for(lock, absl::ToChronoNanoseconds(interval_),
                     [this] { return stopping_ || hurry_; });
    if (stopping_) return;
    hurry_ = false;
    lock.unlock();
    // Whoever needs the medium is told of what became of it by its own drain.
    Run().IgnoreError();
    lock.lock();
  }
}

}  // namespace daxkv::kv
