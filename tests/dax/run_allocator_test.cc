// The volatile allocator against a plain model, and the descriptor words.

#include "dax/run_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "dax/run_descriptor.h"

namespace daxkv::dax {
namespace {

TEST(RunDescriptorTest, ComesBackAsItWent) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    dax::Run run;
    run.pages = RoundToRunPages(random() % 4 == 0 ? 1 + random() % kMaxRunPages
                                                  : uint64_t{1} << (random() % 10));
    const uint64_t unit = std::min(run.pages, kHugePages);
    run.first_page = random() % (uint64_t{1} << 34) / unit * unit;
    run.kind = static_cast<uint8_t>(1 + random() % 255);
    run.owner = static_cast<uint16_t>(random());
    run.live = random() % 2 != 0;
    const uint64_t epoch = random();
    const uint64_t word = EncodeRunDescriptor(run, epoch);
    ASSERT_NE(word, 0u);
    const std::optional<RunDescriptor> back = DecodeRunDescriptor(word, run.first_page);
    ASSERT_TRUE(back.has_value());
    EXPECT_EQ(back->run.first_page, run.first_page);
    EXPECT_EQ(back->run.pages, run.pages);
    EXPECT_EQ(back->run.kind, run.kind);
    EXPECT_EQ(back->run.owner, run.owner);
    EXPECT_EQ(back->run.live, run.live);
    EXPECT_EQ(back->epoch, run.live ? 0 : epoch & kEpochMask);
  }
}

TEST(RunDescriptorTest, DamageIsSeen) {
  dax::Run run;
  run.first_page = 4096;
  run.pages = 16;
  run.kind = 3;
  run.live = true;
  const uint64_t word = EncodeRunDescriptor(run, 0);
  int accepted = 0;
  for (unsigned bit = 0; bit < 64; ++bit) {
    accepted += DecodeRunDescriptor(word ^ (uint64_t{1} << bit), run.first_page).has_value();
  }
  EXPECT_LE(accepted, 1);  // Eight bits of check, and rules on top of them.
  std::mt19937_64 random(2);
  accepted = 0;
  for (int i = 0; i < 100000; ++i) accepted += DecodeRunDescriptor(random(), 4096).has_value();
  EXPECT_LT(accepted, 100000 / 256);
  accepted = 0;
  for (uint64_t page = 0; page < 16 * 4096; page += 16) {
    accepted += page != run.first_page && DecodeRunDescriptor(word, page).has_value();
  }
  EXPECT_LT(accepted, 4096 / 128);
}

TEST(RunAllocatorTest, SmallRunsLeaveWholeBlocksWhole) {
  RunAllocator allocator(8 * kHugePages);
  ASSERT_TRUE(allocator.Allocate(1).has_value());
  for (int i = 0; i < 511; ++i) ASSERT_TRUE(allocator.Allocate(1).has_value());
  EXPECT_EQ(allocator.LargestFreeRun(), 7 * kHugePages);
  ASSERT_TRUE(allocator.Allocate(64).has_value());
  EXPECT_EQ(allocator.LargestFreeRun(), 6 * kHugePages);
}

TEST(RunAllocatorTest, TheSmallestBuddyThatFitsIsTaken) {
  RunAllocator allocator(kHugePages);
  allocator.Take(0, kHugePages);
  allocator.Free(256, 128);
  allocator.Free(8, 8);
  allocator.Free(64, 16);
  EXPECT_EQ(allocator.Allocate(4), 8u);
  EXPECT_EQ(allocator.Allocate(8), 64u);
  EXPECT_EQ(allocator.Allocate(8), 72u);
  EXPECT_EQ(allocator.Allocate(8), 256u);
  EXPECT_EQ(allocator.Allocate(256), std::nullopt);
}

TEST(RunAllocatorTest, FreedBuddiesMerge) {
  RunAllocator allocator(2 * kHugePages);
  std::vector<uint64_t> pages;
  while (const std::optional<uint64_t> page = allocator.Allocate(1)) pages.push_back(*page);
  EXPECT_EQ(pages.size(), 2 * kHugePages);
  EXPECT_EQ(allocator.LargestFreeRun(), 0u);
  for (const uint64_t page : pages) allocator.Free(page, 1);
  EXPECT_EQ(allocator.Allocate(2 * kHugePages), 0u);
}

// The model: a set of taken page ranges. Whatever the allocator hands out is aligned, free and
// inside; whatever it refuses really has no aligned free place.
class Model {
 public:
  explicit Model(uint64_t pages) : taken_(pages) {}

  bool Fits(uint64_t first, uint64_t pages) const {
    if (first + pages > taken_.size()) return false;
    return std::none_of(taken_.begin() + static_cast<std::ptrdiff_t>(first),
                        taken_.begin() + static_cast<std::ptrdiff_t>(first + pages),
                        [](bool taken) { return taken; });
  }
  bool FitsAnywhere(uint64_t pages) const {
    const uint64_t unit = std::min(pages, kHugePages);
    for (uint64_t first = 0; first < taken_.size(); first += unit) {
      if (Fits(first, pages)) return true;
    }
    return false;
  }
  void Mark(uint64_t first, uint64_t pages, bool taken) {
    for (uint64_t page = first; page < first + pages; ++page) taken_[page] = taken;
  }
  uint64_t free_pages() const {
    return static_cast<uint64_t>(std::count(taken_.begin(), taken_.end(), false));
  }

 private:
  std::vector<bool> taken_;
};

TEST(RunAllocatorTest, AgreesWithTheModel) {
  for (const uint64_t pages : {uint64_t{1}, uint64_t{511}, 3 * kHugePages, 9 * kHugePages + 77}) {
    RunAllocator allocator(pages);
    Model model(pages);
    std::map<uint64_t, uint64_t> runs;
    std::mt19937_64 random(pages);
    for (int step = 0; step < 6000; ++step) {
      if (random() % 5 < 3) {
        const uint64_t wanted =
            random() % 8 == 0 ? kHugePages * (1 + random() % 3) : uint64_t{1} << (random() % 10);
        const std::optional<uint64_t> first = allocator.Allocate(wanted);
        ASSERT_EQ(first.has_value(), model.FitsAnywhere(wanted)) << wanted << " pages";
        if (!first) continue;
        ASSERT_EQ(*first % std::min(wanted, kHugePages), 0u);
        ASSERT_TRUE(model.Fits(*first, wanted));
        model.Mark(*first, wanted, true);
        runs[*first] = wanted;
      } else if (!runs.empty()) {
        auto run = runs.lower_bound(random() % pages);
        if (run == runs.end()) run = runs.begin();
        allocator.Free(run->first, run->second);
        model.Mark(run->first, run->second, false);
        runs.erase(run);
      }
      if (step % 100 != 0) continue;
      uint64_t counts[kHugeOrder + 1] = {};
      allocator.CountFreeRuns(counts);
      uint64_t counted = 0;
      for (unsigned order = 0; order <= kHugeOrder; ++order) counted += counts[order] << order;
      ASSERT_EQ(counted, model.free_pages());
      ASSERT_EQ(allocator.free_pages(), model.free_pages());
      const uint64_t largest = allocator.LargestFreeRun();
      ASSERT_TRUE(largest == 0 || model.FitsAnywhere(largest));
      ASSERT_FALSE(model.FitsAnywhere(RoundToRunPages(largest + 1)));
    }
  }
}

}  // namespace
}  // namespace daxkv::dax
