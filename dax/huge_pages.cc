#include "dax/huge_pages.h"

#include <sys/mman.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace daxkv::dax {
namespace {

// The kernel's numbers: C libraries that are older than the kernel lack the names.
constexpr int kPopulateRead = 22;
constexpr int kPopulateWrite = 23;
constexpr int kCollapse = 25;

constexpr uint64_t kHugeBytes = uint64_t{2} << 20;

// Adds a line "NAME:  N kB" to the field of that name.
void AddField(const std::string& line, HugePages& pages) {
  char name[32];
  uint64_t kib;
  // NOLINTNEXTLINE(cert-err34-c): the kernel's numbers
  if (std::sscanf(line.c_str(), "%31[^:]: %" SCNu64 " kB", name, &kib) != 2) return;
  const std::string_view field(name);
  const uint64_t bytes = kib << 10;
  if (field == "Size") pages.mapped_bytes += bytes;
  if (field == "Rss") pages.resident_bytes += bytes;
  if (field == "ShmemPmdMapped") pages.shmem_bytes += bytes;
  if (field == "FilePmdMapped") pages.file_bytes += bytes;
  if (field == "AnonHugePages") pages.anonymous_bytes += bytes;
}

}  // namespace

absl::StatusOr<HugePages> CountHugePages(const void* begin, uint64_t size_bytes) {
  std::ifstream smaps("/proc/self/smaps");
  if (!smaps) return absl::InternalError("cannot read /proc/self/smaps");
  const auto wanted_first = reinterpret_cast<uint64_t>(begin);
  const uint64_t wanted_end = wanted_first + size_bytes;
  HugePages pages;
  bool inside = false;  // The lines are about a mapping that counts.
  for (std::string line; std::getline(smaps, line);) {
    uint64_t first, end, inode;
    // NOLINTNEXTLINE(cert-err34-c): the kernel's numbers
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %" SCNu64, &first, &end,
                    &inode) == 3) {
      inside = first < wanted_end && end > wanted_first && inode != 0;
    } else if (inside) {
      AddField(line, pages);
    }
  }
  return pages;
}

void AdviseHugePages(void* begin, uint64_t size_bytes) {
  // A kernel without huge pages refuses, which is all the same.
  static_cast<void>(madvise(begin, size_bytes, MADV_HUGEPAGE));
}

bool AllocateHugePage(const char* begin) {
  return PopulatePages(begin, 1, /*for_writing=*/true).ok() &&
         madvise(const_cast<char*>(begin), kHugeBytes, kCollapse) == 0;
}

absl::Status PopulatePages(const char* begin, uint64_t size_bytes, bool for_writing) {
  void* const first = const_cast<char*>(begin);
  int result;
  do {
    result = madvise(first, size_bytes, for_writing ? kPopulateWrite : kPopulateRead);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) {
    if (size_bytes >= kHugeBytes) static_cast<void>(madvise(first, size_bytes, kCollapse));
    return absl::OkStatus();
  }
  const std::string action = absl::StrCat("mapping ", size_bytes, " bytes in advance: ");
  if (errno == EINVAL) {
    return absl::UnimplementedError(action + "this needs Linux 5.14 or newer");
  }
  return absl::ResourceExhaustedError(absl::StrCat(action, strerror(errno)));
}

}  // namespace daxkv::dax
