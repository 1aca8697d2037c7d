#include "dax/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace daxkv::dax {
namespace {

std::string HolderOf(int fd) {
  char text[32] = {};
  const ssize_t length = pread(fd, text, sizeof(text) - 1, 0);
  int pid = 0;
  if (length <= 0 || !absl::SimpleAtoi(std::string(text, static_cast<size_t>(length)), &pid)) {
    return "another process";
  }
  if (pid == getpid()) return absl::StrCat("this process (", pid, ")");
  return absl::StrCat("process ", pid);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LockFile>> LockFile::Acquire(const std::string& path,
                                                            const std::string& guarded) {
  FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.valid()) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open lock file ", path));
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path));
    }
    return absl::FailedPreconditionError(absl::StrCat(guarded, " is held by ", HolderOf(file.get()),
                                                      "; one process at a time may open it"));
  }
  // Only a message depends on the text, so a full file system is no reason to refuse the lock.
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(file.get(), 0) != 0 || pwrite(file.get(), pid.data(), pid.size(), 0) < 0) errno = 0;
  return std::unique_ptr<LockFile>(new LockFile(std::move(file)));
}

LockFile::~LockFile() {
  if (ftruncate(file_.get(), 0) != 0) errno = 0;  // A stale pid would only mislead people.
}

}  // namespace daxkv::dax
