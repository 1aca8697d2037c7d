// The pool on a real DAX file system: it says what it stands on, its huge runs are mapped huge, and
// its released runs go back to the file system. As platform_test, for the machine of
// tests/dax_vm/run only. $FILE_SYSTEM names the file system there.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/media.h"
#include "dax/pool.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

std::string FileSystem() {
  const char* name = std::getenv("FILE_SYSTEM");
  return name != nullptr ? name : "";
}

uint64_t FaultCount() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_minflt) + static_cast<uint64_t>(usage.ru_majflt);
}

uint64_t FreeBytes(const std::string& path) {
  struct statvfs status {};
  EXPECT_EQ(statvfs(path.c_str(), &status), 0);
  return status.f_bfree * status.f_frsize;
}

// Both shapes: a directory that grows, and a fixed file.
class PoolOnDaxTest : public ::testing::TestWithParam<PoolShape> {
 protected:
  PoolOnDaxTest() : scratch_(ScratchDirectory::OnDisk()), path_(scratch_.Child("pool")) {
    options_ = TestOptions();
    options_.shape = GetParam();
    if (GetParam() == PoolShape::kFixed) options_.fixed_size_bytes = 256 * kTestMiB;
  }

  ScratchDirectory scratch_;
  const std::string path_;
  PoolOptions options_;
};

std::string ShapeName(const ::testing::TestParamInfo<PoolShape>& info) {
  return info.param == PoolShape::kDirectory ? "Directory" : "Fixed";
}

INSTANTIATE_TEST_SUITE_P(Shapes, PoolOnDaxTest,
                         ::testing::Values(PoolShape::kDirectory, PoolShape::kFixed), ShapeName);

TEST_P(PoolOnDaxTest, MediumIsDaxUnforced) {
  std::unique_ptr<Pool> pool = MustOpen(path_, options_);
  EXPECT_EQ(pool->media().media_class, MediaClass::kDax);
  EXPECT_FALSE(pool->media().forced);
  EXPECT_EQ(pool->media().file_system, FileSystem());
  ASSERT_OK(pool->Close());
}

TEST_P(PoolOnDaxTest, HugeRunsTakeHugeFaults) {
  constexpr uint64_t kHugeRuns = 16;
  std::unique_ptr<Pool> pool = MustOpen(path_, options_);
  const PoolRun run = MustAllocate(*pool, kHugeRuns * kHugePages);
  char* const bytes = pool->At(run.offset());
  const uint64_t before = FaultCount();
  for (uint64_t page = 0; page < run.pages; ++page) {
    static_cast<volatile char*>(bytes)[page * kPageSizeBytes] = 'd';
  }
  const uint64_t faults = FaultCount() - before;
  EXPECT_GE(faults, kHugeRuns);
  EXPECT_LE(faults, kHugeRuns + 8) << "of " << run.pages << " pages";
  ASSERT_OK(pool->ReleaseRun(run));
  ASSERT_OK(pool->Close());
}

TEST_P(PoolOnDaxTest, ReleasedRunsGoBackToTheFileSystem) {
  constexpr uint64_t kPages = 32 * kHugePages;  // 64 MiB.
  std::unique_ptr<Pool> pool = MustOpen(path_, options_);
  const PoolRun first = MustAllocate(*pool, kPages);
  const PoolRun kept = MustAllocate(*pool, kHugePages);
  std::memset(pool->At(kept.offset()), 'k', kept.size_bytes());
  ASSERT_OK(pool->Persist(pool->At(kept.offset()), kept.size_bytes()));
  ASSERT_OK(pool->CommitRun(first));
  ASSERT_OK(pool->CommitRun(kept));
  const uint64_t before = FreeBytes(path_);
  ASSERT_OK(pool->ReleaseRun(first));
  EXPECT_GE(FreeBytes(path_) - before, kPages * kPageSizeBytes * 9 / 10);
  ASSERT_OK(pool->Close());

  pool = MustOpen(path_, options_);
  EXPECT_TRUE(pool->was_clean());
  ASSERT_EQ(LiveRuns(*pool).size(), 1u);
  EXPECT_EQ(std::string(pool->At(kept.offset()), kept.size_bytes()),
            std::string(kept.size_bytes(), 'k'));
  ASSERT_OK(pool->Close());
}

// libpmemobj's own record of unsafe shutdowns names the devices of all the pool's files, as they
// were at the last open. A file that was added since must not look like a failed device.
TEST_P(PoolOnDaxTest, ACrashAfterGrowthReopens) {
  constexpr uint64_t kPages = 32 * kHugePages;
  CrashAfter([&] {
    Pool* const pool = MustOpen(path_, options_).release();  // A crash destroys nothing.
    for (int i = 0; i < 2; ++i) {
      const PoolRun run = MustAllocate(*pool, kPages);
      EXPECT_TRUE(pool->CommitRun(run).ok());
    }
  });
  const std::unique_ptr<Pool> pool = MustOpen(path_, options_);
  EXPECT_FALSE(pool->was_clean());
  EXPECT_EQ(LiveRuns(*pool).size(), 2u);
  ASSERT_OK(pool->Close());
}

}  // namespace
}  // namespace daxkv::dax
