// Files on tmpfs that get their blocks in huge pages.
#include "dax/huge_pages.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <string>
#include <string_view>
#include <utility>

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

TEST(AllocateHugePageTest, WhatIsThereStaysAndTheRestReadsAsZeros) {
  const NamelessFile file(ScratchDirectory::OnMemory());
  ASSERT_EQ(ftruncate(file.get(), kHugeBytes), 0);
  const AlignedMapping mapped(file.get(), kHugeBytes);
  std::string expected(kHugeBytes, '\0');
  expected[kHugeBytes / 2] = mapped.bytes()[kHugeBytes / 2] = 'a';
  const bool came = AllocateHugePage(mapped.bytes());
  EXPECT_EQ(std::string_view(mapped.bytes(), kHugeBytes), expected);
  if (!came) GTEST_SKIP() << "no huge page to be had for tmpfs";
  EXPECT_EQ(file.Examine().st_blocks * 512, static_cast<blkcnt_t>(kHugeBytes));
  EXPECT_EQ(CountHugePages(mapped.bytes(), kHugeBytes)->shmem_bytes, kHugeBytes);
}

TEST(AllocateHugePageTest, OnOtherFileSystemsNoneComes) {
  const NamelessFile file(ScratchDirectory::OnDisk());
  struct statfs system;
  ASSERT_EQ(fstatfs(file.get(), &system), 0);
  if (system.f_type == TMPFS_MAGIC) GTEST_SKIP() << "TEST_TMPDIR is on tmpfs";
  ASSERT_EQ(ftruncate(file.get(), kHugeBytes), 0);
  const AlignedMapping mapped(file.get(), kHugeBytes);
  EXPECT_FALSE(AllocateHugePage(mapped.bytes()));
}

// A page beyond the file's end would be SIGBUS for who stored there.
TEST(AllocateHugePageTest, BehindTheEndOfTheFileNoneComes) {
  const NamelessFile file(ScratchDirectory::OnMemory());
  const AlignedMapping mapped(file.get(), kHugeBytes);
  EXPECT_FALSE(AllocateHugePage(mapped.bytes()));
  EXPECT_EQ(file.Examine().st_blocks, 0);
}

// And its blocks come back page by page all the same.
TEST(AllocateHugePageTest, APoolReservesThemAheadAndPunchesTheirPages) {
  const NamelessFile probe(ScratchDirectory::OnMemory());
  ASSERT_EQ(ftruncate(probe.get(), kHugeBytes), 0);
  if (!AllocateHugePage(AlignedMapping(probe.get(), kHugeBytes).bytes())) {
    GTEST_SKIP() << "no huge page to be had for tmpfs";
  }
  const ScratchDirectory scratch(ScratchDirectory::OnMemory());
  const std::unique_ptr<Pool> pool = MustOpen(scratch.Child("pool"), TestOptions());
  MustAllocate(*pool, 64 * kTestMiB / kPageSizeBytes);
  pool->ReserveAhead();
  // Other halves may be left; the two of one block follow each other.
  PoolRun run = MustAllocate(*pool, kHugeBytes / 2 / kPageSizeBytes);
  PoolRun other = MustAllocate(*pool, kHugeBytes / 2 / kPageSizeBytes);
  for (int i = 0; i < 8 && other.offset() != run.offset() + run.size_bytes(); ++i) {
    run = std::exchange(other, MustAllocate(*pool, kHugeBytes / 2 / kPageSizeBytes));
  }
  ASSERT_EQ(run.offset() % kHugeBytes, 0u);
  ASSERT_EQ(other.offset(), run.offset() + run.size_bytes());
  *pool->At(run.offset()) = *pool->At(other.offset()) = 1;
  EXPECT_EQ(CountHugePages(pool->At(run.offset()), kHugeBytes)->shmem_bytes, kHugeBytes);
  const uint64_t before = pool->Stats()->file_blocks_bytes;
  ASSERT_EQ(pool->ReleaseRun(run), absl::OkStatus());
  EXPECT_EQ(before - pool->Stats()->file_blocks_bytes, kHugeBytes / 2);
  EXPECT_EQ(*pool->At(other.offset()), 1);
}

}  // namespace
}  // namespace daxkv::dax
