// The pool on a real DAX device ($DEVICE, which it overwrites): a fixed size, no holes, no file
// system. As platform_test, for the machine of tests/dax_vm/run only.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "dax/dax_stats.h"
#include "dax/mapping.h"
#include "dax/media_guard.h"
#include "dax/pool.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kHugeBytes = kHugePages * kPageSizeBytes;

std::string Device() {
  const char* name = std::getenv("DEVICE");
  return name != nullptr ? name : "/dev/dax0.0";
}

PoolOptions DeviceOptions() {
  PoolOptions options;
  options.shape = PoolShape::kFixed;
  return options;
}

std::unique_ptr<Pool> MustOpenDevice() { return MustOpen(Device(), DeviceOptions()); }

void Fill(Pool& pool, const PoolRun& run, char byte) {
  std::memset(pool.At(run.offset()), byte, run.size_bytes());
  ASSERT_OK(pool.Persist(pool.At(run.offset()), run.size_bytes()));
  ASSERT_OK(pool.CommitRun(run));
}

bool Holds(const Pool& pool, const PoolRun& run, char byte) {
  const char* bytes = pool.At(run.offset());
  return std::all_of(bytes, bytes + run.size_bytes(), [byte](char b) { return b == byte; });
}

// Each test finds a blank device: libpmemobj makes a pool only where the first bytes are zero.
class DeviceTest : public ::testing::Test {
 protected:
  DeviceTest() { Blank(); }
  ~DeviceTest() override { Blank(); }

 private:
  static void Blank() {
    const int fd = open(Device().c_str(), O_RDWR | O_CLOEXEC);
    void* first = mmap(nullptr, kHugeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    EXPECT_NE(first, MAP_FAILED) << Device();
    if (first != MAP_FAILED) std::memset(first, 0, 8 * kPageSizeBytes);
    munmap(first, kHugeBytes);
    close(fd);
  }
};

TEST_F(DeviceTest, SaysWhatItIs) {
  std::unique_ptr<Pool> pool = MustOpenDevice();
  EXPECT_EQ(pool->shape(), PoolShape::kFixed);
  EXPECT_EQ(pool->media().media_class, MediaClass::kDax);
  EXPECT_FALSE(pool->media().forced);
  EXPECT_EQ(pool->media().file_system, "devdax");
  const absl::StatusOr<PoolStats> stats = pool->Stats();
  ASSERT_OK(stats.status());
  EXPECT_FALSE(stats->has_holes);
  EXPECT_EQ(stats->file_blocks_bytes, stats->file_size_bytes);
  EXPECT_GE(stats->segment_pages * kPageSizeBytes, stats->file_size_bytes * 9 / 10);
  ASSERT_OK(pool->Close());
}

TEST_F(DeviceTest, RunsLiveOverClosesAndCrashes) {
  std::unique_ptr<Pool> pool = MustOpenDevice();
  const PoolRun kept = MustAllocate(*pool, 4), huge = MustAllocate(*pool, 2 * kHugePages);
  Fill(*pool, kept, 'k');
  Fill(*pool, huge, 'h');
  ASSERT_OK(pool->Close());
  for (const bool crash : {false, true}) {
    if (crash) {
      CrashAfter([] {
        Pool* const dying = MustOpenDevice().release();  // A crash destroys nothing.
        Fill(*dying, MustAllocate(*dying, 8), 'c');
        MustAllocate(*dying, 8);
      });
    }
    pool = MustOpenDevice();
    EXPECT_EQ(pool->was_clean(), !crash);
    EXPECT_EQ(LiveRuns(*pool).size(), crash ? 3u : 2u);
    EXPECT_TRUE(Holds(*pool, kept, 'k'));
    EXPECT_TRUE(Holds(*pool, huge, 'h'));
    ASSERT_OK(pool->Close());
  }
}

TEST_F(DeviceTest, SecondOpenerIsRefused) {
  const std::unique_ptr<Pool> pool = MustOpenDevice();
  const absl::Status second = Pool::Open(Device(), DeviceOptions()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition) << second;
}

// A full device refuses; what is released is used again, and never given back.
TEST_F(DeviceTest, SpaceIsReusedInside) {
  std::unique_ptr<Pool> pool = MustOpenDevice();
  std::set<uint64_t> first;
  for (;;) {
    const absl::StatusOr<PoolRun> run = pool->AllocateRun(kHugePages, 1, 0, kHugeBytes);
    if (!run.ok()) {
      EXPECT_EQ(run.status().code(), absl::StatusCode::kResourceExhausted) << run.status();
      break;
    }
    ASSERT_OK(pool->CommitRun(*run));
    first.insert(run->first_page);
  }
  EXPECT_GE(first.size() * kHugeBytes, pool->Stats()->file_size_bytes * 8 / 10);
  for (int round = 0; round < 3; ++round) {
    std::set<uint64_t> again;
    for (const PoolRun& run : LiveRuns(*pool)) ASSERT_OK(pool->ReleaseRun(run));
    const absl::StatusOr<uint64_t> trimmed = pool->Trim();
    ASSERT_OK(trimmed.status());
    EXPECT_EQ(*trimmed, 0u);
    for (size_t i = 0; i < first.size(); ++i) {
      const PoolRun run = MustAllocate(*pool, kHugePages);
      ASSERT_OK(pool->CommitRun(run));
      again.insert(run.first_page);
    }
    EXPECT_EQ(again, first);
    ASSERT_OK(pool->Close());
    pool = MustOpenDevice();
  }
}

TEST_F(DeviceTest, IsMappedHuge) {
  const std::unique_ptr<Pool> pool = MustOpenDevice();
  const PoolRun run = MustAllocate(*pool, 16 * kHugePages);
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt + usage.ru_majflt;
  };
  const int64_t before = faults();
  for (uint64_t page = 0; page < run.pages; ++page) {
    static_cast<volatile char*>(pool->At(run.offset()))[page * kPageSizeBytes] = 'd';
  }
  EXPECT_LE(faults() - before, 16 + 8) << "of " << run.pages << " pages";
}

// The mapping works as on files: pins hold off a truncation, which ends in reuse.
TEST_F(DeviceTest, TruncationWaitsForPins) {
  const std::unique_ptr<Pool> pool = MustOpenDevice();
  const std::unique_ptr<ExtentProvider> provider = NewIdentityProvider(pool.get());
  Mapping mapping(pool.get(), provider.get());
  const PoolRun run = MustAllocate(*pool, kHugePages);
  Fill(*pool, run, 'p');
  absl::StatusOr<Pinned> pinned = mapping.Pin(run.first_page, Access::kRead);
  ASSERT_OK(pinned.status());
  const absl::Status busy = mapping.Truncate(run.first_page, run.pages, absl::InfinitePast());
  EXPECT_EQ(busy.code(), absl::StatusCode::kDeadlineExceeded) << busy;
  EXPECT_TRUE(Holds(*pool, run, 'p'));
  *pinned = Pinned();
  ASSERT_OK(mapping.Truncate(run.first_page, run.pages, absl::InfinitePast()));
  EXPECT_EQ(pool->FindRun(run.first_page).status().code(), absl::StatusCode::kNotFound);
}

// There are no fresh blocks here: a lost page stays out of use, over reopens.
TEST_F(DeviceTest, LostPageIsNeverHandedOutAgain) {
  std::unique_ptr<Pool> pool = MustOpenDevice();
  const PoolRun run = MustAllocate(*pool, 16);
  Fill(*pool, run, 'l');
  const uint64_t bad = run.first_page + 3;
  ASSERT_OK(pool->ReportLostPage(bad));
  {
    const std::unique_ptr<ExtentProvider> provider = NewIdentityProvider(pool.get());
    Mapping mapping(pool.get(), provider.get());
    EXPECT_EQ(mapping.Pin(bad, Access::kRead).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_TRUE(mapping.Pin(bad + 1, Access::kRead).ok());
    ASSERT_OK(mapping.Truncate(run.first_page, run.pages, absl::InfinitePast()));
  }
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(pool->ListLostPages(), std::vector<uint64_t>{bad});
    EXPECT_EQ(pool->Stats()->quarantined_pages, 1u);
    for (const uint64_t pages : {uint64_t{1}, uint64_t{16}, kHugePages}) {
      for (;;) {
        const absl::StatusOr<PoolRun> taken = pool->AllocateRun(pages, 1, 0, 0);
        if (!taken.ok()) break;
        ASSERT_FALSE(bad >= taken->first_page && bad < taken->first_page + taken->pages);
        if (pages == 1 && taken->first_page > bad + kHugePages) break;
      }
    }
    ASSERT_OK(pool->Close());
    pool = MustOpenDevice();
  }
}

// Of a device the kernel lets no single page be replaced: who touches a poisoned one gets the
// signal as without us, in a guard too, and the loss is known (sigbus.h).
std::atomic<int> signals{0};
void OnSignal(int, siginfo_t* info, void*) {
  if (info->si_code == BUS_MCEERR_AR) signals.fetch_add(1);
}

TEST_F(DeviceTest, PoisonIsToldAndNoted) {
  struct sigaction action = {}, before;
  action.sa_sigaction = OnSignal;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, &before);
  {
    std::unique_ptr<Pool> pool = MustOpenDevice();
    const PoolRun run = MustAllocate(*pool, kHugePages);
    Fill(*pool, run, 'l');
    const uint64_t bad = run.first_page + 7;
    {
      const MediaGuard guard(*pool);
      madvise(pool->At(bad << kPageShift), kPageSizeBytes, MADV_HWPOISON);
      EXPECT_FALSE(guard.Intact());
    }
    EXPECT_EQ(signals, 1);
    ASSERT_OK(pool->SettleMediaErrors());
    EXPECT_EQ(pool->Stats()->quarantined_pages, 1u);
    const std::vector<uint64_t> lost = pool->ListLostPages();
    ASSERT_EQ(lost.size(), 1u);
    EXPECT_TRUE(lost[0] >= run.first_page && lost[0] < run.first_page + run.pages) << lost[0];
    ASSERT_OK(pool->Close());
  }
  sigaction(SIGBUS, &before, nullptr);
}

}  // namespace
}  // namespace daxkv::dax
