// Media classes, and the msyncs that a page-cache medium needs. This binary defines pmem_msync
// itself, so it sees each range that goes out and can make one fail.

#include "dax/persist.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <libpmem.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "dax/media.h"
#include "tests/dax/pool_test_base.h"

namespace {

std::vector<std::pair<uintptr_t, size_t>> synced;
int fail_with = 0;

}  // namespace

extern "C" int pmem_msync(const void* address, size_t size_bytes) {
  synced.emplace_back(reinterpret_cast<uintptr_t>(address), size_bytes);
  if (fail_with == 0) return 0;
  errno = fail_with;
  return -1;
}

namespace daxkv::dax {
namespace {

constexpr uint64_t kArenaBytes = 256 * kTestMiB;

class PersisterTest : public ::testing::Test {
 protected:
  PersisterTest()
      : arena_(static_cast<char*>(mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    synced.clear();
    fail_with = 0;
  }
  ~PersisterTest() override { munmap(arena_, kArenaBytes); }
  // What was synced, as offsets, and forgotten.
  std::vector<std::pair<uint64_t, uint64_t>> TakeSynced() {
    std::vector<std::pair<uint64_t, uint64_t>> offsets;
    for (const auto& [address, size_bytes] : synced) {
      offsets.emplace_back(address - reinterpret_cast<uintptr_t>(arena_), size_bytes);
    }
    synced.clear();
    return offsets;
  }

  using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;
  char* const arena_;
};

TEST_F(PersisterTest, NeighboursGoOutTogetherAndOnlyAtDrain) {
  Persister persister(MediaClass::kPageCache, arena_);
  persister.Flush(arena_ + 64 * kTestMiB, 100);
  persister.Flush(arena_ + 4096, 8);
  persister.Flush(arena_ + 200000, 10);
  persister.Flush(arena_ + 100, 1);
  EXPECT_TRUE(synced.empty());
  ASSERT_OK(persister.Drain());
  EXPECT_EQ(TakeSynced(), (Ranges{{100, 200010 - 100}, {64 * kTestMiB, 100}}));
  ASSERT_OK(persister.Drain());
  EXPECT_TRUE(synced.empty());
}

TEST_F(PersisterTest, ManyNotesStayBoundedAndNothingIsForgotten) {
  Persister persister(MediaClass::kPageCache, arena_);
  const auto offset_of = [](uint64_t i) { return i * 7919 % 5000 * 50000; };
  for (uint64_t i = 0; i < 5000; ++i) persister.Flush(arena_ + offset_of(i), 64);
  ASSERT_OK(persister.Drain());
  const Ranges ranges = TakeSynced();
  EXPECT_LE(ranges.size(), 257u);
  for (uint64_t i = 0; i < 5000; ++i) {
    bool covered = false;
    for (const auto& [first, size_bytes] : ranges) {
      covered = covered || (first <= offset_of(i) && offset_of(i) + 64 <= first + size_bytes);
    }
    ASSERT_TRUE(covered) << offset_of(i);
  }
  for (const auto& [first, size_bytes] : ranges) EXPECT_LE(first + size_bytes, 5000 * 50000u + 64);
}

TEST_F(PersisterTest, NotesBelongToAThreadAndAPersister) {
  auto one = std::make_unique<Persister>(MediaClass::kPageCache, arena_);
  Persister other(MediaClass::kPageCache, arena_);
  one->Flush(arena_, 8);
  other.Flush(arena_ + 8 * kTestMiB, 8);
  std::thread([&] { EXPECT_TRUE(one->Drain().ok()); }).join();
  EXPECT_TRUE(synced.empty());
  one.reset();  // Its notes go with it.
  ASSERT_OK(other.Drain());
  EXPECT_EQ(TakeSynced(), (Ranges{{8 * kTestMiB, 8}}));
  Persister third(MediaClass::kPageCache, arena_);
  third.CopyAndFlush(arena_ + 16, "copied", 6);
  ASSERT_OK(third.Drain());
  EXPECT_EQ(TakeSynced(), (Ranges{{16, 6}}));
  EXPECT_EQ(std::string(arena_ + 16, 6), "copied");
}

TEST_F(PersisterTest, AFailedMsyncNamesItsRange) {
  Persister persister(MediaClass::kPageCache, arena_);
  fail_with = EIO;
  persister.Flush(arena_ + 8192, 100);
  const absl::Status status = persister.Drain();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_TRUE(absl::StrContains(std::string(status.message()), "8192 to 8292")) << status;
}

// The kernel reports a failed write-back once, to one of the threads that wait for it.
TEST_F(PersisterTest, AfterAFailedMsyncNobodyIsToldThatAllIsWell) {
  Persister persister(MediaClass::kPageCache, arena_);
  persister.Flush(arena_, 8);
  fail_with = EIO;
  std::thread([&] {
    persister.Flush(arena_ + 64, 8);
    EXPECT_TRUE(absl::IsInternal(persister.Drain()));
  }).join();
  fail_with = 0;
  EXPECT_TRUE(absl::IsInternal(persister.Drain()));
  EXPECT_TRUE(absl::IsInternal(persister.Drain()));
  EXPECT_TRUE(absl::IsInternal(persister.SyncAll(kArenaBytes)));
  ASSERT_OK(Persister(MediaClass::kPageCache, arena_).Drain());
}

TEST_F(PersisterTest, OtherMediaNeedNoMsync) {
  for (const MediaClass media_class : {MediaClass::kDax, MediaClass::kVolatile}) {
    Persister persister(media_class, arena_);
    persister.Flush(arena_, 100);
    const std::string large(5000, 'x');
    persister.CopyAndFlush(arena_ + 3, large.data(), large.size());
    ASSERT_OK(persister.Drain());
    ASSERT_OK(persister.SyncAll(kArenaBytes));
    EXPECT_EQ(std::string(arena_ + 3, 5000), large);
    EXPECT_TRUE(synced.empty());
  }
}

TEST_F(PersisterTest, ForTheProcessAloneNothingIsWrittenButWhatMustBe) {
  Persister persister(MediaClass::kPageCache, arena_);
  persister.SetDurability(Durability::kProcess);
  EXPECT_FALSE(persister.TakeUnsynced());
  persister.Flush(arena_, 100);
  persister.CopyAndFlush(arena_ + 4096, "copied", 6);
  ASSERT_OK(persister.Drain());
  EXPECT_TRUE(synced.empty());
  EXPECT_TRUE(persister.TakeUnsynced());
  EXPECT_TRUE(persister.TakeUnsynced());  // Once more: the store may follow its flush.
  EXPECT_FALSE(persister.TakeUnsynced());
  persister.FlushToMedium(arena_ + 64, 8);
  ASSERT_OK(persister.Drain());
  EXPECT_TRUE(synced.empty());
  ASSERT_OK(persister.DrainToMedium());
  EXPECT_EQ(TakeSynced(), (Ranges{{64, 8}}));
  ASSERT_OK(persister.SyncAll(8192));
  EXPECT_EQ(TakeSynced(), (Ranges{{0, 8192}}));
  // A medium that failed is told of all the same.
  fail_with = EIO;
  EXPECT_TRUE(absl::IsInternal(persister.SyncAll(8192)));
  fail_with = 0;
  EXPECT_TRUE(absl::IsInternal(persister.Drain()));
}

TEST_F(PersisterTest, PartsThatWereFlushedOftenAreUnmappedAndWrittenOneByOne) {
  // Private pages would lose what they hold.
  char* const shared = static_cast<char*>(mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                                               MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  ASSERT_NE(shared, MAP_FAILED);
  {
    Persister persister(MediaClass::kPageCache, shared);
    persister.SetDurability(Durability::kProcess, kArenaBytes);
    const auto is_mapped = [&](uint64_t offset) {
      const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
      uint64_t entry = 0;
      const auto page = (reinterpret_cast<uintptr_t>(shared) + offset) / kPageSizeBytes;
      EXPECT_EQ(pread(pagemap, &entry, sizeof(entry), static_cast<off_t>(page * sizeof(entry))),
                static_cast<ssize_t>(sizeof(entry)));
      close(pagemap);
      return (entry >> 63) != 0;
    };
    const auto flush = [&](uint64_t offset, int times) {
      shared[offset] = 'x';
      for (int i = 0; i < times; ++i) persister.Flush(shared + offset, 1);
    };
    const uint64_t busy = 70 * kTestMiB, idle = 100 * kTestMiB, last = 130 * kTestMiB;
    flush(busy, 1000);
    flush(idle, 3);
    flush(last, 1000);
    ASSERT_TRUE(is_mapped(busy) && is_mapped(idle) && is_mapped(last));
    ASSERT_OK(persister.SyncInParts(kArenaBytes));
    EXPECT_FALSE(is_mapped(busy) || is_mapped(last));
    EXPECT_TRUE(is_mapped(idle));
    EXPECT_EQ(shared[busy] + shared[idle] + shared[last], 3 * 'x');
    // All of it once, from its beginning to its end.
    uint64_t end = 0;
    for (const auto& [address, size_bytes] : synced) {
      EXPECT_EQ(address, reinterpret_cast<uintptr_t>(shared) + end);
      end += size_bytes;
    }
    EXPECT_EQ(end, kArenaBytes);
    EXPECT_EQ(synced.size(), 3u);
    synced.clear();
    // Not again without more flushes.
    ASSERT_OK(persister.SyncInParts(kArenaBytes));
    EXPECT_TRUE(is_mapped(busy));
    EXPECT_EQ(synced.size(), 1u);
    fail_with = EIO;
    EXPECT_TRUE(absl::IsInternal(persister.SyncInParts(kArenaBytes)));
  }
  munmap(shared, kArenaBytes);
}

TEST_F(PersisterTest, OtherMediaHaveOneDurability) {
  Persister persister(MediaClass::kVolatile, arena_);
  persister.SetDurability(Durability::kProcess);
  persister.Flush(arena_, 100);
  EXPECT_FALSE(persister.TakeUnsynced());
}

// libpmemobj's own msyncs come through here as well.
TEST_F(PersisterTest, APoolForTheProcessAloneSyncsAtReleasesAndWhenAsked) {
  const ScratchDirectory scratch(ScratchDirectory::OnDisk());
  PoolOptions options = TestOptions();
  options.durability = Durability::kProcess;
  absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Open(scratch.Child("pool"), options);
  ASSERT_TRUE(pool.ok()) << pool.status();
  if ((*pool)->media().media_class != MediaClass::kPageCache) GTEST_SKIP() << "no disk here";
  EXPECT_EQ((*pool)->media().durability, Durability::kProcess);
  const auto make_run = [&] {
    absl::StatusOr<PoolRun> run = (*pool)->AllocateRun(4, 1, 0, 4 * kPageSizeBytes);
    EXPECT_TRUE(run.ok()) << run.status();
    (*pool)->At(run->offset())[0] = 'x';
    EXPECT_TRUE((*pool)->Persist((*pool)->At(run->offset()), 1).ok());
    EXPECT_TRUE((*pool)->CommitRun(*run).ok());
    return *run;
  };
  make_run();  // A segment's first use clears what an earlier epoch left there.
  synced.clear();
  const PoolRun run = make_run();
  EXPECT_TRUE(synced.empty());
  ASSERT_OK((*pool)->ReleaseRun(run));
  EXPECT_EQ(synced.size(), 1u);
  synced.clear();
  ASSERT_OK((*pool)->SyncIfNeeded());
  ASSERT_OK((*pool)->SyncIfNeeded());
  EXPECT_EQ(synced.size(), 2u);
  ASSERT_OK((*pool)->SyncIfNeeded());
  EXPECT_EQ(synced.size(), 2u);
  ASSERT_OK((*pool)->SetDurability(Durability::kPower));
  synced.clear();
  make_run();
  EXPECT_EQ(synced.size(), 2u);
  ASSERT_OK((*pool)->Close());
}

TEST(MediaTest, TheMemoryFileSystemIsVolatileUnlessForced) {
  const ScratchDirectory scratch(ScratchDirectory::OnMemory());
  const std::string path = scratch.Child("file");
  std::ofstream(path) << std::string(8192, 0);
  absl::StatusOr<MediaInfo> media = ProbeMedia(path);
  ASSERT_TRUE(media.ok()) << media.status();
  EXPECT_EQ(media->media_class, MediaClass::kVolatile);
  EXPECT_EQ(media->file_system, "tmpfs");
  EXPECT_FALSE(media->forced);
  setenv("PMEM_IS_PMEM_FORCE", "1", 1);
  media = ProbeMedia(path);
  unsetenv("PMEM_IS_PMEM_FORCE");
  ASSERT_TRUE(media.ok()) << media.status();
  EXPECT_EQ(media->media_class, MediaClass::kDax);
  EXPECT_TRUE(media->forced);
  EXPECT_NE(MediaPromise(*media), MediaPromise({MediaClass::kDax, false, "ext4"}));
  EXPECT_TRUE(absl::IsNotFound(ProbeMedia(scratch.Child("nothing")).status()));
}

TEST(MediaTest, ClassesHaveNames) {
  EXPECT_EQ(MediaClassName(MediaClass::kDax), "dax");
  EXPECT_EQ(MediaClassName(MediaClass::kPageCache), "page-cache");
  EXPECT_EQ(MediaClassName(MediaClass::kVolatile), "volatile");
  EXPECT_EQ(DurabilityName(Durability::kPower), "power");
  EXPECT_EQ(DurabilityName(Durability::kProcess), "process");
  MediaInfo media{MediaClass::kPageCache, false, "ext4"};
  const std::string_view for_power = MediaPromise(media);
  media.durability = Durability::kProcess;
  EXPECT_NE(MediaPromise(media), for_power);
}

}  // namespace
}  // namespace daxkv::dax
