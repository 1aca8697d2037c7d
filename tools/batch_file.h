// The file that `kvctl batch` reads: a change a line, put, key and value or del and key, with tabs
// between and C escapes.
#ifndef DAXKV_TOOLS_BATCH_FILE_H_
#define DAXKV_TOOLS_BATCH_FILE_H_

#include <string_view>

#include "absl/status/status.h"
#include "kv/write_batch.h"

namespace daxkv::tools {

// Adds the changes in `text` to *batch.
//   kInvalidArgument  a malformed line (message: its number and what is wrong)
//   kResourceExhausted  no memory
absl::Status ParseBatch(std::string_view text, kv::WriteBatch* batch);

}  // namespace daxkv::tools

#endif  // DAXKV_TOOLS_BATCH_FILE_H_
