// Which run of the kernel this is. What a process left in the page cache is there as long as the
// kernel runs; after that only what the medium has.
//
// Thread safety: stateless.
#ifndef DAXKV_KV_BOOT_ID_H_
#define DAXKV_KV_BOOT_ID_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace daxkv::kv {

// Where Linux keeps it.
inline constexpr char kBootIdFile[] = "/proc/sys/kernel/random/boot_id";

// The CRC32C of the text in `file` (empty: kBootIdFile), without white space at its end.
//   kUnavailable  it can't be read, or is empty
absl::StatusOr<uint32_t> ReadBootId(const std::string& file);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_BOOT_ID_H_
