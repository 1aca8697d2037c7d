// Media classes: what a returned write survives is a property of what lies under the mapping. It
// is probed at open, reported, and never guessed.
#ifndef DAXKV_DAX_MEDIA_H_
#define DAXKV_DAX_MEDIA_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace daxkv::dax {

enum class MediaClass {
  kDax,        // A MAP_SYNC mapping or a DAX device: a flushed cache line is durable.
  kPageCache,  // An ordinary file: durable by msync.
  kVolatile,   // tmpfs and its like: survives the process, not the machine.
};

// What a returned write on kPageCache survives; elsewhere the medium alone decides.
enum class Durability {
  kPower,    // Power loss: every wait for the medium is an msync.
  kProcess,  // The end of the process: no msync; what a power cut costs is bounded by Pool::Sync.
};

struct MediaInfo {
  MediaClass media_class = MediaClass::kVolatile;
  // PMEM_IS_PMEM_FORCE=1 made this kDax; the medium itself did not.
  bool forced = false;
  std::string file_system;  // "ext4", "xfs", "tmpfs", "devdax", or the type's number in hex.
  // As the pool is open now. Never kProcess but on kPageCache.
  Durability durability = Durability::kPower;
};

// "dax", "page-cache", "volatile".
std::string_view MediaClassName(MediaClass media_class);
// "power", "process".
std::string_view DurabilityName(Durability durability);
// One line for people: what a returned Put survives on this medium.
std::string_view MediaPromise(const MediaInfo& media);

// Probes the medium of an existing file or device: MAP_SYNC first, then the file system's type.
//   kNotFound, kPermissionDenied, kInternal: the path can't be opened, mapped or examined.
absl::StatusOr<MediaInfo> ProbeMedia(const std::string& path);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_MEDIA_H_
