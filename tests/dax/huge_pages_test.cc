// Files on tmpfs that get their blocks in huge pages.
#include "dax/huge_pages.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <string>
#include <string_view>

#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kHugeBytes = 2 * kTestMiB;

// A file without a name.
class NamelessFile {
 public:
  explicit NamelessFile(const std::string& directory) : file_(Make(directory + "/file-XXXXXX")) {}
  ~NamelessFile() { close(file_); }
  int get() const { return file_; }
  struct stat Examine() const {
    struct stat result = {};
    EXPECT_EQ(fstat(file_, &result), 0);
    return result;
  }

 private:
  static int Make(std::string path) {
    const int file = mkostemp(path.data(), O_CLOEXEC);
    EXPECT_GE(file, 0) << path;
    unlink(path.c_str());
    return file;
  }

  const int file_;
};

// The file's first bytes, at a multiple of 2 MiB.
class AlignedMapping {
 public:
  AlignedMapping(int file, uint64_t size_bytes) : room_size_bytes_(size_bytes + kHugeBytes) {
    room_ = mmap(nullptr, room_size_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const uint64_t begin = (reinterpret_cast<uint64_t>(room_) + kHugeBytes - 1) & ~(kHugeBytes - 1);
    bytes_ = static_cast<char*>(mmap(reinterpret_cast<void*>(begin), size_bytes,
                                     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0));
  }
  ~AlignedMapping() { munmap(room_, room_size_bytes_); }
  char* bytes() const { return bytes_; }

 private:
  const uint64_t room_size_bytes_;
  void* room_;
  char* bytes_;
};

// Whether the kernel has huge pages for a file on tmpfs that are asked for.
bool HasHugePagesForTmpfs() {
  const NamelessFile file(ScratchDirectory::OnMemory());
  AllocateByHugePages(file.get(), kHugeBytes);
  if (ftruncate(file.get(), kHugeBytes) != 0) return false;
  const AlignedMapping mapped(file.get(), kHugeBytes);
  mapped.bytes()[0] = 1;
  const absl::StatusOr<HugePages> pages = CountHugePages(mapped.bytes(), kHugeBytes);
  return pages.ok() && pages->shmem_bytes == kHugeBytes;
}

TEST(AllocateByHugePagesTest, AFileAllocatedByThemReadsAsZeros) {
  constexpr uint64_t kSizeBytes = 4 * kHugeBytes;
  const NamelessFile file(ScratchDirectory::OnMemory());
  AllocateByHugePages(file.get(), kSizeBytes);
  ASSERT_EQ(posix_fallocate(file.get(), 0, kSizeBytes), 0);
  EXPECT_EQ(file.Examine().st_size, static_cast<off_t>(kSizeBytes));
  EXPECT_EQ(file.Examine().st_blocks * 512, static_cast<blkcnt_t>(kSizeBytes));
  const AlignedMapping mapped(file.get(), kSizeBytes);
  EXPECT_EQ(std::string_view(mapped.bytes(), kSizeBytes), std::string(kSizeBytes, '\0'));
}

TEST(AllocateByHugePagesTest, OnOtherFileSystemsNothingIsAllocatedByThem) {
  const NamelessFile file(ScratchDirectory::OnDisk());
  struct statfs system;
  ASSERT_EQ(fstatfs(file.get(), &system), 0);
  if (system.f_type == TMPFS_MAGIC) GTEST_SKIP() << "TEST_TMPDIR is on tmpfs";
  AllocateByHugePages(file.get(), kHugeBytes);
  EXPECT_EQ(file.Examine().st_size, 0);
}

// Only where asked for: a store that gives single pages back is better off with small ones.
TEST(AllocateByHugePagesTest, APoolGrowsByThemIfToldTo) {
  if (!HasHugePagesForTmpfs()) GTEST_SKIP() << "no huge pages to be had for tmpfs";
  const ScratchDirectory scratch(ScratchDirectory::OnMemory());
  PoolOptions options = TestOptions();
  options.huge_pages = true;
  const std::unique_ptr<Pool> pool = MustOpen(scratch.Child("pool"), options);
  const PoolRun run = MustAllocate(*pool, 64 * kTestMiB / kPageSizeBytes);
  const uint64_t before = CountHugePages(pool->At(run.offset()), run.size_bytes())->shmem_bytes;
  for (uint64_t offset = 0; offset < run.size_bytes(); offset += kHugeBytes) {
    *pool->At(run.offset() + offset) = 1;
  }
  EXPECT_GE(CountHugePages(pool->At(run.offset()), run.size_bytes())->shmem_bytes,
            before + run.size_bytes() / 2);
}

}  // namespace
}  // namespace daxkv::dax
