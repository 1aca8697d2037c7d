// Several writers and readers on overlapping keys.
#include <chrono>
#include <thread>

#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kKeys = 3000;
constexpr uint64_t kWriters = 3;

// The first half of the keys is never deleted.
std::string Key(uint64_t n) { return "user" + std::to_string((n + 1) * 0x9e3779b97f4a7c15); }
bool IsKept(uint64_t n) { return n < kKeys / 2; }

uint64_t Parse(std::string_view value) { return std::stoull(std::string(value)); }

// Values of a key grow: a put of a lower one is refused, as records carry rising sequence numbers
// that are handed out under the same lock as the values.
class StressTest : public ::testing::Test {
 protected:
  StressTest() : store_(256 << 20, /*track=*/false), floor_(kKeys) {
    for (uint64_t n = 0; n < kKeys; ++n) {
      if (IsKept(n)) {
        EXPECT_TRUE(store_.Put(Key(n), "0").ok());
      }
    }
  }

  // Which values were acknowledged: a reader that starts later must not see a lower one.
  void Acknowledge(uint64_t n, uint64_t value) {
    uint64_t seen = floor_[n].load();
    while (seen < value && !floor_[n].compare_exchange_weak(seen, value)) {
    }
  }

  void Put(uint64_t n, uint64_t value) {
    absl::StatusOr<bool> put = store_.Put(Key(n), std::to_string(value));
    ASSERT_TRUE(put.ok() || absl::IsAborted(put.status())) << put.status();
    if (put.ok() && IsKept(n)) Acknowledge(n, value);
  }

  void Write(uint64_t writer, int steps) {
    std::mt19937 random(static_cast<uint32_t>(writer));
    for (int step = 0; step < steps && !HasFatalFailure(); ++step) {
      const uint64_t n = random() % kKeys;
      // A value of one writer's own keys grows; kept keys have one writer each.
      if (IsKept(n)) {
        const uint64_t own = n - n % kWriters + writer;
        if (own < kKeys / 2) Put(own, static_cast<uint64_t>(step) + 1);
      } else if (random() % 3 == 0) {
        const absl::Status status = store_.Remove(Key(n));
        ASSERT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
      } else {
        Put(n, static_cast<uint64_t>(step));
      }
      if (step % 64 == 0) WriteGroup(writer, static_cast<uint64_t>(step) + 1, random);
    }
  }
  void WriteGroup(uint64_t writer, uint64_t value, std::mt19937& random) {
    std::map<std::string, std::optional<std::string>> group;
    std::vector<uint64_t> kept;
    for (int i = 0; i < 40; ++i) {
      const uint64_t n = random() % kKeys;
      const uint64_t own = n - n % kWriters + writer;
      if (own < kKeys / 2) {
        group[Key(own)] = std::to_string(value);
        kept.push_back(own);
      } else if (!IsKept(n)) {
        group[Key(n)] = i % 3 == 0 ? std::nullopt : std::optional(std::to_string(value));
      }
    }
    size_t done = 0;
    absl::Status status = store_.PutGroup({group.begin(), group.end()}, &done, nullptr);
    ASSERT_TRUE(status.ok() || absl::IsAborted(status)) << status;
    if (!status.ok()) return;
    for (const uint64_t n : kept) Acknowledge(n, value);
  }

  void Read(uint32_t seed) {
    std::mt19937 random(seed);
    while (!stop_.load() && !HasFatalFailure()) {
      const uint64_t n = random() % kKeys;
      const uint64_t floor = floor_[n].load();
      absl::StatusOr<std::string> got = store_.Get(Key(n));
      if (IsKept(n)) {
        ASSERT_TRUE(got.ok()) << got.status();
        ASSERT_GE(Parse(*got), floor) << Key(n);
      } else {
        ASSERT_TRUE(got.ok() || absl::IsNotFound(got.status())) << got.status();
      }
      ++reads_;
    }
  }
  void Scan() {
    while (!stop_.load() && !HasFatalFailure()) {
      std::vector<uint64_t> floor(kKeys);
      for (uint64_t n = 0; n < kKeys; ++n) floor[n] = floor_[n].load();
      absl::StatusOr<Model> found = store_.Scan("", scans_ % 2 == 0 ? ~size_t{0} : 17);
      ASSERT_TRUE(found.ok()) << found.status();
      for (uint64_t n = 0; n < kKeys; ++n) {
        if (!IsKept(n)) continue;
        const auto it = found->find(Key(n));
        ASSERT_TRUE(it != found->end()) << Key(n);
        ASSERT_GE(Parse(it->second), floor[n]);
      }
      ASSERT_TRUE(store_.index().Count().ok());
      ++scans_;
    }
  }

  void Run(int steps) {
    std::vector<std::thread> writers, readers;
    for (uint32_t i = 0; i < 2; ++i) readers.emplace_back([this, i] { Read(100 + i); });
    readers.emplace_back([this] { Scan(); });
    for (uint64_t i = 0; i < kWriters; ++i) writers.emplace_back([=] { Write(i, steps); });
    for (std::thread& thread : writers) thread.join();
    stop_ = true;
    for (std::thread& thread : readers) thread.join();
    EXPECT_GT(reads_, 0u);
    EXPECT_GT(scans_, 0u);
    rcu::Barrier();
    for (const std::string& fault : store_.Faults()) ADD_FAILURE() << fault;
  }

  IndexHarness store_;
  std::vector<std::atomic<uint64_t>> floor_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> reads_{0}, scans_{0};
};

TEST_F(StressTest, OverlappingKeys) { Run(8000); }

// Trees that grow: new keys come in two ascending runs and at random, while readers look for keys
// that were acknowledged.
TEST(IndexGrowthStressTest, AcknowledgedKeysAreFound) {
  IndexHarness store(256 << 20, /*track=*/false);
  constexpr uint64_t kPerWriter = 12000;
  std::atomic<uint64_t> acknowledged[3] = {};
  std::atomic<bool> stop{false};
  const auto key = [](uint64_t writer, uint64_t n) {
    return writer == 2 ? Key(n)
                       : std::string(writer == 0 ? "a" : "b") + std::to_string(1000000 + n);
  };
  std::vector<std::thread> writers, readers;
  for (uint64_t writer = 0; writer < 3; ++writer) {
    writers.emplace_back([&, writer] {
      for (uint64_t n = 0; n < kPerWriter; ++n) {
        absl::StatusOr<bool> put = store.Put(key(writer, n), "v");
        ASSERT_TRUE(put.ok()) << put.status();
        ASSERT_FALSE(*put);
        acknowledged[writer].store(n + 1);
      }
    });
  }
  for (uint32_t seed = 0; seed < 2; ++seed) {
    readers.emplace_back([&, seed] {
      std::mt19937 random(seed);
      while (!stop.load()) {
        const uint64_t writer = random() % 3;
        const uint64_t count = acknowledged[writer].load();
        if (count == 0) continue;
        const uint64_t n = random() % 2 == 0 ? random() % count : count - 1;
        absl::StatusOr<std::string> got = store.Get(key(writer, n));
        ASSERT_TRUE(got.ok()) << got.status() << " " << key(writer, n);
      }
    });
  }
  for (std::thread& thread : writers) thread.join();
  stop = true;
  for (std::thread& thread : readers) thread.join();
  EXPECT_EQ(*store.index().Count(), 3 * kPerWriter);
  for (const std::string& fault : store.Faults(/*expect_no_leak=*/true)) ADD_FAILURE() << fault;
}

// At every drain and allocation of changes that split, another thread finds all that was
// acknowledged, by look-ups, scans and RefersToRecord, and waits for nothing.
TEST(IndexMidSplitTest, ReadersGoOnInTheMiddleOfASplit) {
  IndexHarness store(64 << 20);
  Model model;
  std::mt19937 random(1);
  uint64_t looks = 0;
  const auto look = [&] {
    std::thread([&] {
      ++looks;
      absl::StatusOr<Model> found = store.Scan();
      ASSERT_TRUE(found.ok()) << found.status();
      for (const auto& [key, value] : model) {
        ASSERT_EQ(found->count(key), 1u) << key;
        absl::StatusOr<std::string> got = store.Get(key);
        ASSERT_TRUE(got.ok()) << got.status();
        ASSERT_EQ(*got, value);
        RecordView view;
        ASSERT_TRUE(store.index()
                        .Find(key,
                              [&](const RecordView& record) {
                                view = record;
                                return absl::OkStatus();
                              })
                        .ok());
        absl::StatusOr<bool> refers = store.index().RefersToRecord(view);
        ASSERT_TRUE(refers.ok() && *refers);
      }
    }).join();
  };
  for (int round = 0; round < 12 && !::testing::Test::HasFatalFailure(); ++round) {
    std::map<std::string, std::optional<std::string>> group;
    for (int i = 0; i < 150; ++i) group[Key(random() % 100000 + 10000)] = "v";
    for (const auto& [key, value] : model) group.erase(key);
    size_t done = 0;
    store.memory().before_drain = look;
    store.memory().on_allocate = [&] {
      if (random() % 32 == 0) look();
    };
    ASSERT_TRUE(store.PutGroup({group.begin(), group.end()}, &done, nullptr).ok());
    store.memory().before_drain = nullptr;
    store.memory().on_allocate = nullptr;
    for (const auto& [key, value] : group) model[key] = *value;
  }
  EXPECT_GT(looks, 30u);
  ExpectEqual(store, model);
}

// X5: a moved key can't be changed before its slot on the left is durably gone.
TEST(IndexMidSplitTest, WritersOfMovedKeysWait) {
  IndexHarness store(64 << 20);
  uint64_t n = 0;
  for (; n < 40; ++n) ASSERT_TRUE(store.Put(Key(n), "before").ok());
  std::string highest;
  for (uint64_t i = 0; i < 40; ++i) highest = std::max(highest, Key(i));
  std::thread writer;
  std::atomic<bool> written{false};
  const std::thread::id main_thread = std::this_thread::get_id();
  int drain = 0;
  store.memory().before_drain = [&] {
    // The third drain after the record's makes the cleared slots durable.
    if (std::this_thread::get_id() != main_thread || ++drain != 4) return;
    writer = std::thread([&] {
      ASSERT_TRUE(store.index().Remove(highest).ok());
      written = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    EXPECT_FALSE(written.load());
  };
  while (!writer.joinable()) {
    drain = 0;
    ASSERT_TRUE(store.Put(Key(n++), "v").ok());
  }
  writer.join();
  EXPECT_TRUE(written.load());
  EXPECT_TRUE(absl::IsNotFound(store.Get(highest).status()));
  store.memory().before_drain = nullptr;
  for (const std::string& fault : store.Faults()) ADD_FAILURE() << fault;
}

}  // namespace
}  // namespace daxkv::kv
