// What is counted: faults by order, fragmentation, huge mappings; and the user-space form of
// ndctl's dax.sh.
//
// What mutations/run undoes, and the test that must fail then:
//   TheFirstTenHugeFaultsAreAllNoPage: a huge fault installs a small entry
#include "dax/dax_stats.h"

#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "dax/huge_pages.h"
#include "tests/dax/mapping_test_util.h"
#include "tests/dax/own_tmpfs.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kHugeBytes = 2 * kMiB;

class DaxStatsTest : public MappingTest {
 protected:
  DaxStats Collect() const {
    absl::StatusOr<DaxStats> stats = CollectStats(*pool_, *mapping_);
    EXPECT_OK(stats);
    return stats.ok() ? *stats : DaxStats();
  }
};

// ndctl's dax.sh: on an aligned extent, at least ten huge faults, and the first ten all NOPAGE.
TEST_F(DaxStatsTest, TheFirstTenHugeFaultsAreAllNoPage) {
  const PageRun run = PlaceRun(0, 12 * kHugePages);
  ASSERT_EQ(run.first_page % kHugePages, 0u);
  for (uint64_t huge = 0; huge < 10; ++huge) {
    // Somewhere inside, by turns for reading and for writing.
    absl::StatusOr<FaultResult> fault = mapping_->Fault(
        huge * kHugePages + 37 * huge, kHugeOrder, huge % 2 == 0 ? Access::kRead : Access::kWrite);
    ASSERT_OK(fault);
    EXPECT_EQ(*fault, FaultResult::kNoPage);
  }
  const MappingStats stats = Collect().mapping;
  EXPECT_EQ(stats.faults_no_page_by_order[kHugeOrder], 10u);
  EXPECT_EQ(stats.faults_no_page, 10u);
  EXPECT_EQ(stats.faults_fallback, 0u);
  EXPECT_EQ(stats.entries_by_order[kHugeOrder], 10u);
  EXPECT_EQ(stats.huge_entries, 10u);
}

TEST_F(DaxStatsTest, FallbacksAreCountedByTheOrderWanted) {
  PlaceRun(0, 512);
  PlaceRun(512, 8);
  ASSERT_OK(mapping_->Fault(5, 0, Access::kRead));
  ASSERT_OK(mapping_->Fault(300, 9, Access::kRead));  // Beside a small entry.
  ASSERT_OK(mapping_->Fault(5, 9, Access::kRead));    // On it.
  ASSERT_OK(mapping_->Fault(5, 4, Access::kRead));
  ASSERT_OK(mapping_->Fault(513, 9, Access::kRead));  // The run is smaller.
  ASSERT_OK(mapping_->Fault(514, 3, Access::kRead));  // Found, and so not counted.
  const MappingStats stats = Collect().mapping;
  EXPECT_EQ(stats.faults_no_page_by_order[0], 1u);
  EXPECT_EQ(stats.faults_no_page, 1u);
  EXPECT_EQ(stats.faults_fallback_by_order[9], 3u);
  EXPECT_EQ(stats.faults_fallback_by_order[4], 1u);
  EXPECT_EQ(stats.faults_fallback, 4u);
  EXPECT_EQ(stats.entries_by_order[0], 1u);
  EXPECT_EQ(stats.entries_by_order[3], 1u);
}

TEST_F(DaxStatsTest, FragmentationIsWhatTheLargestRunLacks) {
  DaxStats stats = Collect();
  ASSERT_GT(stats.pool.free_pages, 8 * kHugePages);
  const double at_first = stats.fragmentation();
  EXPECT_LT(at_first, 0.1);
  // Every other huge block is taken: the largest run is one of the gaps.
  std::vector<PageRun> runs;
  while (true) {
    absl::StatusOr<PageRun> run = pool_->AllocateRun(kHugePages, kTestKind, 0, 0);
    if (!run.ok()) break;
    runs.push_back(*run);
  }
  for (size_t i = 0; i < runs.size(); i += 2) EXPECT_OK(pool_->ReleaseRun(runs[i]));
  stats = Collect();
  EXPECT_EQ(stats.pool.largest_free_run_pages, kHugePages);
  EXPECT_EQ(stats.pool.free_runs_by_order[kHugeOrder], (runs.size() + 1) / 2);
  EXPECT_NEAR(stats.fragmentation(),
              1 - static_cast<double>(kHugePages) / static_cast<double>(stats.pool.free_pages),
              1e-9);
  EXPECT_GT(stats.fragmentation(), 0.5);
}

TEST_F(DaxStatsTest, NothingFreeIsNotFragmented) { EXPECT_EQ(DaxStats().fragmentation(), 0); }

// ---- What the processor maps ----

TEST(HugePagesTest, OnlyMappingsWithAFileCount) {
  void* bytes = mmap(nullptr, kHugeBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  ASSERT_NE(bytes, MAP_FAILED);
  absl::StatusOr<HugePages> pages = CountHugePages(bytes, kHugeBytes);
  ASSERT_OK(pages);
  EXPECT_EQ(pages->mapped_bytes, 0u);
  EXPECT_EQ(pages->resident_bytes, 0u);
  munmap(bytes, kHugeBytes);
  EXPECT_EQ(CountHugePages(nullptr, 1)->mapped_bytes, 0u);
}

TEST_F(DaxStatsTest, PrefaultMapsTheExtentsPages) {
  const PageRun run = PlaceRun(0, 2 * kHugePages);
  for (uint64_t i = 0; i < 20; ++i) PlaceRun(1024 + i, 1);
  ASSERT_OK(pool_->Sync());
  absl::Status prefaulted = mapping_->Prefault(0, 1024 + 20, Access::kRead);
  if (absl::IsUnimplemented(prefaulted)) GTEST_SKIP() << prefaulted;
  ASSERT_OK(prefaulted);
  EXPECT_EQ(mapping_->stats().entries, 22u);
  EXPECT_EQ(mapping_->stats().pins, 0u);
  const DaxStats stats = Collect();
  if (stats.pages.counted) {
    EXPECT_GE(stats.pages.resident_bytes, run.size_bytes());
  }
  EXPECT_LE(stats.pages.huge_bytes(), stats.pages.resident_bytes);
  EXPECT_LE(stats.pages.resident_bytes, stats.pages.mapped_bytes);
  EXPECT_EQ(CodeOf(mapping_->Prefault(0, 0, Access::kRead)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(mapping_->Prefault(1 << 20, 1, Access::kRead)), absl::StatusCode::kNotFound);
}

// A tmpfs of the test's own, where that can be mounted.
class HugeTmpfsTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/huge-XXXXXX";
    ASSERT_NE(mkdtemp(path_.data()), nullptr);
    mounted_ = MountOwnTmpfs(path_, "size=256m,huge=always");
    if (!mounted_) GTEST_SKIP() << "no tmpfs with huge=always can be mounted here";
    PoolOptions options;
    options.shape = PoolShape::kFixed;
    options.fixed_size_bytes = 64 * kMiB;
    absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Open(path_ + "/pool", options);
    ASSERT_OK(pool);
    pool_ = *std::move(pool);
    provider_ = NewIdentityProvider(pool_.get());
  }
  ~HugeTmpfsTest() override {
    mapping_.reset();
    provider_.reset();
    pool_.reset();
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(path_);
  }
  // Of memory that is mapped by huge pages now.
  uint64_t HugeBytes() {
    absl::StatusOr<DaxStats> stats = CollectStats(*pool_, *mapping_);
    EXPECT_OK(stats);
    EXPECT_TRUE(stats->pages.counted);
    return stats->pages.huge_bytes();
  }

  std::string path_;
  bool mounted_ = false;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<ExtentProvider> provider_;
  std::unique_ptr<Mapping> mapping_;
};

TEST_F(HugeTmpfsTest, HugeRunsAreMappedHugeAndPunchedOnesAreNot) {
  mapping_ = std::make_unique<Mapping>(pool_.get(), provider_.get());
  const PageRun run = MakeRun(pool_.get(), 8 * kHugePages, 'h');
  const uint64_t before = HugeBytes();
  EXPECT_GE(before, 8 * kHugeBytes);
  ASSERT_OK(mapping_->Truncate(run.first_page, run.pages, absl::InfinitePast()));
  EXPECT_LE(HugeBytes() + 8 * kHugeBytes, before);
}

TEST_F(HugeTmpfsTest, AFaultPrefaultsIfToldTo) {
  PageRun run;
  {
    mapping_ = std::make_unique<Mapping>(pool_.get(), provider_.get());
    run = MakeRun(pool_.get(), 4 * kHugePages, 'h');
    mapping_.reset();
  }
  ASSERT_OK(pool_->Close());
  absl::StatusOr<std::unique_ptr<Pool>> again = Pool::Open(path_ + "/pool", PoolOptions());
  ASSERT_OK(again);
  pool_ = *std::move(again);
  provider_ = NewIdentityProvider(pool_.get());
  MappingOptions options;
  options.prefault = MappingOptions::Prefault::kWrite;
  mapping_ = std::make_unique<Mapping>(pool_.get(), provider_.get(), options);
  const uint64_t before = HugeBytes();
  ASSERT_OK(mapping_->Fault(run.first_page, kHugeOrder, Access::kRead));
  ASSERT_OK(mapping_->Fault(run.first_page + kHugePages, kHugeOrder, Access::kRead));
  EXPECT_EQ(HugeBytes() - before, 2 * kHugeBytes);
}

}  // namespace
}  // namespace daxkv::dax
