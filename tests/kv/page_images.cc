#include "tests/kv/page_images.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

namespace daxkv::kv {

void MappedFile::Map(const std::string& path, size_t size_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* map = mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  ASSERT_NE(map, MAP_FAILED);
  bytes_ = static_cast<const char*>(map);
  size_bytes_ = size_bytes;
}

void MappedFile::Unmap() {
  if (bytes_ != nullptr) munmap(const_cast<char*>(bytes_), size_bytes_);
  bytes_ = nullptr;
}

void WriteMixedImage(const std::string& path, const std::vector<const FileCopy*>& copies,
                     unsigned rare, std::mt19937_64& random) {
  const unsigned mode = random() % 5;
  const auto choose = [&]() -> const FileCopy& {
    if (mode == 0) return *copies.front();
    if (mode == 1) return random() % rare == 0 ? *copies.back() : *copies.front();
    if (mode == 2) return random() % rare == 0 ? *copies.front() : *copies.back();
    return *copies[random() % copies.size()];
  };
  FileCopy image(copies.front()->size());
  for (uint64_t at = 0; at < image.size(); at += kPageSizeBytes) {
    std::memcpy(&image[at], &choose()[at], kPageSizeBytes);
    if (mode != 4) continue;
    // Torn: each aligned word from one of two times.
    const FileCopy& other = choose();
    if (std::memcmp(&image[at], &other[at], kPageSizeBytes) == 0) continue;
    for (uint64_t word = at; word < at + kPageSizeBytes; word += 8) {
      if (random() % 2 == 0) std::memcpy(&image[word], &other[word], 8);
    }
  }
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(image.data(), static_cast<std::streamsize>(image.size()));
  ASSERT_TRUE(file.good());
}

}  // namespace daxkv::kv
