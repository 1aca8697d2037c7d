// An exclusive lock on a file, held by one open of one process, that says who holds it.
#ifndef DAXKV_DAX_LOCK_FILE_H_
#define DAXKV_DAX_LOCK_FILE_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "dax/file_descriptor.h"

namespace daxkv::dax {

// flock(2) on a file that holds the owner's pid as text. The lock belongs to the open file, so a
// second attempt in the same process fails too, and the kernel drops it when the process dies. The
// file itself stays: removing it would let two processes lock two different files of one name.
class LockFile {
 public:
  // Creates the file if need be and locks it, without waiting.
  //   kFailedPrecondition  held; the message names `guarded` and the holder's pid
  //   otherwise            what open(2) or flock(2) say
  static absl::StatusOr<std::unique_ptr<LockFile>> Acquire(const std::string& path,
                                                           const std::string& guarded);
  ~LockFile();
  LockFile(const LockFile&) = delete;
  LockFile& operator=(const LockFile&) = delete;

 private:
  explicit LockFile(FileDescriptor file) : file_(std::move(file)) {}
  const FileDescriptor file_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_LOCK_FILE_H_
