// Space in processes that are killed with SIGKILL while several threads put and remove.
//
// The parent stays single-threaded and only forks: one child works and is killed, the next one
// opens the pool, as the session after the crash, and checks it. The "index" lies in shared memory.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/kv/space_testing.h"

namespace daxkv::kv {
namespace {

struct SharedIndex {
  static constexpr size_t kEntries = 1 << 18;
  std::atomic<uint64_t> count;
  std::atomic<Address> entries[kEntries];  // Address, or its complement once removed.
};

[[noreturn]] void PutAndRemove(Space& space, SharedIndex& shared, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint64_t> mine;
  for (;;) {
    if (mine.size() > 300 || (!mine.empty() && random() % 3 == 0)) {
      const size_t i = random() % mine.size();
      rcu::ReadGuard guard;
      const Address address = shared.entries[mine[i]].load();
      shared.entries[mine[i]].store(~address);
      space.Retire(address, nullptr);
      mine[i] = mine.back();
      mine.pop_back();
      continue;
    }
    const uint64_t size_bytes =
        random() % 20 == 0 ? 40000 + random() % 100000 : 30 + random() % 3000;
    const absl::StatusOr<Address> address = space.Allocate(SlotKind::kRecord, size_bytes);
    if (!address.ok()) _exit(2);
    WriteRecord(space, *address, kValueRecord, 1, "key", std::string(size_bytes - 27, 'v'));
    if (!space.Drain().ok()) _exit(2);  // The index refers to what is durable.
    const uint64_t entry = shared.count.fetch_add(1);
    while (entry >= SharedIndex::kEntries) pause();
    shared.entries[entry].store(*address);
    mine.push_back(entry);
  }
}

// What the index holds. A word stored before the kill counts, whole.
void LoadIndex(const SharedIndex& shared, TestStore& store) {
  const uint64_t count = std::min<uint64_t>(shared.count, SharedIndex::kEntries);
  for (uint64_t i = 0; i < count; ++i) {
    const Address address = shared.entries[i].load();
    if (address == kNullAddress || address > kAddressMask) continue;
    EXPECT_TRUE(store.index().Add(address)) << "two live records in slot " << address;
  }
}

void CheckStore(TestStore& store) {
  EXPECT_EQ(store.Audit(), std::vector<std::string>());
  EXPECT_EQ(store.stats().used_slots, store.index().All().size());
  for (const Address address : store.index().All()) {
    EXPECT_TRUE(store.Verify(address).ok()) << store.Verify(address);
  }
}

pid_t Fork(const std::function<void()>& child) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  child();
  fflush(nullptr);
  _exit(testing::Test::HasFailure() ? 1 : 0);
}

TEST(SpaceKillTest, KilledProcessesLeakNothing) {
  void* memory =
      mmap(nullptr, sizeof(SharedIndex), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* shared = new (memory) SharedIndex();
  const ScratchDirectory directory(kMemoryFileSystem);
  std::mt19937 random(7);
  for (int round = 0; round < 12; ++round) {
    const pid_t worker = Fork([&] {
      TestStore store(directory);
      LoadIndex(*shared, store);
      // Some start with an audit, others meet underived extents while they work.
      if (round % 2 == 0) CheckStore(store);
      if (testing::Test::HasFailure()) _exit(1);
      std::thread other([&] { PutAndRemove(store.space(), *shared, 2 * round); });
      PutAndRemove(store.space(), *shared, 2 * round + 1);
    });
    // Once it is under way, for at most 10 s.
    const uint64_t enough = shared->count + 100;
    for (int i = 0; i < 10000 && shared->count < enough; ++i) usleep(1000);
    usleep(random() % 100000);
    kill(worker, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(worker, &status, 0), worker);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit status " << WEXITSTATUS(status);
    const pid_t checker = Fork([&] {
      TestStore store(directory);
      LoadIndex(*shared, store);
      CheckStore(store);
      if (round % 3 == 0) store.Close();
    });
    ASSERT_EQ(waitpid(checker, &status, 0), checker);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  EXPECT_GT(shared->count, 100u);
  munmap(memory, sizeof(SharedIndex));
}

}  // namespace
}  // namespace daxkv::kv
