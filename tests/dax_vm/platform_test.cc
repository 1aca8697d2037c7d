// What daxkv takes for granted of a DAX file system, asked of the real thing. Only the machine that
// tests/dax_vm/run boots has one, so these tests don't belong to an ordinary run: they fail, and
// must fail, on anything but a DAX mount. Their folder is $TEST_TMPDIR.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <libpmem.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace daxkv {
namespace {

constexpr size_t kPageSizeBytes = 4096;
constexpr size_t kHugeSizeBytes = size_t{2} << 20;

std::string TestFolder() {
  const char* folder = std::getenv("TEST_TMPDIR");
  return folder != nullptr ? folder : ::testing::TempDir();
}

// A file with all its blocks, gone at the end of the test.
class File {
 public:
  explicit File(size_t size_bytes) : path_(TestFolder() + "/platform.data") {
    descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT_GE(descriptor_, 0) << path_ << ": " << std::strerror(errno);
    EXPECT_EQ(fallocate(descriptor_, 0, 0, static_cast<off_t>(size_bytes)), 0)
        << std::strerror(errno);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    close(descriptor_);
    unlink(path_.c_str());
  }

  int descriptor() const { return descriptor_; }
  const std::string& path() const { return path_; }

  size_t AllocatedBytes() const {
    struct stat status {};
    EXPECT_EQ(fstat(descriptor_, &status), 0);
    return static_cast<size_t>(status.st_blocks) * 512;
  }

  void Punch(size_t offset, size_t size_bytes) const {
    EXPECT_EQ(fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(offset), static_cast<off_t>(size_bytes)),
              0)
        << std::strerror(errno);
  }

 private:
  std::string path_;
  int descriptor_ = -1;
};

// A writable shared mapping of a whole file whose address is `misalignment_bytes` past a multiple
// of 2 MiB.
class Mapping {
 public:
  Mapping(const File& file, size_t size_bytes, int flags, size_t misalignment_bytes = 0)
      : size_bytes_(size_bytes) {
    reserved_size_bytes_ = size_bytes + 2 * kHugeSizeBytes;
    reserved_ = mmap(nullptr, reserved_size_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(reserved_, MAP_FAILED);
    const uintptr_t aligned =
        (reinterpret_cast<uintptr_t>(reserved_) + kHugeSizeBytes - 1) & ~(kHugeSizeBytes - 1);
    void* const wanted = reinterpret_cast<void*>(aligned + misalignment_bytes);
    void* const mapped =
        mmap(wanted, size_bytes, PROT_READ | PROT_WRITE, MAP_FIXED | flags, file.descriptor(), 0);
    EXPECT_EQ(mapped, wanted) << std::strerror(errno);
    bytes_ = mapped == MAP_FAILED ? nullptr : static_cast<volatile char*>(mapped);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(reserved_, reserved_size_bytes_); }

  bool mapped() const { return bytes_ != nullptr; }
  volatile char* bytes() const { return bytes_; }

  // Stores into every page, and returns the page faults that this took.
  uint64_t TouchEveryPage() const {
    const uint64_t before = FaultCount();
    for (size_t offset = 0; offset < size_bytes_; offset += kPageSizeBytes) bytes_[offset] = 'd';
    return FaultCount() - before;
  }

 private:
  static uint64_t FaultCount() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<uint64_t>(usage.ru_minflt) + static_cast<uint64_t>(usage.ru_majflt);
  }

  size_t size_bytes_ = 0;
  size_t reserved_size_bytes_ = 0;
  void* reserved_ = nullptr;
  volatile char* bytes_ = nullptr;
};

// The results of huge faults (NOPAGE, NEEDDSYNC, FALLBACK, ...), as the kernel's tracepoint
// fs_dax:dax_pmd_fault_done tells them while a FaultTrace lives.
class FaultTrace {
 public:
  FaultTrace() {
    Write("trace", "");
    Write("events/fs_dax/dax_pmd_fault_done/enable", "1");
  }
  FaultTrace(const FaultTrace&) = delete;
  FaultTrace& operator=(const FaultTrace&) = delete;
  ~FaultTrace() { Write("events/fs_dax/dax_pmd_fault_done/enable", "0"); }

  static std::vector<std::string> Results() {
    std::vector<std::string> results;
    std::ifstream trace(Path("trace"));
    for (std::string line; std::getline(trace, line);) {
      if (line.find("dax_pmd_fault_done:") == std::string::npos) continue;
      results.push_back(line.substr(line.rfind(' ') + 1));
    }
    return results;
  }

 private:
  static std::string Path(const std::string& name) { return "/sys/kernel/tracing/" + name; }
  static void Write(const std::string& name, const std::string& text) {
    std::ofstream file(Path(name));
    file << text << std::flush;
    EXPECT_TRUE(file.good()) << Path(name);
  }
};

constexpr int kSynchronous = MAP_SHARED_VALIDATE | MAP_SYNC;

TEST(PlatformTest, NothingIsForced) { EXPECT_EQ(std::getenv("PMEM_IS_PMEM_FORCE"), nullptr); }

TEST(PlatformTest, LibpmemFindsPersistentMemory) {
  File file(kHugeSizeBytes);
  size_t mapped_size_bytes = 0;
  int is_pmem = 0;
  void* const mapped = pmem_map_file(file.path().c_str(), 0, 0, 0, &mapped_size_bytes, &is_pmem);
  ASSERT_NE(mapped, nullptr) << pmem_errormsg();
  EXPECT_EQ(is_pmem, 1);
  EXPECT_EQ(mapped_size_bytes, kHugeSizeBytes);
  pmem_unmap(mapped, mapped_size_bytes);
}

TEST(PlatformTest, AlignedSynchronousMappingTakesHugeFaults) {
  constexpr size_t kSizeBytes = 32 * kHugeSizeBytes;
  File file(kSizeBytes);
  Mapping mapping(file, kSizeBytes, kSynchronous);
  ASSERT_TRUE(mapping.mapped());
  const uint64_t faults = mapping.TouchEveryPage();
  // A fault of the test's own code or stack may come between.
  EXPECT_GE(faults, 32u);
  EXPECT_LE(faults, 40u);
}

TEST(PlatformTest, MisalignedMappingTakesSmallFaults) {
  constexpr size_t kSizeBytes = 2 * kHugeSizeBytes;
  File file(kSizeBytes);
  Mapping mapping(file, kSizeBytes, kSynchronous, kPageSizeBytes);
  ASSERT_TRUE(mapping.mapped());
  EXPECT_GE(mapping.TouchEveryPage(), kSizeBytes / kPageSizeBytes);
}

TEST(PlatformTest, FirstTenHugeFaultsAllSucceed) {
  constexpr size_t kSizeBytes = 10 * kHugeSizeBytes;
  File file(kSizeBytes);
  FaultTrace trace;
  Mapping mapping(file, kSizeBytes, MAP_SHARED);
  ASSERT_TRUE(mapping.mapped());
  mapping.TouchEveryPage();
  EXPECT_EQ(trace.Results(), std::vector<std::string>(10, "NOPAGE"));
}

// A synchronous mapping has the file system commit the blocks first (NEEDDSYNC); the fault stays
// huge.
TEST(PlatformTest, SynchronousHugeFaultsDontFallBack) {
  constexpr size_t kSizeBytes = 10 * kHugeSizeBytes;
  File file(kSizeBytes);
  FaultTrace trace;
  Mapping mapping(file, kSizeBytes, kSynchronous);
  ASSERT_TRUE(mapping.mapped());
  mapping.TouchEveryPage();
  const std::vector<std::string> results = trace.Results();
  EXPECT_EQ(results.size(), 10u);
  for (const std::string& result : results) {
    EXPECT_TRUE(result == "NOPAGE" || result == "NEEDDSYNC") << result;
  }
}

TEST(PlatformTest, HoleInAMappedFileGivesItsBlocksBack) {
  constexpr size_t kSizeBytes = 8 * kHugeSizeBytes;
  File file(kSizeBytes);
  Mapping mapping(file, kSizeBytes, kSynchronous);
  ASSERT_TRUE(mapping.mapped());
  mapping.TouchEveryPage();
  const size_t before = file.AllocatedBytes();
  file.Punch(2 * kHugeSizeBytes, 4 * kHugeSizeBytes);
  EXPECT_EQ(before - file.AllocatedBytes(), 4 * kHugeSizeBytes);
  EXPECT_EQ(mapping.bytes()[2 * kHugeSizeBytes - kPageSizeBytes], 'd');
  EXPECT_EQ(mapping.bytes()[2 * kHugeSizeBytes], '\0');
  EXPECT_EQ(mapping.bytes()[6 * kHugeSizeBytes - kPageSizeBytes], '\0');
  EXPECT_EQ(mapping.bytes()[6 * kHugeSizeBytes], 'd');
}

TEST(PlatformTest, HoleInsideAHugePageLeavesTheRestOfIt) {
  File file(kHugeSizeBytes);
  Mapping mapping(file, kHugeSizeBytes, kSynchronous);
  ASSERT_TRUE(mapping.mapped());
  mapping.TouchEveryPage();
  const size_t before = file.AllocatedBytes();
  constexpr size_t kHoleOffset = 16 * kPageSizeBytes, kHoleSizeBytes = 4 * kPageSizeBytes;
  file.Punch(kHoleOffset, kHoleSizeBytes);
  EXPECT_EQ(before - file.AllocatedBytes(), kHoleSizeBytes);
  for (size_t offset = 0; offset < kHugeSizeBytes; offset += kPageSizeBytes) {
    const bool in_hole = offset >= kHoleOffset && offset < kHoleOffset + kHoleSizeBytes;
    ASSERT_EQ(mapping.bytes()[offset], in_hole ? '\0' : 'd') << offset;
  }
}

// What a punched range gets back on its next use: blocks first, then a store that can't fail.
TEST(PlatformTest, PunchedRangeCanBeReservedAgainWhileMapped) {
  File file(2 * kHugeSizeBytes);
  Mapping mapping(file, 2 * kHugeSizeBytes, kSynchronous);
  ASSERT_TRUE(mapping.mapped());
  mapping.TouchEveryPage();
  const size_t before = file.AllocatedBytes();
  file.Punch(0, kHugeSizeBytes);
  ASSERT_EQ(fallocate(file.descriptor(), 0, 0, kHugeSizeBytes), 0) << std::strerror(errno);
  EXPECT_EQ(file.AllocatedBytes(), before);
  EXPECT_EQ(mapping.bytes()[0], '\0');
  mapping.bytes()[0] = 'e';
  EXPECT_EQ(mapping.bytes()[0], 'e');
}

}  // namespace
}  // namespace daxkv
