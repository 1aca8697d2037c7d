// The directory shape of a pool on the file system.
//
//   PATH/LOCK         who has it open
//   PATH/daxkv.set    the poolset: PMEMPOOLSET, OPTION SINGLEHDR, "<most bytes> <absolute parts>"
//   PATH/parts/       000000.pmem, 000001.pmem, ...: libpmemobj adds one whenever the pool grows
//
// A pool is made under daxkv.set.creating, and renaming that to daxkv.set commits it: a crash in
// between leaves a directory that the next open starts afresh. The set file holds an absolute path
// because libpmemobj asks for one; it is rewritten when the directory was moved.
#ifndef DAXKV_DAX_STORE_DIRECTORY_H_
#define DAXKV_DAX_STORE_DIRECTORY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/file_descriptor.h"

namespace daxkv::dax {

class StoreDirectory {
 public:
  enum class Content {
    kMissing,    // No such directory.
    kEmpty,      // Nothing, or what an unfinished creation left: a pool may be made.
    kPool,       // A set file is there.
    kSomething,  // Other files: not ours to touch.
  };

  explicit StoreDirectory(std::string path);
  StoreDirectory(const StoreDirectory&) = delete;
  StoreDirectory& operator=(const StoreDirectory&) = delete;

  absl::StatusOr<Content> Examine() const;
  // Makes the directory itself; its parent must be there.
  absl::Status MakeDirectory() const;
  std::string lock_path() const { return path_ + "/LOCK"; }

  // Clears what an unfinished creation left, then makes the parts directory and the set file for a
  // pool that may grow to `max_size_bytes`. Returns the path of the set file to create it by.
  absl::StatusOr<std::string> BeginCreation(uint64_t max_size_bytes);
  // The commit: from here on the directory is a pool. Durable on return.
  absl::Status CommitCreation();
  // Removes what BeginCreation and libpmemobj made.
  absl::Status AbandonCreation();

  // Makes the set file name this directory's parts, and removes an empty last part that a crash
  // during growth left. Returns the path of the set file to open the pool by.
  //   kDataLoss  the set file is not one of ours
  absl::StatusOr<std::string> PrepareToOpen();

  // From BeginCreation or PrepareToOpen on:
  const std::string& parts_path() const { return parts_path_; }
  // The part that begins the pool.
  std::string first_part_path() const { return parts_path_ + "/000000.pmem"; }
  uint64_t max_size_bytes() const { return max_size_bytes_; }

 private:
  absl::Status ResolvePartsPath();
  absl::Status WriteSetFile(const std::string& name) const;
  absl::Status RemoveParts() const;
  absl::Status CheckParts() const;

  const std::string path_;
  FileDescriptor directory_fd_;
  std::string parts_path_;
  uint64_t max_size_bytes_ = 0;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_STORE_DIRECTORY_H_
