// Small files, read and written whole. (The standard's streams keep a lack of memory to themselves:
// it would look like a damaged or a shorter file.)
#ifndef DAXKV_DAX_SMALL_FILE_H_
#define DAXKV_DAX_SMALL_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace daxkv::dax {

// Statuses of both: that of the system's error, with the path.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);
// Replaces the content, and makes it durable.
absl::Status WriteSmallFile(const std::string& path, std::string_view content);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_SMALL_FILE_H_
