// Single-key calls are linearizable: histories of threads that meet at one key are recorded, and
// for each a search looks for an order of its operations that a map of one key could have had (Wing
// and Gong 1993; states met before are passed over, as Lowe 2017).
#include <atomic>
#include <cstdint>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Value = std::optional<int>;

struct Event {
  enum class Kind { kGet, kMultiGet, kPut, kDelete, kInsert, kSwap, kIncrement, kBatchPut };
  Kind kind = Kind::kGet;
  Value argument, expected;  // What is put; what a swap expects.
  Value got;                 // By a read, or by an increment before it.
  bool done = false;         // A delete found the key, an insert none, a swap what it expected.
  uint64_t begin = 0, end = 0;
};

// Does the operation to the key's value; false: it can't have come there.
bool Apply(const Event& event, Value* state) {
  using Kind = Event::Kind;
  const Value before = *state;
  switch (event.kind) {
    case Kind::kGet:
    case Kind::kMultiGet:
      return event.got == before;
    case Kind::kPut:
    case Kind::kBatchPut:
      *state = event.argument;
      return true;
    case Kind::kDelete:
      state->reset();
      return event.done == before.has_value();
    case Kind::kInsert:
      if (event.done) *state = event.argument;
      return event.done != before.has_value();
    case Kind::kSwap:
      if (event.done) *state = event.argument;
      return event.done == (before == event.expected);
    case Kind::kIncrement:
      *state = before.value_or(0) + 1;
      return event.got == before;
  }
  return false;
}

// Histories have at most 64 events.
class Search {
 public:
  explicit Search(const std::vector<Event>& history) : history_(history) {}
  bool Linearizable() { return From(0, Value()); }

 private:
  bool From(uint64_t taken, const Value& state) {
    if (taken + 1 == uint64_t{1} << history_.size()) return true;
    if (!met_.insert({taken, state}).second) return false;
    // Whatever comes next began before each of the others ended.
    uint64_t first_end = UINT64_MAX;
    for (size_t i = 0; i < history_.size(); ++i) {
      if ((taken >> i & 1) == 0) first_end = std::min(first_end, history_[i].end);
    }
    for (size_t i = 0; i < history_.size(); ++i) {
      if ((taken >> i & 1) != 0 || history_[i].begin > first_end) continue;
      Value next = state;
      if (Apply(history_[i], &next) && From(taken | uint64_t{1} << i, next)) return true;
    }
    return false;
  }

  const std::vector<Event>& history_;
  std::set<std::pair<uint64_t, Value>> met_;
};

std::string Text(const Value& value) { return value ? absl::StrCat(*value) : "none"; }

std::string Describe(const std::vector<Event>& history) {
  static constexpr const char* kNames[] = {"get",    "multi-get", "put",       "delete",
                                           "insert", "swap",      "increment", "batch"};
  std::string text;
  for (const Event& event : history) {
    absl::StrAppend(&text, event.begin, "..", event.end, " ", kNames[static_cast<int>(event.kind)],
                    " argument ", Text(event.argument), " expected ", Text(event.expected), " got ",
                    Text(event.got), event.done ? " done" : "", "\n");
  }
  return text;
}

TEST(SearchTest, TellsHistoriesApart) {
  Event put, get, late;
  put.kind = Event::Kind::kPut;
  put.argument = 1;
  put.begin = 1, put.end = 4;
  get.begin = 2, get.end = 3;
  for (const Value& seen : {Value(), Value(1)}) {
    get.got = seen;
    EXPECT_TRUE(Search({put, get}).Linearizable());
  }
  get.got = 2;
  EXPECT_FALSE(Search({put, get}).Linearizable());
  // Seen by one, and not by a later one.
  get.got = 1;
  late.begin = 5, late.end = 6;
  EXPECT_FALSE(Search({put, get, late}).Linearizable());
  // A lost update.
  Event first, second;
  first.kind = second.kind = Event::Kind::kIncrement;
  first.begin = second.begin = 1;
  first.end = second.end = 2;
  EXPECT_FALSE(Search({first, second}).Linearizable());
  second.got = 1;
  EXPECT_TRUE(Search({first, second}).Linearizable());
}

class LinearizabilityTest : public StoreTest {
 protected:
  static Value Parse(const std::string& text) {
    int number = 0;
    EXPECT_TRUE(absl::SimpleAtoi(text, &number)) << text;
    return number;
  }

  Value Read(const Keyspace& keyspace, const std::string& key, bool many) {
    std::string value;
    absl::Status status = absl::UnknownError("not read");
    if (many) {
      EXPECT_THAT(keyspace.MultiGet({key}, absl::MakeSpan(&value, 1), absl::MakeSpan(&status, 1)),
                  IsOk());
    } else {
      status = keyspace.Get(key, &value);
    }
    EXPECT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
    return status.ok() ? Parse(value) : Value();
  }

  // Some operation on the key; `number` is the thread's own, `other` a keyspace for what a batch
  // has besides.
  Event Run(Keyspace keyspace, const Keyspace& other, const std::string& key, std::mt19937& random,
            int number) {
    Event event;
    event.kind = static_cast<Event::Kind>(random() % 8);
    if (random() % 4 != 0) event.argument = number;
    if (random() % 3 == 0) event.expected = Value();
    event.begin = clock_.fetch_add(1);
    const std::string text = absl::StrCat(number);
    switch (event.kind) {
      case Event::Kind::kGet:
      case Event::Kind::kMultiGet:
        event.got = Read(keyspace, key, event.kind == Event::Kind::kMultiGet);
        break;
      case Event::Kind::kPut:
        event.argument = number;
        EXPECT_THAT(keyspace.Put(key, text), IsOk());
        break;
      case Event::Kind::kBatchPut: {
        WriteBatch batch;
        EXPECT_THAT(batch.Put(other, absl::StrCat(key, "/beside"), text), IsOk());
        if (event.argument.has_value()) {
          EXPECT_THAT(batch.Put(keyspace, key, text), IsOk());
        } else {
          EXPECT_THAT(batch.Delete(keyspace, key), IsOk());
        }
        EXPECT_THAT(db().Write(batch), IsOk());
        break;
      }
      case Event::Kind::kDelete: {
        const absl::Status deleted = keyspace.Delete(key);
        EXPECT_TRUE(deleted.ok() || absl::IsNotFound(deleted)) << deleted;
        event.done = deleted.ok();
        break;
      }
      case Event::Kind::kInsert: {
        event.argument = number;
        const absl::Status inserted = keyspace.Insert(key, text);
        EXPECT_TRUE(inserted.ok() || absl::IsAlreadyExists(inserted)) << inserted;
        event.done = inserted.ok();
        break;
      }
      case Event::Kind::kSwap: {
        // What was there a moment ago, to succeed now and then.
        event.expected = Read(keyspace, key, false);
        const std::string expected = event.expected ? absl::StrCat(*event.expected) : "";
        event.begin = clock_.fetch_add(1);
        const absl::Status swapped = keyspace.CompareAndSwap(
            key, event.expected ? std::optional<std::string_view>(expected) : std::nullopt,
            event.argument ? std::optional<std::string_view>(text) : std::nullopt);
        EXPECT_TRUE(swapped.ok() || absl::IsAborted(swapped)) << swapped;
        event.done = swapped.ok();
        break;
      }
      case Event::Kind::kIncrement:
        EXPECT_THAT(keyspace.Update(key,
                                    [&](std::optional<std::string_view> current,
                                        std::string* next) -> absl::StatusOr<UpdateAction> {
                                      event.got = current ? Parse(std::string(*current)) : Value();
                                      *next = absl::StrCat(event.got.value_or(0) + 1);
                                      return UpdateAction::kPut;
                                    }),
                    IsOk());
        break;
    }
    event.end = clock_.fetch_add(1);
    return event;
  }

  std::atomic<uint64_t> clock_{0};
};

TEST_P(LinearizabilityTest, OfEverySingleKeyCall) {
  constexpr int kThreads = 4, kKeys = 2, kEvents = 6;
  const int rounds = GetParam() == Medium::kTmpfs ? 800 : 10;
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  // Each key in one of its own.
  const absl::StatusOr<Keyspace> named = db().CreateKeyspace("named");
  ASSERT_THAT(named.status(), IsOk());
  const Keyspace keyspaces[kKeys] = {db(), *named};
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    std::vector<std::vector<Event>> histories(kKeys);
    std::vector<std::vector<std::pair<int, Event>>> recorded(kThreads);
    std::atomic<int> ready{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(seed + static_cast<unsigned>(round * kThreads + t));
        ++ready;
        while (ready.load() < kThreads) std::this_thread::yield();
        for (int i = 0; i < kEvents; ++i) {
          const int key = static_cast<int>(random() % kKeys);
          const int number = 1000 * (t * kEvents + i + 1);
          recorded[t].emplace_back(
              key, Run(keyspaces[key], keyspaces[1 - key],
                       absl::StrCat("round ", round, " key ", key), random, number));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& events : recorded) {
      for (const auto& [key, event] : events) histories[key].push_back(event);
    }
    for (const std::vector<Event>& history : histories) {
      EXPECT_TRUE(Search(history).Linearizable()) << Describe(history);
    }
  }
}

INSTANTIATE_ON_BOTH_MEDIA(LinearizabilityTest);

}  // namespace
}  // namespace daxkv::kv
