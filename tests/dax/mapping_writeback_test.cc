// Writeback against everything that may happen beside it: the kernel's S9, S10, S17 and S18, and an
// msync that fails. The test stands in for msync, passes it on, and so knows which bytes went to
// the medium.
//
// What mutations/run undoes, and the test that must fail then:
//   S9cAnotherWritebackDoesNotTakeItForClean: a second writeback takes what the first is
//     flushing for clean
//   S10AStoreBesideTheFlushIsFlushedByTheNext: writeback cleans what was marked beside the
//     flush
//   S17StoresThroughEitherViewAreFlushedAgain: writeback flushes the first page of an extent
//   S18EntriesComeAndGoAtTheEdgesOfAWriteback: writeback skips an entry at each batch's edge
//   S18EntriesComeAndGoAtTheEdgesOfABreak: a break skips an entry at each batch's edge
//   AFailedMsync: a failed msync leaves extents clean
//   S9aTheEntryIsPunched: writeback stops at an extent that has gone
//   S9bTheEntryIsAnotherExtentNow: writeback cleans what came in place of what it flushed
//   S9dAHoleGetsFrames: writeback cleans frames that a hole got meanwhile
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "tests/dax/mapping_test_util.h"

namespace daxkv::dax {
namespace {

std::mutex g_msync_mutex;
std::vector<std::pair<uintptr_t, uintptr_t>> g_synced;  // Under the mutex: [first, end).
std::atomic<int> g_failing_msyncs{0};

}  // namespace
}  // namespace daxkv::dax

// Instead of libc's, for libpmem too.
extern "C" int msync(void* address, size_t size_bytes, int flags) {
  if (daxkv::dax::g_failing_msyncs > 0) {
    --daxkv::dax::g_failing_msyncs;
    errno = EIO;
    return -1;
  }
  const auto first = reinterpret_cast<uintptr_t>(address);
  {
    std::lock_guard lock(daxkv::dax::g_msync_mutex);
    daxkv::dax::g_synced.emplace_back(first, first + size_bytes);
  }
  return static_cast<int>(syscall(SYS_msync, address, size_bytes, flags));
}

namespace daxkv::dax {
namespace {

constexpr absl::Time kTry = absl::InfinitePast();

class MappingWritebackTest : public MappingTest {
 protected:
  void SetUp() override {
    if (pool_->media().media_class != MediaClass::kPageCache) {
      GTEST_SKIP() << "no msync on this medium: " << MediaPromise(pool_->media());
    }
  }
  // A dirty extent of 2^order pages at `index`.
  PageRun PlaceDirty(uint64_t index, unsigned order) {
    const PageRun run = PlaceRun(index, uint64_t{1} << order);
    EXPECT_OK(mapping_->Fault(index, order, Access::kWrite));
    mapping_->MarkDirty(index, 1);
    return run;
  }
  static void ForgetSyncs() {
    std::lock_guard lock(g_msync_mutex);
    g_synced.clear();
  }
  // Whether one msync since ForgetSyncs covered all of the run.
  bool Synced(const PageRun& run) {
    const auto first = reinterpret_cast<uintptr_t>(pool_->At(run.offset()));
    std::lock_guard lock(g_msync_mutex);
    return std::any_of(g_synced.begin(), g_synced.end(), [&](const auto& synced) {
      return synced.first <= first && first + run.size_bytes() <= synced.second;
    });
  }
  uint64_t dirty() const { return mapping_->stats().dirty_entries; }
  bool IsDirty(uint64_t index) {
    // Its own writeback would clean it.
    ForgetSyncs();
    EXPECT_OK(mapping_->Writeback(index, 1));
    std::lock_guard lock(g_msync_mutex);
    return !g_synced.empty();
  }
  // Runs Writeback of everything, and `meanwhile` between its cleaning and its flushing.
  void WritebackAround(const std::function<void()>& meanwhile) {
    ForgetSyncs();
    Hold hold("writeback:cleaned");
    Background writeback([this] { EXPECT_OK(mapping_->Writeback(0, UINT64_MAX)); });
    ASSERT_TRUE(hold.Await());
    meanwhile();
    hold.Release();
    EXPECT_TRUE(writeback.Finishes());
  }
};

TEST_F(MappingWritebackTest, S9aTheEntryIsPunched) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceDirty(0, 2);
  const PageRun other = PlaceDirty(8, 2);
  WritebackAround([&] {
    EXPECT_OK(mapping_->Truncate(0, 4, kTry));
    table_.Remove(0);
  });
  EXPECT_FALSE(Present(0));
  EXPECT_TRUE(Synced(other));
  EXPECT_EQ(dirty(), 0u);
}

TEST_F(MappingWritebackTest, S9bTheEntryIsAnotherExtentNow) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceDirty(0, 2);
  WritebackAround([&] {
    EXPECT_OK(mapping_->Truncate(0, 4, kTry));
    PlaceDirty(0, 4);
  });
  EXPECT_EQ(dirty(), 1u);
  EXPECT_TRUE(IsDirty(0));
  EXPECT_EQ(dirty(), 0u);
}

TEST_F(MappingWritebackTest, S9cAnotherWritebackDoesNotTakeItForClean) {
  SKIP_WITHOUT_YIELD_POINTS();
  const PageRun run = PlaceDirty(0, 2);
  std::unique_ptr<Background> other;
  WritebackAround([&] {
    other = std::make_unique<Background>([this, &run] {
      EXPECT_OK(mapping_->Writeback(0, 4));
      EXPECT_TRUE(Synced(run));  // By the first, before the second returns.
    });
    absl::SleepFor(absl::Milliseconds(20));
    EXPECT_FALSE(other->finished());
  });
  EXPECT_TRUE(other->Finishes());
  EXPECT_EQ(dirty(), 0u);
}

TEST_F(MappingWritebackTest, S9dAHoleGetsFrames) {
  SKIP_WITHOUT_YIELD_POINTS();
  class OneHole : public TableProvider {
   public:
    absl::StatusOr<Extent> Provide(uint64_t index, unsigned order, Access access) override {
      if (access == Access::kRead && index < 512) return Extent{0, kNoFrame, order};
      return TableProvider::Provide(index, order, access);
    }
  } table;
  Mapping mapping(pool_.get(), &table);
  table.Place(7, MakeRun(pool_.get(), 1));
  table.Place(600, MakeRun(pool_.get(), 1));
  ASSERT_OK(mapping.Fault(7, 9, Access::kRead));
  ASSERT_OK(mapping.Fault(600, 0, Access::kWrite));
  mapping.MarkDirty(0, 1024);
  EXPECT_EQ(mapping.stats().dirty_entries, 1u);
  Hold hold("writeback:cleaned");
  Background writeback([&] { EXPECT_OK(mapping.Writeback(0, 1024)); });
  ASSERT_TRUE(hold.Await());
  ASSERT_OK(mapping.Fault(7, 0, Access::kWrite));
  mapping.MarkDirty(7, 1);
  hold.Release();
  EXPECT_TRUE(writeback.Finishes());
  EXPECT_EQ(mapping.stats().dirty_entries, 1u);
}

TEST_F(MappingWritebackTest, S10AStoreBesideTheFlushIsFlushedByTheNext) {
  SKIP_WITHOUT_YIELD_POINTS();
  const PageRun run = PlaceDirty(0, 2);
  WritebackAround([&] {
    *pool_->At(run.offset()) = 'x';
    mapping_->MarkDirty(0, 1);
  });
  EXPECT_EQ(dirty(), 1u);
  ForgetSyncs();
  EXPECT_OK(mapping_->Writeback(0, 4));
  EXPECT_TRUE(Synced(run));
  EXPECT_EQ(dirty(), 0u);
}

// The large and the small view of the same pages: a pin from before a split, and a piece. (Two
// mappings of one frame are refused: contract test AFrameIsMappedOnce.)
TEST_F(MappingWritebackTest, S17StoresThroughEitherViewAreFlushedAgain) {
  const PageRun run = PlaceDirty(512, 9);
  ForgetSyncs();
  EXPECT_OK(mapping_->Writeback(512 + 400, 1));  // Dirty through its first page.
  EXPECT_TRUE(Synced(run));                      // The whole of it.
  EXPECT_EQ(dirty(), 0u);

  absl::StatusOr<Pinned> large = mapping_->Pin(512, Access::kWrite);
  ASSERT_OK(large);
  ASSERT_OK(mapping_->Split(512, 0));
  absl::StatusOr<Pinned> small = mapping_->Pin(512 + 400, Access::kWrite);
  ASSERT_OK(small);
  PageRun page;
  page.first_page = run.first_page + 400;
  page.pages = 1;
  for (const Pinned* view : {&*large, &*small}) {
    const uint64_t page_in_view = 512 + 400 - view->first_index();
    const_cast<char*>(view->data())[page_in_view * kPageSizeBytes] = 'v';
    mapping_->MarkDirty(512 + 400, 1);
    EXPECT_EQ(dirty(), 1u);
    ForgetSyncs();
    EXPECT_OK(mapping_->Writeback(512, 512));
    EXPECT_TRUE(Synced(page));
    EXPECT_EQ(dirty(), 0u);
  }
}

// A scan lets go of the array every 256 entries.
TEST_F(MappingWritebackTest, S18EntriesComeAndGoAtTheEdgesOfAWriteback) {
  SKIP_WITHOUT_YIELD_POINTS();
  constexpr uint64_t entry_count = 1000;
  const PageRun huge = MakeRun(pool_.get(), 1024);
  for (uint64_t i = 0; i < entry_count; ++i) {
    table_.Place(2 * i, huge.first_page + i, 1);  // Every other index stays free.
    ASSERT_OK(mapping_->Fault(2 * i, 0, Access::kWrite));
  }
  for (uint64_t i : {0, 1}) PlaceRun(3000 + i * 512, 1);
  for (uint64_t i : {0, 1}) ASSERT_OK(mapping_->Fault(3000 + i * 512, 0, Access::kWrite));
  mapping_->MarkDirty(0, UINT64_MAX);
  ForgetSyncs();
  uint64_t edges = 0;
  {
    AtYield at("writeback:cleaned", [&] {
      // One more behind the scan, one at its edge, one before it; the doomed go.
      for (uint64_t index : {2 * edges + 1, 512 * (edges + 1) + 1, 1900 + 2 * edges + 1}) {
        PlaceDirty(index, 0);
      }
      if (edges < 2) EXPECT_OK(mapping_->Truncate(3000 + edges * 512, 1, kTry));
      ++edges;
    });
    EXPECT_OK(mapping_->Writeback(0, UINT64_MAX));
  }
  EXPECT_EQ(edges, 4u);
  // What was dirty at the start is durable and clean; what came later is dirty.
  for (uint64_t i = 0; i < entry_count; ++i) {
    PageRun page;
    page.first_page = huge.first_page + i;
    page.pages = 1;
    EXPECT_TRUE(Synced(page)) << i;
  }
  EXPECT_EQ(dirty(), 3 * edges);
  EXPECT_OK(mapping_->Writeback(0, UINT64_MAX));
  EXPECT_EQ(dirty(), 0u);
}

TEST_F(MappingWritebackTest, S18EntriesComeAndGoAtTheEdgesOfABreak) {
  SKIP_WITHOUT_YIELD_POINTS();
  constexpr uint64_t entry_count = 700;
  const PageRun run = MakeRun(pool_.get(), 1024);
  for (uint64_t i = 0; i < entry_count; ++i) {
    table_.Place(i, run.first_page + i, 1);
    ASSERT_OK(mapping_->Fault(i, 0, Access::kRead));
  }
  PlaceRun(1024, 512);
  ASSERT_OK(mapping_->Fault(1024, 9, Access::kRead));
  uint64_t edges = 0;
  absl::StatusOr<LayoutBreak> broken;
  {
    AtYield at("break:before-lock", [&] {
      PlaceRun(1 << 20 | edges, 1);  // Beyond the range.
      EXPECT_OK(mapping_->Fault(1 << 20 | edges, 0, Access::kRead));
      if (edges == 1) EXPECT_OK(mapping_->Split(1024, 8));  // Before the scan.
      if (edges == 2) EXPECT_OK(mapping_->Split(1024 + 256, 0));
      if (edges == 2) EXPECT_OK(mapping_->Truncate(1 << 20, 1, kTry));
      ++edges;
    });
    broken = mapping_->BreakLayouts(0, 2048, kTry);
    ASSERT_OK(broken);
  }
  EXPECT_GE(edges, 4u);
  EXPECT_EQ(mapping_->stats().locked_entries, entry_count + 1 + 256);
  for (uint64_t index : {uint64_t{0}, uint64_t{255}, uint64_t{256}, uint64_t{699}, uint64_t{1024},
                         uint64_t{1280}, uint64_t{1535}}) {
    EXPECT_EQ(CodeOf(mapping_->TryPin(index)), absl::StatusCode::kUnavailable) << index;
  }
  broken->Release();
  EXPECT_EQ(mapping_->stats().locked_entries, 0u);
}

// The kernel forgets a failed msync once it has been reported; the pool does not.
TEST_F(MappingWritebackTest, AFailedMsyncIsReportedFromThenOnAndTheExtentsStayDirty) {
  PlaceDirty(0, 2);
  PlaceDirty(512, 9);
  g_failing_msyncs = 1;
  for (int attempt = 0; attempt < 3; ++attempt) {
    const absl::Status failed = mapping_->Writeback(0, 1024);
    EXPECT_EQ(failed.code(), absl::StatusCode::kInternal) << failed;
    EXPECT_NE(failed.message().find("msync"), std::string::npos) << failed;
    EXPECT_EQ(dirty(), 2u);
    EXPECT_EQ(g_failing_msyncs, 0);
  }
}

}  // namespace
}  // namespace daxkv::dax
