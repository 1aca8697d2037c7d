// The contract of each call of dax/mapping.h, by one thread or two.
#include <cstring>
#include <thread>

#include "tests/dax/mapping_test_util.h"

namespace daxkv::dax {
namespace {

constexpr absl::Time kTry = absl::InfinitePast();

TEST_F(MappingTest, StartsEmpty) {
  PlaceRun(0, 1);
  EXPECT_FALSE(Present(0));
  EXPECT_FALSE(LookUp(0).has_value());
  EXPECT_EQ(mapping_->PinCount(0), 0u);
  EXPECT_EQ(CodeOf(mapping_->TryPin(0)), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CodeOf(mapping_->LockEntry(0)), absl::StatusCode::kNotFound);
  EXPECT_EQ(mapping_->stats().entries, 0u);
}

TEST_F(MappingTest, FaultInstallsTheProvidersExtent) {
  const PageRun run = PlaceRun(1024, 512);
  absl::StatusOr<FaultResult> fault = mapping_->Fault(1024 + 77, 9, Access::kRead);
  ASSERT_OK(fault);
  EXPECT_EQ(*fault, FaultResult::kNoPage);
  for (uint64_t index : {1024, 1101, 1535}) {
    ASSERT_TRUE(LookUp(index).has_value());
    EXPECT_EQ(LookUp(index)->first_index, 1024u);
    EXPECT_EQ(LookUp(index)->first_frame, run.first_page);
    EXPECT_EQ(LookUp(index)->order, 9u);
  }
  EXPECT_FALSE(Present(1023));
  EXPECT_FALSE(Present(1536));
  EXPECT_EQ(mapping_->stats().entries, 1u);
  EXPECT_EQ(mapping_->stats().pages, 512u);
  EXPECT_EQ(mapping_->stats().huge_entries, 1u);
  EXPECT_EQ(mapping_->stats().faults_no_page, 1u);
}

TEST_F(MappingTest, FaultFindsWhatIsThereWithoutAskingAgain) {
  PlaceRun(0, 16);
  ASSERT_OK(mapping_->Fault(3, 4, Access::kRead));
  ASSERT_OK(mapping_->Fault(15, 0, Access::kWrite));
  EXPECT_EQ(table_.provided(), 1);
}

TEST_F(MappingTest, FaultReturnsTheProvidersStatus) {
  EXPECT_EQ(CodeOf(mapping_->Fault(5, 0, Access::kRead)), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(mapping_->Pin(5, Access::kRead)), absl::StatusCode::kNotFound);
  table_.OnProvide([](uint64_t) { return absl::DataLossError("damaged"); });
  EXPECT_EQ(CodeOf(mapping_->Pin(5, Access::kRead)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(mapping_->Fault(5, 10, Access::kRead)), absl::StatusCode::kInvalidArgument);
}

TEST_F(MappingTest, FaultRefusesAProvidersNonsense) {
  class Nonsense : public ExtentProvider {
   public:
    absl::StatusOr<Extent> Provide(uint64_t, unsigned, Access) override { return extent; }
    Extent extent;
  } nonsense;
  Mapping mapping(pool_.get(), &nonsense);
  for (const Extent& extent :
       {Extent{16, 16, 5}, Extent{16, 8, 4}, Extent{17, 16, 4}, Extent{32, 16, 4}, Extent{0, 0, 4},
        Extent{16, 16, 63}, Extent{16, uint64_t{1} << 34, 4},
        Extent{16, UINT64_MAX & ~uint64_t{15}, 4}}) {
    nonsense.extent = extent;
    EXPECT_EQ(CodeOf(mapping.Fault(20, 4, Access::kRead)), absl::StatusCode::kInternal)
        << extent.first_index << " " << extent.first_frame << " " << extent.order;
  }
  EXPECT_EQ(mapping.stats().entries, 0u);
}

TEST_F(MappingTest, AFrameIsMappedOnce) {
  const PageRun run = PlaceRun(512, 512);
  table_.Place(5000 * 512, run);
  ASSERT_OK(mapping_->Fault(512, 9, Access::kRead));
  EXPECT_EQ(CodeOf(mapping_->Fault(5000 * 512, 9, Access::kRead)), absl::StatusCode::kInternal);
  EXPECT_EQ(CodeOf(mapping_->Fault(5000 * 512, 0, Access::kRead)), absl::StatusCode::kInternal);
}

TEST_F(MappingTest, PinGivesTheBytes) {
  PlaceRun(4096, 4, 'x');
  absl::StatusOr<Pinned> pinned = mapping_->Pin(4097, Access::kRead);
  ASSERT_OK(pinned);
  EXPECT_TRUE(pinned->valid());
  EXPECT_EQ(pinned->first_index(), 4096u);
  EXPECT_EQ(std::string_view(pinned->data(), pinned->size_bytes()), std::string(4 * 4096, 'x'));
  EXPECT_EQ(mapping_->PinCount(4099), 1u);
  EXPECT_EQ(mapping_->stats().pins, 1u);

  Pinned moved = *std::move(pinned);
  EXPECT_EQ(mapping_->PinCount(4096), 1u);
  absl::StatusOr<Pinned> second = mapping_->TryPin(4096);
  ASSERT_OK(second);
  EXPECT_EQ(mapping_->PinCount(4096), 2u);
  moved = *std::move(second);
  EXPECT_EQ(mapping_->PinCount(4096), 1u);
  moved.Release();
  EXPECT_FALSE(moved.valid());
  EXPECT_EQ(mapping_->PinCount(4096), 0u);
}

TEST_F(MappingTest, IndexSpaceIsTheProvidersOwn) {
  const PageRun run = PlaceRun(UINT64_MAX - 15, 16, 'e');
  {
    absl::StatusOr<Pinned> pinned = mapping_->Pin(UINT64_MAX, Access::kRead);
    ASSERT_OK(pinned);
    EXPECT_EQ(pinned->first_index(), UINT64_MAX - 15);
    EXPECT_EQ(pool_->OffsetOf(pinned->data()), run.offset());
  }
  EXPECT_OK(mapping_->BreakLayouts(UINT64_MAX, 1, kTry));
  EXPECT_OK(mapping_->Truncate(UINT64_MAX - 15, 16, kTry));
  EXPECT_FALSE(Present(UINT64_MAX));
  EXPECT_EQ(CodeOf(pool_->FindRun(run.first_page)), absl::StatusCode::kNotFound);
}

TEST_F(MappingTest, IdentityProviderMapsWholeRuns) {
  std::unique_ptr<ExtentProvider> identity = NewIdentityProvider(pool_.get());
  Mapping mapping(pool_.get(), identity.get());
  const PageRun small = MakeRun(pool_.get(), 4, 's');
  const PageRun large = MakeRun(pool_.get(), 1024, 'l');
  ASSERT_OK(mapping.Fault(small.first_page + 3, 9, Access::kRead));
  ASSERT_OK(mapping.Fault(large.first_page + 600, 9, Access::kRead));
  {
    rcu::ReadGuard guard;
    EXPECT_EQ(mapping.LookUp(small.first_page)->order, 2u);
    EXPECT_EQ(mapping.LookUp(large.first_page + 512)->first_frame, large.first_page + 512);
    EXPECT_FALSE(mapping.Present(large.first_page));
  }
  EXPECT_OK(mapping.Truncate(large.first_page, 1024, kTry));  // Half of it was never faulted in.
  EXPECT_EQ(CodeOf(pool_->FindRun(large.first_page)), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(mapping.Pin(large.first_page, Access::kRead)), absl::StatusCode::kNotFound);
}

TEST_F(MappingTest, LockBlocksPinsAndKeepsReaders) {
  PlaceRun(0, 8, 'r');
  ASSERT_OK(mapping_->Fault(0, 3, Access::kRead));
  absl::StatusOr<EntryLock> lock = mapping_->LockEntry(5);
  ASSERT_OK(lock);
  EXPECT_EQ(lock->extent().order, 3u);
  EXPECT_EQ(lock->mapping(), mapping_.get());
  EXPECT_TRUE(Present(5));
  EXPECT_EQ(CodeOf(mapping_->TryPin(5)), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(0, 1, kTry)), absl::StatusCode::kDeadlineExceeded);

  std::thread pinner([&] {
    absl::StatusOr<Pinned> pinned = mapping_->Pin(2, Access::kRead);
    EXPECT_OK(pinned);
  });
  EXPECT_TRUE(AwaitSleepers(1));
  EntryLock moved = *std::move(lock);
  EXPECT_EQ(mapping_->stats().locked_entries, 1u);
  moved.Unlock();
  pinner.join();
  EXPECT_OK(mapping_->TryPin(5));
}

TEST_F(MappingTest, LockFrameFindsTheMapping) {
  const PageRun run = PlaceRun(9 * 512, 512);
  EXPECT_EQ(CodeOf(Mapping::LockFrame(pool_.get(), run.first_page)), absl::StatusCode::kNotFound);
  ASSERT_OK(mapping_->Fault(9 * 512, 9, Access::kRead));
  absl::StatusOr<EntryLock> lock = Mapping::LockFrame(pool_.get(), run.first_page + 300);
  ASSERT_OK(lock);
  EXPECT_EQ(lock->extent().first_index, 9 * 512u);
  EXPECT_EQ(lock->mapping(), mapping_.get());
  EXPECT_EQ(CodeOf(Mapping::LockFrame(pool_.get(), uint64_t{1} << 50)),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(Mapping::LockFrame(nullptr, 0)), absl::StatusCode::kNotFound);
}

TEST_F(MappingTest, PoisonEndsWithTruncation) {
  const PageRun run = PlaceRun(0, 1, 'p');
  absl::StatusOr<Pinned> old_pin = mapping_->Pin(0, Access::kRead);
  ASSERT_OK(old_pin);
  {
    absl::StatusOr<EntryLock> lock = Mapping::LockFrame(pool_.get(), run.first_page);
    ASSERT_OK(lock);
    lock->Poison();
    EXPECT_FALSE(Present(0));
  }
  EXPECT_FALSE(Present(0));
  EXPECT_FALSE(LookUp(0).has_value());
  EXPECT_EQ(CodeOf(mapping_->Pin(0, Access::kRead)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(mapping_->TryPin(0)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(mapping_->Fault(0, 0, Access::kWrite)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(mapping_->Truncate(0, 1, kTry)), absl::StatusCode::kDeadlineExceeded);
  old_pin->Release();
  EXPECT_OK(mapping_->Truncate(0, 1, kTry));
  table_.Remove(0);
  EXPECT_EQ(CodeOf(mapping_->Pin(0, Access::kRead)), absl::StatusCode::kNotFound);
}

TEST_F(MappingTest, BreakKeepsOutFaultsPinsAndBreaksUntilItGoes) {
  PlaceRun(0, 4);
  PlaceRun(8, 4);
  ASSERT_OK(mapping_->Fault(0, 2, Access::kRead));
  absl::StatusOr<LayoutBreak> broken = mapping_->BreakLayouts(0, 16, kTry);
  ASSERT_OK(broken);
  EXPECT_TRUE(Present(0));
  EXPECT_EQ(CodeOf(mapping_->TryPin(1)), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(15, 4, kTry)), absl::StatusCode::kDeadlineExceeded);
  EXPECT_OK(mapping_->BreakLayouts(16, 4, kTry));

  std::thread pinner([&] { EXPECT_OK(mapping_->Pin(0, Access::kRead)); });
  std::thread faulter([&] { EXPECT_OK(mapping_->Fault(9, 2, Access::kRead)); });
  std::thread breaker([&] { EXPECT_OK(mapping_->BreakLayouts(12, 1, absl::InfiniteFuture())); });
  EXPECT_TRUE(AwaitSleepers(3));
  EXPECT_FALSE(Present(9));
  LayoutBreak moved = *std::move(broken);
  moved.Release();
  pinner.join();
  faulter.join();
  breaker.join();
  EXPECT_TRUE(Present(9));
}

TEST_F(MappingTest, BreakTakesAnExtentThatReachesIntoTheRange) {
  PlaceRun(0, 512);
  ASSERT_OK(mapping_->Fault(0, 9, Access::kRead));
  {
    absl::StatusOr<LayoutBreak> broken = mapping_->BreakLayouts(100, 1, kTry);
    ASSERT_OK(broken);
    EXPECT_EQ(CodeOf(mapping_->TryPin(511)), absl::StatusCode::kUnavailable);
  }
  absl::StatusOr<Pinned> pinned = mapping_->TryPin(511);
  ASSERT_OK(pinned);
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(100, 1, kTry)), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(MappingTest, BreakOfManyEntriesUnlocksThemAll) {
  constexpr uint64_t kPages = 1000;  // Several batches.
  const PageRun run = MakeRun(pool_.get(), 1024);
  for (uint64_t i = 0; i < kPages; ++i) {
    table_.Place(i, run.first_page + i, 1);
    ASSERT_OK(mapping_->Fault(i, 0, Access::kRead));
  }
  { ASSERT_OK(mapping_->BreakLayouts(0, kPages, kTry)); }
  EXPECT_EQ(mapping_->stats().locked_entries, 0u);
  absl::StatusOr<Pinned> pinned = mapping_->TryPin(kPages - 1);
  ASSERT_OK(pinned);
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(0, kPages, absl::Now() + absl::Milliseconds(20))),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(mapping_->stats().locked_entries, 0u);
  EXPECT_OK(mapping_->TryPin(0));
}

TEST_F(MappingTest, RangesAreChecked) {
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(1, 0, kTry)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(mapping_->Truncate(2, UINT64_MAX, kTry)), absl::StatusCode::kInvalidArgument);
  EXPECT_OK(mapping_->BreakLayouts(UINT64_MAX, 1, kTry));
}

TEST_F(MappingTest, TruncateReleasesFaultedAndUntouchedRuns) {
  const PageRun touched = PlaceRun(0, 8);
  const PageRun untouched = PlaceRun(16, 2);
  const PageRun kept = PlaceRun(32, 2);
  ASSERT_OK(mapping_->Fault(0, 3, Access::kRead));
  EXPECT_OK(mapping_->Truncate(0, 32, kTry));
  EXPECT_FALSE(Present(0));
  EXPECT_EQ(CodeOf(pool_->FindRun(touched.first_page)), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(pool_->FindRun(untouched.first_page)), absl::StatusCode::kNotFound);
  EXPECT_OK(pool_->FindRun(kept.first_page));
  EXPECT_EQ(CodeOf(Mapping::LockFrame(pool_.get(), touched.first_page)),
            absl::StatusCode::kNotFound);
}

TEST_F(MappingTest, TruncateWantsWholeRuns) {
  const PageRun run = PlaceRun(64, 8);
  ASSERT_OK(mapping_->Fault(64, 3, Access::kRead));
  EXPECT_EQ(CodeOf(mapping_->Truncate(64, 7, kTry)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(mapping_->Truncate(65, 8, kTry)), absl::StatusCode::kInvalidArgument);
  // Pages of one run in two places of the index space.
  const PageRun torn = MakeRun(pool_.get(), 2);
  table_.Place(128, torn.first_page, 1);
  table_.Place(200, torn.first_page + 1, 1);
  ASSERT_OK(mapping_->Fault(200, 0, Access::kRead));
  EXPECT_EQ(CodeOf(mapping_->Truncate(200, 8, kTry)), absl::StatusCode::kInvalidArgument);
  // Nothing changed.
  EXPECT_TRUE(Present(64));
  EXPECT_OK(mapping_->TryPin(64));
  EXPECT_OK(pool_->FindRun(run.first_page));
  EXPECT_OK(mapping_->Truncate(64, 8, kTry));
}

TEST_F(MappingTest, SplitKeepsBytesPinsAndMarks) {
  const PageRun run = PlaceRun(512, 512);
  for (uint64_t page = 0; page < 512; ++page) {
    std::memcpy(pool_->At(run.offset() + page * 4096), &page, sizeof(page));
  }
  absl::StatusOr<Pinned> old_pin = mapping_->Pin(700, Access::kRead);
  ASSERT_OK(old_pin);
  mapping_->MarkDirty(600, 1);
  ASSERT_OK(mapping_->Split(600, 3));

  EXPECT_EQ(mapping_->stats().entries, 64u);
  EXPECT_EQ(mapping_->stats().pages, 512u);
  EXPECT_EQ(mapping_->stats().dirty_entries, 64u);
  EXPECT_EQ(mapping_->stats().pins, 1u);
  for (uint64_t page = 0; page < 512; ++page) {
    const std::optional<Extent> extent = LookUp(512 + page);
    ASSERT_TRUE(extent.has_value());
    EXPECT_EQ(extent->order, 3u);
    EXPECT_EQ(extent->first_frame + (512 + page - extent->first_index), run.first_page + page);
    EXPECT_EQ(mapping_->PinCount(512 + page), 1u);
  }
  absl::StatusOr<EntryLock> lock = Mapping::LockFrame(pool_.get(), run.first_page + 9);
  ASSERT_OK(lock);
  EXPECT_EQ(lock->extent().first_index, 512u + 8);
  lock->Unlock();

  // The old pin keeps every piece; a new one keeps its own.
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(512, 8, kTry)), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(1016, 8, kTry)), absl::StatusCode::kDeadlineExceeded);
  absl::StatusOr<Pinned> new_pin = mapping_->Pin(512, Access::kRead);
  ASSERT_OK(new_pin);
  EXPECT_EQ(new_pin->size_bytes(), 8 * kPageSizeBytes);
  EXPECT_EQ(mapping_->stats().pins, 2u);
  old_pin->Release();
  EXPECT_EQ(CodeOf(mapping_->BreakLayouts(512, 8, kTry)), absl::StatusCode::kDeadlineExceeded);
  EXPECT_OK(mapping_->BreakLayouts(520, 504, kTry));
  new_pin->Release();

  EXPECT_OK(mapping_->Split(512, 0));
  EXPECT_EQ(mapping_->stats().entries, 63u + 8);
  EXPECT_EQ(CodeOf(mapping_->Split(512, 0)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(mapping_->Split(5120, 0)), absl::StatusCode::kNotFound);
  EXPECT_OK(mapping_->Truncate(512, 512, kTry));
  EXPECT_EQ(mapping_->stats().entries, 0u);
}

TEST_F(MappingTest, SplitOfEachOrderIntoEachSmallerOneKeepsPinnedBytes) {
  for (unsigned order = 1; order <= kHugeOrder; ++order) {
    for (unsigned new_order = 0; new_order < order; ++new_order) {
      SCOPED_TRACE(absl::StrCat("order ", order, " into ", new_order));
      const uint64_t pages = uint64_t{1} << order;
      const PageRun run = PlaceRun(kHugePages, pages, static_cast<char>('a' + new_order));
      absl::StatusOr<Pinned> pinned = mapping_->Pin(kHugePages, Access::kRead);
      ASSERT_OK(pinned);
      ASSERT_EQ(pinned->size_bytes(), run.size_bytes());
      ASSERT_OK(mapping_->Split(kHugePages + pages / 2, new_order));
      EXPECT_EQ(mapping_->stats().entries_by_order[new_order], pages >> new_order);
      EXPECT_EQ(mapping_->stats().entries, pages >> new_order);
      // The pin from before keeps each piece.
      for (uint64_t page = 0; page < pages; page += uint64_t{1} << new_order) {
        ASSERT_EQ(LookUp(kHugePages + page)->first_frame, run.first_page + page);
        ASSERT_EQ(mapping_->PinCount(kHugePages + page), 1u);
      }
      EXPECT_EQ(CodeOf(mapping_->Truncate(kHugePages, pages, kTry)),
                absl::StatusCode::kDeadlineExceeded);
      const std::string_view bytes(pinned->data(), pinned->size_bytes());
      EXPECT_EQ(bytes.find_first_not_of(static_cast<char>('a' + new_order)), bytes.npos);
      pinned->Release();
      ASSERT_OK(mapping_->Truncate(kHugePages, pages, kTry));
      table_.Remove(kHugePages);
    }
  }
}

TEST_F(MappingTest, WritebackCleansItsRangeOnly) {
  PlaceRun(0, 4);
  PlaceRun(8, 4);
  PlaceRun(16, 4);
  for (uint64_t index : {0, 8, 16}) ASSERT_OK(mapping_->Fault(index, 2, Access::kWrite));
  mapping_->MarkDirty(3, 10);
  EXPECT_EQ(mapping_->stats().dirty_entries, 2u);
  EXPECT_OK(mapping_->Writeback(0, 4));
  EXPECT_EQ(mapping_->stats().dirty_entries, 1u);
  EXPECT_OK(mapping_->Writeback(0, UINT64_MAX));
  EXPECT_EQ(mapping_->stats().dirty_entries, 0u);
}

// S9, S10: no lock is waited for, and a mark that is set while the flush runs stays.
TEST_F(MappingTest, WritebackKeepsMarksThatComeMeanwhile) {
  SKIP_WITHOUT_YIELD_POINTS();
  PlaceRun(0, 4);
  PlaceRun(8, 4);
  ASSERT_OK(mapping_->Fault(0, 2, Access::kWrite));
  ASSERT_OK(mapping_->Fault(8, 2, Access::kWrite));
  mapping_->MarkDirty(0, 16);
  {
    Hold hold("writeback:cleaned");
    std::thread writer([&] { EXPECT_OK(mapping_->Writeback(0, 16)); });
    ASSERT_TRUE(hold.Await());
    mapping_->MarkDirty(0, 1);
    EXPECT_OK(mapping_->Truncate(8, 4, kTry));
    hold.Release();
    writer.join();
  }
  EXPECT_EQ(mapping_->stats().dirty_entries, 1u);
}

TEST_F(MappingTest, DestroyedWhilePinnedStopsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  PlaceRun(0, 1);
  EXPECT_DEATH(
      {
        absl::StatusOr<Pinned> pinned = mapping_->Pin(0, Access::kRead);
        mapping_.reset();
      },
      "destroyed while extents of it are pinned");
}

TEST_F(MappingTest, SleepingUnderRcuStopsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  PlaceRun(0, 1);
  ASSERT_OK(mapping_->Fault(0, 0, Access::kRead));
  absl::StatusOr<EntryLock> lock = mapping_->LockEntry(0);
  ASSERT_OK(lock);
  EXPECT_DEATH(
      {
        rcu::ReadGuard guard;
        mapping_->LockEntry(0).status().IgnoreError();
      },
      "RCU");
}

}  // namespace
}  // namespace daxkv::dax
