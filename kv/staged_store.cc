#include "kv/staged_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace daxkv::kv {
namespace {

constexpr char kStoreName[] = "store";
constexpr char kLockName[] = "store.lock";

absl::Status Failed(int error, const char* action, const std::string& path) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", action, " ", path));
}

// The names in an open directory. Not std::filesystem, which ends the process without memory.
absl::StatusOr<std::vector<std::string>> List(int directory, const std::string& path) {
  const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const stream = copy < 0 ? nullptr : fdopendir(copy);
  if (stream == nullptr) {
    const int error = errno;
    if (copy >= 0) close(copy);
    return Failed(error, "list", path);
  }
  const absl::Cleanup close_stream = [stream] { closedir(stream); };
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) return Failed(errno, "list", path);
  return names;
}

// Removes a file, or a directory with all that is in it.
absl::Status RemoveTree(int parent, const std::string& name, const std::string& path) {
  if (unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
  if (errno != EISDIR) return Failed(errno, "remove", path);
  const dax::FileDescriptor directory(
      openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory.valid()) return Failed(errno, "open", path);
  const absl::StatusOr<std::vector<std::string>> names = List(directory.get(), path);
  if (!names.ok()) return names.status();
  for (const std::string& inner : *names) {
    absl::Status removed = RemoveTree(directory.get(), inner, absl::StrCat(path, "/", inner));
    if (!removed.ok()) return removed;
  }
  if (unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0) return Failed(errno, "remove", path);
  return absl::OkStatus();
}

std::string WithoutSlashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

absl::Status CheckFree(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0) {
    return absl::AlreadyExistsError(absl::StrCat("there is something at ", path,
                                                 " already; a store is restored to a new path"));
  }
  return errno == ENOENT ? absl::OkStatus() : Failed(errno, "examine", path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<StagedStore>> StagedStore::Begin(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("the store's path is empty");
  const std::string trimmed = WithoutSlashes(path);
  absl::Status status = CheckFree(trimmed);
  if (!status.ok()) return status;
  std::unique_ptr<StagedStore> staged(new StagedStore(trimmed, trimmed + ".restoring"));
  status = staged->MakeAndLock();
  if (status.ok()) status = staged->Clear();
  if (!status.ok()) return status;
  return staged;
}

absl::Status StagedStore::MakeAndLock() {
  for (;;) {
    if (mkdir(staging_.c_str(), 0700) != 0 && errno != EEXIST) {
      return Failed(errno, "make", staging_);
    }
    dax::FileDescriptor opened(
        open(staging_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!opened.valid() && errno == ENOENT) continue;  // Another restore has just ended.
    if (!opened.valid()) return Failed(errno, "open", staging_);
    if (flock(opened.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return Failed(errno, "lock", staging_);
      return absl::FailedPreconditionError(
          absl::StrCat("another restore to ", path_, " is running"));
    }
    struct stat locked, named;
    if (fstat(opened.get(), &locked) != 0) return Failed(errno, "examine", staging_);
    if (stat(staging_.c_str(), &named) == 0 && named.st_ino == locked.st_ino &&
        named.st_dev == locked.st_dev) {
      directory_ = std::move(opened);
      return absl::OkStatus();
    }
  }
}

absl::Status StagedStore::Clear() const {
  const absl::StatusOr<std::vector<std::string>> names = List(directory_.get(), staging_);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (name == kStoreName || name == kLockName) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        staging_, "/", name, " is in the way, and no restore has made it; move it elsewhere"));
  }
  for (const char* name : {kStoreName, kLockName}) {
    absl::Status removed = RemoveTree(directory_.get(), name, absl::StrCat(staging_, "/", name));
    if (!removed.ok()) return removed;
  }
  return absl::OkStatus();
}

absl::Status StagedStore::Commit() {
  const std::string made = store_path();
  // The commit: before it there is nothing at the path, after it the whole store.
  int renamed = renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE);
  if (renamed != 0 && (errno == EINVAL || errno == ENOSYS)) {
    // A file system that can't promise not to replace.
    absl::Status still_free = CheckFree(path_);
    if (!still_free.ok()) return still_free;
    renamed = rename(made.c_str(), path_.c_str());
  }
  if (renamed != 0) return Failed(errno, "move the store to", path_);
  const size_t slash = path_.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const dax::FileDescriptor opened(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.valid() || fsync(opened.get()) != 0) return Failed(errno, "sync", parent);
  return absl::OkStatus();
}

StagedStore::~StagedStore() {
  // Not before it is ours.
  if (!directory_.valid()) return;
  if (Clear().ok()) rmdir(staging_.c_str());
}

}  // namespace daxkv::kv
