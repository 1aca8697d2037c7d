// FrameTable: where Folios lie, and what happens without memory for them.
//
// What mutations/run undoes, and the test that must fail then:
//   NeighboursLieInDifferentCacheLines: neighbouring Folios share a line
//   AFaultWithoutMemoryForFoliosChangesNothing: Reserve takes a failed mmap for memory
#include "dax/frame_table.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>
#include <vector>

#include "tests/dax/mapping_test_util.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kChunkFrames = uint64_t{1}
                                  << 15;  // 128 MiB of frames have their Folios together.

// While it lives, anonymous memory of a MiB or more can't be mapped; `allowed` times it still can.
std::atomic<int> g_maps_allowed{0};
std::atomic<bool> g_failing{false};
class FailingMaps {
 public:
  explicit FailingMaps(int allowed = 0) {
    g_maps_allowed = allowed;
    g_failing = true;
  }
  ~FailingMaps() { g_failing = false; }
};

}  // namespace
}  // namespace daxkv::dax

// Instead of libc's.
extern "C" void* mmap(void* address, size_t size, int protection, int flags, int file,
                      off_t offset) noexcept {
  const bool large = (flags & MAP_ANONYMOUS) != 0 && size >= size_t{1} << 20;
  if (large && daxkv::dax::g_failing && daxkv::dax::g_maps_allowed.fetch_sub(1) <= 0) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, file, offset));
}

namespace daxkv::dax {
namespace {

// What the header says of cache lines.
TEST(FrameTableTest, NeighboursLieInDifferentCacheLines) {
  internal::FrameTable table;
  ASSERT_OK(table.Reserve(0));
  std::vector<const internal::Folio*> all;
  for (unsigned order = 0; order <= DaxEntry::kMaxOrder; ++order) {
    const internal::Folio* before = nullptr;
    for (uint64_t frame = 0; frame < kChunkFrames; frame += uint64_t{1} << order) {
      const internal::Folio* folio = table.At(frame, order);
      ASSERT_EQ(folio, table.At(frame + (uint64_t{1} << order) - 1, order));
      ASSERT_NE(reinterpret_cast<uintptr_t>(folio) / 64, reinterpret_cast<uintptr_t>(before) / 64)
          << order << " " << frame;
      all.push_back(folio);
      before = folio;
    }
  }
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end());
}

// So that pinning all over a large store stays in the processor's caches.
TEST(FrameTableTest, FoliosOfOneOrderLieTogether) {
  internal::FrameTable table;
  ASSERT_OK(table.Reserve(0));
  for (unsigned order = 0; order <= DaxEntry::kMaxOrder; ++order) {
    const internal::Folio *first = table.At(0, order), *last = first;
    const uint64_t blocks = kChunkFrames >> order;
    for (uint64_t block = 0; block < blocks; ++block) {
      const internal::Folio* folio = table.At(block << order, order);
      first = std::min(first, folio);
      last = std::max(last, folio);
    }
    EXPECT_EQ(static_cast<uint64_t>(last - first) + 1, blocks) << order;
  }
}

TEST(FrameTableTest, WithoutMemoryReserveSaysSoAndWorksLater) {
  internal::FrameTable table;
  {
    const FailingMaps failing;
    const absl::Status status = table.Reserve(kChunkFrames + 7);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(status.message().find("no memory to track frame 32775"), std::string::npos) << status;
    EXPECT_EQ(table.Find(kChunkFrames + 7, 0), nullptr);
  }
  ASSERT_OK(table.Reserve(kChunkFrames + 7));
  EXPECT_NE(table.Find(kChunkFrames + 7, 0), nullptr);
  EXPECT_EQ(table.Find(7, 0), nullptr);
  EXPECT_EQ(table.Find(internal::FrameTable::kMaxFrames, 0), nullptr);
  {
    const FailingMaps failing;
    EXPECT_OK(table.Reserve(kChunkFrames));  // Is there already.
  }
}

TEST(FrameTableTest, ATableThatGotNoMemoryReservesNothing) {
  std::unique_ptr<internal::FrameTable> table;
  {
    const FailingMaps failing;
    table = std::make_unique<internal::FrameTable>();
  }
  EXPECT_EQ(CodeOf(table->Reserve(0)), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(table->Find(0, 0), nullptr);
}

// Through the mapping: the fault fails, nothing is left behind, and the next one succeeds.
TEST_F(MappingTest, AFaultWithoutMemoryForFoliosChangesNothing) {
  const PageRun run = PlaceRun(0, 512, 'f');
  {
    const FailingMaps failing;
    EXPECT_EQ(CodeOf(mapping_->Fault(0, 9, Access::kRead)), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(CodeOf(mapping_->Pin(0, Access::kRead)), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(CodeOf(Mapping::LockFrame(pool_.get(), run.first_page)), absl::StatusCode::kNotFound);
    EXPECT_EQ(mapping_->PinCount(0), 0u);
  }
  EXPECT_EQ(mapping_->stats().entries, 0u);
  EXPECT_EQ(mapping_->stats().faults_no_page, 0u);
  // A break is not kept out by the fault that failed.
  EXPECT_OK(mapping_->BreakLayouts(0, 512, absl::InfinitePast()));
  absl::StatusOr<Pinned> pinned = mapping_->Pin(0, Access::kRead);
  ASSERT_OK(pinned);
  EXPECT_EQ(pinned->data()[511 * 4096], 'f');
}

// Two threads make the room at the same time: one chunk stays, both see it.
TEST(FrameTableTest, ConcurrentReservationsAgree) {
  for (int round = 0; round < 20; ++round) {
    internal::FrameTable table;
    std::vector<std::thread> threads;
    std::array<internal::Folio*, 4> seen = {};
    for (size_t i = 0; i < seen.size(); ++i) {
      threads.emplace_back([&, i] {
        EXPECT_OK(table.Reserve(100));
        seen[i] = table.At(100, 0);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(std::set<internal::Folio*>(seen.begin(), seen.end()).size(), 1u);
  }
}

}  // namespace
}  // namespace daxkv::dax
