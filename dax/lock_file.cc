#include "dax/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/cleanup/cleanup.h"
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
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open lock file ", path));
  absl::Cleanup close_fd = [fd] { close(fd); };
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path));
    }
    return absl::FailedPreconditionError(
        absl::StrCat(guarded, " is held by ", HolderOf(fd), "; one process at a time may open it"));
  }
  // Only a message depends on the text, so a full file system is no reason to refuse the lock.
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0) errno = 0;
  std::move(close_fd).Cancel();
  return std::unique_ptr<LockFile>(new LockFile(fd));
}

LockFile::~LockFile() {
  if (ftruncate(fd_, 0) != 0) errno = 0;  // A stale pid would only mislead people.
  close(fd_);
}

}  // namespace daxkv::dax
