#include "dax/backing_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <mutex>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "dax/exceptions.h"
#include "dax/pool.h"
#include "dax/small_file.h"

namespace daxkv::dax {
namespace {

// Under /sys/dev/char, by number: a device's length is not in its stat.
std::string SysfsOf(const struct stat& device) {
  return absl::StrCat("/sys/dev/char/", major(device.st_rdev), ":", minor(device.st_rdev));
}

bool ReadNumber(const std::string& path, uint64_t* number) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path);
  return text.ok() && absl::SimpleAtoi(*text, number);
}

// EOPNOTSUPP and ENOSYS.
bool IsUnknownCall(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsUnimplemented(status);
}

}  // namespace

absl::StatusOr<BackingFiles::DeviceShape> BackingFiles::ReadDeviceShape(const std::string& sysfs,
                                                                        const std::string& path) {
  DeviceShape shape;
  if (!ReadNumber(sysfs + "/size", &shape.size_bytes)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is no DAX device: ", sysfs, "/size says no length"));
  }
  // Older kernels (before 4.18, class "dax" and not bus) have it a level higher.
  if (!ReadNumber(sysfs + "/align", &shape.alignment_bytes) &&
      !ReadNumber(sysfs + "/device/align", &shape.alignment_bytes)) {
    shape.alignment_bytes = kHugePages * kPageSizeBytes;
  }
  const uint64_t alignment = shape.alignment_bytes;
  if (alignment < kPageSizeBytes || (alignment & (alignment - 1)) != 0 ||
      shape.size_bytes < alignment) {
    return absl::FailedPreconditionError(absl::StrCat(path, " has ", shape.size_bytes,
                                                      " bytes at an alignment of ", alignment,
                                                      ": no pool fits there"));
  }
  shape.size_bytes &= ~(alignment - 1);
  return shape;
}

absl::StatusOr<uint64_t> BackingFiles::SizeOf(const std::string& path) {
  struct stat file;
  if (stat(path.c_str(), &file) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", path));
  }
  if (!S_ISCHR(file.st_mode)) return static_cast<uint64_t>(file.st_size);
  const absl::StatusOr<DeviceShape> shape = ReadDeviceShape(SysfsOf(file), path);
  if (!shape.ok()) return shape.status();
  return shape->size_bytes;
}

absl::StatusOr<std::unique_ptr<BackingFiles>> BackingFiles::OpenParts(
    const std::string& directory) {
  std::unique_ptr<BackingFiles> files(new BackingFiles(directory));
  const absl::Status status = files->AddNewParts();
  if (!status.ok()) return status;
  if (files->parts_.empty()) {
    return absl::DataLossError(absl::StrCat(directory, "/000000.pmem is missing"));
  }
  return files;
}

absl::StatusOr<std::unique_ptr<BackingFiles>> BackingFiles::OpenFile(const std::string& path) {
  std::unique_ptr<BackingFiles> files(new BackingFiles(""));
  const absl::Status status = files->Append(path);
  if (!status.ok()) return status;
  return files;
}

std::string BackingFiles::PartPath(size_t number) const {
  // Not absl::StrFormat, which ends the process when memory runs out.
  return absl::StrCat(directory_, "/", absl::Dec(number, absl::kZeroPad6), ".pmem");
}

absl::Status BackingFiles::MakeNextPart(uint64_t size_bytes, absl::Span<const Range> written) {
  const uint64_t begin = this->size_bytes();
  const auto length = static_cast<off_t>(size_bytes);
  return MakeNextPart(size_bytes, [&](int file) {
    if (ftruncate(file, length) != 0) return errno;
    for (const Range& range : written) {
      if (fallocate(file, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset - begin),
                    static_cast<off_t>(range.size_bytes)) == 0) {
        continue;
      }
      const bool unknown = errno == EOPNOTSUPP || errno == ENOSYS;
      return unknown ? posix_fallocate(file, 0, length) : errno;
    }
    return 0;
  });
}

absl::Status BackingFiles::MakeNextPart(uint64_t size_bytes,
                                        absl::FunctionRef<int(int file)> allocate) {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  const std::string path = PartPath(parts_.size());
  // Without a name until it is whole, where the file system knows that.
  FileDescriptor file(open(directory_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644));
  const bool named = !file.valid();
  if (named) file = FileDescriptor(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", path));
  int error = allocate(file.get());
  if (error == 0 && !named &&
      linkat(AT_FDCWD, absl::StrCat("/proc/self/fd/", file.get()).c_str(), AT_FDCWD, path.c_str(),
             AT_SYMLINK_FOLLOW) != 0) {
    error = errno;
  }
  const bool there = named || error == 0;
  if (error == 0) error = MakeDurable(file.get());
  if (error == 0) return absl::OkStatus();
  if (there) unlink(path.c_str());
  return absl::ErrnoToStatus(
      error, absl::StrCat("cannot grow the pool by ", size_bytes, " bytes, in ", path));
}

int BackingFiles::MakeDurable(int part) const {
  const FileDescriptor directory(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const bool done = fsync(part) == 0 && directory.valid() && fsync(directory.get()) == 0;
  return done ? 0 : errno;
}

void BackingFiles::RemoveNextPart() {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  unlink(PartPath(parts_.size()).c_str());
}

absl::Status BackingFiles::AddNewParts() {
  if (directory_.empty()) return absl::OkStatus();
  const std::unique_lock<std::shared_mutex> lock(mutex_);
  while (true) {
    absl::Status status = Append(PartPath(parts_.size()));
    if (absl::IsNotFound(status)) return absl::OkStatus();
    if (!status.ok()) return status;
  }
}

absl::Status BackingFiles::RemovePartsFrom(uint64_t end) {
  const std::unique_lock<std::shared_mutex> lock(mutex_);
  for (; parts_.size() > 1 && parts_.back().offset >= end; parts_.pop_back()) {
    if (unlink(parts_.back().path.c_str()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove ", parts_.back().path));
    }
  }
  return absl::OkStatus();
}

bool BackingFiles::Read(uint64_t offset, void* to, uint64_t size_bytes) const {
  const uint64_t all = this->size_bytes();
  if (offset > all || size_bytes > all - offset) return false;
  auto* next = static_cast<char*>(to);
  return ForEachPiece(
             offset, size_bytes,
             [&next](const Part& part, uint64_t inside, uint64_t length) {
               const ssize_t got = pread(part.file.get(), next, length, static_cast<off_t>(inside));
               next += length;
               return got == static_cast<ssize_t>(length) ? absl::OkStatus()
                                                          : absl::UnavailableError(part.path);
             })
      .ok();
}

absl::Status BackingFiles::Append(const std::string& path) {
  FileDescriptor opened(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!opened.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat file;
  if (fstat(opened.get(), &file) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", path));
  }
  Part part;
  part.device = S_ISCHR(file.st_mode);
  if (!part.device && !S_ISREG(file.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  part.size_bytes = static_cast<uint64_t>(file.st_size);
  if (part.device) {
    const absl::StatusOr<DeviceShape> shape = ReadDeviceShape(SysfsOf(file), path);
    if (!shape.ok()) return shape.status();
    part.size_bytes = shape->size_bytes;
  }
  if (part.device) has_holes_.store(false, std::memory_order_relaxed);
  part.size_bytes &= ~(kPageSizeBytes - 1);
  part.inode = file.st_ino;
  part.file = std::move(opened);
  part.path = path;
  if (!parts_.empty()) part.offset = parts_.back().offset + parts_.back().size_bytes;
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

absl::Status BackingFiles::MapAgain(char* base, uint64_t page) const {
  return ForEachPiece(
      page << kPageShift, kPageSizeBytes,
      [&](const Part& part, uint64_t inside, uint64_t length) -> absl::Status {
        if (part.device) {
          return absl::UnimplementedError(
              absl::StrCat(part.path, " is a device, which maps no single pages"));
        }
        char* address = base + (page << kPageShift);
        const auto map = [&](int flags) {
          return mmap(address, length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, part.file.get(),
                      static_cast<off_t>(inside)) == address;
        };
        // As libpmem maps it: with MAP_SYNC where that is to be had.
        if (map(MAP_SHARED_VALIDATE | MAP_SYNC) || map(MAP_SHARED)) return absl::OkStatus();
        return absl::ErrnoToStatus(
            errno, absl::StrCat("cannot map offset ", inside, " of ", part.path, " again"));
      });
}

absl::Status BackingFiles::VerifyMapping(const char* base,
                                         const std::function<bool(uint64_t page)>& replaced) const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  const absl::StatusOr<std::string> maps = ReadSmallFile("/proc/self/maps");
  if (!maps.ok()) return maps.status();
  const auto wrong = [](const Part& part) {
    return absl::InternalError(
        absl::StrCat(part.path, " is not mapped at pool offset ", part.offset, " as it should be"));
  };
  // Lines come in ascending order, so each goes on where the parts before it ended.
  size_t next = 0;          // The first part not yet seen to its end...
  uint64_t seen_bytes = 0;  // ...and how much of it was.
  const auto origin = reinterpret_cast<uint64_t>(base);
  for (size_t line = 0, end; next < parts_.size() && line < maps->size(); line = end + 1) {
    end = std::min(maps->find('\n', line), maps->size());
    uint64_t first, last, file_offset, inode;
    const int fields =  // NOLINTNEXTLINE(cert-err34-c): the kernel's numbers
        std::sscanf(maps->c_str() + line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %" SCNu64,
                    &first, &last, &file_offset, &inode);
    // The first part's mapping may go on to the end of the reserved addresses.
    while (fields == 4 && next < parts_.size()) {
      const Part& part = parts_[next];
      const uint64_t wanted = origin + part.offset + seen_bytes;
      if (wanted < first || wanted >= last) break;
      const uint64_t stop = std::min(last, origin + part.offset + part.size_bytes);
      bool passed_over = inode == 0;
      for (uint64_t at = wanted; at < stop && passed_over; at += kPageSizeBytes) {
        passed_over = replaced((at - origin) >> kPageShift);
      }
      if (!passed_over && (part.inode != inode || wanted - first + file_offset != seen_bytes)) {
        return wrong(part);
      }
      seen_bytes += std::min(last - wanted, part.size_bytes - seen_bytes);
      if (seen_bytes != part.size_bytes) break;
      ++next;
      seen_bytes = 0;
    }
  }
  return next == parts_.size() ? absl::OkStatus() : wrong(parts_[next]);
}

uint64_t BackingFiles::size_bytes() const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  return parts_.back().offset + parts_.back().size_bytes;
}

std::string BackingFiles::first_path() const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  return parts_.front().path;
}

absl::Status BackingFiles::ForEachPiece(
    uint64_t offset, uint64_t size_bytes,
    absl::FunctionRef<absl::Status(const Part&, uint64_t, uint64_t)> visit) const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  auto part = std::upper_bound(parts_.begin(), parts_.end(), offset,
                               [](uint64_t wanted, const Part& p) { return wanted < p.offset; });
  --part;
  for (; size_bytes != 0 && part != parts_.end(); ++part) {
    const uint64_t inside = offset - part->offset;
    const uint64_t length = std::min(size_bytes, part->size_bytes - inside);
    absl::Status status = visit(*part, inside, length);
    if (!status.ok()) return status;
    offset += length;
    size_bytes -= length;
  }
  if (size_bytes == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("pool offset ", offset, " lies in no backing file"));
}

absl::Status BackingFiles::Allocate(int mode, const char* action, uint64_t offset,
                                    uint64_t size_bytes) {
  return ForEachPiece(offset, size_bytes,
                      [&](const Part& part, uint64_t inside, uint64_t length) -> absl::Status {
                        if (part.device) return absl::OkStatus();
                        int result;
                        do {
                          result = fallocate(part.file.get(), mode, static_cast<off_t>(inside),
                                             static_cast<off_t>(length));
                        } while (result != 0 && errno == EINTR);
                        if (result == 0) return absl::OkStatus();
                        return absl::ErrnoToStatus(
                            errno, absl::StrCat("cannot ", action, " ", length, " bytes at offset ",
                                                inside, " of ", part.path));
                      });
}

absl::Status BackingFiles::Reserve(uint64_t offset, uint64_t size_bytes) noexcept {
  absl::Status status = WithoutExceptions(
      [&] { return Allocate(FALLOC_FL_KEEP_SIZE, "reserve", offset, size_bytes); });
  // Where fallocate is unknown there are no holes either, so the blocks are there.
  if (IsUnknownCall(status)) return absl::OkStatus();
  return status;
}

absl::Status BackingFiles::Punch(uint64_t offset, uint64_t size_bytes) noexcept {
  constexpr int kMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return WithoutExceptions([&]() -> absl::Status {
    if (HasHoles()) {
      absl::Status status = Allocate(kMode, "punch", offset, size_bytes);
      if (!IsUnknownCall(status)) return status;
      has_holes_.store(false, std::memory_order_relaxed);
    }
    return absl::UnimplementedError(
        absl::StrCat(first_path(), " has no holes: space is reused inside it"));
  });
}

absl::StatusOr<uint64_t> BackingFiles::BlocksBytes() const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  uint64_t bytes = 0;
  for (const Part& part : parts_) {
    struct stat file;
    if (fstat(part.file.get(), &file) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", part.path));
    }
    bytes += part.device ? part.size_bytes : static_cast<uint64_t>(file.st_blocks) * 512;
  }
  return bytes;
}

}  // namespace daxkv::dax
