#include "xarray/node_pool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <thread>
#include <vector>

namespace daxkv::xarray::internal {
namespace {

using Pool = NodePool<576>;

TEST(NodePoolTest, BlocksAreAlignedAndApart) {
  std::set<uintptr_t> blocks;
  for (uint32_t i = 0; i < 2 * Pool::kBlocksPerRegion; ++i) {
    void* block = Pool::Get().Allocate();
    ASSERT_NE(block, nullptr);
    memset(block, 0xAB, 576);
    const uintptr_t at = reinterpret_cast<uintptr_t>(block);
    EXPECT_EQ(at % 64, 0u);
    const auto next = blocks.lower_bound(at);
    ASSERT_TRUE(next == blocks.end() || *next >= at + 576);
    ASSERT_TRUE(next == blocks.begin() || *std::prev(next) + 576 <= at);
    blocks.insert(at);
  }
  EXPECT_GE(Pool::Get().regions(), 2u);
  for (uintptr_t block : blocks) Pool::Get().Free(reinterpret_cast<void*>(block));
  Pool::Get().FlushThread();
  EXPECT_EQ(Pool::Get().regions(), 1u) << "free regions go back to the system, all but one";
}

TEST(NodePoolTest, ThreadsFreeWhatOthersAllocated) {
  std::vector<void*> blocks(20000);
  const auto each = [&](auto work) {
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 2; ++t) {
      threads.emplace_back([&, t] {
        for (size_t i = t; i < blocks.size(); i += 2) work(i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  for (size_t round = 0; round < 3; ++round) {
    each([&](size_t i) {
      blocks[i] = Pool::Get().Allocate();
      memset(blocks[i], static_cast<int>(i), 576);
    });
    each([&](size_t i) {
      const auto* bytes = static_cast<unsigned char*>(blocks[i ^ 1]);
      EXPECT_EQ(bytes[0], static_cast<unsigned char>(i ^ 1));
      EXPECT_EQ(bytes[575], static_cast<unsigned char>(i ^ 1));
    });
    each([&](size_t i) { Pool::Get().Free(blocks[i ^ 1]); });
  }
  Pool::Get().FlushThread();
  EXPECT_EQ(Pool::Get().regions(), 1u) << "threads give back what they keep when they end";
}

TEST(NodePoolTest, WorksInAChild) {
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 1000; ++i) Pool::Get().Free(Pool::Get().Allocate());
    Pool::Get().FlushThread();
    _exit(Pool::Get().Allocate() == nullptr ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace daxkv::xarray::internal
