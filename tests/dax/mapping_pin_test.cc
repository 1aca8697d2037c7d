// Pins of byte ranges, their limits, and the report of who holds them.
//
// What mutations/run undoes, and the test that must fail then:
//   APinnerHoldsNothingWhileItWaits: the pinner of a range keeps its pins while it sleeps
//   AnExtentsLimitRefusesOneMore: a refused pin stays counted
//   TheMappingsLimitRefusesOneMore: the mapping's limit counts refused pins
//   TheReportTellsCountsAndTimes: an extent's clock never starts anew
//   AStuckBreakNamesWhatIsPinned: the message leaves the larger block's pins out
#include <pthread.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "tests/dax/mapping_test_util.h"

namespace daxkv::dax {
namespace {

constexpr absl::Time kTry = absl::InfinitePast();
constexpr absl::Time kForever = absl::InfiniteFuture();
constexpr uint64_t kPage = kPageSizeBytes;

std::string Join(const PinnedRange& range) {
  std::string all;
  for (std::string_view piece : range.pieces()) all += piece;
  return all;
}

class MappingPinTest : public MappingTest {
 protected:
  // Another mapping of the same pool, with its own provider.
  void UseMapping(const MappingOptions& options) {
    mapping_ = std::make_unique<Mapping>(pool_.get(), &table_, options);
  }
};

TEST_F(MappingPinTest, ARangeInsideOneExtentIsOnePiece) {
  const PageRun run = PlaceRun(512, 512, 'x');
  std::memcpy(pool_->At(run.offset() + 5000), "Saturn", 6);
  absl::StatusOr<PinnedRange> range = mapping_->PinRange(512 * kPage + 5000, 6, Access::kRead);
  ASSERT_OK(range);
  EXPECT_TRUE(range->valid());
  EXPECT_EQ(range->bytes(), "Saturn");
  EXPECT_EQ(range->size_bytes(), 6u);
  EXPECT_EQ(range->extents(), 1u);
  EXPECT_EQ(mapping_->PinCount(512), 1u);
  PinnedRange moved = *std::move(range);
  EXPECT_EQ(mapping_->PinCount(512), 1u);
  moved.Release();
  EXPECT_FALSE(moved.valid());
  EXPECT_EQ(mapping_->PinCount(512), 0u);
}

// Neighbours in index space that are apart in memory, and of several orders.
TEST_F(MappingPinTest, ARangeAcrossExtentsGivesTheBytesInOrder) {
  PlaceRun(512, 512, 'a');
  MakeRun(pool_.get(), 1);  // In between, so that the next one is not the neighbour.
  PlaceRun(1024, 4, 'b');
  PlaceRun(1028, 1, 'c');
  absl::StatusOr<PinnedRange> range =
      mapping_->PinRange(1024 * kPage - 3, 3 + 4 * kPage + 2, Access::kRead);
  ASSERT_OK(range);
  EXPECT_EQ(Join(*range), "aaa" + std::string(4 * kPage, 'b') + "cc");
  EXPECT_EQ(range->size_bytes(), 4 * kPage + 5);
  EXPECT_EQ(range->extents(), 3u);
  EXPECT_GT(range->pieces().size(), 1u);
  EXPECT_TRUE(range->bytes().empty());
  for (uint64_t index : {512, 1023, 1024, 1027, 1028}) EXPECT_EQ(mapping_->PinCount(index), 1u);
  EXPECT_EQ(mapping_->stats().pins, 3u);
  EXPECT_EQ(CodeOf(mapping_->Truncate(1028, 1, kTry)), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(MappingPinTest, NeighboursInMemoryAreOnePiece) {
  const PageRun run = MakeRun(pool_.get(), 1024, 'n');  // Two entries of order 9.
  table_.Place(1024, run);
  absl::StatusOr<PinnedRange> range = mapping_->PinRange(1024 * kPage, 1024 * kPage, Access::kRead);
  ASSERT_OK(range);
  EXPECT_EQ(range->extents(), 2u);
  EXPECT_EQ(range->bytes().size(), 1024 * kPage);
  EXPECT_EQ(pool_->OffsetOf(range->bytes().data()), run.offset());
}

TEST_F(MappingPinTest, AllOrNothing) {
  PlaceRun(0, 1);
  PlaceRun(2, 1);  // Nothing at 1.
  EXPECT_EQ(CodeOf(mapping_->PinRange(0, 3 * kPage, Access::kRead)), absl::StatusCode::kNotFound);
  EXPECT_EQ(mapping_->stats().pins, 0u);
  PlaceRun(1, 1);
  ASSERT_OK(mapping_->Fault(0, 0, Access::kRead));
  EXPECT_EQ(CodeOf(mapping_->TryPinRange(0, 3 * kPage)), absl::StatusCode::kUnavailable);
  EXPECT_EQ(mapping_->stats().pins, 0u);
  ASSERT_OK(mapping_->PinRange(0, 3 * kPage, Access::kRead));
  EXPECT_OK(mapping_->TryPinRange(0, 3 * kPage));
  EXPECT_EQ(CodeOf(mapping_->PinRange(5, 0, Access::kRead)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(mapping_->TryPinRange(UINT64_MAX, 2)), absl::StatusCode::kInvalidArgument);
}

TEST_F(MappingPinTest, APoisonedExtentRefusesTheRange) {
  PlaceRun(0, 1);
  const PageRun bad = PlaceRun(1, 1);
  ASSERT_OK(mapping_->PinRange(0, 2 * kPage, Access::kRead));
  Mapping::LockFrame(pool_.get(), bad.first_page)->Poison();
  EXPECT_EQ(CodeOf(mapping_->PinRange(0, 2 * kPage, Access::kRead)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(mapping_->TryPinRange(0, 2 * kPage)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(mapping_->PinCount(0), 0u);
}

// A breaker has the second extent, and waits for the first: whoever pins both must not hold the
// first while it waits for the second.
TEST_F(MappingPinTest, APinnerHoldsNothingWhileItWaits) {
  PlaceRun(0, 1);
  PlaceRun(1, 1);
  ASSERT_OK(mapping_->PinRange(0, 2 * kPage, Access::kRead));
  absl::StatusOr<LayoutBreak> broken = mapping_->BreakLayouts(1, 1, kTry);
  ASSERT_OK(broken);
  Background pinner([this] {
    absl::StatusOr<PinnedRange> range = mapping_->PinRange(0, 2 * kPage, Access::kRead);
    ASSERT_OK(range);
    EXPECT_EQ(range->extents(), 2u);
  });
  EXPECT_TRUE(AwaitSleepers(1));
  EXPECT_EQ(mapping_->PinCount(0), 0u);
  EXPECT_OK(mapping_->BreakLayouts(0, 1, kTry));
  broken->Release();
  EXPECT_TRUE(pinner.Finishes());
}

// The first extent goes and comes back while the pinner waits for the second.
TEST_F(MappingPinTest, AfterASleepEverythingIsLookedUpAgain) {
  PlaceRun(0, 1, 'o');
  PlaceRun(1, 1, 's');
  ASSERT_OK(mapping_->PinRange(0, 2 * kPage, Access::kRead));
  absl::StatusOr<EntryLock> lock = mapping_->LockEntry(1);
  ASSERT_OK(lock);
  Background pinner([this] {
    absl::StatusOr<PinnedRange> range = mapping_->PinRange(kPage - 1, 2, Access::kRead);
    ASSERT_OK(range);
    EXPECT_EQ(Join(*range), "ns");
  });
  EXPECT_TRUE(AwaitSleepers(1));
  ASSERT_OK(mapping_->Truncate(0, 1, kForever));
  PlaceRun(0, 1, 'n');
  lock->Unlock();
  EXPECT_TRUE(pinner.Finishes());
}

TEST_F(MappingPinTest, AManyExtentRangeAsksTheProviderOnceForEach) {
  constexpr uint64_t kPages = 300;
  const PageRun run = MakeRun(pool_.get(), 512, 'm');
  for (uint64_t i = 0; i < kPages; ++i) table_.Place(i, run.first_page + i, 1);
  absl::StatusOr<PinnedRange> range = mapping_->PinRange(0, kPages * kPage, Access::kRead);
  ASSERT_OK(range);
  EXPECT_EQ(range->extents(), kPages);
  EXPECT_EQ(table_.provided(), static_cast<int>(kPages));
  EXPECT_EQ(Join(*range), std::string(kPages * kPage, 'm'));
}

TEST_F(MappingPinTest, AnExtentsLimitRefusesOneMore) {
  MappingOptions options;
  options.max_pins_per_extent = 2;
  UseMapping(options);
  PlaceRun(0, 8);
  PlaceRun(8, 1);
  absl::StatusOr<Pinned> first = mapping_->Pin(0, Access::kRead);
  absl::StatusOr<Pinned> second = mapping_->Pin(7, Access::kRead);
  ASSERT_OK(first);
  ASSERT_OK(second);
  const absl::Status refused = mapping_->Pin(3, Access::kRead).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("max_pins_per_extent"), std::string::npos) << refused;
  EXPECT_EQ(CodeOf(mapping_->TryPin(3)), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(CodeOf(mapping_->PinRange(0, 9 * kPage, Access::kRead)),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(mapping_->PinCount(0), 2u);
  EXPECT_OK(mapping_->Pin(8, Access::kRead));
  first->Release();
  EXPECT_OK(mapping_->Pin(3, Access::kRead));
}

TEST_F(MappingPinTest, TheMappingsLimitRefusesOneMore) {
  MappingOptions options;
  options.max_pins = 3;
  UseMapping(options);
  for (uint64_t index : {0, 1, 2, 3}) PlaceRun(index, 1);
  absl::StatusOr<PinnedRange> range = mapping_->PinRange(0, 3 * kPage, Access::kRead);
  ASSERT_OK(range);
  const absl::Status refused = mapping_->Pin(3, Access::kRead).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("max_pins (3)"), std::string::npos) << refused;
  EXPECT_EQ(mapping_->PinCount(3), 0u);
  range->Release();
  // Four do not fit, and none is left behind.
  EXPECT_EQ(CodeOf(mapping_->PinRange(0, 4 * kPage, Access::kRead)),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(mapping_->stats().pins, 0u);
  EXPECT_OK(mapping_->PinRange(1, 3 * kPage - 1, Access::kRead));
}

TEST_F(MappingPinTest, TheReportTellsCountsAndTimes) {
  PlaceRun(0, 8);
  PlaceRun(512, 512);
  EXPECT_EQ(mapping_->ReportPins().pinned_extents, 0u);
  absl::StatusOr<Pinned> old_pin = mapping_->Pin(600, Access::kRead);
  ASSERT_OK(old_pin);
  absl::SleepFor(absl::Milliseconds(60));
  absl::StatusOr<Pinned> new_pin = mapping_->Pin(0, Access::kRead);
  absl::StatusOr<Pinned> another = mapping_->Pin(600, Access::kRead);
  ASSERT_OK(new_pin);
  ASSERT_OK(another);

  PinReport report = mapping_->ReportPins();
  EXPECT_EQ(report.pins, 3u);
  EXPECT_EQ(report.pinned_extents, 2u);
  EXPECT_FALSE(report.tracked);
  ASSERT_EQ(report.longest_busy.size(), 2u);
  EXPECT_EQ(report.longest_busy[0].first_index, 512u);
  EXPECT_EQ(report.longest_busy[0].order, 9u);
  EXPECT_EQ(report.longest_busy[0].pins, 2u);
  EXPECT_GE(report.longest_busy[0].busy_for, absl::Milliseconds(40));
  EXPECT_EQ(report.longest_busy[1].first_index, 0u);
  EXPECT_LT(report.longest_busy[1].busy_for, report.longest_busy[0].busy_for);
  EXPECT_EQ(mapping_->ReportPins(1).longest_busy.size(), 1u);
  EXPECT_EQ(mapping_->ReportPins(1).longest_busy[0].first_index, 512u);
  EXPECT_EQ(mapping_->ReportPins(0).pins, 3u);

  // Pins from before a split keep their extent's name.
  ASSERT_OK(mapping_->Split(600, 0));
  report = mapping_->ReportPins();
  EXPECT_EQ(report.pinned_extents, 2u);
  EXPECT_EQ(report.longest_busy[0].order, 9u);
  // The clock starts anew once an extent had no pins.
  absl::SleepFor(absl::Milliseconds(200));
  const absl::Duration before = mapping_->ReportPins().longest_busy[1].busy_for;
  new_pin->Release();
  new_pin = mapping_->Pin(0, Access::kRead);
  EXPECT_LT(mapping_->ReportPins().longest_busy[1].busy_for, before);
}

TEST_F(MappingPinTest, TrackedPinsNameTheirThreads) {
  MappingOptions options;
  options.track_pins = true;
  UseMapping(options);
  PlaceRun(0, 1);
  PlaceRun(1, 1);
  absl::StatusOr<Pinned> mine = mapping_->Pin(0, Access::kRead);
  ASSERT_OK(mine);
  absl::SleepFor(absl::Milliseconds(20));
  std::optional<PinnedRange> theirs;
  std::atomic<pid_t> their_thread{0};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    pthread_setname_np(pthread_self(), "a-reader");
    absl::StatusOr<PinnedRange> range = mapping_->PinRange(0, 2 * kPage, Access::kRead);
    ASSERT_OK(range);
    theirs = *std::move(range);
    their_thread = gettid();
    while (!stop) absl::SleepFor(absl::Milliseconds(1));
  });
  ASSERT_TRUE(Eventually([&] { return their_thread != 0; }));

  PinReport report = mapping_->ReportPins();
  EXPECT_TRUE(report.tracked);
  ASSERT_EQ(report.holders.size(), 2u);
  EXPECT_EQ(report.holders[0].thread, gettid());
  EXPECT_EQ(report.holders[0].pins, 1u);
  EXPECT_GE(report.holders[0].oldest, absl::Milliseconds(10));
  EXPECT_EQ(report.holders[1].thread, their_thread);
  EXPECT_EQ(report.holders[1].thread_name, "a-reader");
  EXPECT_EQ(report.holders[1].pins, 2u);
  const absl::Status stuck = mapping_->BreakLayouts(1, 1, kTry).status();
  EXPECT_NE(stuck.message().find("a-reader"), std::string::npos) << stuck;

  stop = true;
  other.join();
  report = mapping_->ReportPins();  // A pin may outlive its thread.
  ASSERT_EQ(report.holders.size(), 2u);
  EXPECT_EQ(report.holders[1].thread_name, "");
  theirs->Release();
  mine->Release();
  EXPECT_TRUE(mapping_->ReportPins().holders.empty());
}

TEST_F(MappingPinTest, AStuckBreakNamesWhatIsPinned) {
  PlaceRun(0, 4);
  PlaceRun(512, 512);
  absl::StatusOr<Pinned> small = mapping_->Pin(0, Access::kRead);
  absl::StatusOr<Pinned> huge = mapping_->Pin(512, Access::kRead);
  absl::StatusOr<Pinned> again = mapping_->Pin(513, Access::kRead);
  ASSERT_OK(small);
  ASSERT_OK(huge);
  ASSERT_OK(again);
  for (const absl::Time deadline : {kTry, absl::Now() + absl::Milliseconds(30)}) {
    const absl::Status stuck = mapping_->BreakLayouts(0, 1024, deadline).status();
    EXPECT_EQ(stuck.code(), absl::StatusCode::kDeadlineExceeded);
    for (const char* part :
         {"index 0 (order 2) has 1 pins", "index 512 (order 9) has 2 pins", "busy for"}) {
      EXPECT_NE(stuck.message().find(part), std::string::npos) << stuck;
    }
  }
  // A piece of a split is kept by the pins of the whole.
  ASSERT_OK(mapping_->Split(512, 0));
  const absl::Status stuck = mapping_->BreakLayouts(1000, 1, kTry).status();
  EXPECT_NE(stuck.message().find("index 512 (order 9) has 2 pins"), std::string::npos) << stuck;
}

TEST_F(MappingPinTest, ALongListIsCut) {
  const PageRun run = MakeRun(pool_.get(), 8);
  std::vector<Pinned> pins;
  for (uint64_t i = 0; i < 8; ++i) {
    table_.Place(i, run.first_page + i, 1);
    pins.push_back(*mapping_->Pin(i, Access::kRead));
  }
  const absl::Status stuck = mapping_->BreakLayouts(0, 8, kTry).status();
  EXPECT_NE(stuck.message().find("index 3"), std::string::npos) << stuck;
  EXPECT_EQ(stuck.message().find("index 4"), std::string::npos) << stuck;
  EXPECT_NE(stuck.message().find("and more"), std::string::npos) << stuck;
}

}  // namespace
}  // namespace daxkv::dax
