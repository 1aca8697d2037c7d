#include "benchmarks/ycsb/peers/peer_store.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "benchmarks/ycsb/record.h"

namespace daxkv::ycsb {
namespace {

// "user" and up to 19 digits.
constexpr uint64_t kKeySizeBytes = 23;

}  // namespace

absl::Status PrepareDirectory(const std::string& path, std::string_view property, Phase phase) {
  std::error_code error;
  if (phase != Phase::kLoad) {
    if (std::filesystem::is_directory(path, error)) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("no store at ", path, ": make one with ycsb load, or ",
                                            "name another with -p ", std::string(property),
                                            "=PATH"));
  }
  std::filesystem::create_directories(path, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cannot make the directory ", path, ": ", error.message()));
}

uint64_t ExpectedRecords(const Settings& settings) {
  const double inserts = static_cast<double>(settings.Whole("operationcount")) *
                         std::min(1.0, settings.Real("insertproportion"));
  return static_cast<uint64_t>(settings.Whole("recordcount")) + static_cast<uint64_t>(inserts);
}

uint64_t RecordSizeBytes(const Settings& settings) {
  return static_cast<uint64_t>(settings.Whole("fieldcount")) *
         (kFieldLengthSizeBytes + static_cast<uint64_t>(settings.Whole("fieldlength")));
}

uint64_t ExpectedDataBytes(const Settings& settings) {
  return ExpectedRecords(settings) * (kKeySizeBytes + RecordSizeBytes(settings));
}

uint64_t CacheSizeBytes(const Settings& settings, std::string_view property) {
  constexpr uint64_t kLeast = uint64_t{64} << 20;
  const uint64_t told = static_cast<uint64_t>(settings.Whole(property));
  return told > 0 ? told : std::max(kLeast, ExpectedDataBytes(settings) / 4 * 5);
}

std::string FileSystemName(const std::string& path) {
  struct statfs status;
  if (statfs(path.c_str(), &status) != 0) return "unknown";
  switch (static_cast<uint64_t>(status.f_type)) {
    case TMPFS_MAGIC:
      return "tmpfs";
    case EXT4_SUPER_MAGIC:
      return "ext2/ext3/ext4";
    case XFS_SUPER_MAGIC:
      return "xfs";
    case BTRFS_SUPER_MAGIC:
      return "btrfs";
    default:
      return absl::StrFormat("0x%x", static_cast<uint64_t>(status.f_type));
  }
}

std::string FilePromise(const std::string& path, bool synced) {
  if (FileSystemName(path) == "tmpfs") {
    return "memory file system: a returned write survives a crash of the process, not of the "
           "machine";
  }
  return synced
             ? "ordinary file, synced: a returned write survives power loss"
             : "ordinary file, not synced: a returned write survives a crash of the process, not "
               "of the machine";
}

}  // namespace daxkv::ycsb
