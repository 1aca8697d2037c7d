#include "dax/store_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "dax/small_file.h"

namespace daxkv::dax {
namespace {

constexpr char kLockName[] = "LOCK";
constexpr char kSetName[] = "daxkv.set";
constexpr char kCreatingName[] = "daxkv.set.creating";
constexpr char kNewSetName[] = "daxkv.set.new";
constexpr char kPartsName[] = "parts";
constexpr int64_t kPartUnitBytes = int64_t{2} << 20;
constexpr char kSetHead[] = "PMEMPOOLSET\nOPTION SINGLEHDR\n";

absl::Status Failed(int error, const char* action, const std::string& path) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", action, " ", path));
}

bool IsPartName(const std::string& name) {
  return name.size() == 11 && name.compare(6, 5, ".pmem") == 0 &&
         std::all_of(name.begin(), name.begin() + 6, absl::ascii_isdigit);
}

absl::StatusOr<std::vector<std::string>> List(const std::string& directory) {
  // Not std::filesystem: its iterator ends the process when memory runs out.
  DIR* const stream = opendir(directory.c_str());
  if (stream == nullptr) return Failed(errno, "list", directory);
  const absl::Cleanup close_stream = [stream] { closedir(stream); };
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) return Failed(errno, "list", directory);
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status Sync(const std::string& path, int flags) {
  const FileDescriptor file(open(path.c_str(), flags | O_CLOEXEC));
  if (!file.valid()) return Failed(errno, "open", path);
  if (fsync(file.get()) != 0) return Failed(errno, "sync", path);
  return absl::OkStatus();
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) return Failed(errno, "rename to", to);
  return absl::OkStatus();
}

absl::Status Remove(const std::string& path) {
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return Failed(errno, "remove", path);
  return absl::OkStatus();
}

}  // namespace

StoreDirectory::StoreDirectory(std::string path) : path_(std::move(path)) {}

absl::StatusOr<StoreDirectory::Content> StoreDirectory::Examine() const {
  absl::StatusOr<std::vector<std::string>> names = List(path_);
  if (absl::IsNotFound(names.status())) return Content::kMissing;
  if (!names.ok()) return names.status();
  const auto has = [&](const char* name) {
    return std::binary_search(names->begin(), names->end(), name);
  };
  if (has(kSetName)) return Content::kPool;
  const bool only_ours = std::all_of(names->begin(), names->end(), [](const std::string& name) {
    return name == kLockName || name == kCreatingName || name == kNewSetName || name == kPartsName;
  });
  if (!only_ours || (has(kPartsName) && !has(kCreatingName))) return Content::kSomething;
  return Content::kEmpty;
}

absl::Status StoreDirectory::MakeDirectory() const {
  if (mkdir(path_.c_str(), 0777) != 0 && errno != EEXIST) return Failed(errno, "make", path_);
  return absl::OkStatus();
}

// Set files separate their words by white space, so a path with white space goes in by way of a
// descriptor that stays open as long as the pool does.
absl::Status StoreDirectory::ResolvePartsPath() {
  char resolved[PATH_MAX];
  if (realpath(path_.c_str(), resolved) == nullptr) return Failed(errno, "resolve", path_);
  std::string directory = resolved;
  if (std::any_of(directory.begin(), directory.end(), absl::ascii_isspace)) {
    directory_fd_ = FileDescriptor(open(path_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory_fd_.valid()) return Failed(errno, "open", path_);
    directory = absl::StrCat("/proc/self/fd/", directory_fd_.get());
  }
  parts_path_ = absl::StrCat(directory, "/", kPartsName);
  return absl::OkStatus();
}

// Replaces the file by a rename, so that a crash leaves the old content or the new.
absl::Status StoreDirectory::WriteSetFile(const std::string& name) const {
  const std::string new_path = absl::StrCat(path_, "/", kNewSetName);
  absl::Status status =
      WriteSmallFile(new_path, absl::StrCat(kSetHead, max_size_bytes_, " ", parts_path_, "\n"));
  if (status.ok()) status = Rename(new_path, absl::StrCat(path_, "/", name));
  if (status.ok()) status = Sync(path_, O_RDONLY | O_DIRECTORY);
  return status;
}

absl::StatusOr<std::string> StoreDirectory::BeginCreation(uint64_t max_size_bytes) {
  max_size_bytes_ = max_size_bytes;
  absl::Status status = ResolvePartsPath();
  if (status.ok()) status = RemoveParts();
  if (status.ok()) status = WriteSetFile(kCreatingName);
  if (!status.ok()) return status;
  const std::string parts = absl::StrCat(path_, "/", kPartsName);
  if (mkdir(parts.c_str(), 0777) != 0 && errno != EEXIST) return Failed(errno, "make", parts);
  return absl::StrCat(path_, "/", kCreatingName);
}

absl::Status StoreDirectory::CommitCreation() {
  absl::Status status = Sync(parts_path_, O_RDONLY | O_DIRECTORY);
  if (status.ok()) {
    status = Rename(absl::StrCat(path_, "/", kCreatingName), absl::StrCat(path_, "/", kSetName));
  }
  if (status.ok()) status = Sync(path_, O_RDONLY | O_DIRECTORY);
  return status;
}

absl::Status StoreDirectory::AbandonCreation() {
  absl::Status status = RemoveParts();
  const std::string parts = absl::StrCat(path_, "/", kPartsName);
  if (rmdir(parts.c_str()) != 0 && errno != ENOENT) status.Update(Failed(errno, "remove", parts));
  if (status.ok()) status = Remove(absl::StrCat(path_, "/", kCreatingName));
  return status;
}

absl::Status StoreDirectory::RemoveParts() const {
  const std::string parts = absl::StrCat(path_, "/", kPartsName);
  const absl::StatusOr<std::vector<std::string>> names = List(parts);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (!IsPartName(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat(parts, "/", name, " does not belong to an unfinished creation; remove it"));
    }
  }
  for (const std::string& name : *names) {
    absl::Status status = Remove(absl::StrCat(parts, "/", name));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> StoreDirectory::PrepareToOpen() {
  absl::Status status = ResolvePartsPath();
  if (!status.ok()) return status;
  const std::string set_path = absl::StrCat(path_, "/", kSetName);
  const absl::StatusOr<std::string> text = ReadSmallFile(set_path);
  if (!text.ok()) return text.status();
  std::string_view rest = *text;
  const std::string_view head = kSetHead;
  const bool headed = rest.substr(0, head.size()) == head;
  rest.remove_prefix(headed ? head.size() : 0);
  const size_t space = rest.find(' ');
  if (!headed || space == std::string_view::npos || rest.back() != '\n' ||
      !absl::SimpleAtoi(std::string(rest.substr(0, space)), &max_size_bytes_)) {
    return absl::DataLossError(
        absl::StrCat(set_path, " is damaged: expected three lines, ",
                     "PMEMPOOLSET, OPTION SINGLEHDR, and bytes with a path"));
  }
  if (rest.substr(space + 1) != parts_path_ + "\n") status = WriteSetFile(kSetName);
  if (status.ok()) status = CheckParts();
  if (!status.ok()) return status;
  return set_path;
}

// A crash while libpmemobj grows the pool can leave a file that has its name but no length yet, and
// libpmemobj refuses such a pool. Nothing can lie in a file without bytes. Any other wrong length
// was made by somebody else, and would put all that follows at wrong pool offsets.
absl::Status StoreDirectory::CheckParts() const {
  const std::string parts = absl::StrCat(path_, "/", kPartsName);
  const absl::StatusOr<std::vector<std::string>> names = List(parts);
  if (!names.ok()) return names.status();
  for (size_t i = 0; i < names->size() && IsPartName((*names)[i]); ++i) {
    const std::string part = absl::StrCat(parts, "/", (*names)[i]);
    struct stat file;
    if (stat(part.c_str(), &file) != 0) return Failed(errno, "examine", part);
    if (i > 0 && i + 1 == names->size() && file.st_size == 0) return Remove(part);
    if (file.st_size % kPartUnitBytes == 0) continue;
    if (i == 0 && file.st_size < kPartUnitBytes) continue;  // Perhaps no pool: CheckFirstFile.
    return absl::DataLossError(absl::StrCat(
        part, " is ", file.st_size, " bytes long, and all parts are multiples of ", kPartUnitBytes,
        ": somebody has cut it short or made it longer; restore it from a copy"));
  }
  return absl::OkStatus();
}

}  // namespace daxkv::dax
