// Scrub: reads every record and compares its checksum, while the store is used, so that damage is
// known before somebody needs the value. In the background at a bounded rate, and on demand.
//
// A round walks the leaves of every keyspace in order. A record is verified in a ReadGuard, or, if
// it is long, under pins, while its leaf still has the slot that led to it: what is replaced
// meanwhile was verified by who wrote it. A lost page that is met is settled as by any reader.
// Damage of the index ends a round: Check tells more, Repair mends it.
//
// Thread safety: all methods from any thread; rounds run one at a time.
#ifndef DAXKV_KV_SCRUB_H_
#define DAXKV_KV_SCRUB_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv/compaction.h"
#include "kv/db.h"
#include "kv/index.h"
#include "kv/record.h"

namespace daxkv::kv {

class Scrubber {
 public:
  // `targets` must outlive the scrubber. `bytes_per_second`: what the background reads of records
  // and leaves; 0: there is no background.
  Scrubber(CompactionTargets* targets, uint64_t bytes_per_second);
  ~Scrubber();

  // A round at full speed. Statuses of Db::Scrub.
  absl::StatusOr<ScrubReport> Scrub();
  ScrubStats stats() const;

 private:
  // A round adds to what it finds, and waits for its budget between leaves.
  absl::Status Round(uint64_t bytes_per_second, ScrubReport* report);
  absl::Status RoundOf(const CompactionTarget& target, uint64_t bytes_per_second,
                       ScrubReport* report);
  void VerifyRecordAt(const CompactionTarget& target, const Index::SlotPosition& at,
                      ScrubReport* report);
  // OK, or what is wrong with the record now; `key` is set if it can be read.
  absl::Status TryVerify(const CompactionTarget& target, const Index::SlotPosition& at,
                         std::optional<std::string>* key, uint64_t* size_bytes) const;
  void AddFault(std::string fault, ScrubReport* report);
  void BackgroundLoop();
  // False: the scrubber stops.
  bool Sleep(absl::Duration duration);

  CompactionTargets* const targets_;
  const uint64_t bytes_per_second_;
  std::mutex rounds_;  // Held during a round.
  mutable std::mutex stats_mutex_;
  ScrubStats stats_;  // stats_mutex_
  std::mutex stop_mutex_;
  std::condition_variable stop_wakeup_;
  std::atomic<bool> stopping_{false};
  std::thread background_;  // Last: it uses all of the above.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SCRUB_H_
