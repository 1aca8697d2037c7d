// Pages that can't be read any more: who survives that, who is told, and what becomes of the space.
//
// Mutations, each of which must fail the test named (mutations/run):
//   UnguardedTouchKillsAsWithoutUs: a signal of no instruction is not sent again
//   ReaderSurvivesAndIsTold: a lost page is settled without poisoning its entry
//   SurvivesReopen: a fault takes no page for lost
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "dax/bad_pages.h"
#include "dax/mapping.h"
#include "tests/dax/media_error_util.h"
#include "tests/dax/pool_test_base.h"
#include "xarray/rcu.h"

namespace daxkv::dax {
namespace {

// A byte of the page that its neighbours do not have there.
char PatternOf(uint64_t page) { return static_cast<char>(page % 251 + 1); }

void Fill(Pool& pool, const PoolRun& run) {
  for (uint64_t page = run.first_page; page < run.first_page + run.pages; ++page) {
    memset(pool.At(page << kPageShift), PatternOf(page), kPageSizeBytes);
  }
  pool.Flush(pool.At(run.offset()), run.size_bytes());
  ASSERT_OK(pool.Drain());
}

bool HasPattern(const char* bytes, uint64_t page) {
  const auto wrong = [&](char byte) { return byte != PatternOf(page); };
  return std::none_of(bytes, bytes + kPageSizeBytes, wrong);
}

// As the kernel sends it.
void SendSigbus(int code, char* address) {
  siginfo_t info = {};
  info.si_signo = SIGBUS;
  info.si_code = code;
  info.si_addr = address;
  info.si_addr_lsb = kPageShift;
  ASSERT_EQ(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &info), 0);
}

enum class Medium { kMemory, kDisk };

class MediaErrorTest : public testing::TestWithParam<Medium> {
 protected:
  MediaErrorTest() { Open(); }

  void Open() {
    pool_ = MustOpen(directory_.Child("pool"), options_);
    provider_ = NewIdentityProvider(pool_.get());
    mapping_ = std::make_unique<Mapping>(pool_.get(), provider_.get());
  }
  void Abandon() {  // As a crash does.
    mapping_.reset();
    pool_.reset();
  }
  void Reopen() {
    mapping_.reset();
    ASSERT_OK(pool_->Close());
    Open();
  }
  PoolRun LiveRun(uint64_t pages) {
    const PoolRun run = MustAllocate(*pool_, pages);
    Fill(*pool_, run);
    EXPECT_TRUE(pool_->CommitRun(run).ok());
    return run;
  }
  // Loses a page, and meets that as a reader does.
  void LoseAndMeet(uint64_t page) {
    MediaGuard guard(*pool_);
    LosePage(*pool_, page);
    const volatile char* byte = pool_->At(page << kPageShift);
    EXPECT_EQ(*byte, 0);
    EXPECT_FALSE(guard.Intact());
    EXPECT_TRUE(pool_->SettleMediaErrors().ok());
  }
  // What a pin of the page's index says.
  absl::StatusCode PinCode(uint64_t page) {
    const absl::StatusOr<Pinned> pinned = mapping_->Pin(page, Access::kRead);
    if (!pinned.ok()) return pinned.status().code();
    const char* bytes = pinned->data() + ((page - pinned->first_index()) << kPageShift);
    EXPECT_TRUE(HasPattern(bytes, page)) << page;
    return absl::StatusCode::kOk;
  }

  ScratchDirectory directory_{GetParam() == Medium::kMemory ? ScratchDirectory::OnMemory()
                                                            : ScratchDirectory::OnDisk()};
  PoolOptions options_ = TestOptions();
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<ExtentProvider> provider_;
  std::unique_ptr<Mapping> mapping_;
};

INSTANTIATE_TEST_SUITE_P(Media, MediaErrorTest, testing::Values(Medium::kMemory, Medium::kDisk),
                         [](const testing::TestParamInfo<Medium>& info) {
                           return info.param == Medium::kMemory ? "Memory" : "Disk";
                         });

TEST_P(MediaErrorTest, ReaderSurvivesAndIsTold) {
  const PoolRun run = LiveRun(kHugePages);
  const uint64_t bad = run.first_page + 37;
  const absl::StatusOr<Pinned> before = mapping_->Pin(bad, Access::kRead);
  ASSERT_OK(before.status());
  ASSERT_EQ(before->size_bytes(), kHugePages << kPageShift);
  {
    MediaGuard guard(*pool_);
    LosePage(*pool_, bad);
    std::string copy(before->data(), before->size_bytes());
    EXPECT_FALSE(guard.Intact());
    EXPECT_EQ(copy[37 * kPageSizeBytes], 0);
  }
  EXPECT_FALSE(pool_->media_settled());
  ASSERT_OK(pool_->SettleMediaErrors());
  EXPECT_TRUE(pool_->media_settled());

  EXPECT_EQ(PinCode(bad), absl::StatusCode::kDataLoss);
  EXPECT_EQ(mapping_->Fault(bad, 0, Access::kWrite).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(mapping_->TryPin(bad).status().code(), absl::StatusCode::kDataLoss);
  {
    rcu::ReadGuard guard;
    EXPECT_FALSE(mapping_->Present(bad));
    EXPECT_TRUE(mapping_->Present(bad + 1));
  }
  // The run's other pages are as they were, for old pins and new.
  for (uint64_t page = run.first_page; page < run.first_page + run.pages; ++page) {
    if (page == bad) continue;
    EXPECT_EQ(PinCode(page), absl::StatusCode::kOk);
    EXPECT_TRUE(HasPattern(before->data() + ((page - run.first_page) << kPageShift), page));
  }
  EXPECT_TRUE(pool_->IsLost(bad << kPageShift, 1));
  EXPECT_FALSE(pool_->IsLost((bad + 1) << kPageShift, kPageSizeBytes));
  EXPECT_EQ(pool_->Stats()->quarantined_pages, 1u);
}

TEST_P(MediaErrorTest, SurvivesReopen) {
  const PoolRun run = LiveRun(kHugePages);
  const uint64_t bad = run.first_page + 511;
  LoseAndMeet(bad);
  for (int round = 0; round < 2; ++round) {
    if (round == 0) {
      Reopen();
    } else {
      Abandon();
      Open();
    }
    EXPECT_EQ(pool_->ListLostPages(), std::vector<uint64_t>{bad});
    // Never mapped, in whatever order one asks.
    EXPECT_EQ(PinCode(bad), absl::StatusCode::kDataLoss);
    EXPECT_EQ(PinCode(bad - 1), absl::StatusCode::kOk);
    EXPECT_EQ(PinCode(run.first_page), absl::StatusCode::kOk);
    EXPECT_EQ(PinCode(bad), absl::StatusCode::kDataLoss);
    EXPECT_EQ(pool_->media_events(), 0u) << "somebody touched the page";
  }
}

TEST_P(MediaErrorTest, IsNeverHandedOutUntilFresh) {
  const PoolRun run = LiveRun(kHugePages);
  const PoolRun other = LiveRun(4);
  const uint64_t bad = run.first_page + 5;
  LoseAndMeet(bad);
  // Its run lives, so nobody else can get the page.
  for (int i = 0; i < 64; ++i) {
    const PoolRun more = MustAllocate(*pool_, 64);
    EXPECT_FALSE(bad >= more.first_page && bad < more.first_page + more.pages);
  }
  ASSERT_OK(mapping_->Truncate(run.first_page, run.pages, absl::InfiniteFuture()));
  // The punch gave it fresh blocks.
  EXPECT_TRUE(pool_->ListLostPages().empty());
  EXPECT_EQ(pool_->Stats()->quarantined_pages, 0u);
  bool met = false;
  for (int i = 0; i < 64 && !met; ++i) {
    const PoolRun again = LiveRun(kHugePages);
    met = bad >= again.first_page && bad < again.first_page + again.pages;
    if (met) {
      EXPECT_EQ(PinCode(bad), absl::StatusCode::kOk);
    }
  }
  EXPECT_TRUE(met);
  Reopen();
  EXPECT_EQ(PinCode(bad), absl::StatusCode::kOk);
  EXPECT_EQ(PinCode(other.first_page), absl::StatusCode::kOk);
}

// A page can be lost, restored and lost again.
TEST_P(MediaErrorTest, LostAgain) {
  for (int round = 0; round < 5; ++round) {
    const PoolRun run = LiveRun(8);
    LoseAndMeet(run.first_page + 3);
    EXPECT_EQ(PinCode(run.first_page + 3), absl::StatusCode::kDataLoss);
    ASSERT_OK(mapping_->Truncate(run.first_page, run.pages, absl::InfiniteFuture()));
    EXPECT_TRUE(pool_->ListLostPages().empty());
  }
}

// A crash between a run's release and the last step of its page's restoring leaves a page listed
// and in no run, as does a crash with a reserved run.
TEST_P(MediaErrorTest, FreePageOfACrashIsRestored) {
  const PoolRun reserved = MustAllocate(*pool_, 16);
  ASSERT_OK(pool_->ReportLostPage(reserved.first_page + 1));
  Abandon();
  Open();
  EXPECT_EQ(pool_->ListLostPages(), std::vector<uint64_t>{reserved.first_page + 1});
  MustAllocate(*pool_, 1);  // The segment's first use.
  EXPECT_TRUE(pool_->ListLostPages().empty());
}

TEST_P(MediaErrorTest, WriterIsNotAcknowledged) {
  const PoolRun run = LiveRun(4);
  const uint64_t bad = run.first_page + 2;
  {
    MediaGuard guard(*pool_);
    LosePage(*pool_, bad);
    memset(pool_->At(bad << kPageShift), 7, 100);
    EXPECT_FALSE(guard.Intact());
  }
  pool_->Flush(pool_->At(bad << kPageShift), 100);
  // Another thread's acknowledgement is none of its business.
  std::thread([&] {
    memset(pool_->At(run.offset()), 9, 100);
    pool_->Flush(pool_->At(run.offset()), 100);
    EXPECT_TRUE(pool_->Drain().ok());
  }).join();
  const absl::Status drained = pool_->Drain();
  EXPECT_EQ(drained.code(), absl::StatusCode::kDataLoss) << drained;
  EXPECT_NE(drained.message().find(absl::StrCat(bad << kPageShift)), std::string::npos);
  EXPECT_TRUE(pool_->Drain().ok());
  const std::string bytes(100, 'x');
  pool_->CopyAndFlush(pool_->At((bad << kPageShift) - 50), bytes.data(), bytes.size());
  ASSERT_OK(pool_->SettleMediaErrors());  // Does not take the refusal away.
  EXPECT_EQ(pool_->Drain().code(), absl::StatusCode::kDataLoss);
}

TEST_P(MediaErrorTest, LossOfThePoolsOwnRecordsStopsWrites) {
  LiveRun(4);
  LosePage(*pool_, pool_->OffsetOf(pool_->root_area()) >> kPageShift);
  {
    MediaGuard guard(*pool_);
    memset(pool_->root_area() + 2000, 1, 1);
  }
  EXPECT_EQ(pool_->SettleMediaErrors().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(pool_->Drain().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(pool_->Sync().code(), absl::StatusCode::kDataLoss);
  mapping_.reset();
  EXPECT_EQ(pool_->Close().code(), absl::StatusCode::kDataLoss);
}

TEST_P(MediaErrorTest, GrowthGoesOnAroundReplacedPages) {
  const PoolRun run = LiveRun(8);
  LoseAndMeet(run.first_page + 3);
  LoseAndMeet(run.first_page + 4);
  const uint64_t before = pool_->Stats()->file_size_bytes;
  for (int i = 0; i < 40; ++i) MustAllocate(*pool_, kHugePages);
  EXPECT_GT(pool_->Stats()->file_size_bytes, before);
}

TEST_P(MediaErrorTest, ReportNeedsNoSignal) {
  const PoolRun run = LiveRun(16);
  ASSERT_OK(pool_->ReportLostPage(run.first_page));
  ASSERT_OK(pool_->ReportLostPage(run.first_page));
  EXPECT_EQ(PinCode(run.first_page), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PinCode(run.first_page + 1), absl::StatusCode::kOk);
  EXPECT_EQ(pool_->ReportLostPage(0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pool_->ReportLostPage(UINT64_MAX).code(), absl::StatusCode::kInvalidArgument);
}

// The kernel's "action optional": a page went that nobody touched.
TEST_P(MediaErrorTest, OptionalActionIsNoted) {
  const PoolRun run = LiveRun(16);
  SendSigbus(BUS_MCEERR_AO, pool_->At((run.first_page + 9) << kPageShift));
  EXPECT_FALSE(pool_->media_settled());
  ASSERT_OK(pool_->SettleMediaErrors());
  EXPECT_EQ(PinCode(run.first_page + 9), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PinCode(run.first_page + 8), absl::StatusCode::kOk);
}

TEST_P(MediaErrorTest, FullListStillStopsReaders) {
  const PoolRun run = LiveRun(2 * kHugePages);
  absl::Status status;
  uint64_t reported = 0;
  for (; reported < 600 && status.ok(); ++reported) {
    status = pool_->ReportLostPage(run.first_page + reported);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(reported, 513u);
  Reopen();
  EXPECT_EQ(pool_->ListLostPages().size(), 512u);
  EXPECT_EQ(pool_->ReportLostPage(run.first_page + 700).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(PinCode(run.first_page + 700), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PinCode(run.first_page + 701), absl::StatusCode::kOk);
}

TEST_P(MediaErrorTest, RecordIsChecked) {
  for (const uint64_t page : {uint64_t{1}, uint64_t{512}, (uint64_t{1} << 40) - 1}) {
    EXPECT_EQ(BadPages::Decode(BadPages::Encode(page)), page);
    for (unsigned bit = 0; bit < 64; ++bit) {
      EXPECT_FALSE(BadPages::Decode(BadPages::Encode(page) ^ uint64_t{1} << bit)) << bit;
    }
  }
  EXPECT_FALSE(BadPages::Decode(0));
  const PoolRun run = LiveRun(4);
  ASSERT_OK(pool_->ReportLostPage(run.first_page));
  // The list lies behind the root area.
  auto* root = reinterpret_cast<PoolRoot*>(pool_->root_area() - offsetof(PoolRoot, root_area));
  root->bad_pages[0].get_rw() ^= 4;
  mapping_.reset();
  ASSERT_OK(pool_->Close());
  const absl::Status damaged = Pool::Open(directory_.Child("pool"), options_).status();
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss) << damaged;
}

// Readers copy pinned pages while those go one by one: nobody ever believes a wrong byte.
TEST_P(MediaErrorTest, ReadersNeverBelieveALostPage) {
  const PoolRun run = LiveRun(kHugePages);
  const absl::StatusOr<Pinned> pinned = mapping_->Pin(run.first_page, Access::kRead);
  ASSERT_OK(pinned.status());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> copies{0}, refused{0}, lost{0};
  const auto read = [&](uint64_t seed) {
    while (!stop.load(std::memory_order_relaxed)) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const uint64_t page = run.first_page + (seed >> 33) % kHugePages;
      EXPECT_TRUE(pool_->SettleMediaErrors().ok());
      const absl::StatusOr<Pinned> now = mapping_->Pin(page, Access::kRead);
      if (!now.ok()) {
        EXPECT_EQ(now.status().code(), absl::StatusCode::kDataLoss);
        lost.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      char copy[kPageSizeBytes];
      MediaGuard guard(*pool_);
      if (!pool_->media_settled()) continue;
      memcpy(copy, now->data() + ((page - now->first_index()) << kPageShift), sizeof(copy));
      if (!guard.Intact()) {
        refused.fetch_add(1, std::memory_order_relaxed);
      } else if (!pool_->IsLost(page << kPageShift, 1)) {
        EXPECT_TRUE(HasPattern(copy, page)) << page;
        copies.fetch_add(1, std::memory_order_relaxed);
      }
    }
  };
  std::thread first(read, 1), second(read, 2);
  for (uint64_t i = 0; i < 40; ++i) {
    LosePage(*pool_, run.first_page + i * 12);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  stop = true;
  first.join();
  second.join();
  EXPECT_GT(copies.load(), 0u);
  EXPECT_GT(lost.load(), 0u);
}

// ---- The handler and its neighbours ----

std::atomic<int> chained{0};
std::atomic<const void*> chained_address{nullptr};
sigjmp_buf escape;

void ProgramsHandler(int, siginfo_t* info, void*) {
  chained.fetch_add(1);
  chained_address = info->si_addr;
  if (info->si_code > 0) siglongjmp(escape, 1);
}

class ChainTest : public testing::Test {
 protected:
  ChainTest() {
    struct sigaction action = {};
    action.sa_sigaction = ProgramsHandler;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &action, &before_);
    chained = 0;
    options_ = TestOptions();
  }
  ~ChainTest() override { sigaction(SIGBUS, &before_, nullptr); }

  std::unique_ptr<Pool> Open() { return MustOpen(directory_.Child("pool"), options_); }
  // Whether touching the page came to the program's handler.
  bool TouchIsChained(const char* address) {
    const int seen = chained;
    if (sigsetjmp(escape, 1) == 0) {
      const volatile char* byte = address;
      static_cast<void>(*byte);
    }
    return chained != seen && chained_address == address;
  }
  static bool HandlerIsPrograms() {
    struct sigaction now;
    sigaction(SIGBUS, nullptr, &now);
    return now.sa_sigaction == ProgramsHandler;
  }

  ScratchDirectory directory_{ScratchDirectory::OnMemory()};
  PoolOptions options_;
  struct sigaction before_;
};

TEST_F(ChainTest, WhatIsNotOursGoesOn) {
  std::unique_ptr<Pool> pool = Open();
  EXPECT_FALSE(HandlerIsPrograms());
  const int empty = memfd_create("foreign", MFD_CLOEXEC);
  void* foreign = mmap(nullptr, kPageSizeBytes, PROT_READ, MAP_SHARED, empty, 0);
  {
    MediaGuard guard(*pool);  // Ours alone are minded, in a guard too.
    EXPECT_TRUE(TouchIsChained(static_cast<const char*>(foreign)));
    EXPECT_TRUE(guard.Intact());
  }
  raise(SIGBUS);
  EXPECT_EQ(chained, 2);
  munmap(foreign, kPageSizeBytes);
  close(empty);
  ASSERT_OK(pool->Close());
  EXPECT_TRUE(HandlerIsPrograms());
}

TEST_F(ChainTest, PinnedReaderWithoutGuardIsTheProgramsCase) {
  std::unique_ptr<Pool> pool = Open();
  const PoolRun run = MustAllocate(*pool, 4);
  LosePage(*pool, run.first_page);
  EXPECT_TRUE(TouchIsChained(pool->At(run.offset())));
  // But the loss is known.
  EXPECT_EQ(pool->media_events(), 1u);
  ASSERT_OK(pool->SettleMediaErrors());
  EXPECT_TRUE(pool->IsLost(run.offset(), 1));
}

TEST_F(ChainTest, AlwaysSparesPinnedReaders) {
  options_.sigbus = SigbusPolicy::kAlways;
  std::unique_ptr<Pool> pool = Open();
  const PoolRun run = MustAllocate(*pool, 4);
  LosePage(*pool, run.first_page);
  EXPECT_FALSE(TouchIsChained(pool->At(run.offset())));
  ASSERT_OK(pool->SettleMediaErrors());
  EXPECT_TRUE(pool->IsLost(run.offset(), 1));
}

TEST_F(ChainTest, OffLeavesTheSignalAlone) {
  options_.sigbus = SigbusPolicy::kOff;
  std::unique_ptr<Pool> pool = Open();
  EXPECT_TRUE(HandlerIsPrograms());
  const PoolRun run = MustAllocate(*pool, 4);
  LosePage(*pool, run.first_page);
  {
    MediaGuard guard(*pool);
    EXPECT_TRUE(TouchIsChained(pool->At(run.offset())));
  }
  ASSERT_OK(pool->ReportLostPage(run.first_page));
  EXPECT_TRUE(pool->IsLost(run.offset(), 1));
}

TEST_F(ChainTest, LastPoolTakesItAway) {
  const ScratchDirectory other(ScratchDirectory::OnMemory());
  std::unique_ptr<Pool> first = Open();
  std::unique_ptr<Pool> second = MustOpen(other.Child("pool"), options_);
  ASSERT_OK(first->Close());
  EXPECT_FALSE(HandlerIsPrograms());
  ASSERT_OK(second->Close());
  EXPECT_TRUE(HandlerIsPrograms());
}

TEST(DefaultActionDeathTest, UnguardedTouchKillsAsWithoutUs) {
  const ScratchDirectory directory(ScratchDirectory::OnMemory());
  const auto touch = [&] {
    std::signal(SIGBUS, SIG_DFL);  // Sanitizers have one of their own.
    std::unique_ptr<Pool> pool = MustOpen(directory.Child("pool"));
    const PoolRun run = MustAllocate(*pool, 4);
    LosePage(*pool, run.first_page);
    const volatile char* byte = pool->At(run.offset());
    static_cast<void>(*byte);
  };
  EXPECT_EXIT(touch(), testing::KilledBySignal(SIGBUS), "");
  const auto raised = [&] {
    std::signal(SIGBUS, SIG_DFL);
    std::unique_ptr<Pool> pool = MustOpen(directory.Child("pool"));
    raise(SIGBUS);
  };
  EXPECT_EXIT(raised(), testing::KilledBySignal(SIGBUS), "");
  // What the kernel sends once for a page that can be read again afterwards (a poisoned page of a
  // DAX file): going back to the instruction would end in nothing.
  const auto sent = [&] {
    std::signal(SIGBUS, SIG_DFL);
    std::unique_ptr<Pool> pool = MustOpen(directory.Child("pool"));
    SendSigbus(BUS_MCEERR_AR, pool->At(MustAllocate(*pool, 4).offset()));
  };
  EXPECT_EXIT(sent(), testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace daxkv::dax
