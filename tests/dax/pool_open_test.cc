// What Pool::Open makes of other openers, moved and foreign directories, unfinished creations,
// newer formats and damage.

#include <gtest/gtest.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "dax/pool.h"
#include "dax/pool_format.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

class PoolOpenTest : public ::testing::Test {
 protected:
  PoolOpenTest() : scratch_(ScratchDirectory::OnMemory()), path_(scratch_.Child("store")) {}

  static PoolRoot* RootOf(const Pool& pool) {
    return reinterpret_cast<PoolRoot*>(pool.root_area() - offsetof(PoolRoot, root_area));
  }
  absl::Status OpenStatus() const { return OpenStatus(path_, TestOptions()); }
  static absl::Status OpenStatus(const std::string& path, const PoolOptions& options) {
    return Pool::Open(path, options).status();
  }
  // Changes the root of a pool and leaves it without closing.
  template <typename Change>
  void ChangeRoot(Change change) const {
    std::unique_ptr<Pool> pool = MustOpen(path_);
    change(RootOf(*pool));
  }
  static void Reseal(PoolRoot* root) { root->checksum = Checksum(root, kRootChecksumSpan); }

  const ScratchDirectory scratch_;
  const std::string path_;
};

// Whether `status` has the code and the message has the text.
::testing::AssertionResult Says(const absl::Status& status, absl::StatusCode code,
                                const std::string& text) {
  if (status.code() == code && absl::StrContains(std::string(status.message()), text)) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << status << " instead of " << code << " with " << text;
}

TEST_F(PoolOpenTest, OptionsDecideWhatMayBeThere) {
  PoolOptions options = TestOptions();
  options.create_if_missing = false;
  EXPECT_TRUE(absl::IsNotFound(OpenStatus(path_, options)));
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_TRUE(absl::IsNotFound(OpenStatus(scratch_.Child("no/such/store"), TestOptions())));
  ASSERT_OK(MustOpen(path_)->Close());
  options.create_if_missing = true;
  options.error_if_exists = true;
  EXPECT_TRUE(absl::IsAlreadyExists(OpenStatus(path_, options)));
  options = TestOptions();
  options.max_size_bytes = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(OpenStatus(path_, options)));
  EXPECT_TRUE(absl::IsInvalidArgument(OpenStatus("", TestOptions())));
}

TEST_F(PoolOpenTest, ASecondOpenerIsToldWhoHoldsThePool) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_TRUE(Says(OpenStatus(), absl::StatusCode::kFailedPrecondition,
                   absl::StrCat("this process (", getpid(), ")")));
  const pid_t holder = getpid();
  const pid_t child = fork();
  if (child == 0) {
    const bool said =
        Says(OpenStatus(), absl::StatusCode::kFailedPrecondition, absl::StrCat("process ", holder));
    _exit(said ? 0 : 1);
  }
  int state = 0;
  waitpid(child, &state, 0);
  EXPECT_EQ(state, 0);
  ASSERT_OK(pool->Close());
  EXPECT_FALSE(pool->Close().ok());
  MustOpen(path_);
}

TEST_F(PoolOpenTest, AMovedDirectoryOpens) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const PoolRun run = MustAllocate(*pool, 1024, 5);
  ASSERT_OK(pool->CommitRun(run));
  ASSERT_OK(pool->Close());
  for (const char* name : {"elsewhere", "with white space", "with\ttab\nand newline"}) {
    const std::string moved = scratch_.Child(name);
    std::filesystem::rename(pool->path(), moved);
    pool = MustOpen(moved);
    ASSERT_EQ(LiveRuns(*pool).size(), 1u);
    // Growth must find its way there too.
    const PoolRun more = MustAllocate(*pool, 4096, 6);
    ASSERT_OK(pool->ReleaseRun(more));
    ASSERT_OK(pool->Close());
  }
}

TEST_F(PoolOpenTest, ARelativePathAndALinkOpen) {
  ASSERT_OK(MustOpen(path_)->Close());
  std::filesystem::create_directory_symlink(path_, scratch_.Child("link"));
  ASSERT_OK(MustOpen(scratch_.Child("link"))->Close());
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(scratch_.path());
  ASSERT_OK(MustOpen("store")->Close());
  std::filesystem::current_path(before);
}

TEST_F(PoolOpenTest, AForeignDirectoryStaysUntouched) {
  std::filesystem::create_directory(path_);
  std::ofstream(path_ + "/letter.txt") << "dear";
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenStatus()));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(path_), {}), 1);
  std::filesystem::remove(path_ + "/letter.txt");
  std::filesystem::create_directory(path_ + "/parts");
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenStatus()));
}

TEST_F(PoolOpenTest, AnUnfinishedCreationStartsAfresh) {
  ASSERT_OK(MustOpen(path_)->Close());
  std::filesystem::rename(path_ + "/daxkv.set", path_ + "/daxkv.set.creating");
  std::filesystem::resize_file(path_ + "/parts/000000.pmem", 12345);
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_EQ(pool->open_epoch(), 1u);
  EXPECT_TRUE(pool->was_clean());
}

TEST_F(PoolOpenTest, GrowthCutShortByACrashIsRepaired) {
  ASSERT_OK(MustOpen(path_)->Close());
  // libpmemobj had made the file, and no more.
  std::ofstream(path_ + "/parts/000001.pmem").flush();
  std::unique_ptr<Pool> pool = MustOpen(path_);
  EXPECT_FALSE(std::filesystem::exists(path_ + "/parts/000001.pmem"));
  ASSERT_OK(pool->Close());
  // It had allocated the file too, and not yet told its heap.
  std::ofstream(path_ + "/parts/000001.pmem").flush();
  std::filesystem::resize_file(path_ + "/parts/000001.pmem", 16 * kTestMiB);
  pool = MustOpen(path_);
  const PoolRun run = MustAllocate(*pool, 4096, 6);
  std::memset(pool->At(run.offset()), 1, run.size_bytes());
  ASSERT_OK(pool->CommitRun(run));
  ASSERT_OK(pool->Close());
  EXPECT_EQ(LiveRuns(*MustOpen(path_)).size(), 1u);
}

TEST_F(PoolOpenTest, ANewerFormatIsRefusedWithBothNumbers) {
  ChangeRoot([](PoolRoot* root) {
    root->format_version = 77;
    Reseal(root);
  });
  EXPECT_TRUE(Says(OpenStatus(), absl::StatusCode::kFailedPrecondition,
                   "format version 77; this program knows versions up to 2"));
}

TEST_F(PoolOpenTest, ADamagedRootIsDataLoss) {
  ChangeRoot([](PoolRoot* root) { root->uuid[0] = 1; });
  EXPECT_TRUE(absl::IsDataLoss(OpenStatus())) << OpenStatus();
}

// A lower epoch gives the sequences of today's records out again: puts never came to an end.
TEST_F(PoolOpenTest, ADamagedOpenEpochIsDataLoss) {
  for (const uint64_t word : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, Pool::SealEpoch(1) ^ 2}) {
    EXPECT_FALSE(Pool::UnsealEpoch(word).has_value()) << word;
  }
  for (const uint64_t epoch : {uint64_t{0}, uint64_t{1}, uint64_t{UINT32_MAX}}) {
    EXPECT_TRUE(Pool::UnsealEpoch(Pool::SealEpoch(epoch)) == epoch) << epoch;
  }
  ChangeRoot([](PoolRoot* root) { root->open_epoch = 0; });
  EXPECT_TRUE(Says(OpenStatus(), absl::StatusCode::kDataLoss, "open epoch at pool offset"));
}

// libpmemobj follows what its logs say before it knows that they are whole, and died of SIGSEGV.
TEST_F(PoolOpenTest, DamagedLanesAreDataLoss) {
  ASSERT_OK(MustOpen(path_)->Close());
  std::fstream part(path_ + "/parts/000000.pmem", std::ios::in | std::ios::out | std::ios::binary);
  uint64_t lanes = 0;
  part.seekg(4096 + 1024);
  part.read(reinterpret_cast<char*>(&lanes), sizeof(lanes));
  const auto exchange = [&](uint64_t at, const std::string& bytes) {
    std::string before(bytes.size(), '\0');
    part.seekg(static_cast<std::streamoff>(lanes + at));
    part.read(before.data(), static_cast<std::streamsize>(before.size()));
    part.seekp(static_cast<std::streamoff>(lanes + at));
    part.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    part.flush();
    return before;
  };
  for (const uint64_t at : {0, 64, 256, 1023 * 3072 + 960}) {
    const std::string whole = exchange(at, std::string(128, '\xff'));
    EXPECT_TRUE(Says(OpenStatus(), absl::StatusCode::kDataLoss, "libpmemobj's log")) << at;
    exchange(at, whole);
  }
  MustOpen(path_);
}

// Which page of a run was touched first decided whether a stray word inside it was met.
TEST_F(PoolOpenTest, AStrayWordInsideARunDoesNotHideIt) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const PoolRun run = MustAllocate(*pool, 8);
  ASSERT_OK(pool->CommitRun(run));
  const uint64_t header = (RootOf(*pool)->segments[0].object_offset + 63) / 64 * 64;
  const auto* segment = reinterpret_cast<const SegmentHeader*>(pool->At(header));
  auto* words = reinterpret_cast<uint64_t*>(pool->At(header + sizeof(SegmentHeader)));
  words[run.first_page + 4 - segment->first_page] = 1;
  for (uint64_t page = run.first_page; page < run.first_page + 8; ++page) {
    const absl::StatusOr<PoolRun> found = pool->FindRun(page);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->first_page, run.first_page);
  }
}

// A pool that crashed and counts as clean has maps that are no longer true.
TEST_F(PoolOpenTest, ADamagedCleanMarkIsNoCleanClose) {
  { MustOpen(path_); }
  ChangeRoot([](PoolRoot* root) { root->clean = 1; });
  EXPECT_FALSE(MustOpen(path_)->was_clean());
}

TEST_F(PoolOpenTest, ADamagedSegmentTableIsDataLoss) {
  const auto with_entry = [this](uint64_t number, uint64_t offset, uint64_t size) {
    uint64_t old_count = 0, old_offset = 0, old_size = 0;
    absl::Status status;
    {
      std::unique_ptr<Pool> pool = MustOpen(path_);
      PoolRoot* root = RootOf(*pool);
      old_count = root->segment_count;
      old_offset = root->segments[number].object_offset;
      old_size = root->segments[number].object_size_bytes;
      root->segments[number].object_offset = offset;
      root->segments[number].object_size_bytes = size;
      root->segment_count = std::max(old_count, number + 1);
      pool.reset();
      status = OpenStatus();
      // Put it right again where the pool will not open: by the file.
      std::fstream part(path_ + "/parts/000000.pmem",
                        std::ios::in | std::ios::out | std::ios::binary);
      std::string bytes((std::istreambuf_iterator<char>(part)), {});
      const uint64_t magic = kRootMagic;
      const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(&magic), 8));
      const auto put = [&](size_t position, uint64_t value) {
        part.clear();
        part.seekp(static_cast<std::streamoff>(at + position));
        part.write(reinterpret_cast<const char*>(&value), 8);
      };
      put(offsetof(PoolRoot, segment_count), old_count);
      put(offsetof(PoolRoot, segments) + number * sizeof(SegmentEntry), old_offset);
      put(offsetof(PoolRoot, segments) + number * sizeof(SegmentEntry) + 8, old_size);
    }
    return status;
  };
  uint64_t offset, size;
  {
    std::unique_ptr<Pool> pool = MustOpen(path_);
    offset = RootOf(*pool)->segments[0].object_offset;
    size = RootOf(*pool)->segments[0].object_size_bytes;
    ASSERT_OK(pool->Close());
  }
  EXPECT_TRUE(Says(with_entry(0, uint64_t{1} << 50, size), absl::StatusCode::kDataLoss, "outside"));
  EXPECT_TRUE(Says(with_entry(0, offset, ~uint64_t{0}), absl::StatusCode::kDataLoss, "outside"));
  EXPECT_TRUE(Says(with_entry(0, offset, 4096), absl::StatusCode::kDataLoss, "small"));
  EXPECT_TRUE(Says(with_entry(0, offset + 4096, size - 8192), absl::StatusCode::kDataLoss,
                   "damaged header"));
  EXPECT_TRUE(Says(with_entry(1, offset, size), absl::StatusCode::kDataLoss, "overlap"));
  MustOpen(path_);
}

// libpmemobj maps such files before it looks at their size, and died of SIGBUS.
TEST_F(PoolOpenTest, AnEmptiedFirstPartOrFileIsRefused) {
  ASSERT_OK(MustOpen(path_)->Close());
  const std::string part = path_ + "/parts/000000.pmem";
  for (const uint64_t size_bytes : {uint64_t{0}, uint64_t{100}, uint64_t{4096}}) {
    std::filesystem::resize_file(part, size_bytes);
    EXPECT_EQ(OpenStatus().code(), absl::StatusCode::kFailedPrecondition) << OpenStatus();
    EXPECT_TRUE(absl::StrContains(std::string(OpenStatus().message()), part)) << OpenStatus();
  }
  std::filesystem::remove(part);
  EXPECT_EQ(OpenStatus().code(), absl::StatusCode::kDataLoss) << OpenStatus();

  const std::string file = path_ + ".file";
  for (const uint64_t size_bytes : {uint64_t{0}, uint64_t{100}, uint64_t{64} << 20}) {
    std::ofstream(file) << "something else";
    std::filesystem::resize_file(file, size_bytes);
    const absl::Status status = Pool::Open(file, PoolOptions()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_FALSE(std::filesystem::exists(file + ".lock"));
  }
  std::filesystem::remove(file);
}

TEST_F(PoolOpenTest, ATruncatedPartIsRefused) {
#ifdef __SANITIZE_ADDRESS__
  // libpmemobj 1.12 itself leaks its lanes when a heap turns out too short at open.
  const __lsan::ScopedDisabler libpmemobj_leaks;
#endif
  {
    std::unique_ptr<Pool> pool = MustOpen(path_);
    ASSERT_OK(pool->CommitRun(MustAllocate(*pool, 4096)));
    ASSERT_OK(pool->Close());
  }
  const std::string part = path_ + "/parts/000001.pmem";
  ASSERT_TRUE(std::filesystem::exists(part));
  std::filesystem::resize_file(part, std::filesystem::file_size(part) - 4 * kTestMiB);
  const absl::Status status = OpenStatus();
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(absl::StrContains(std::string(status.message()), path_)) << status;
  std::filesystem::remove(part);
  EXPECT_FALSE(OpenStatus().ok());
  std::filesystem::remove(path_ + "/parts/000000.pmem");
  EXPECT_FALSE(OpenStatus().ok());
  // Refusing is not repairing: nothing new has been made in its place.
  EXPECT_FALSE(std::filesystem::exists(path_ + "/parts/000000.pmem"));
}

TEST_F(PoolOpenTest, FilesThatAreNoPoolsAreRefused) {
  ASSERT_OK(MustOpen(path_)->Close());
  std::fstream part(path_ + "/parts/000000.pmem", std::ios::in | std::ios::out | std::ios::binary);
  part << std::string(4096, 'x');
  part.close();
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenStatus())) << OpenStatus();
  std::ofstream(path_ + "/daxkv.set") << "something else";
  EXPECT_TRUE(absl::IsDataLoss(OpenStatus())) << OpenStatus();
  std::ofstream(scratch_.Child("letter.txt")) << std::string(100000, 'x');
  EXPECT_TRUE(absl::IsFailedPrecondition(OpenStatus(scratch_.Child("letter.txt"), TestOptions())));
}

TEST_F(PoolOpenTest, DamagedDescriptorsAreDataLossAndTheRestGoesOn) {
  std::unique_ptr<Pool> pool = MustOpen(path_);
  const PoolRun first = MustAllocate(*pool, 8);
  const PoolRun second = MustAllocate(*pool, 8);
  ASSERT_OK(pool->CommitRun(first));
  ASSERT_OK(pool->CommitRun(second));
  const PoolRoot* root = RootOf(*pool);
  const uint64_t header = (root->segments[0].object_offset + 63) / 64 * 64;
  const auto* segment = reinterpret_cast<const SegmentHeader*>(pool->At(header));
  auto* words = reinterpret_cast<uint64_t*>(pool->At(header + sizeof(SegmentHeader)));
  uint64_t& word = words[first.first_page - segment->first_page];
  const uint64_t good = word;
  word ^= uint64_t{1} << 40;
  EXPECT_TRUE(absl::IsDataLoss(pool->FindRun(first.first_page + 1).status()));
  EXPECT_TRUE(pool->FindRun(second.first_page + 1).ok());
  EXPECT_TRUE(absl::IsDataLoss(pool->ForEachRun([](const PoolRun&) { return absl::OkStatus(); })));
  EXPECT_TRUE(absl::IsDataLoss(pool->Stats().status()));
  word = good;
  // P1: a word inside another run.
  words[first.first_page + 3 - segment->first_page] = 1;
  EXPECT_TRUE(absl::IsDataLoss(pool->Stats().status()));
  pool.reset();

  // The damaged segment gives no runs; a new one does.
  pool = MustOpen(path_);
  EXPECT_TRUE(absl::IsDataLoss(pool->Stats().status()));
  const PoolRun other = MustAllocate(*pool, 8);
  EXPECT_GE(other.first_page, segment->first_page + segment->pages);
  EXPECT_TRUE(absl::IsDataLoss(pool->ReleaseRun(second)));
  ASSERT_OK(pool->Close());
}

TEST_F(PoolOpenTest, WordsOfAnOldEpochAreForgottenBeforeItsNumberComesAgain) {
  CrashAfter([&] { MustAllocate(*MustOpen(path_), 8); });
  uint64_t page = 0;
  {
    // Find where it lies: the first run of a pool is always handed out at one place.
    const ScratchDirectory other(ScratchDirectory::OnMemory());
    page = MustAllocate(*MustOpen(other.Child("store")), 8).first_page;
  }
  ChangeRoot([](PoolRoot* root) { root->open_epoch = Pool::SealEpoch((1 << 18) - 1); });
  { std::unique_ptr<Pool> pool = MustOpen(path_); }  // Epoch 2^18: low bits 0.
  std::unique_ptr<Pool> pool = MustOpen(path_);      // Low bits 1, as when the run was reserved.
  EXPECT_EQ(pool->open_epoch() % (uint64_t{1} << 18), 1u);
  EXPECT_TRUE(absl::IsNotFound(pool->FindRun(page).status()));
}

TEST_F(PoolOpenTest, AFixedFileOpensAndIsUsedUp) {
  PoolOptions options = TestOptions();
  options.shape = PoolShape::kFixed;
  options.fixed_size_bytes = 1 << 20;
  EXPECT_TRUE(absl::IsInvalidArgument(OpenStatus(path_, options)));
  options.fixed_size_bytes = 128 * kTestMiB;
  std::unique_ptr<Pool> pool = MustOpen(path_, options);
  EXPECT_EQ(pool->shape(), PoolShape::kFixed);
  EXPECT_EQ(std::filesystem::file_size(path_), 128 * kTestMiB);
  const absl::StatusOr<PoolStats> stats = pool->Stats();
  ASSERT_TRUE(stats.ok());
  EXPECT_GT(stats->segment_pages * kPageSizeBytes, 116 * kTestMiB);
  EXPECT_TRUE(Says(OpenStatus(path_, options), absl::StatusCode::kFailedPrecondition,
                   absl::StrCat(getpid())));
  std::vector<PoolRun> runs;
  while (true) {
    const absl::StatusOr<PoolRun> run = pool->AllocateRun(64, 1, 0, 64 * kPageSizeBytes);
    if (!run.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(run.status())) << run.status();
      break;
    }
    ASSERT_OK(pool->CommitRun(*run));
    runs.push_back(*run);
  }
  EXPECT_GT(runs.size() * 64 * kPageSizeBytes, 115 * kTestMiB);
  for (const PoolRun& run : runs) ASSERT_OK(pool->ReleaseRun(run));
  EXPECT_LT(pool->Stats()->file_blocks_bytes, 8 * kTestMiB);
  ASSERT_OK(pool->Close());
  EXPECT_EQ(MustOpen(path_)->shape(), PoolShape::kFixed);
}

// In which other processes have no part.
absl::Duration ProcessorTime() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// Opening looks at segments, not at pages: a pool with 60 times the runs opens as fast.
TEST_F(PoolOpenTest, OpeningDoesNotScan) {
  const auto open_time = [this](const std::string& name, int runs) {
    const std::string path = scratch_.Child(name);
    PoolOptions options = TestOptions();
    options.shape = PoolShape::kFixed;
    options.fixed_size_bytes = 512 * kTestMiB;
    std::unique_ptr<Pool> pool = MustOpen(path, options);
    for (int i = 0; i < runs; ++i) {
      const absl::StatusOr<PoolRun> run = pool->AllocateRun(1, 1, 0, 0);
      EXPECT_TRUE(run.ok() && pool->CommitRun(*run).ok());
    }
    pool.reset();
    absl::Duration best = absl::InfiniteDuration();
    for (int i = 0; i < 5; ++i) {
      const absl::Duration start = ProcessorTime();
      pool = MustOpen(path);
      best = std::min(best, ProcessorTime() - start);
      pool.reset();
    }
    return best;
  };
  const absl::Duration few = open_time("few", 1000);
  const absl::Duration many = open_time("many", 60000);
  RecordProperty("few_us", static_cast<int>(absl::ToInt64Microseconds(few)));
  RecordProperty("many_us", static_cast<int>(absl::ToInt64Microseconds(many)));
  EXPECT_LT(many, few * 3 + absl::Milliseconds(5)) << few << " " << many;
}

}  // namespace
}  // namespace daxkv::dax
