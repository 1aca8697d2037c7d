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

#include "absl/strings/str_cat.h"

namespace daxkv::kv {
namespace {

constexpr char kStoreName[] = "store";
constexpr char kLockName[] = "store.lock";

absl::Status Failed(int error, const char* action, const std::string& path) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", action, " ", path));
}

struct CloseDirectory {
  void operator()(DIR* stream) const { closedir(stream); }
};
using OpenDirectory = std::unique_ptr<DIR, CloseDirectory>;

// Of an open directory, which stays open. Null, with errno, when that fails.
OpenDirectory List(int directory) {
  const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return nullptr;
  OpenDirectory stream(fdopendir(copy));
  if (stream == nullptr) close(copy);
  return stream;
}

// The next name but "." and ".."; null at the end.
const char* NextName(DIR* stream) {
  for (;;) {
    const dirent* entry = readdir(stream);
    if (entry == nullptr) return nullptr;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") return entry->d_name;
  }
}

// Removes a file, or a directory with all that is in it; whether nothing of it is there. Needs no
// memory of C++'s: it cleans up where that has run out.
bool RemoveTree(int parent, const char* name) noexcept {
  if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return true;
  if (errno != EISDIR) return false;
  const dax::FileDescriptor directory(
      openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  const OpenDirectory stream = List(directory.get());
  if (stream == nullptr) return false;
  while (const char* inner = NextName(stream.get())) {
    if (!RemoveTree(directory.get(), inner)) return false;
  }
  return unlinkat(parent, name, AT_REMOVEDIR) == 0;
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
  if (status.ok()) status = staged->CheckOurs();
  if (!status.ok()) return status;
  if (!staged->Clear()) return Failed(errno, "clear", staged->staging_);
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

absl::Status StagedStore::CheckOurs() const {
  const OpenDirectory stream = List(directory_.get());
  if (stream == nullptr) return Failed(errno, "list", staging_);
  while (const char* name = NextName(stream.get())) {
    if (std::string_view(name) == kStoreName || std::string_view(name) == kLockName) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        staging_, "/", name, " is in the way, and no restore has made it; move it elsewhere"));
  }
  return absl::OkStatus();
}

bool StagedStore::Clear() const noexcept {
  const bool store = RemoveTree(directory_.get(), kStoreName);
  return RemoveTree(directory_.get(), kLockName) && store;
}

absl::Status StagedStore::Commit() {
  const std::string made = store_path();
  const size_t slash = path_.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const dax::FileDescriptor opened(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.valid()) return Failed(errno, "open", parent);
  // The commit: before it there is nothing at the path, after it the whole store. Nothing but the
  // sync may fail behind it.
  int renamed = renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE);
  if (renamed != 0 && (errno == EINVAL || errno == ENOSYS)) {
    // A file system that can't promise not to replace.
    absl::Status still_free = CheckFree(path_);
    if (!still_free.ok()) return still_free;
    renamed = rename(made.c_str(), path_.c_str());
  }
  if (renamed != 0) return Failed(errno, "move the store to", path_);
  if (fsync(opened.get()) != 0) return Failed(errno, "sync", parent);
  return absl::OkStatus();
}

StagedStore::~StagedStore() {
  // Not before it is locked.
  if (!directory_.valid()) return;
  if (Clear()) rmdir(staging_.c_str());
}

}  // namespace daxkv::kv
