// The system libraries that daxkv builds on do here what daxkv counts on.

#include <gtest/gtest.h>
#include <isa-l/crc.h>
#include <urcu/urcu-bp.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <libpmemobj++/p.hpp>
#include <libpmemobj++/persistent_ptr.hpp>
#include <libpmemobj++/pool.hpp>
#include <libpmemobj++/transaction.hpp>
#include <string>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace daxkv {
namespace {

constexpr char kLayout[] = "daxkv-toolchain-test";

struct Root {
  pmem::obj::p<uint64_t> value;
};

std::string PoolPath() {
  const char* directory = std::getenv("TEST_TMPDIR");
  return absl::StrCat(directory != nullptr ? directory : ::testing::TempDir(), "/toolchain.pool");
}

TEST(ToolchainTest, PoolKeepsItsRootAcrossCloseAndReopen) {
  const std::string path = PoolPath();
  std::remove(path.c_str());
  auto pool = pmem::obj::pool<Root>::create(path, kLayout, PMEMOBJ_MIN_POOL, 0600);
  pmem::obj::transaction::run(pool, [&] { pool.root()->value = 42; });
  pool.close();

  pool = pmem::obj::pool<Root>::open(path, kLayout);
  EXPECT_EQ(pool.root()->value, 42u);
  pool.close();
  EXPECT_EQ(pmem::obj::pool<Root>::check(path, kLayout), 1);
  std::remove(path.c_str());
}

TEST(ToolchainTest, AbortedTransactionLeavesTheOldValue) {
  const std::string path = PoolPath();
  std::remove(path.c_str());
  auto pool = pmem::obj::pool<Root>::create(path, kLayout, PMEMOBJ_MIN_POOL, 0600);
  pmem::obj::transaction::run(pool, [&] { pool.root()->value = 1; });
  EXPECT_THROW(pmem::obj::transaction::run(pool,
                                           [&] {
                                             pool.root()->value = 2;
                                             pmem::obj::transaction::abort(ECANCELED);
                                           }),
               pmem::manual_tx_abort);
  EXPECT_EQ(pool.root()->value, 1u);
  pool.close();
  std::remove(path.c_str());
}

// A grace period does not end while a reader that began before it is still inside its section.
TEST(ToolchainTest, GracePeriodWaitsForTheReader) {
  std::atomic<bool> reading{false};
  std::atomic<bool> may_leave{false};
  std::atomic<bool> left{false};
  std::thread reader([&] {
    urcu_bp_read_lock();
    reading = true;
    while (!may_leave) std::this_thread::yield();
    left = true;
    urcu_bp_read_unlock();
  });
  while (!reading) std::this_thread::yield();
  std::thread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    may_leave = true;
  });
  urcu_bp_synchronize_rcu();
  EXPECT_TRUE(left);
  release.join();
  reader.join();
}

TEST(ToolchainTest, CallRcuRunsItsCallback) {
  struct Node {
    rcu_head head;
    std::atomic<bool> freed{false};
  } node;
  urcu_bp_call_rcu(&node.head, [](rcu_head* head) { reinterpret_cast<Node*>(head)->freed = true; });
  urcu_bp_barrier();
  EXPECT_TRUE(node.freed);
}

// The check value that every CRC32C catalogue gives for these nine digits.
TEST(ToolchainTest, Crc32cOfTheCheckString) {
  unsigned char digits[] = "123456789";
  EXPECT_EQ(~crc32_iscsi(digits, 9, ~0u), 0xe3069283u);
}

// Abseil's headers and the installed libraries agree, with and without NDEBUG.
TEST(ToolchainTest, AbseilStatusAndMapLink) {
  absl::flat_hash_map<std::string, absl::StatusOr<int>> results;
  results.emplace("good", 7);
  results.emplace("bad", absl::DataLossError("page 3"));
  EXPECT_EQ(results.at("good").value(), 7);
  EXPECT_EQ(results.at("bad").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace daxkv
