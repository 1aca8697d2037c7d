// What an open made of what a power cut left (power_cut.h).
#ifndef DAXKV_KV_POWER_CUT_REPORT_H_
#define DAXKV_KV_POWER_CUT_REPORT_H_

#include <cstdint>

namespace daxkv::kv {

struct PowerCutReport {
  uint64_t records = 0;          // Kept: one for each key.
  uint64_t records_stamped = 0;  // Whole, but replaced, or of a batch that is not complete.
  uint64_t slots_torn = 0;       // Held something that does not verify.
  uint64_t batches_dropped = 0;  // Of which some record, or the record that names them, is missing.
  uint64_t extents_dropped = 0;  // Without a header or a record that verifies.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_POWER_CUT_REPORT_H_
