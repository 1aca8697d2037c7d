// A file descriptor with an owner.
#ifndef DAXKV_DAX_FILE_DESCRIPTOR_H_
#define DAXKV_DAX_FILE_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace daxkv::dax {

// Move-only; closes when it goes. Negative: none.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }

  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_FILE_DESCRIPTOR_H_
