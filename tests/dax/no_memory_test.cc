// Every call of a pool and of a mapping, with each of its allocations of memory failing in turn: it
// is done or says kResourceExhausted, throws nothing, and leaves nothing behind.
//
// Mutations, each of which must fail the test named (mutations/run):
//   EveryCallSaysSo: a fault's exceptions leave the mapping
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "dax/dax_stats.h"
#include "dax/mapping.h"
#include "dax/pool.h"
#include "tests/dax/pool_test_base.h"
#include "tests/kv/failing_allocation.h"

namespace daxkv::dax {
namespace {

constexpr absl::Time kTry = absl::InfinitePast();

class NoMemoryTest : public testing::Test {
 protected:
  NoMemoryTest() {
    // Makes Abseil's table of error texts, which leaks when memory runs out meanwhile.
    absl::ErrnoToStatus(ENOENT, "").IgnoreError();
  }
  // Makes the call with its first, second, ... allocation failing, until it meets none that fails.
  // If it was done in spite of a failure, it is made again.
  void FailEach(const char* name, const std::function<absl::Status()>& call) {
    SCOPED_TRACE(name);
    for (int64_t allowed = 0; !HasFailure(); ++allowed) {
      absl::Status status;
      int64_t failed;
      {
        kv::FailingAllocation failing(allowed, kv::FailingThreads::kThis, kv::Failing::kOne);
        status = call();
        failed = failing.failed();
      }
      EXPECT_TRUE(status.ok() || (failed != 0 && absl::IsResourceExhausted(status))) << status;
      if (failed == 0) return;
      ++(status.ok() ? survived_ : refused_);
    }
  }
  // The same, of a call that can be done only once.
  void FailEachOnce(const char* name, const std::function<absl::Status()>& call) {
    bool done = false;
    FailEach(name, [&] {
      const absl::Status status = done ? absl::OkStatus() : call();
      done = done || status.ok();
      return status;
    });
  }
  ~NoMemoryTest() override {
    RecordProperty("refused", refused_);
    RecordProperty("survived", survived_);
  }

  ScratchDirectory directory_{ScratchDirectory::OnMemory()};
  int refused_ = 0;
  int survived_ = 0;
};

TEST_F(NoMemoryTest, Creation) {
  std::vector<std::string> paths;
  for (int i = 0; i < 1000; ++i) paths.push_back(directory_.Child(std::to_string(i)));
  size_t made = 0;
  FailEach("create", [&] { return Pool::Open(paths[made++], TestOptions()).status(); });
  // What was refused is not in the way.
  for (size_t i = 0; i < made; ++i) {
    const std::unique_ptr<Pool> pool = MustOpen(paths[i]);
    ASSERT_TRUE(pool->CommitRun(MustAllocate(*pool, 1)).ok());
  }
  EXPECT_GT(refused_, 10);
}

TEST_F(NoMemoryTest, EveryCallSaysSo) {
  const std::string path = directory_.Child("pool");
  std::unique_ptr<Pool> pool = MustOpen(path);
  ASSERT_OK(pool->Close());
  FailEach("open", [&] {
    pool.reset();
    absl::StatusOr<std::unique_ptr<Pool>> opened = Pool::Open(path, TestOptions());
    if (opened.ok()) pool = *std::move(opened);
    return opened.status();
  });
  const std::unique_ptr<ExtentProvider> provider = NewIdentityProvider(pool.get());
  auto mapping = std::make_unique<Mapping>(pool.get(), provider.get());
  std::vector<PoolRun> runs;
  runs.reserve(1000);
  for (const uint64_t pages : {uint64_t{1}, kHugePages, 40 * kHugePages}) {  // The last one grows.
    FailEach("allocate", [&] {
      const absl::StatusOr<PoolRun> run = pool->AllocateRun(pages, 1, 0, kPageSizeBytes);
      if (run.ok()) runs.push_back(*run);
      return run.status();
    });
    ASSERT_EQ(runs.back().pages, pages);
  }
  FailEach("commit", [&] { return pool->CommitRuns(runs); });
  FailEach("walk",
           [&] { return pool->ForEachRun([](const PoolRun&) { return absl::OkStatus(); }); });

  const PoolRun huge = runs.back();
  const uint64_t index = huge.first_page;
  FailEach("fault", [&] { return mapping->Fault(index, kHugeOrder, Access::kWrite).status(); });
  FailEach("pin", [&] { return mapping->Pin(index + kHugePages, Access::kRead).status(); });
  FailEach("try to pin", [&] { return mapping->TryPin(index).status(); });
  const auto pin_range = [&](bool try_only) {
    const uint64_t bytes = 3 * kHugePages * kPageSizeBytes;
    return (try_only ? mapping->TryPinRange(huge.offset(), bytes)
                     : mapping->PinRange(huge.offset(), bytes, Access::kRead))
        .status();
  };
  FailEach("pin range", [&] { return pin_range(false); });
  FailEach("try to pin range", [&] { return pin_range(true); });
  FailEach("lock", [&] { return mapping->LockEntry(index).status(); });
  FailEach("lock frame", [&] { return Mapping::LockFrame(pool.get(), index + 7).status(); });
  FailEach("prefault", [&] { return mapping->Prefault(index, 8, Access::kRead); });
  for (unsigned order : {6, 3, 0}) {
    FailEachOnce("split", [&] { return mapping->Split(index, order); });
  }
  FailEach("write back", [&] {
    mapping->MarkDirty(index, huge.pages);
    return mapping->Writeback(index, huge.pages);
  });
  FailEach("break", [&] { return mapping->BreakLayouts(index, huge.pages, kTry).status(); });
  FailEach("statistics", [&] { return pool->Stats().status(); });
  FailEach("sync", [&] { return pool->Sync(); });
  FailEach("lose a page", [&] { return pool->ReportLostPage(index + 2); });
  EXPECT_TRUE(absl::IsDataLoss(mapping->Pin(index + 2, Access::kRead).status()));
  EXPECT_TRUE(mapping->Pin(index + 3, Access::kRead).ok());

  for (const PoolRun& run : runs) {
    FailEachOnce("truncate", [&] { return mapping->Truncate(run.first_page, run.pages, kTry); });
  }
  FailEach("trim", [&] { return pool->Trim().status(); });
  const MappingStats mapped = mapping->stats();
  EXPECT_EQ(mapped.entries, 0u);
  EXPECT_EQ(mapped.pins, 0u);
  EXPECT_EQ(mapped.locked_entries, 0u);
  EXPECT_EQ(mapped.waiters, 0u);
  const absl::StatusOr<PoolStats> stats = pool->Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->free_pages, stats->segment_pages);
  EXPECT_EQ(stats->quarantined_pages, 0u);
  mapping.reset();
  FailEachOnce("close", [&] { return pool->Close(); });
  pool = MustOpen(path);
  EXPECT_TRUE(pool->was_clean());
  EXPECT_GT(refused_, 50);
}

}  // namespace
}  // namespace daxkv::dax
