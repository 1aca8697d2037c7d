// Calls that depend on what a key holds: Insert, Update, CompareAndSwap; alone and contended.
#include <atomic>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kv/format.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;
using Current = std::optional<std::string_view>;

class DbConditionalTest : public StoreTest {
 protected:
  static absl::StatusOr<UpdateAction> Increment(Current current, std::string* value) {
    int64_t number = 0;
    if (current.has_value() && !absl::SimpleAtoi(std::string(*current), &number)) {
      return absl::InvalidArgumentError("not a number");
    }
    *value = absl::StrCat(number + 1);
    return UpdateAction::kPut;
  }
};

TEST_P(DbConditionalTest, InsertStoresOnlyWhereNothingIs) {
  EXPECT_THAT(db().Insert("a", "1"), IsOk());
  EXPECT_THAT(db().Insert("a", "2"), HasCode(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(GetOrDie("a"), "1");
  ASSERT_THAT(db().Delete("a"), IsOk());
  EXPECT_THAT(db().Insert("a", "3"), IsOk());
  Crash();
  Open();
  EXPECT_EQ(GetOrDie("a"), "3");
  EXPECT_THAT(db().Insert("", "v"), HasCode(absl::StatusCode::kInvalidArgument));
  const std::string_view too_large("x", kMaxValueSizeBytes + 1);
  EXPECT_THAT(db().Insert("a", too_large), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_P(DbConditionalTest, UpdatePutsKeepsDeletesAndFails) {
  EXPECT_THAT(db().Update("n", Increment), IsOk());
  EXPECT_THAT(db().Update("n", Increment), IsOk());
  EXPECT_EQ(GetOrDie("n"), "2");
  const auto keep = [](Current current, std::string* value) -> absl::StatusOr<UpdateAction> {
    EXPECT_EQ(current, "2");
    *value = "ignored";
    return UpdateAction::kKeep;
  };
  EXPECT_THAT(db().Update("n", keep), IsOk());
  EXPECT_EQ(GetOrDie("n"), "2");
  const auto fail = [](Current, std::string*) -> absl::StatusOr<UpdateAction> {
    return absl::OutOfRangeError("mine");
  };
  EXPECT_THAT(db().Update("n", fail), HasCode(absl::StatusCode::kOutOfRange));
  const auto remove = [](Current, std::string*) -> absl::StatusOr<UpdateAction> {
    return UpdateAction::kDelete;
  };
  EXPECT_THAT(db().Update("n", remove), IsOk());
  EXPECT_THAT(db().Contains("n"), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(db().Update("n", remove), IsOk());
  EXPECT_THAT(db().Update("", remove), HasCode(absl::StatusCode::kInvalidArgument));
  const auto raise = [](Current, std::string*) -> absl::StatusOr<UpdateAction> {
    throw std::bad_alloc();
  };
  EXPECT_THAT(db().Update("n", raise), HasCode(absl::StatusCode::kResourceExhausted));
}

TEST_P(DbConditionalTest, UpdateMayUseTheStoreAndSeesLongValuesInPlace) {
  const std::string longest = ValueFor("long", 0, 3 << 20);
  ASSERT_THAT(db().Put("long", longest), IsOk());
  const auto function = [&](Current current, std::string* value) -> absl::StatusOr<UpdateAction> {
    EXPECT_TRUE(current == longest);
    EXPECT_THAT(db().Put("other", "by the function"), IsOk());
    *value = std::string(current->substr(1 << 20));
    return UpdateAction::kPut;
  };
  ASSERT_THAT(db().Update("long", function), IsOk());
  EXPECT_TRUE(GetOrDie("long") == longest.substr(1 << 20));
  EXPECT_EQ(GetOrDie("other"), "by the function");
}

// What the function saw is changed, deleted, or changed and changed back before it returns.
TEST_P(DbConditionalTest, UpdateSeesEachChangeThatOvertakesIt) {
  ASSERT_THAT(db().Put("k", "0"), IsOk());
  std::vector<std::string> seen;
  const auto function = [&](Current current, std::string* value) -> absl::StatusOr<UpdateAction> {
    seen.push_back(current.has_value() ? std::string(*current) : "none");
    EXPECT_TRUE(value->empty());
    switch (seen.size()) {
      case 1:
        EXPECT_THAT(db().Put("k", "1"), IsOk());
        break;
      case 2:
        EXPECT_THAT(db().Delete("k"), IsOk());
        break;
      case 3:
        EXPECT_THAT(db().Put("k", "3"), IsOk());
        break;
      case 4:  // The same bytes are another version.
        EXPECT_THAT(db().Put("k", "x"), IsOk());
        EXPECT_THAT(db().Put("k", "3"), IsOk());
        break;
    }
    *value = absl::StrCat("after ", seen.back());
    return UpdateAction::kPut;
  };
  ASSERT_THAT(db().Update("k", function), IsOk());
  EXPECT_EQ(seen, (std::vector<std::string>{"0", "1", "none", "3", "3"}));
  EXPECT_EQ(GetOrDie("k"), "after 3");
}

TEST_P(DbConditionalTest, CompareAndSwapInsertsReplacesDeletesAndRefuses) {
  const auto none = std::nullopt;
  EXPECT_THAT(db().CompareAndSwap("k", none, "1"), IsOk());
  EXPECT_THAT(db().CompareAndSwap("k", none, "2"), HasCode(absl::StatusCode::kAborted));
  EXPECT_THAT(db().CompareAndSwap("k", "0", "2"), HasCode(absl::StatusCode::kAborted));
  EXPECT_THAT(db().CompareAndSwap("k", "1", "2"), IsOk());
  EXPECT_EQ(GetOrDie("k"), "2");
  EXPECT_THAT(db().CompareAndSwap("k", "1", none), HasCode(absl::StatusCode::kAborted));
  EXPECT_THAT(db().CompareAndSwap("k", "2", none), IsOk());
  EXPECT_THAT(db().CompareAndSwap("k", "2", none), HasCode(absl::StatusCode::kAborted));
  EXPECT_THAT(db().CompareAndSwap("k", none, none), IsOk());
  EXPECT_THAT(db().CompareAndSwap("k", none, ""), IsOk());
  EXPECT_THAT(db().CompareAndSwap("k", "", "not empty"), IsOk());  // Empty is a value.
  EXPECT_THAT(db().CompareAndSwap("", none, "v"), HasCode(absl::StatusCode::kInvalidArgument));
  const std::string_view too_large("x", kMaxValueSizeBytes + 1);
  EXPECT_THAT(db().CompareAndSwap("k", none, too_large),
              HasCode(absl::StatusCode::kInvalidArgument));
  const std::string longest = ValueFor("k", 1, 1 << 20);
  EXPECT_THAT(db().CompareAndSwap("k", "not empty", longest), IsOk());
  EXPECT_THAT(db().CompareAndSwap("k", longest, "short"), IsOk());
  EXPECT_EQ(GetOrDie("k"), "short");
}

TEST_P(DbConditionalTest, NoUpdateIsLost) {
  constexpr int kThreads = 4, kKeys = 3;
  const int rounds = GetParam() == Medium::kTmpfs ? 3000 : 40;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < rounds; ++i) {
        const std::string key = absl::StrCat("counter", (t + i) % kKeys);
        EXPECT_THAT(db().Update(key, Increment), IsOk());
        // Other changes of the same leaf, up to splits.
        EXPECT_THAT(db().Put(absl::StrCat("counter0/", t, "/", i), "x"), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int64_t sum = 0;
  for (int k = 0; k < kKeys; ++k) {
    int64_t number = 0;
    ASSERT_TRUE(absl::SimpleAtoi(GetOrDie(absl::StrCat("counter", k)), &number));
    sum += number;
  }
  EXPECT_EQ(sum, int64_t{kThreads} * rounds);
}

// A lock made of Insert and CompareAndSwap excludes; one Insert of many wins.
TEST_P(DbConditionalTest, SwapsExclude) {
  constexpr int kThreads = 4;
  const int rounds = GetParam() == Medium::kTmpfs ? 400 : 15;
  std::atomic<int> inside{0}, inserted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const std::string me = absl::StrCat("thread ", t);
      for (int i = 0; i < rounds; ++i) {
        if (db().Insert(absl::StrCat("once", i), me).ok()) ++inserted;
        for (;;) {
          const absl::Status taken = db().CompareAndSwap("lock", std::nullopt, me);
          if (taken.ok()) break;
          ASSERT_THAT(taken, HasCode(absl::StatusCode::kAborted));
          std::this_thread::yield();
        }
        EXPECT_EQ(inside.fetch_add(1), 0);
        EXPECT_EQ(GetOrDie("lock"), me);
        inside.fetch_sub(1);
        EXPECT_THAT(db().CompareAndSwap("lock", me, std::nullopt), IsOk());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(inserted.load(), rounds);
}

INSTANTIATE_ON_BOTH_MEDIA(DbConditionalTest);

}  // namespace
}  // namespace daxkv::kv
