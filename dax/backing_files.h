// The files under a pool's mapping, concatenated: which one holds a pool offset, how many blocks
// they have, reserving blocks and punching holes.
//
// Thread safety: all methods from any thread.
#ifndef DAXKV_DAX_BACKING_FILES_H_
#define DAXKV_DAX_BACKING_FILES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "dax/file_descriptor.h"

namespace daxkv::dax {

class BackingFiles {
 public:
  // The parts that libpmemobj keeps in a directory: 000000.pmem and so on, in that order.
  static absl::StatusOr<std::unique_ptr<BackingFiles>> OpenParts(const std::string& directory);
  // One file or device. A device (/dev/dax) has no blocks: Reserve does nothing, Punch can't.
  static absl::StatusOr<std::unique_ptr<BackingFiles>> OpenFile(const std::string& path);
  BackingFiles(const BackingFiles&) = delete;
  BackingFiles& operator=(const BackingFiles&) = delete;

  // The length of a file or a device, and for a device what its sysfs directory says:
  // /sys/dev/char/MAJOR:MINOR with `size` and, of device-dax, `device/align`.
  //   kFailedPrecondition  a character device that is no DAX device
  static absl::StatusOr<uint64_t> SizeOf(const std::string& path);
  struct DeviceShape {
    uint64_t size_bytes = 0;
    uint64_t alignment_bytes = 0;  // Of mappings: 4 KiB, 2 MiB or 1 GiB.
  };
  // `sysfs`: the device's directory there; `path` is for messages.
  static absl::StatusOr<DeviceShape> ReadDeviceShape(const std::string& sysfs,
                                                     const std::string& path);

  // Makes the file that libpmemobj would make to grow by `size_bytes`, a multiple of 2 MiB.
  // libpmemobj takes a file that is there; when making one itself fails, it goes on counting, and
  // leaves a gap in the numbers that keeps the pool from ever opening again. The file appears whole
  // or not at all: with blocks for the ranges of pool offsets that `written` names, which must lie
  // behind the files there are, and otherwise one hole. Its cost does not depend on its size. Where
  // the file system does not know fallocate it has all its blocks. It is durable, with its name: a
  // heap that says that it reaches so far, without the part, could never be opened again.
  //   kResourceExhausted  the file system is full
  struct Range {
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
  };
  absl::Status MakeNextPart(uint64_t size_bytes, absl::Span<const Range> written);
  // Removes that file if libpmemobj did not take it.
  void RemoveNextPart();
  // Takes in the parts that have come since.
  absl::Status AddNewParts();
  // Removes last parts that begin at `end` or behind it. While nothing is mapped.
  absl::Status RemovePartsFrom(uint64_t end);
  // Whether so many bytes could be read at a pool offset.
  bool Read(uint64_t offset, void* to, uint64_t size_bytes) const;
  // Checks against /proc/self/maps that byte N of these files is what lies at base + N. Punching
  // by a wrong table would destroy data, so nothing is punched before this has been asked.
  // Pages for which `replaced` says so are passed over: private memory lies there (lost_pages.h).
  //   kInternal  it is not so
  absl::Status VerifyMapping(const char* base,
                             const std::function<bool(uint64_t page)>& replaced) const;
  // Maps a page of the files at its place again, over whatever lies there.
  //   kUnimplemented  on a device    kInternal  the kernel refuses
  absl::Status MapAgain(char* base, uint64_t page) const;

  uint64_t size_bytes() const;
  // Whether blocks can be given back, as far as is known: not on a device, nor where the file
  // system has refused.
  bool HasHoles() const { return has_holes_.load(std::memory_order_relaxed); }
  // The first file's path: what the media probe looks at.
  std::string first_path() const;
  // Allocates blocks for the range. kResourceExhausted: the file system is full; blocks may have
  // come for a part of the range.
  absl::Status Reserve(uint64_t offset, uint64_t size_bytes) noexcept;
  // Gives the blocks of the range back; it reads as zeros then.
  //   kUnimplemented  the file system has no holes, or this is a device
  absl::Status Punch(uint64_t offset, uint64_t size_bytes) noexcept;
  // What the file system holds for the files.
  absl::StatusOr<uint64_t> BlocksBytes() const;

 private:
  struct Part {
    FileDescriptor file;
    std::string path;
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    uint64_t inode = 0;
    bool device = false;
  };

  explicit BackingFiles(std::string directory) : directory_(std::move(directory)) {}
  std::string PartPath(size_t number) const;
  // Returns an errno.
  int MakeDurable(int part) const;
  // `allocate` gives the new file its length and blocks; it returns an errno.
  absl::Status MakeNextPart(uint64_t size_bytes, absl::FunctionRef<int(int file)> allocate);
  absl::Status Append(const std::string& path);
  absl::Status ForEachPiece(
      uint64_t offset, uint64_t size_bytes,
      absl::FunctionRef<absl::Status(const Part&, uint64_t, uint64_t)> visit) const;
  absl::Status Allocate(int mode, const char* action, uint64_t offset, uint64_t size_bytes);

  const std::string directory_;  // Empty: one file.
  std::atomic<bool> has_holes_{true};
  mutable std::shared_mutex mutex_;
  std::vector<Part> parts_;  // Guarded by mutex_; only grows once it is mapped.
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_BACKING_FILES_H_
