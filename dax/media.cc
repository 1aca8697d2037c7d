#include "dax/media.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "dax/file_descriptor.h"

namespace daxkv::dax {
namespace {

struct FileSystemName {
  uint32_t type;  // statfs.f_type
  const char* name;
};

constexpr uint32_t kTmpfs = 0x01021994;
constexpr uint32_t kRamfs = 0x858458f6;
constexpr FileSystemName kFileSystemNames[] = {
    {0xef53, "ext4"},         {0x58465342, "xfs"},       {kTmpfs, "tmpfs"},    {kRamfs, "ramfs"},
    {0x9123683e, "btrfs"},    {0x794c7630, "overlayfs"}, {0xf2f52010, "f2fs"}, {0x6969, "nfs"},
    {0x2fc12fc1, "zfs"},      {0x65735546, "fuse"},      {0x01021997, "9p"},   {0xff534d42, "cifs"},
    {0xca451a4e, "bcachefs"},
};

std::string NameOfFileSystem(uint32_t type) {
  for (const FileSystemName& known : kFileSystemNames) {
    if (known.type == type) return known.name;
  }
  return absl::StrCat("0x", absl::Hex(type));
}

// Whether the kernel grants a MAP_SYNC mapping of the file's first page: only fs-dax does.
absl::StatusOr<bool> MapsSynchronously(int fd, const std::string& path) {
  constexpr size_t kLength = 4096;
  void* mapped =
      mmap(nullptr, kLength, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
  if (mapped != MAP_FAILED) {
    munmap(mapped, kLength);
    return true;
  }
  // EINVAL: a kernel older than MAP_SHARED_VALIDATE.
  if (errno == EOPNOTSUPP || errno == EINVAL) return false;
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", path, " to probe its medium"));
}

}  // namespace

std::string_view MediaClassName(MediaClass media_class) {
  switch (media_class) {
    case MediaClass::kDax:
      return "dax";
    case MediaClass::kPageCache:
      return "page-cache";
    case MediaClass::kVolatile:
      return "volatile";
  }
  return "unknown";
}

std::string_view DurabilityName(Durability durability) {
  return durability == Durability::kProcess ? "process" : "power";
}

std::string_view MediaPromise(const MediaInfo& media) {
  if (media.forced) {
    return "PMEM_IS_PMEM_FORCE says persistent memory: a returned write is flushed from the CPU "
           "cache, and survives power loss only if that is true";
  }
  switch (media.media_class) {
    case MediaClass::kDax:
      return "persistent memory: a returned write survives power loss";
    case MediaClass::kPageCache:
      if (media.durability == Durability::kProcess) {
        return "ordinary file: a returned write survives the end of the process; what power loss "
               "takes is bounded by the writeback in the background";
      }
      return "ordinary file: a returned write survives power loss, at the cost of an msync";
    case MediaClass::kVolatile:
      return "memory file system: a returned write survives a crash of the process, not of the "
             "machine";
  }
  return "unknown medium";
}

absl::StatusOr<MediaInfo> ProbeMedia(const std::string& path) {
  const FileDescriptor opened(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!opened.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat file;
  struct statfs file_system;
  if (fstat(opened.get(), &file) != 0 || fstatfs(opened.get(), &file_system) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", path));
  }

  MediaInfo media;
  if (S_ISCHR(file.st_mode)) {
    media.media_class = MediaClass::kDax;
    media.file_system = "devdax";
    return media;
  }
  const uint32_t type = static_cast<uint32_t>(file_system.f_type);
  media.file_system = NameOfFileSystem(type);
  const absl::StatusOr<bool> synchronous = MapsSynchronously(opened.get(), path);
  if (!synchronous.ok()) return synchronous.status();
  const char* force = std::getenv("PMEM_IS_PMEM_FORCE");
  if (*synchronous) {
    media.media_class = MediaClass::kDax;
  } else if (force != nullptr && std::string_view(force) == "1") {
    media.media_class = MediaClass::kDax;
    media.forced = true;
  } else if (type == kTmpfs || type == kRamfs) {
    media.media_class = MediaClass::kVolatile;
  } else {
    media.media_class = MediaClass::kPageCache;
  }
  return media;
}

}  // namespace daxkv::dax
