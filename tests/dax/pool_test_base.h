// What the pool's tests share: scratch directories on a memory file system and on disk, and short
// names for frequent calls.
#ifndef DAXKV_TESTS_DAX_POOL_TEST_BASE_H_
#define DAXKV_TESTS_DAX_POOL_TEST_BASE_H_

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/pool.h"

namespace daxkv::dax {

#define ASSERT_OK(expression)                               \
  do {                                                      \
    const absl::Status assert_ok_status = (expression);     \
    ASSERT_TRUE(assert_ok_status.ok()) << assert_ok_status; \
  } while (false)

inline constexpr uint64_t kTestMiB = uint64_t{1} << 20;

// A fresh directory, removed at the end.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& parent) : path_(parent + "/daxkv_test_XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "cannot make " << path_;
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string Child(const std::string& name) const { return path_ + "/" + name; }

  static std::string OnMemory() { return "/dev/shm"; }
  static std::string OnDisk() {
    const char* directory = std::getenv("TEST_TMPDIR");
    return directory != nullptr ? directory : "/tmp";
  }

 private:
  std::string path_;
};

// Inside a test class, gtest's own Test::Run hides the name.
using PoolRun = Run;

// Small enough for every sanitizer's address space.
inline PoolOptions TestOptions() {
  PoolOptions options;
  options.max_size_bytes = uint64_t{4} << 30;
  return options;
}

inline std::unique_ptr<Pool> MustOpen(const std::string& path,
                                      const PoolOptions& options = TestOptions()) {
  absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Open(path, options);
  if (!pool.ok()) {
    ADD_FAILURE() << "cannot open " << path << ": " << pool.status();
    std::abort();
  }
  return *std::move(pool);
}

inline Run MustAllocate(Pool& pool, uint64_t pages, uint8_t kind = 1, uint16_t owner = 0) {
  absl::StatusOr<Run> run = pool.AllocateRun(pages, kind, owner, pages * kPageSizeBytes);
  EXPECT_TRUE(run.ok()) << run.status();
  return run.ok() ? *run : Run();
}

inline std::vector<Run> LiveRuns(const Pool& pool) {
  std::vector<Run> runs;
  const absl::Status status = pool.ForEachRun([&](const Run& run) {
    runs.push_back(run);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return runs;
}

// Runs `body` in a child process that ends without any clean-up, as a crash would.
inline void CrashAfter(const std::function<void()>& body) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    body();
    kill(getpid(), SIGKILL);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  ASSERT_TRUE(WIFSIGNALED(state) && WTERMSIG(state) == SIGKILL) << "child state " << state;
}

}  // namespace daxkv::dax

#endif  // DAXKV_TESTS_DAX_POOL_TEST_BASE_H_
