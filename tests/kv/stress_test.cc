// Threads that call the whole interface, in a process that is killed at random moments, against an
// expected state that outlives it (after RocksDB's db_stress).
//
// Each round starts this binary again with --child, which opens the store and stresses it. The
// parent kills it, or now and then asks it to close the store; opens the store itself, and demands
// that every key is in its committed or its pending state, that atomic batches are whole, and that
// Check finds neither fault nor leak. Then the next round goes on with the same store.
//
// More: --rounds=N (for each medium), --seed=N, --life_ms=N.
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <numeric>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tests/kv/store_fixture.h"
#include "tests/kv/stress_worker.h"

namespace daxkv::kv {
namespace {

using std::chrono::milliseconds;

int rounds_each = 8;
uint64_t seed = 0;  // 0: a random one.
int longest_life_ms = 300;

// ---- The child ---------------------------------------------------------------------------------

int RunChild(const std::string& store, const std::string& state_path) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  StressState* state = MapStressState(state_path);
  if (state == nullptr) return 2;
  const auto fail = [&](const absl::Status& status) {
    if (!state->failed.exchange(true)) {
      strncpy(state->failure, status.ToString().c_str(), sizeof(state->failure) - 1);
    }
    return 1;
  };
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(store, TestOptions());
  if (!db.ok()) return fail(db.status());
  const absl::StatusOr<std::vector<Keyspace>> keyspaces = OpenStressKeyspaces(**db);
  if (!keyspaces.ok()) return fail(keyspaces.status());
  state->opened.store(true);
  StressLocks locks;
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < state->threads; ++i) {
    threads.emplace_back([&, i] {
      StressWorker(db->get(), *keyspaces, state, &locks, i, absl::StrCat(store, ".restored", i))
          .Run();
    });
  }
  for (std::thread& thread : threads) thread.join();
  const absl::Status closed = (*db)->Close();
  return closed.ok() ? 0 : fail(closed);
}

// ---- The parent --------------------------------------------------------------------------------

class StressTest : public testing::TestWithParam<Medium> {
 protected:
  StressTest() : directory_(GetParam()), state_directory_(Medium::kTmpfs) {
    state_ = MapStressState(state_path());
    const uint64_t used = seed != 0 ? seed : std::random_device()();
    std::cout << "seed " << used << "\n";
    random_.seed(used);
  }
  ~StressTest() override { munmap(state_, sizeof(StressState)); }

  std::string store() const { return directory_.Path("store"); }
  std::string state_path() const { return state_directory_.Path("state"); }

  // Runs a child until it is killed or has closed the store.
  void RunChildAndEnd() {
    state_->seed = random_();
    state_->threads = 2 + static_cast<uint32_t>(random_() % 3);
    state_->writes_only = random_() % 2 == 0;
    state_->opened.store(false);
    state_->stop.store(false);
    const bool early = random_() % 8 == 0;  // While it opens, perhaps.
    const bool closes = !early && random_() % 8 == 0;
    const milliseconds life(random_() % static_cast<uint64_t>(early ? 15 : longest_life_ms));
    const std::string path = state_path();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      execl("/proc/self/exe", "stress_test", "--child", store().c_str(), path.c_str(), nullptr);
      _exit(127);
    }
    int status = 0;
    pid_t ended = 0;
    while (!early && !state_->opened.load() && ended == 0) {
      std::this_thread::sleep_for(milliseconds(1));
      ended = waitpid(child, &status, WNOHANG);
    }
    std::this_thread::sleep_for(life);
    if (closes) {
      state_->stop.store(true);
      alarm(kCloseLimitSeconds);
    } else {
      kill(child, SIGKILL);
    }
    if (ended == 0) ended = waitpid(child, &status, 0);
    alarm(0);
    ASSERT_EQ(ended, child);
    if (closes) {
      ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
          << "status " << status << ": " << state_->failure;
      ++closes_;
    } else {
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
          << "the child ended by itself, status " << status << ": " << state_->failure;
      ++kills_;
    }
    ASSERT_FALSE(state_->failed.load()) << state_->failure;
  }

  void VerifyStore() {
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(store(), TestOptions());
    ASSERT_THAT(db.status(), IsOk());
    absl::StatusOr<std::vector<Keyspace>> keyspaces = OpenStressKeyspaces(**db);
    ASSERT_THAT(keyspaces.status(), IsOk());
    keyspaces_ = *std::move(keyspaces);
    // Sometimes the lazy recovery of a reader comes first, sometimes the full one of Check.
    const bool check_first = random_() % 2 == 0;
    if (check_first) {
      ASSERT_NO_FATAL_FAILURE(ExpectClean(**db));
    }
    ASSERT_NO_FATAL_FAILURE(VerifyGroups());
    ASSERT_NO_FATAL_FAILURE(VerifyKeys());
    ASSERT_NO_FATAL_FAILURE(VerifyCounters());
    for (uint32_t number = 0; number < kStressKeyspaces; ++number) {
      ASSERT_NO_FATAL_FAILURE(VerifyWalk(number));
    }
    ASSERT_NO_FATAL_FAILURE(VerifyPassing(**db));
    if (!check_first) {
      ASSERT_NO_FATAL_FAILURE(ExpectClean(**db));
    }
    if (random_() % 3 == 0) {
      ASSERT_THAT((*db)->Close(), IsOk());
    }
  }

  void PrintCalls() const {
    std::cout << kills_ << " kills, " << closes_ << " closes; calls:";
    uint64_t sum = 0;
    for (int call = 0; call < kStressCalls; ++call) {
      const uint64_t count = state_->calls[call].load();
      sum += count;
      std::cout << " " << kStressCallNames[call] << " " << count;
    }
    std::cout << "; together " << sum << "; " << pending_ << " keys were pending, " << done_
              << " of them done; " << groups_ << " batches cut, " << whole_groups_ << " done; "
              << passing_found_ << " passing keyspaces found\n";
  }

 private:
  static constexpr unsigned kCloseLimitSeconds = 120;

  // A key or counter of that number.
  std::optional<std::string> Read(uint32_t i, const std::string& key) {
    absl::StatusOr<std::string> got = keyspaces_[KeyspaceOf(i)].Get(key);
    if (got.ok()) return *std::move(got);
    EXPECT_THAT(got.status(), HasCode(absl::StatusCode::kNotFound));
    return std::nullopt;
  }

  void VerifyGroups() {
    for (AtomicGroup& group : state_->groups) {
      uint32_t done = 0, undone = 0;
      for (uint32_t n = 0; n < group.count.load(); ++n) {
        const uint32_t i = group.keys[n];
        const KeyExpectation& key = state_->keys[i];
        // Where it made no difference, or had not been marked yet.
        if (key.pending() == key.committed()) continue;
        if (!IsPresent(key.pending()) && !IsPresent(key.committed())) continue;
        const std::optional<std::string> value = Read(i, StressKey(i));
        (Matches(i, key.pending(), value) ? done : undone) += 1;
      }
      EXPECT_TRUE(done == 0 || undone == 0)
          << "a batch is half done: " << done << " keys of " << done + undone;
      groups_ += group.count.load() != 0 ? 1 : 0;
      whole_groups_ += done != 0 ? 1 : 0;
      group.count.store(0);
    }
  }

  void VerifyKeys() {
    for (uint32_t i = 0; i < kStressKeys; ++i) {
      KeyExpectation& key = state_->keys[i];
      const std::optional<std::string> value = Read(i, StressKey(i));
      const bool done = Matches(i, key.pending(), value);
      ASSERT_TRUE(done || Matches(i, key.committed(), value)) << Describe(i, key.word(), value);
      if (key.pending() == key.committed()) continue;
      ++pending_;
      done_ += done ? 1 : 0;
      key.Settle(done ? key.pending() : key.committed());
    }
  }

  void VerifyCounters() {
    for (uint32_t i = 0; i < kStressCounters; ++i) {
      CounterExpectation& counter = state_->counters[i];
      const std::string text = Read(i, CounterKey(i)).value_or("0");
      uint64_t number = 0;
      ASSERT_TRUE(absl::SimpleAtoi(text, &number)) << text;
      EXPECT_GE(number, counter.acknowledged.load());
      EXPECT_LE(number, counter.begun.load());
      counter.begun.store(number);
      counter.acknowledged.store(number);
    }
  }

  // Both ways through everything: what the look-ups have found and nothing else.
  void VerifyWalk(uint32_t number) {
    std::vector<std::string> expected;
    for (uint32_t i = 0; i < kStressCounters; ++i) {
      if (KeyspaceOf(i) == number && state_->counters[i].begun.load() != 0)
        expected.push_back(CounterKey(i));
    }
    for (uint32_t i = 0; i < kStressKeys; ++i) {
      if (KeyspaceOf(i) == number && IsPresent(state_->keys[i].committed()))
        expected.push_back(StressKey(i));
    }
    const std::unique_ptr<Iterator> it = keyspaces_[number].NewIterator();
    ASSERT_NE(it, nullptr);
    std::vector<std::string> found;
    for (it->SeekToFirst(); it->Valid(); it->Next()) found.emplace_back(it->key());
    ASSERT_THAT(it->status(), IsOk());
    ASSERT_TRUE(found == expected) << found.size() << " keys, not " << expected.size();
    found.clear();
    for (it->SeekToLast(); it->Valid(); it->Prev()) found.emplace_back(it->key());
    ASSERT_THAT(it->status(), IsOk());
    std::reverse(found.begin(), found.end());
    ASSERT_TRUE(found == expected) << found.size() << " keys backwards, not " << expected.size();
  }

  // Those are there, or they are not; nothing else is.
  void VerifyPassing(const Db& db) {
    const absl::StatusOr<std::vector<std::string>> names = db.ListKeyspaces();
    ASSERT_THAT(names.status(), IsOk());
    std::set<std::string> known;
    for (uint32_t number = 1; number < kStressKeyspaces; ++number) {
      known.insert(StressKeyspaceName(number));
    }
    for (uint32_t thread = 0; thread < kMaxStressThreads; ++thread) {
      known.insert(PassingName(thread));
    }
    for (const std::string& name : *names) {
      ASSERT_EQ(known.count(name), 1u) << name;
      if (name.compare(0, 7, "passing") != 0) continue;
      const absl::StatusOr<Keyspace> passing = db.OpenKeyspace(name);
      ASSERT_THAT(passing.status(), IsOk());
      const std::unique_ptr<Iterator> it = passing->NewIterator();
      ASSERT_NE(it, nullptr);
      for (it->SeekToFirst(); it->Valid(); it->Next()) ASSERT_EQ(it->value(), kPassingValue);
      ASSERT_THAT(it->status(), IsOk());
      ++passing_found_;
    }
  }

  void ExpectClean(const Db& db) {
    absl::StatusOr<CheckReport> report = db.Check();
    ASSERT_THAT(report.status(), IsOk());
    ASSERT_THAT(report->faults, testing::IsEmpty());
  }

  TemporaryDirectory directory_;
  TemporaryDirectory state_directory_;
  StressState* state_ = nullptr;
  std::mt19937_64 random_;
  uint64_t kills_ = 0, closes_ = 0, pending_ = 0, done_ = 0, groups_ = 0, whole_groups_ = 0;
  uint64_t passing_found_ = 0;
  std::vector<Keyspace> keyspaces_;  // Of the store that is being verified.
};
INSTANTIATE_ON_BOTH_MEDIA(StressTest);

TEST_P(StressTest, HoldsWhatItShouldAfterEveryKill) {
  for (int round = 0; round < rounds_each; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    ASSERT_NO_FATAL_FAILURE(RunChildAndEnd());
    ASSERT_NO_FATAL_FAILURE(VerifyStore());
    ASSERT_FALSE(HasNonfatalFailure());
  }
  PrintCalls();
}

}  // namespace
}  // namespace daxkv::kv

int main(int argc, char** argv) {
  if (argc == 4 && std::string_view(argv[1]) == "--child") {
    return daxkv::kv::RunChild(argv[2], argv[3]);
  }
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--rounds=")
            ? absl::SimpleAtoi(argument, &daxkv::kv::rounds_each)
        : absl::ConsumePrefix(&argument, "--seed=")
            ? absl::SimpleAtoi(argument, &daxkv::kv::seed)
            : absl::ConsumePrefix(&argument, "--life_ms=") &&
                  absl::SimpleAtoi(argument, &daxkv::kv::longest_life_ms)) {
      continue;
    }
    std::cerr << argv[i] << ": unknown; --rounds=N, --seed=N and --life_ms=N are all there is\n";
    return 2;
  }
  return RUN_ALL_TESTS();
}
