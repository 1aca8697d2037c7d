#include "xarray/rcu.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

namespace daxkv::rcu {
namespace {

struct Object : Head {
  explicit Object(std::atomic<int>* deleted_count) : deleted(deleted_count) {}
  ~Object() {
    content = -1;
    deleted->fetch_add(1);
  }
  int content = 42;  // plain: ThreadSanitizer must know RCU's order to accept the tests
  std::atomic<int>* deleted;
};

TEST(RcuTest, SectionsNest) {
  EXPECT_FALSE(InReadSection());
  {
    ReadGuard outer;
    EXPECT_TRUE(InReadSection());
    {
      ReadGuard inner;
      EXPECT_TRUE(InReadSection());
    }
    EXPECT_TRUE(InReadSection());
  }
  EXPECT_FALSE(InReadSection());
}

TEST(RcuTest, SynchronizeWaitsForSectionsUnderWay) {
  std::atomic<int> stage{0};
  int plain = 0;
  std::thread reader([&] {
    ReadGuard guard;
    stage = 1;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    plain = 1;  // ordered by the grace period alone
  });
  while (stage == 0) std::this_thread::yield();
  Synchronize();
  EXPECT_EQ(plain, 1);
  reader.join();
}

TEST(RcuTest, RetiredObjectLivesAsLongAsASectionThatSawIt) {
  std::atomic<int> deleted{0};
  std::atomic<Object*> shared{new Object(&deleted)};
  std::atomic<bool> seen{false};
  std::atomic<bool> retired{false};
  std::thread reader([&] {
    ReadGuard guard;
    Object* object = shared.load(std::memory_order_acquire);
    seen = true;
    while (!retired) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_EQ(deleted, 0);
    EXPECT_EQ(object->content, 42);
  });
  while (!seen) std::this_thread::yield();
  Retire(shared.exchange(nullptr));
  retired = true;
  reader.join();
  Barrier();
  EXPECT_EQ(deleted, 1);
}

TEST(RcuTest, CallbacksMayUseRcuAndBarrierWaitsForAll) {
  std::atomic<int> run{0};
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        auto owned = std::make_unique<int>(i);
        DeferClosure([&run, owned = std::move(owned), i] {
          ReadGuard guard;
          EXPECT_TRUE(InReadSection());
          EXPECT_EQ(*owned, i);
          run.fetch_add(1);
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Barrier();
  EXPECT_EQ(run, kThreads * kEach);
}

struct UsesRcuAtExit {
  ~UsesRcuAtExit() { ReadGuard guard; }
};

TEST(RcuTest, ThreadsComeAndGo) {
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([] {
        thread_local UsesRcuAtExit at_exit;
        static_cast<void>(&at_exit);
        ReadGuard guard;
      });
    }
    for (std::thread& thread : threads) thread.join();
    Synchronize();  // would never return, or crash, if a dead thread were still registered
  }
}

TEST(RcuTest, ForkedChildGoesOn) {
#ifdef DAXKV_RCU_TSAN
  GTEST_SKIP() << "ThreadSanitizer cannot start threads in a forked child";
#endif
  std::atomic<int> deleted{0};
  Retire(new Object(&deleted));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::atomic<int> gone{0};
    {
      ReadGuard guard;
      Retire(new Object(&gone));
    }
    Synchronize();
    Barrier();
    _exit(gone == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  Barrier();
  EXPECT_EQ(deleted, 1);
}

// The section's thread is not in the child, and can't end it there.
TEST(RcuTest, SectionOfAnotherThreadDoesNotHoldUpAForkedChild) {
  std::atomic<bool> reading{false}, may_leave{false};
  std::thread reader([&] {
    ReadGuard guard;
    reading = true;
    while (!may_leave) std::this_thread::yield();
  });
  while (!reading) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    Synchronize();
    _exit(0);
  }
  may_leave = true;
  reader.join();
  ASSERT_GE(child, 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
}

// Readers check plain memory that writers replace and free all the time.
TEST(RcuTest, ReplaceAndRetireStress) {
  std::atomic<int> deleted{0};
  std::atomic<Object*> shared{new Object(&deleted)};
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      while (!stop) {
        ReadGuard guard;
        ASSERT_EQ(shared.load(std::memory_order_acquire)->content, 42);
      }
    });
  }
  constexpr int kRounds = 20'000;
  for (int i = 0; i < kRounds; ++i) {
    Retire(shared.exchange(new Object(&deleted), std::memory_order_acq_rel));
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  delete shared.load();
  Barrier();
  EXPECT_EQ(deleted, kRounds + 1);
}

}  // namespace
}  // namespace daxkv::rcu
