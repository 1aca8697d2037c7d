// What the tests of the mapping share: a real pool, a provider whose indices are not its frames,
// and a hook that holds threads at yield points.
#ifndef DAXKV_TESTS_DAX_MAPPING_TEST_UTIL_H_
#define DAXKV_TESTS_DAX_MAPPING_TEST_UTIL_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "dax/mapping.h"
#include "dax/pool.h"
#include "dax/yield_point.h"
#include "xarray/node.h"
#include "xarray/rcu.h"

namespace daxkv::dax {

#define ASSERT_OK(expression)                                         \
  do {                                                                \
    const auto& assert_ok_result = (expression);                      \
    ASSERT_TRUE(assert_ok_result.ok()) << ToStatus(assert_ok_result); \
  } while (false)
#define EXPECT_OK(expression)                                         \
  do {                                                                \
    const auto& expect_ok_result = (expression);                      \
    EXPECT_TRUE(expect_ok_result.ok()) << ToStatus(expect_ok_result); \
  } while (false)

// Before the first Hold or AtYield of a test.
#define SKIP_WITHOUT_YIELD_POINTS() \
  if (!kYieldPoints) GTEST_SKIP() << "optimised builds have no yield points"

inline const absl::Status& ToStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& ToStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

template <typename Result>
absl::StatusCode CodeOf(const Result& result) {
  return ToStatus(result).code();
}

// testing::Test has a Run of its own.
using PageRun = Run;

inline constexpr uint8_t kTestKind = 1;
// Long enough that only a hang reaches it.
inline const absl::Duration kHangAfter = [] {
  const char* seconds = getenv("DAXKV_TEST_HANG_AFTER_S");  // mutations/run does not wait as long.
  return absl::Seconds(seconds == nullptr ? 60 : atoi(seconds));
}();

// A fresh pool in the test's temporary folder, without a name there any more.
inline std::unique_ptr<Pool> OpenTestPool(uint64_t size_bytes = uint64_t{64} << 20) {
  static std::atomic<int> serial{0};
  PoolOptions options;
  options.shape = PoolShape::kFixed;
  options.fixed_size_bytes = size_bytes;
  const std::string path = absl::StrCat(testing::TempDir(), "/mapping-", getpid(), "-", ++serial);
  absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Open(path, options);
  if (!pool.ok()) {
    ADD_FAILURE() << pool.status();
    std::abort();
  }
  // Gone with the pool, whatever becomes of the test.
  for (const char* suffix : {"", ".lock"}) unlink(absl::StrCat(path, suffix).c_str());
  return *std::move(pool);
}

// A live run whose every byte is `fill`.
inline Run MakeRun(Pool* pool, uint64_t pages, char fill = 0) {
  absl::StatusOr<Run> run = pool->AllocateRun(pages, kTestKind, 0, pages << kPageShift);
  if (!run.ok()) {
    ADD_FAILURE() << run.status();
    std::abort();
  }
  std::fill_n(pool->At(run->offset()), run->size_bytes(), fill);
  EXPECT_OK(pool->Persist(pool->At(run->offset()), run->size_bytes()));
  EXPECT_OK(pool->CommitRun(*run));
  return *run;
}

// Runs laid out in an index space of the test's own choice.
class TableProvider : public ExtentProvider {
 public:
  // Places the run's pages from `first_index` on.
  void Place(uint64_t first_index, const Run& run) {
    std::unique_lock lock(mutex_);
    table_[first_index] = run;
  }
  void Place(uint64_t first_index, uint64_t first_frame, uint64_t pages) {
    Run run;
    run.first_page = first_frame;
    run.pages = pages;
    Place(first_index, run);
  }
  // From now on a run is there only as long as the pool has it, with the same owner.
  void AskPool(const Pool* pool) {
    std::unique_lock lock(mutex_);
    pool_ = pool;
  }
  void Remove(uint64_t first_index) {
    std::unique_lock lock(mutex_);
    table_.erase(first_index);
  }
  // What Provide runs first, outside the provider's lock; its error is Provide's.
  void OnProvide(std::function<absl::Status(uint64_t index)> action) {
    std::unique_lock lock(mutex_);
    on_provide_ = std::move(action);
  }
  int provided() const { return provided_.load(); }

  absl::StatusOr<Extent> Provide(uint64_t index, unsigned max_order, Access) override {
    provided_.fetch_add(1);
    std::function<absl::Status(uint64_t)> action;
    absl::StatusOr<Extent> extent = Find(index, max_order, &action);
    if (action) {
      absl::Status status = action(index);
      if (!status.ok()) return status;
    }
    return extent;
  }

  absl::StatusOr<uint64_t> Locate(uint64_t index) override {
    absl::StatusOr<Extent> extent = Find(index, 0, nullptr);
    if (!extent.ok()) return extent.status();
    return extent->first_frame;
  }

 private:
  absl::StatusOr<Extent> Find(uint64_t index, unsigned max_order,
                              std::function<absl::Status(uint64_t)>* action) {
    std::unique_lock lock(mutex_);
    if (action != nullptr) *action = on_provide_;
    auto next = table_.upper_bound(index);
    if (next == table_.begin()) return absl::NotFoundError(absl::StrCat("nothing at ", index));
    const auto& [first_index, run] = *std::prev(next);
    if (index - first_index >= run.pages) {
      return absl::NotFoundError(absl::StrCat("nothing at ", index));
    }
    if (pool_ != nullptr) {
      absl::StatusOr<Run> known = pool_->FindRun(run.first_page);
      if (!known.ok()) return known.status();
      if (known->owner != run.owner || known->first_page != run.first_page) {
        return absl::NotFoundError(absl::StrCat("another run is at ", run.first_page));
      }
    }
    for (unsigned order = max_order;; --order) {
      const uint64_t pages = uint64_t{1} << order;
      const uint64_t first = index & ~(pages - 1);
      const uint64_t frame = run.first_page + (first - first_index);
      if (order == 0 || (first >= first_index && first - first_index + pages <= run.pages &&
                         frame % pages == 0)) {
        return Extent{first, frame, order};
      }
    }
  }

  std::mutex mutex_;
  const Pool* pool_ = nullptr;
  std::map<uint64_t, Run> table_;
  std::function<absl::Status(uint64_t)> on_provide_;
  std::atomic<int> provided_{0};
};

// Holds the threads that come to one yield point until told to go on. One at a time in a process.
class Hold {
 public:
  // The first `count` threads that reach `point` stop there.
  explicit Hold(const char* point, int count = 1) : point_(point), left_(count) {
    active_ = this;
    SetYieldHook(&OnYield);
  }
  ~Hold() {
    Release();
    SetYieldHook(nullptr);
    active_ = nullptr;
    while (visitors_ > 0) std::this_thread::yield();
  }
  // Until `threads` of them stand there; false if they do not come.
  bool Await(int threads = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, absl::ToChronoTime(absl::Now() + kHangAfter),
                               [&] { return came_ >= threads; });
  }
  void Release() {
    std::unique_lock lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

 private:
  static void OnYield(const char* point) {
    // Counted before the look at active_, as ~Hold clears active_ before it looks at the count.
    ++visitors_;
    if (Hold* hold = active_) hold->Reached(point);
    --visitors_;
  }
  void Reached(const char* point) {
    std::unique_lock lock(mutex_);
    if (point_ != point || left_ == 0 || released_) return;
    --left_;
    ++came_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return released_; });
  }

  static inline std::atomic<Hold*> active_{nullptr};
  static inline std::atomic<int> visitors_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::string_view point_;
  int left_;
  int came_ = 0;
  bool released_ = false;
};

// Runs an action whenever a thread comes to one yield point, in that thread. One at a time, and not
// beside a Hold.
class AtYield {
 public:
  AtYield(const char* point, std::function<void()> action)
      : point_(point), action_(std::move(action)) {
    active_ = this;
    SetYieldHook(&OnYield);
  }
  // No thread may be near the point any more.
  ~AtYield() {
    SetYieldHook(nullptr);
    active_ = nullptr;
  }

 private:
  static void OnYield(const char* point) {
    static thread_local bool inside = false;
    AtYield* self = active_;
    if (self == nullptr || inside || self->point_ != point) return;
    inside = true;  // The action passes the point, too.
    self->action_();
    inside = false;
  }

  static inline std::atomic<AtYield*> active_{nullptr};

  const std::string_view point_;
  const std::function<void()> action_;
};

// Waits until the condition holds; false after kHangAfter.
inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + kHangAfter;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Microseconds(200));
  }
  return true;
}

// Runs `action` in a thread; Finishes() says whether it came to its end.
class Background {
 public:
  template <typename Action>
  explicit Background(Action action) : done_(std::async(std::launch::async, std::move(action))) {}
  bool Finishes() {
    return done_.wait_for(absl::ToChronoSeconds(kHangAfter)) == std::future_status::ready;
  }
  bool finished() const {
    return done_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

 private:
  std::future<void> done_;
};

// A mapping over a fresh pool, with what its tests look at.
class MappingTest : public testing::Test {
 protected:
  MappingTest()
      : pool_(OpenTestPool()), mapping_(std::make_unique<Mapping>(pool_.get(), &table_)) {}
  ~MappingTest() override {
    // The final audit: nobody waits, nothing is pinned or locked.
    if (mapping_ == nullptr) return;
    const MappingStats stats = mapping_->stats();
    EXPECT_EQ(stats.pins, 0u);
    EXPECT_EQ(stats.waiters, 0u);
    EXPECT_EQ(stats.locked_entries, 0u);
  }

  // A live run of `pages`, filled, placed at `index`.
  PageRun PlaceRun(uint64_t index, uint64_t pages, char fill = 0) {
    const PageRun run = MakeRun(pool_.get(), pages, fill);
    table_.Place(index, run);
    return run;
  }
  bool Present(uint64_t index) const {
    rcu::ReadGuard guard;
    return mapping_->Present(index);
  }
  std::optional<Extent> LookUp(uint64_t index) const {
    rcu::ReadGuard guard;
    return mapping_->LookUp(index);
  }
  // Whether `count` threads sleep in this pool's mappings.
  bool AwaitSleepers(uint64_t count) {
    return Eventually([&] { return mapping_->stats().waiters == count; });
  }
  bool AwaitWaits(uint64_t count) {
    return Eventually([&] { return mapping_->stats().waits >= count; });
  }

  std::unique_ptr<Pool> pool_;
  TableProvider table_;
  std::unique_ptr<Mapping> mapping_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_TESTS_DAX_MAPPING_TEST_UTIL_H_
