// A store's file as every process sees it, and what a power cut may leave of it: each page, or each
// aligned word of eight bytes, as it was at any of some moments.
#ifndef DAXKV_TESTS_KV_PAGE_IMAGES_H_
#define DAXKV_TESTS_KV_PAGE_IMAGES_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace daxkv::kv {

constexpr uint64_t kPageSizeBytes = 4096;
using FileCopy = std::vector<char>;

// Not thread-safe.
class MappedFile {
 public:
  // Fails the test, and maps nothing, if it can't.
  void Map(const std::string& path, size_t size_bytes);
  void Unmap();
  bool is_mapped() const { return bytes_ != nullptr; }
  FileCopy Copy(size_t first, size_t last) const { return {bytes_ + first, bytes_ + last}; }
  FileCopy Copy() const { return Copy(0, size_bytes_); }

 private:
  const char* bytes_ = nullptr;
  size_t size_bytes_ = 0;
};

// Writes a file in which pages are as in one of the copies, the first being the oldest. Images are
// of five sorts: all of it old; nearly all old, or nearly all new, but one page in `rare`; any mix
// of pages; any mix of words.
void WriteMixedImage(const std::string& path, const std::vector<const FileCopy*>& copies,
                     unsigned rare, std::mt19937_64& random);

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_PAGE_IMAGES_H_
