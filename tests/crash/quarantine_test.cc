// Power cuts while pages are taken into quarantine and let out of it: the word of a lost page is
// there or not, never half, and a page whose word is there is never handed out.
//
// Mutations, each of which must fail the test named (tests/dax/mutations/run):
//   TheWordIsThereOrNotAndNeverHalf: the word of a lost page is not made durable
//   TheWordIsThereOrNotAndNeverHalf: a damaged word is believed
//   TheWordIsThereOrNotAndNeverHalf: an open hands out free pages that are listed
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dax/bad_pages.h"
#include "dax/mapping.h"
#include "dax/pool.h"
#include "dax/pool_format.h"
#include "tests/crash/crash_image.h"
#include "tests/crash/interposer.h"
#include "tests/crash/recorder.h"

namespace daxkv::crash {
namespace {

using dax::kPageSizeBytes;
using dax::Pool;
using PoolRun = dax::Run;

constexpr uint64_t kRunPages = 16;
constexpr uint64_t kVariants = 12;

// What is recorded, in this order.
enum Step : uint64_t { kLoseFirst, kLoseSecond, kReleaseFirst, kUseAgain, kSteps };

char PatternOf(uint64_t page) { return static_cast<char>(page % 251 + 1); }

std::unique_ptr<Pool> OpenPool(const StoreFiles& files) {
  dax::PoolOptions options;
  options.max_size_bytes = uint64_t{64} << 20;
  absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Open(files.path(), options);
  EXPECT_TRUE(pool.ok()) << pool.status();
  return pool.ok() ? *std::move(pool) : nullptr;
}

PoolRun LiveRun(Pool& pool, uint64_t pages) {
  absl::StatusOr<PoolRun> run = pool.AllocateRun(pages, 1, 0, pages * kPageSizeBytes);
  EXPECT_TRUE(run.ok()) << run.status();
  if (!run.ok()) return PoolRun();
  for (uint64_t page = run->first_page; page < run->first_page + pages; ++page) {
    memset(pool.At(page * kPageSizeBytes), PatternOf(page), kPageSizeBytes);
  }
  EXPECT_TRUE(pool.Persist(pool.At(run->offset()), run->size_bytes()).ok());
  EXPECT_TRUE(pool.CommitRun(*run).ok());
  return *run;
}

bool Contains(const PoolRun& run, uint64_t page) {
  return page >= run.first_page && page < run.first_page + run.pages;
}

class QuarantineTest : public testing::TestWithParam<Platform> {
 protected:
  QuarantineTest() {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    SetPlatform(GetParam());
  }
  ~QuarantineTest() override { std::filesystem::remove_all(folder_); }
  StoreFiles FilesAt(const std::string& name) const {
    return {folder_ + "/" + name, dax::PoolShape::kDirectory};
  }

  Trace Record();
  void Judge(const StoreFiles& files);
  void JudgeList(const Pool& pool, const std::set<uint64_t>& listed);
  void JudgeReaders(Pool& pool, const std::set<uint64_t>& listed);
  void JudgeAllocations(Pool& pool);
  void TearTheWord(const CrashImage& image);

  std::string folder_ = "/dev/shm/quarantine_test_XXXXXX";
  uint64_t first_ = 0, second_ = 0;  // Lost pages.
  // Where the trace is.
  bool begun_[kSteps] = {}, ended_[kSteps] = {};
};

Trace QuarantineTest::Record() {
  const StoreFiles files = FilesAt("recorded");
  std::unique_ptr<Pool> pool = OpenPool(files);
  if (pool == nullptr) return {};
  const PoolRun first_run = LiveRun(*pool, kRunPages), second_run = LiveRun(*pool, kRunPages);
  first_ = first_run.first_page + 3;
  second_ = second_run.first_page + 5;
  Recorder recorder(files);
  recorder.Start();
  const auto record = [&](Step step, const std::function<absl::Status()>& act) {
    recorder.Begin(step);
    const absl::Status status = act();
    EXPECT_TRUE(status.ok()) << status;
    recorder.End(step);
    recorder.Point();
  };
  record(kLoseFirst, [&] { return pool->ReportLostPage(first_); });
  record(kLoseSecond, [&] { return pool->ReportLostPage(second_); });
  record(kReleaseFirst, [&] { return pool->ReleaseRun(first_run); });
  record(kUseAgain, [&] {
    for (int i = 0; i < 1000; ++i) {
      if (Contains(LiveRun(*pool, kRunPages), first_)) return absl::OkStatus();
    }
    return absl::InternalError("the page is never used again");
  });
  recorder.Stop();
  return std::move(recorder.trace());
}

void QuarantineTest::JudgeList(const Pool& pool, const std::set<uint64_t>& listed) {
  for (const uint64_t page : listed) EXPECT_TRUE(page == first_ || page == second_) << page;
  EXPECT_LE(listed.count(first_), begun_[kLoseFirst] ? 1u : 0u);
  EXPECT_LE(listed.count(second_), begun_[kLoseSecond] ? 1u : 0u);
  if (ended_[kLoseFirst] && !begun_[kReleaseFirst]) {
    EXPECT_EQ(listed.count(first_), 1u);
  }
  if (ended_[kLoseSecond]) {
    EXPECT_EQ(listed.count(second_), 1u);
  }
  // While it is released: its run is there and the word too, or the run is gone.
  if (begun_[kReleaseFirst] && !ended_[kReleaseFirst] && pool.FindRun(first_).ok()) {
    EXPECT_EQ(listed.count(first_), 1u);
  }
  if (ended_[kReleaseFirst]) {
    EXPECT_EQ(listed.count(first_), 0u);
  }
}

void QuarantineTest::JudgeReaders(Pool& pool, const std::set<uint64_t>& listed) {
  const std::unique_ptr<dax::ExtentProvider> provider = dax::NewIdentityProvider(&pool);
  dax::Mapping mapping(&pool, provider.get());
  for (const uint64_t page : {first_, second_}) {
    if (!pool.FindRun(page).ok()) continue;
    const absl::StatusOr<dax::Pinned> pinned = mapping.Pin(page, dax::Access::kRead);
    EXPECT_EQ(absl::IsDataLoss(pinned.status()), listed.count(page) != 0) << pinned.status();
    const absl::StatusOr<dax::Pinned> beside = mapping.Pin(page + 1, dax::Access::kRead);
    EXPECT_TRUE(beside.ok()) << beside.status();
    if (beside.ok()) {
      EXPECT_EQ(*pool.At((page + 1) * kPageSizeBytes), PatternOf(page + 1));
    }
  }
}

void QuarantineTest::JudgeAllocations(Pool& pool) {
  for (int i = 0; i < 300; ++i) {
    const absl::StatusOr<PoolRun> run = pool.AllocateRun(1 + i % 16, 1, 0, 1);
    if (!run.ok()) break;  // Full.
    EXPECT_FALSE(pool.IsLost(run->offset(), run->size_bytes())) << run->first_page;
  }
}

void QuarantineTest::Judge(const StoreFiles& files) {
  for (int round = 0; round < 2; ++round) {  // The second open goes by what the first one left.
    const std::unique_ptr<Pool> pool = OpenPool(files);
    if (pool == nullptr) return;
    const std::vector<uint64_t> pages = pool->ListLostPages();
    const std::set<uint64_t> listed(pages.begin(), pages.end());
    JudgeList(*pool, listed);
    JudgeReaders(*pool, listed);
    JudgeAllocations(*pool);
  }
}

// Of the image's word for the second page, only the first bytes have come. (No medium tears an
// 8-byte word; a failing one may do anything.)
void QuarantineTest::TearTheWord(const CrashImage& image) {
  const uint64_t word = dax::BadPages::Encode(second_);
  const char* end = image.bytes() + image.size_bytes();
  const auto* bytes = reinterpret_cast<const char*>(&word);
  const char* place = std::search(image.bytes(), end, bytes, bytes + sizeof(word));
  ASSERT_NE(place, end);
  const StoreFiles files = FilesAt("torn");
  for (size_t kept = 0; kept < sizeof(word); ++kept) {
    image.CopyTo(files);
    std::fstream part(files.PartPath(0), std::ios::in | std::ios::out | std::ios::binary);
    part.seekp(place - image.bytes() + static_cast<std::streamoff>(kept));
    part.write("\0\0\0\0\0\0\0", static_cast<std::streamsize>(sizeof(word) - kept));
    part.close();
    dax::PoolOptions options;
    options.max_size_bytes = uint64_t{64} << 20;
    const absl::Status opened = Pool::Open(files.path(), options).status();
    EXPECT_EQ(absl::IsDataLoss(opened), kept != 0) << kept << " bytes: " << opened;
    std::filesystem::remove_all(files.path());
  }
}

TEST_P(QuarantineTest, TheWordIsThereOrNotAndNeverHalf) {
  const Trace trace = Record();
  ASSERT_FALSE(trace.empty());
  CrashImage image(FilesAt("image"), GetParam());
  const StoreFiles judged = FilesAt("judged");
  uint64_t points = 0, images = 0;
  bool torn = false;
  for (const Event& event : trace) {
    image.Apply(event);
    if (event.kind == EventKind::kBegin) begun_[event.a] = true;
    if (event.kind == EventKind::kEnd) ended_[event.a] = true;
    if (event.kind != EventKind::kPoint) continue;
    ++points;
    std::set<uint64_t> seen;
    for (uint64_t variant = 0; variant < kVariants; ++variant) {
      const auto survivors = static_cast<Survivors>(std::min<uint64_t>(variant, 3));
      image.Patch(survivors, points * 1000 + variant);
      if (seen.insert(image.Hash()).second) {
        SCOPED_TRACE(absl::StrCat("point ", points, ", variant ", variant));
        image.CopyTo(judged);
        Judge(judged);
        std::filesystem::remove_all(judged.path());
        ++images;
      }
      image.Unpatch();
      if (HasFailure()) return;
    }
    if (ended_[kLoseSecond] && !torn) TearTheWord(image);
    torn = torn || ended_[kLoseSecond];
  }
  EXPECT_TRUE(torn);
  EXPECT_TRUE(ended_[kUseAgain]);
  printf("%d points, %d images\n", static_cast<int>(points), static_cast<int>(images));
}

INSTANTIATE_TEST_SUITE_P(Platforms, QuarantineTest,
                         testing::Values(Platform::kCacheLines, Platform::kPages),
                         [](const auto& info) {
                           return info.param == Platform::kCacheLines ? "CacheLines" : "Pages";
                         });

}  // namespace
}  // namespace daxkv::crash
