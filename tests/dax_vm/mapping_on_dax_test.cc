// The mapping on a real DAX file system: ndctl's dax.sh through dax::Mapping, and holes punched
// while other extents are pinned. As platform_test, for the machine of tests/dax_vm/run only.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dax/dax_stats.h"
#include "dax/mapping.h"
#include "dax/pool.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kHugeBytes = kHugePages * kPageSizeBytes;

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

// Of the kernel's huge faults; see FaultTrace of platform_test.
std::string TraceFile(const std::string& name) { return "/sys/kernel/tracing/" + name; }
void WriteTo(const std::string& name, const std::string& text) {
  std::ofstream file(TraceFile(name));
  file << text << std::flush;
  EXPECT_TRUE(file.good()) << name;
}
std::vector<std::string> HugeFaultResults() {
  std::vector<std::string> results;
  std::ifstream trace(TraceFile("trace"));
  for (std::string line; std::getline(trace, line);) {
    if (line.find("dax_pmd_fault_done:") == std::string::npos) continue;
    results.push_back(line.substr(line.rfind(' ') + 1));
  }
  return results;
}

class MappingOnDaxTest : public ::testing::Test {
 protected:
  MappingOnDaxTest()
      : pool_(MustOpen(scratch_.Child("pool"))), provider_(NewIdentityProvider(pool_.get())) {
    UseMapping(MappingOptions());
  }
  void UseMapping(const MappingOptions& options) {
    mapping_ = std::make_unique<Mapping>(pool_.get(), provider_.get(), options);
  }
  // A live run whose bytes nobody has touched.
  PoolRun MakeRun(uint64_t pages) {
    const PoolRun run = MustAllocate(*pool_, pages);
    EXPECT_TRUE(pool_->CommitRun(run).ok());
    return run;
  }

  const ScratchDirectory scratch_{ScratchDirectory::OnDisk()};
  const std::unique_ptr<Pool> pool_;
  const std::unique_ptr<ExtentProvider> provider_;
  std::unique_ptr<Mapping> mapping_;
};

// dax.sh: the first ten huge faults, ours and the kernel's, none of which falls back. (The pool's
// synchronous mapping makes the kernel say NEEDDSYNC where the blocks are new.)
TEST_F(MappingOnDaxTest, TheFirstTenHugeFaultsDontFallBack) {
  const PoolRun run = MakeRun(10 * kHugePages);
  WriteTo("trace", "");
  WriteTo("events/fs_dax/dax_pmd_fault_done/enable", "1");
  for (uint64_t huge = 0; huge < 10; ++huge) {
    const uint64_t page = run.first_page + huge * kHugePages;
    const absl::StatusOr<FaultResult> fault = mapping_->Fault(page, kHugeOrder, Access::kWrite);
    ASSERT_TRUE(fault.ok()) << fault.status();
    EXPECT_EQ(*fault, FaultResult::kNoPage);
    *static_cast<volatile char*>(pool_->At(page << kPageShift)) = 'd';
  }
  WriteTo("events/fs_dax/dax_pmd_fault_done/enable", "0");
  EXPECT_EQ(mapping_->stats().faults_no_page_by_order[kHugeOrder], 10u);
  EXPECT_EQ(mapping_->stats().faults_fallback, 0u);
  const std::vector<std::string> results = HugeFaultResults();
  EXPECT_EQ(results.size(), 10u);
  for (const std::string& result : results) {
    EXPECT_TRUE(result == "NOPAGE" || result == "NEEDDSYNC") << result;
  }
}

TEST_F(MappingOnDaxTest, PrefaultedExtentsTakeNoFaultLater) {
  MappingOptions options;
  options.prefault = MappingOptions::Prefault::kWrite;
  UseMapping(options);
  const PoolRun run = MakeRun(8 * kHugePages);
  for (uint64_t page = 0; page < run.pages; page += kHugePages) {
    ASSERT_TRUE(mapping_->Fault(run.first_page + page, kHugeOrder, Access::kWrite).ok());
  }
  const uint64_t before = FaultCount();
  for (uint64_t page = 0; page < run.pages; ++page) {
    static_cast<volatile char*>(pool_->At(run.offset()))[page * kPageSizeBytes] = 'd';
  }
  EXPECT_LE(FaultCount() - before, 2u);  // The test's own code and stack may take some.
}

// Holes are punched beside a pinned huge extent, and inside the same 2 MiB as pinned small ones,
// while a reader compares every byte of what is pinned.
TEST_F(MappingOnDaxTest, HolesArePunchedWhileOthersArePinned) {
  const PoolRun huge = MakeRun(kHugePages);
  std::vector<PoolRun> victims = {MakeRun(8 * kHugePages)};
  std::vector<PoolRun> small;
  for (int i = 0; i < 16; ++i) {
    small.push_back(MakeRun(4));
    victims.push_back(MakeRun(4));
  }
  small.push_back(huge);
  std::vector<Pinned> pins;
  for (const PoolRun& run : small) {
    std::memset(pool_->At(run.offset()), 'k', run.size_bytes());
    pool_->Flush(pool_->At(run.offset()), run.size_bytes());
    absl::StatusOr<Pinned> pinned = mapping_->Pin(run.first_page, Access::kRead);
    ASSERT_TRUE(pinned.ok()) << pinned.status();
    pins.push_back(*std::move(pinned));
  }
  for (const PoolRun& run : victims) {
    std::memset(pool_->At(run.offset()), 'v', run.size_bytes());
    pool_->Flush(pool_->At(run.offset()), run.size_bytes());
  }
  ASSERT_TRUE(pool_->Drain().ok());

  std::atomic<bool> stop{false};
  std::atomic<uint64_t> rounds{0};
  std::thread reader([&] {
    const std::string wanted(kHugeBytes, 'k');
    while (!stop || rounds < 2) {
      for (const Pinned& pin : pins) {
        EXPECT_EQ(std::memcmp(pin.data(), wanted.data(), pin.size_bytes()), 0);
      }
      ++rounds;
    }
  });
  const uint64_t free_before = FreeBytes(scratch_.path());
  for (const PoolRun& run : victims) {
    const absl::Status status = mapping_->Truncate(run.first_page, run.pages, absl::InfinitePast());
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_GE(FreeBytes(scratch_.path()) - free_before, 8 * kHugeBytes);
  // What is pinned refuses, and says so.
  const absl::Status busy = mapping_->Truncate(huge.first_page, huge.pages, absl::InfinitePast());
  EXPECT_EQ(busy.code(), absl::StatusCode::kDeadlineExceeded) << busy;
  EXPECT_NE(busy.message().find("(order 9) has 1 pins"), std::string::npos) << busy;
  stop = true;
  reader.join();
  pins.clear();
  EXPECT_TRUE(mapping_->Truncate(huge.first_page, huge.pages, absl::InfinitePast()).ok());
}

// The kernel keeps no count of DAX's huge mappings, and the statistics don't pretend.
TEST_F(MappingOnDaxTest, HugeMappingsAreNotCounted) {
  const absl::StatusOr<DaxStats> stats = CollectStats(*pool_, *mapping_);
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_FALSE(stats->pages.counted);
  EXPECT_GT(stats->pages.mapped_bytes, 0u);
}

}  // namespace
}  // namespace daxkv::dax
