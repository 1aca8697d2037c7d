// WaitTable: where threads sleep until an entry, a break or a pin is gone.
//
// A fixed number of buckets, hashed by key; each is a mutex and a list of sleepers. A sleeper is
// woken by itself alone, so a bucket that two keys share costs time and never a lost or a stolen
// wake (S12).
//
// Sleeping without losing a wake-up:
//   lock guards a condition              |  lock;
//   lock;                                |  make the condition true;
//   condition false:                     |  table.WakeOne(key);
//     Sleeper sleeper(&table, key, ...); |  unlock;
//     unlock;
//     sleeper.Sleep(deadline);
//     lock, and look again at everything;
// The sleeper is in the table before the lock drops, and the waker looks into the table before it
// drops the same lock, so one of them sees the other.
//
// Exclusive sleepers are those who will take what they wait for; one WakeOne wakes one of them. A
// sleeper that only waits for others to be done is not exclusive, and is woken by every wake: it
// must not use up a wake that a taker needs (kernel: d8a70641).
//
// Thread safety: everything from any thread, given the lock above.
#ifndef DAXKV_DAX_WAIT_TABLE_H_
#define DAXKV_DAX_WAIT_TABLE_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/time/time.h"

namespace daxkv::dax {

// What is waited for: an object, and a place in it. Only compared, never followed: the object may
// have died.
struct WaitKey {
  const void* object = nullptr;
  uint64_t index = 0;

  friend bool operator==(const WaitKey& a, const WaitKey& b) {
    return a.object == b.object && a.index == b.index;
  }
};

class WaitTable {
 public:
  enum class Mode { kExclusive, kShared };

 private:
  struct Bucket;

 public:
  // One sleep of one thread, on its stack.
  class Sleeper {
   public:
    // Enters the table. Called with the lock held that guards the condition.
    Sleeper(WaitTable* table, const WaitKey& key, Mode mode);
    // Leaves it.
    ~Sleeper();
    Sleeper(const Sleeper&) = delete;
    Sleeper& operator=(const Sleeper&) = delete;

    // Sleeps until woken (true) or the deadline (false; no wake was used up then). Called without
    // locks and outside RCU sections.
    bool Sleep(absl::Time deadline);

   private:
    friend class WaitTable;

    Bucket* const bucket_;
    const WaitKey key_;
    const Mode mode_;
    // The rest is the bucket's.
    bool woken_ = false;
    Sleeper* previous_ = nullptr;
    Sleeper* next_ = nullptr;
    std::condition_variable wake_;
  };

  // `buckets`: a power of two.
  explicit WaitTable(size_t buckets = kDefaultBuckets);
  ~WaitTable();

  // Wakes all shared sleepers of the key, and the exclusive one that has waited longest.
  void WakeOne(const WaitKey& key) { Wake(key, 1); }
  // Wakes every sleeper of the key.
  void WakeAll(const WaitKey& key) { Wake(key, SIZE_MAX); }

  // Sleepers now. For audits and statistics.
  size_t sleepers() const;

 private:
  static constexpr size_t kDefaultBuckets = 256;

  // Its own cache lines: neighbours do not disturb each other.
  struct alignas(128) Bucket {
    std::mutex mutex;  // Of the list. Not Abseil's: ThreadSanitizer knows only the standard one.
    Sleeper* first = nullptr;  // Who waits longest comes first.
    Sleeper* last = nullptr;
    std::atomic<size_t> sleepers{0};
  };

  Bucket* BucketOf(const WaitKey& key) const;
  void Wake(const WaitKey& key, size_t exclusive_wakes);
  static void Unlink(Bucket* bucket, Sleeper* sleeper);  // Under its mutex.

  const size_t bucket_mask_;
  const std::unique_ptr<Bucket[]> buckets_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_WAIT_TABLE_H_
