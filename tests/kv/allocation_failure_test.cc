// A store whose every allocation of memory fails once, and then all from some moment on: each call
// says kResourceExhausted or succeeds, nothing acknowledged is lost, nothing refused is there, no
// lock and no slot is left behind.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/kv/failing_allocation.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Model = std::map<std::string, std::string>;

struct Scenario {
  Medium medium;
  FailingThreads threads;
  Failing failing;
};

class AllocationFailureTest : public testing::TestWithParam<Scenario> {
 protected:
  AllocationFailureTest() : directory_(GetParam().medium), path_(directory_.Path("store")) {
    Open();
  }
  ~AllocationFailureTest() override {
    std::cout << failures_ << " calls refused, " << survived_
              << " done in spite of a failed allocation\n";
    for (const std::string& message : messages_) std::cout << "  " << message << "\n";
  }

  void Open() {
    db_.reset();
    absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(path_, TestOptions());
    ASSERT_THAT(opened.status(), IsOk());
    db_ = *std::move(opened);
  }

  // Calls `call` with the first, second, ... allocation failing until it meets none that fails.
  // After each `verify`, told whether the call succeeded. Returns how many there were.
  int FailEach(const std::function<absl::Status()>& call,
               const std::function<void(bool done)>& verify) {
    for (int allowed = 0;; ++allowed) {
      absl::Status status;
      int64_t failed;
      {
        FailingAllocation failing(allowed, GetParam().threads, GetParam().failing);
        status = call();
        failed = failing.failed();
      }
      if (failed == 0) {
        EXPECT_THAT(status, IsOk());
      } else if (status.ok()) {
        ++survived_;
      } else {
        ++failures_;
        EXPECT_THAT(status, HasCode(absl::StatusCode::kResourceExhausted));
        if (messages_.size() < 20) messages_.insert(status.ToString());
      }
      verify(status.ok());
      if (failed == 0 || testing::Test::HasFailure()) return allowed;
    }
  }

  void Put(const std::string& key, const std::string& value) {
    FailEach([&] { return db_->Put(key, value); },
             [&](bool done) {
               if (done) model_[key] = value;
               ExpectAsInModel(key);
             });
  }
  void Delete(const std::string& key) {
    FailEach(
        [&] {
          absl::Status status = db_->Delete(key);
          // A call that was done in spite of a failure is made again.
          return absl::IsNotFound(status) && model_.count(key) == 0 ? absl::OkStatus() : status;
        },
        [&](bool done) {
          if (done) model_.erase(key);
          ExpectAsInModel(key);
        });
  }
  void ExpectAsInModel(const std::string& key) {
    const absl::StatusOr<std::string> got = db_->Get(key);
    const auto wanted = model_.find(key);
    if (wanted == model_.end()) {
      EXPECT_THAT(got.status(), HasCode(absl::StatusCode::kNotFound)) << key;
    } else {
      EXPECT_THAT(got.status(), IsOk()) << key;
      EXPECT_TRUE(got.ok() && *got == wanted->second) << key;
    }
  }

  void ExpectModel() {
    size_t seen = 0;
    std::unique_ptr<Iterator> it = db_->NewIterator();
    for (it->SeekToFirst(); it->Valid(); it->Next(), ++seen) {
      const auto wanted = model_.find(std::string(it->key()));
      ASSERT_TRUE(wanted != model_.end()) << it->key();
      ASSERT_TRUE(it->value() == wanted->second) << it->key();
    }
    ASSERT_THAT(it->status(), IsOk());
    ASSERT_EQ(seen, model_.size());
    absl::StatusOr<CheckReport> report = db_->Check();
    ASSERT_THAT(report.status(), IsOk());
    EXPECT_THAT(report->faults, testing::IsEmpty());
    EXPECT_EQ(report->records, model_.size());
  }

  bool on_disk() const { return GetParam().medium == Medium::kDisk; }
  Db& db() { return *db_; }

  TemporaryDirectory directory_;
  const std::string path_;
  std::unique_ptr<Db> db_;
  Model model_;
  int failures_ = 0, survived_ = 0;
  std::set<std::string> messages_;
};

std::string ScenarioName(const testing::TestParamInfo<Scenario>& info) {
  return absl::StrCat(info.param.medium == Medium::kTmpfs ? "Tmpfs" : "Disk",
                      info.param.threads == FailingThreads::kThis ? "" : "AllThreads",
                      info.param.failing == Failing::kOne ? "One" : "AllAfter");
}
INSTANTIATE_TEST_SUITE_P(
    Scenarios, AllocationFailureTest,
    testing::Values(Scenario{Medium::kTmpfs, FailingThreads::kThis, Failing::kOne},
                    Scenario{Medium::kTmpfs, FailingThreads::kAll, Failing::kThatAndAllAfter},
                    Scenario{Medium::kDisk, FailingThreads::kThis, Failing::kThatAndAllAfter},
                    Scenario{Medium::kDisk, FailingThreads::kAll, Failing::kOne}),
    ScenarioName);

TEST_P(AllocationFailureTest, PutsAndDeletesThatGrowAndShrinkTheTree) {
  const int keys = on_disk() ? 300 : 12000;
  std::mt19937 random(7);
  std::vector<int> order(keys);
  for (int i = 0; i < keys; ++i) order[i] = i;
  // The first half ascending, the second in random order: both ways of splitting.
  std::shuffle(order.begin() + keys / 2, order.end(), random);
  for (const int i : order) {
    const std::string key = NumberedKey(i);
    const size_t size = i % 97 == 0 ? 60'000 : i % 13 == 0 ? 3'000 : 30;
    ASSERT_NO_FATAL_FAILURE(Put(key, ValueFor(key, 0, size)));
    ASSERT_FALSE(HasFailure());
  }
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
  for (int n = 0; n < keys; ++n) {
    const std::string key = NumberedKey(random() % keys);
    if (n % 3 == 0) {
      ASSERT_NO_FATAL_FAILURE(Delete(key));
    } else {
      ASSERT_NO_FATAL_FAILURE(Put(key, ValueFor(key, n, n % 50 == 0 ? 60'000 : 100)));
    }
    ASSERT_FALSE(HasFailure());
  }
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
  Open();  // As after a crash.
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

TEST_P(AllocationFailureTest, Groups) {
  const size_t count = on_disk() ? 300 : 1500;
  for (int life = 0; life < 3; ++life) {
    SCOPED_TRACE(life);
    std::vector<std::pair<std::string, std::string>> records;
    for (size_t i = 0; i < count; ++i) {
      std::string key = NumberedKey(i * 3 + static_cast<size_t>(life));
      std::string value = ValueFor(key, 1, i % 100 == 0 ? 70'000 : 50);
      records.emplace_back(std::move(key), std::move(value));
    }
    std::vector<KeyValue> group;
    for (const auto& [key, value] : records) group.push_back({key, value});
    FailEach([&] { return db().PutGroup(group).status(); },
             [&](bool done) {
               for (const auto& [key, value] : records) {
                 absl::StatusOr<std::string> got = db().Get(key);
                 if (got.ok()) model_[key] = value;
                 EXPECT_TRUE(got.ok() ||
                             (!done && absl::IsNotFound(got.status()) && model_.count(key) == 0))
                     << key << ": " << got.status();
               }
             });
    ASSERT_NO_FATAL_FAILURE(ExpectModel());

    std::vector<std::string_view> keys;
    for (size_t i = 0; i < count; i += 2) keys.push_back(records[i].first);
    FailEach([&] { return db().DeleteGroup(keys).status(); },
             [&](bool done) {
               for (const std::string_view key : keys) {
                 const absl::Status there = db().Contains(key);
                 EXPECT_TRUE(absl::IsNotFound(there) || (!done && there.ok())) << there;
                 if (!there.ok()) model_.erase(std::string(key));
               }
             });
    ASSERT_NO_FATAL_FAILURE(ExpectModel());
    if (life == 1) Open();
  }
}

TEST_P(AllocationFailureTest, ReadsScansAndMaintenance) {
  for (int i = 0; i < 400; ++i) {
    const std::string key = NumberedKey(i);
    model_[key] = ValueFor(key, 0, i % 50 == 0 ? 400'000 : 200);
    ASSERT_THAT(db().Put(key, model_[key]), IsOk());
  }
  const auto nothing = [](bool) {};
  const std::string keys[] = {NumberedKey(3), NumberedKey(7), NumberedKey(50)};
  // Each begins with a store whose extents, views and nodes are not there yet.
  const std::vector<std::function<absl::Status()>> calls = {
      [&] { return db().Get(keys[1]).status(); },
      [&] { return db().Get(keys[2]).status(); },
      [&] { return db().Pin(keys[2]).status(); },
      [&] { return db().Contains(keys[0]); },
      [&]() -> absl::Status {
        std::unique_ptr<Iterator> it = db().NewIterator();
        if (it == nullptr) return absl::Status(absl::StatusCode::kResourceExhausted, "");
        size_t seen = 0;
        for (it->SeekToFirst(); it->Valid(); it->Next()) seen += it->value().size() > 0;
        if (!it->status().ok()) return it->status();
        EXPECT_EQ(seen, 400u);
        return absl::OkStatus();
      },
      [&] { return db().Sync(); },
      [&] { return db().GetInfo(true).status(); },
      [&]() -> absl::Status {
        absl::StatusOr<CheckReport> report = db().Check();
        if (!report.ok()) return report.status();
        EXPECT_TRUE(
            report->faults.empty());  // A lack of memory is no damage; a matcher needs some.
        return absl::OkStatus();
      },
      [&] { return db().Compact().status(); },
  };
  for (size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("call ", i));
    Open();
    FailEach(calls[i], nothing);
    ASSERT_NO_FATAL_FAILURE(ExpectModel());
    ASSERT_FALSE(HasFailure());
  }
  // A compaction that has something to do.
  for (int i = 0; i < 400; ++i) {
    if (i % 10 == 0) continue;
    ASSERT_THAT(db().Delete(NumberedKey(i)), IsOk());
    model_.erase(NumberedKey(i));
  }
  FailEach([&] { return db().Compact().status(); }, nothing);
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

TEST_P(AllocationFailureTest, ValuesFilledInPlace) {
  for (int i = 0; i < (on_disk() ? 40 : 200); ++i) {
    const std::string key = NumberedKey(i);
    const std::string value = ValueFor(key, 1, 300);
    FailEach(
        [&] {
          absl::StatusOr<ValueWriter> writer = db().NewValueWriter(key, value.size());
          if (!writer.ok()) return writer.status();
          std::copy(value.begin(), value.end(), writer->bytes().begin());
          return writer->Commit();
        },
        [&](bool done) {
          if (done) model_[key] = value;
          ExpectAsInModel(key);
        });
  }
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
  // No ValueWriter is thought to be there still.
  EXPECT_THAT(db().Close(), IsOk());
}

TEST_P(AllocationFailureTest, KeyspacesComeAndGo) {
  ASSERT_THAT(db().CreateKeyspace("other").status(), IsOk());
  ASSERT_THAT(db().Compact().status(), IsOk());
  const auto live_size_bytes = [&]() -> uint64_t {
    const absl::StatusOr<Info> info = db().GetInfo();
    EXPECT_THAT(info.status(), IsOk());
    return info.ok() ? info->slab_size_bytes + info->large_size_bytes : 0;
  };
  const uint64_t before = live_size_bytes();
  const auto there = [&] {
    const absl::StatusOr<std::vector<std::string>> names = db().ListKeyspaces();
    EXPECT_THAT(names.status(), IsOk());
    return names.ok() && names->size() == 2;
  };
  FailEach([&] { return db().CreateKeyspace("name").status(); },
           [&](bool done) {
             EXPECT_EQ(there(), done);
             EXPECT_EQ(db().OpenKeyspace("name").ok(), done);
             if (done) {
               EXPECT_THAT(db().DropKeyspace("name"), IsOk());
             }
           });
  ASSERT_THAT(db().CreateKeyspace("name").status(), IsOk());
  FailEach(
      [&] {
        absl::Status dropped = db().DropKeyspace("name");
        return dropped;
      },
      [&](bool done) {
        EXPECT_EQ(there(), !done);
        if (!done) return;
        EXPECT_THAT(db().CreateKeyspace("name")->Put("key", "value"), IsOk());
      });
  ASSERT_THAT(db().DropKeyspace("name"), IsOk());
  // What was refused leaves nothing behind.
  ASSERT_THAT(db().Compact(absl::Now() + absl::Seconds(20)).status(), IsOk());
  EXPECT_EQ(db().GetInfo()->keyspaces_dropping, 0u);
  EXPECT_EQ(live_size_bytes(), before);
  EXPECT_THAT(db().Check()->faults, testing::IsEmpty());
}

TEST_P(AllocationFailureTest, Open) {
  for (int i = 0; i < 200; ++i) {
    const std::string key = NumberedKey(i);
    model_[key] = ValueFor(key, 0, 500);
    ASSERT_THAT(db().Put(key, model_[key]), IsOk());
  }
  const auto open = [&] {
    absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(path_, TestOptions());
    if (opened.ok()) db_ = *std::move(opened);
    return opened.status();
  };
  for (const bool cleanly : {false, true}) {
    SCOPED_TRACE(cleanly ? "closed" : "crashed");
    if (cleanly) {
      ASSERT_THAT(db_->Close(), IsOk());
    }
    db_.reset();
    FailEach(open, [&](bool done) {
      if (!done) return;
      ExpectModel();
      db_.reset();
    });
    Open();
  }
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

TEST_P(AllocationFailureTest, Creation) {
  if (on_disk()) GTEST_SKIP() << "the same as on tmpfs, and each creation takes a quarter second";
  db_.reset();
  int number = 0;
  const std::string path = directory_.Path("fresh");
  FailEach(
      [&] {
        absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(path, TestOptions());
        if (opened.ok()) db_ = *std::move(opened);
        return opened.status();
      },
      [&](bool done) {
        if (!done && number++ % 8 != 0) return;
        // Made, now or by the next.
        if (!done) {
          absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(path, TestOptions());
          ASSERT_THAT(opened.status(), IsOk());
          db_ = *std::move(opened);
        }
        EXPECT_THAT(db_->Put("key", "value"), IsOk());
        EXPECT_THAT(db_->Close(), IsOk());
        db_.reset();
        std::filesystem::remove_all(path);
      });
}

TEST_P(AllocationFailureTest, Close) {
  int count = 0;
  FailEach(
      [&] {
        const absl::Status closed = db_->Close();
        return closed;
      },
      [&](bool) {
        Open();
        ExpectModel();
        for (int i = 0; i < 20; ++i) {
          const std::string key = NumberedKey(count++ * 7 % 500);
          model_[key] = ValueFor(key, count, i == 0 ? 50'000 : 300);
          ASSERT_THAT(db_->Put(key, model_[key]), IsOk());
        }
      });
}

// An extent whose truncation failed was in no table when there was no memory to list it again, and
// slots were handed out of it all the same: none of them ever came free.
TEST_P(AllocationFailureTest, WhatCouldNotBeTruncatedComesBackLater) {
  const auto fill_and_empty = [&](int records, size_t size_bytes) {
    for (int i = 0; i < records; ++i) {
      ASSERT_THAT(db().Put(NumberedKey(i), ValueFor(NumberedKey(i), 0, size_bytes)), IsOk());
    }
    for (int i = 0; i < records; ++i) ASSERT_THAT(db().Delete(NumberedKey(i)), IsOk());
  };
  const int small = on_disk() ? 20 : 200, large = on_disk() ? 4 : 40;
  ASSERT_NO_FATAL_FAILURE(fill_and_empty(small, 3000));
  FailEach([&] { return db().Compact().status(); },
           [&](bool) {
             ASSERT_NO_FATAL_FAILURE(fill_and_empty(small, 3000));
             ASSERT_THAT(db().Compact().status(), IsOk());
             const absl::StatusOr<Info> info = db().GetInfo();
             ASSERT_THAT(info.status(), IsOk());
             EXPECT_EQ(info->large_size_bytes, 0u);
             EXPECT_LT(info->slab_size_bytes, 200'000u);
             ASSERT_NO_FATAL_FAILURE(fill_and_empty(small, 3000));
             ASSERT_NO_FATAL_FAILURE(fill_and_empty(large, 90'000));
           });
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

TEST_P(AllocationFailureTest, ByChanceOnAllThreads) {
  std::mt19937 random(11);
  const int rounds = on_disk() ? 4 : 20;
  for (int round = 0; round < rounds; ++round) {
    const int calls = on_disk() ? 150 : 3000;
    for (int i = 0; i < calls; ++i) {
      const std::string key = NumberedKey(random() % 600);
      const std::string value = ValueFor(key, random(), random() % 20 == 0 ? 80'000 : 200);
      const unsigned kind = random() % 10;
      absl::Status status;
      {
        FailingAllocation failing(random(), 2 + random() % 20);
        if (kind < 6) {
          status = db().Put(key, value);
        } else if (kind < 9) {
          status = db().Delete(key);
        } else {
          status = db().Compact().status();
        }
      }
      if (status.ok() && kind < 6) model_[key] = value;
      if (status.ok() && kind >= 6 && kind < 9) model_.erase(key);
      if (!status.ok() && !absl::IsNotFound(status)) {
        ++failures_;
        ASSERT_THAT(status, HasCode(absl::StatusCode::kResourceExhausted))
            << "round " << round << ", call " << i << " of kind " << kind << ", key " << key;
      }
      ASSERT_NO_FATAL_FAILURE(ExpectAsInModel(key));
    }
    ASSERT_NO_FATAL_FAILURE(ExpectModel());
    if (round % 4 == 3) Open();
  }
  // Nothing was kept back: an emptied store is as small as one that met no failure.
  for (const auto& [key, value] : model_) ASSERT_THAT(db().Delete(key), IsOk());
  model_.clear();
  ASSERT_THAT(db().Compact().status(), IsOk());
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
  absl::StatusOr<Info> info = db().GetInfo();
  ASSERT_THAT(info.status(), IsOk());
  EXPECT_EQ(info->large_size_bytes, 0u);
  EXPECT_LT(info->slab_size_bytes, 2u << 20);
  std::cout << info->slab_size_bytes << " bytes of slabs are left\n";
}

}  // namespace
}  // namespace daxkv::kv
