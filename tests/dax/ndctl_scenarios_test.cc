// What ndctl's unit tests do to DAX files (dax-pmd: direct I/O and remapping; mmap), done to a
// pool: direct I/O into and out of pinned extents while a truncation waits, and the pool's file
// mapped by others, in each way there is. ("The first ten huge faults all NOPAGE" is in
// dax_stats_test and tests/dax_vm.)
//
// Mutations, each of which must fail the test named (mutations/run):
//   TruncationWaitsForDirectIo: a break does not wait for pins

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dax/file_descriptor.h"
#include "dax/mapping.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kBytes = kHugePages * kPageSizeBytes;

enum class Medium { kMemory, kDisk };

// Runs `body` in a child of its own; whether it said true.
template <typename Body>
bool InChild(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  int state = 0;
  return waitpid(child, &state, 0) == child && WIFEXITED(state) && WEXITSTATUS(state) == 0;
}

// A fixed pool, so that offsets of the pool are those of its file; one huge extent of it.
class NdctlTest : public testing::TestWithParam<Medium> {
 protected:
  NdctlTest() {
    PoolOptions options = TestOptions();
    options.shape = PoolShape::kFixed;
    options.fixed_size_bytes = 32 * kTestMiB;
    pool_ = MustOpen(path_, options);
    provider_ = NewIdentityProvider(pool_.get());
    mapping_ = std::make_unique<Mapping>(pool_.get(), provider_.get());
    run_ = MustAllocate(*pool_, kHugePages);
    EXPECT_TRUE(pool_->CommitRun(run_).ok());
    Fill('p');
    file_ = FileDescriptor(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(file_.valid());
  }

  char* bytes() const { return pool_->At(run_.offset()); }
  void Fill(char byte) const { memset(bytes(), byte, kBytes); }
  bool AllAre(const char* begin, uint64_t size_bytes, char wanted) const {
    return std::all_of(begin, begin + size_bytes, [wanted](char byte) { return byte == wanted; });
  }
  // Takes the extent's page table entries away: the next touch faults in the kernel again.
  void Unfault() const { ASSERT_EQ(madvise(bytes(), kBytes, MADV_DONTNEED), 0); }
  Pinned Pin(Access access) const {
    absl::StatusOr<Pinned> pinned = mapping_->Pin(run_.first_page, access);
    EXPECT_TRUE(pinned.ok()) << pinned.status();
    return *std::move(pinned);
  }
  // The extent once more, as another program would have it.
  char* MapFile(int protection, int flags) const {
    void* mapped =
        mmap(nullptr, kBytes, protection, flags, file_.get(), static_cast<off_t>(run_.offset()));
    return mapped == MAP_FAILED ? nullptr : static_cast<char*>(mapped);
  }

  ScratchDirectory directory_{GetParam() == Medium::kMemory ? ScratchDirectory::OnMemory()
                                                            : ScratchDirectory::OnDisk()};
  const std::string path_ = directory_.Child("pool");
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<ExtentProvider> provider_;
  std::unique_ptr<Mapping> mapping_;
  PoolRun run_;
  FileDescriptor file_;
};

INSTANTIATE_TEST_SUITE_P(Media, NdctlTest, testing::Values(Medium::kMemory, Medium::kDisk),
                         [](const testing::TestParamInfo<Medium>& info) {
                           return info.param == Medium::kMemory ? "Memory" : "Disk";
                         });

// ---- dax-pmd, direct I/O: the processor's caches are not in between, the pages are held by the
// kernel for as long as it takes.

class DirectIoTest : public NdctlTest {
 protected:
  void SetUp() override {
    scratch_ = FileDescriptor(
        open(disk_.Child("scratch").c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
    if (!scratch_.valid()) GTEST_SKIP() << "no direct I/O in " << disk_.path();
  }
  // The extent to the scratch file, and back.
  void Write() const {
    ASSERT_EQ(pwrite(scratch_.get(), bytes(), kBytes, 0), static_cast<ssize_t>(kBytes))
        << strerror(errno);
  }
  void Read() const {
    ASSERT_EQ(pread(scratch_.get(), bytes(), kBytes, 0), static_cast<ssize_t>(kBytes))
        << strerror(errno);
  }

  ScratchDirectory disk_{ScratchDirectory::OnDisk()};
  FileDescriptor scratch_;
};

INSTANTIATE_TEST_SUITE_P(Media, DirectIoTest, testing::Values(Medium::kMemory, Medium::kDisk),
                         [](const testing::TestParamInfo<Medium>& info) {
                           return info.param == Medium::kMemory ? "Memory" : "Disk";
                         });

TEST_P(DirectIoTest, OutOfAndIntoUnfaultedPages) {
  const Pinned pinned = Pin(Access::kWrite);
  Unfault();
  Write();  // From pages that no page table knows.
  Fill('q');
  Unfault();
  EXPECT_EQ(*static_cast<volatile char*>(bytes()), 'q');  // Now mapped for reading only.
  Read();
  EXPECT_TRUE(AllAre(pinned.data(), kBytes, 'p'));
  Fill('r');
  Unfault();
  Read();  // Into pages that no page table knows.
  EXPECT_TRUE(AllAre(pinned.data(), kBytes, 'p'));
  Fill('w');  // From read-only to writable.
  Write();
  Fill('x');
  Read();
  EXPECT_TRUE(AllAre(pinned.data(), kBytes, 'w'));
}

TEST_P(DirectIoTest, ForkedReaderSeesWhatWasRead) {
  const Pinned pinned = Pin(Access::kWrite);
  constexpr char kText[] = "odirect data";
  memcpy(bytes(), kText, sizeof(kText));
  Write();
  memset(bytes(), 0, sizeof(kText));
  // A shared mapping stays shared over a fork: what is read here is read there.
  EXPECT_TRUE(InChild([&] {
    return pread(scratch_.get(), bytes(), kBytes, 0) == static_cast<ssize_t>(kBytes) &&
           memcmp(pinned.data(), kText, sizeof(kText)) == 0;
  }));
  EXPECT_STREQ(pinned.data(), kText);
}

TEST_P(DirectIoTest, TruncationWaitsForDirectIo) {
  Write();
  Pinned pinned = Pin(Access::kWrite);
  std::atomic<bool> truncated{false};
  std::thread truncater([&] {
    const absl::Status status =
        mapping_->Truncate(run_.first_page, run_.pages, absl::InfiniteFuture());
    EXPECT_TRUE(status.ok()) << status;
    truncated = true;
  });
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (mapping_->stats().waits == 0 && !truncated && std::chrono::steady_clock::now() < until) {
    std::this_thread::yield();
  }
  struct stat before, after;
  fstat(file_.get(), &before);
  for (int round = 0; round < 20; ++round) {
    Fill('z');
    Read();
    EXPECT_FALSE(truncated);
    ASSERT_TRUE(AllAre(pinned.data(), kBytes, 'p')) << "round " << round;
    Unfault();
    Write();
  }
  fstat(file_.get(), &after);
  EXPECT_EQ(before.st_blocks, after.st_blocks) << "punched under the kernel's I/O";
  pinned = Pinned();
  truncater.join();
  EXPECT_TRUE(absl::IsNotFound(pool_->FindRun(run_.first_page).status()));
  EXPECT_TRUE(absl::IsNotFound(mapping_->Pin(run_.first_page, Access::kRead).status()));
  fstat(file_.get(), &after);
  EXPECT_LE(after.st_blocks, before.st_blocks - static_cast<blkcnt_t>(kBytes / 512));
}

// ---- dax-pmd, remapping; and a file that is mapped twice.

TEST_P(NdctlTest, RemappedPageStaysTheFiles) {
  char* again = MapFile(PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_NE(again, nullptr);
  memset(again, 'f', kBytes);
  EXPECT_TRUE(AllAre(bytes(), kBytes, 'f'));
  void* place = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* moved = mremap(again, kPageSizeBytes, kPageSizeBytes, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  ASSERT_EQ(moved, place) << strerror(errno);
  auto* page = static_cast<volatile char*>(moved);
  EXPECT_EQ(page[0], 'f');
  page[1] = 'g';
  EXPECT_EQ(bytes()[1], 'g');
  EXPECT_EQ(page[kPageSizeBytes], 0);  // The anonymous memory behind it.
  munmap(place, kBytes);
  munmap(again + kPageSizeBytes, kBytes - kPageSizeBytes);
}

// Others' mappings are no pins: a truncation does not wait for them, and takes from them what it
// takes from the file. What a private mapping has copied for itself it keeps (the kernel's layout
// scan once unmapped such pages).
TEST_P(NdctlTest, TruncationLeavesPrivateCopiesAlone) {
  char* shared = MapFile(PROT_READ, MAP_SHARED);
  char* own = MapFile(PROT_READ | PROT_WRITE, MAP_PRIVATE);
  ASSERT_NE(shared, nullptr);
  ASSERT_NE(own, nullptr);
  memset(own + 3 * kPageSizeBytes, 'c', kPageSizeBytes);  // Copied on write.
  EXPECT_EQ(own[0], 'p');
  EXPECT_TRUE(AllAre(bytes(), kBytes, 'p')) << "the copy was written to the pool";
  ASSERT_OK(mapping_->Truncate(run_.first_page, run_.pages, absl::InfinitePast()));
  EXPECT_TRUE(AllAre(shared, kBytes, 0));
  EXPECT_TRUE(AllAre(own, 3 * kPageSizeBytes, 0));
  EXPECT_TRUE(AllAre(own + 3 * kPageSizeBytes, kPageSizeBytes, 'c'));
  EXPECT_TRUE(AllAre(own + 4 * kPageSizeBytes, kBytes - 4 * kPageSizeBytes, 0));
  munmap(shared, kBytes);
  munmap(own, kBytes);
}

// A child has the pool's own mapping: it reads what the parent pinned, and its private copies are
// its own.
TEST_P(NdctlTest, ForkedReadersSeePinnedBytes) {
  const Pinned pinned = Pin(Access::kRead);
  char* own = MapFile(PROT_READ | PROT_WRITE, MAP_PRIVATE);
  ASSERT_NE(own, nullptr);
  own[0] = 'a';
  EXPECT_TRUE(InChild([&] {
    const bool seen = AllAre(pinned.data(), kBytes, 'p') && own[0] == 'a' && own[1] == 'p';
    memset(own, 'b', kBytes);  // Copies once more.
    return seen && AllAre(pinned.data(), kBytes, 'p');
  }));
  EXPECT_EQ(own[0], 'a');
  EXPECT_EQ(own[1], 'p');
  EXPECT_EQ(mapping_->Truncate(run_.first_page, run_.pages, absl::InfinitePast()).code(),
            absl::StatusCode::kDeadlineExceeded);
  munmap(own, kBytes);
}

// ---- mmap: each way to map the file; words are stored, and read where they have to be seen.

TEST_P(NdctlTest, EveryKindOfMapping) {
  struct Kind {
    int flags;
    bool writable, lock;
  };
  std::vector<Kind> kinds;
  for (const int sharing : {MAP_SHARED, MAP_PRIVATE}) {
    for (const int populate : {0, MAP_POPULATE, MAP_POPULATE | MAP_NONBLOCK}) {
      for (const bool writable : {false, true}) {
        for (const bool lock : {false, true}) kinds.push_back({sharing | populate, writable, lock});
      }
    }
  }
  int locked = 0;
  for (const Kind& kind : kinds) {
    SCOPED_TRACE(testing::Message() << "flags " << kind.flags << " writable " << kind.writable
                                    << " locked " << kind.lock);
    Fill('p');
    char* mapped = MapFile(kind.writable ? PROT_READ | PROT_WRITE : PROT_READ, kind.flags);
    ASSERT_NE(mapped, nullptr) << strerror(errno);
    // Within what every process may lock.
    if (kind.lock) locked += mlock(mapped, 8 * kPageSizeBytes) == 0;
    for (int round = 0; round < 3; ++round) {
      EXPECT_TRUE(AllAre(mapped, kBytes, static_cast<char>('p' + round)));
      Fill(static_cast<char>('q' + round));  // Seen there, unless copied.
      if (!kind.writable) continue;
      const bool shared = (kind.flags & MAP_TYPE) == MAP_SHARED;
      mapped[round] = 'W';
      EXPECT_EQ(bytes()[round] == 'W', shared);
      bytes()[round] = static_cast<char>('q' + round);
      if (!shared) break;  // From here on its first page is its own.
    }
    munmap(mapped, kBytes);
  }
  EXPECT_GT(locked, 0);
}

}  // namespace
}  // namespace daxkv::dax
