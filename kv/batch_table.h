// The batch table in the pool's root area: which atomic batches are committed and not yet wholly
// applied. To the byte: format.h.
//
// Thread safety: every method from any thread at the same time, except Pending and Forget, which
// belong to the open.
//
// Invariants
//   T1  A word is claimed before the first leaf is locked, and given back after the last is
//       unlocked, so that who waits for a word holds nothing that another batch waits for.
//   T2  A word that was stored is cleared, durably, before the leaves of its batch are unlocked;
//       or, after a crash, by the redo.
#ifndef DAXKV_KV_BATCH_TABLE_H_
#define DAXKV_KV_BATCH_TABLE_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/pool.h"
#include "kv/format.h"

namespace daxkv::kv {

class BatchTable {
 public:
  // The word of that number which leads to `batch_record`.
  static uint64_t Seal(unsigned word, Address batch_record);

  // `words`: kBatchTableWords of them, in the pool.
  BatchTable(dax::Pool* pool, uint64_t* words) : pool_(*pool), words_(words) {}

  // For the open, before anything else is changed: the batch records that words lead to. After a
  // crash it first makes the words durable as they are: the process that stored or cleared one may
  // have died before it was. kDataLoss: a damaged word. kInternal: the medium failed.
  absl::StatusOr<std::vector<Address>> Pending(bool after_crash);
  // Clears all words, durably: their batches are applied. kInternal.
  absl::Status Forget();

  // A free word's number; waits until there is one.
  unsigned Claim();
  // The same, if there is one now.
  std::optional<unsigned> TryClaim();
  void Release(unsigned word);
  // For the claimer, before its batch takes a number: a number below that.
  void NoteBegin(unsigned word, uint64_t number);
  // Every batch with a number up to the returned one is wholly applied, if `last_number` was taken
  // before the call.
  uint64_t AppliedUpTo(uint64_t last_number) const;

  // Commits the batch whose record, complete and durable, is at `batch_record`; durable on return.
  absl::Status Store(unsigned word, Address batch_record);
  // Everything the batch changes is durable; durable on return.
  absl::Status Clear(unsigned word);

 private:
  absl::Status StoreWord(unsigned word, uint64_t value);

  dax::Pool& pool_;
  uint64_t* const words_;
  std::mutex mutex_;
  std::condition_variable released_;
  uint32_t claimed_ = 0;  // mutex_: a bit for each word.
  // Of the claimed words: 0 or what NoteBegin was given. Sequentially consistent with the counter
  // of numbers: who does not see a batch here has read the counter before the batch took its
  // number.
  std::array<std::atomic<uint64_t>, kBatchTableWords> begun_ = {};
  static_assert(kBatchTableWords == 32, "claimed_ has a bit for each word");
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_BATCH_TABLE_H_
