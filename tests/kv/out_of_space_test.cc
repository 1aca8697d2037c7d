// Calls that change or keep many things at once, with each of their allocations refused in turn, of
// memory or of the file system's blocks, and with all refused from each on: a call says
// kResourceExhausted or succeeds, a batch is whole or absent, and neither lock, slot nor file stays
// behind.
//
// This binary stands in for operator new (failing_allocation.h) and fallocate.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/dax/fallocate_watch.h"
#include "tests/kv/failing_allocation.h"
#include "tests/kv/store_fixture.h"

namespace {

std::atomic<int> blocks_allowed{INT32_MAX};  // Reservations that still succeed.
std::atomic<bool> blocks_fail_once{false};
std::atomic<int> blocks_refused{0};

bool RefuseBlocks() {
  if (blocks_allowed.load() == INT32_MAX) return false;
  const int left = blocks_allowed.fetch_sub(1);
  const bool refuse = blocks_fail_once.load() ? left == 0 : left <= 0;
  blocks_refused += refuse ? 1 : 0;
  return refuse;
}

}  // namespace

int daxkv::OnFallocate(off_t) { return RefuseBlocks() ? ENOSPC : 0; }

namespace daxkv::kv {
namespace {

enum class Refused { kOneNew, kAllNew, kOneReservation, kAllReservations };

std::string RefusedName(const testing::TestParamInfo<Refused>& info) {
  constexpr const char* kNames[] = {"OneNew", "AllNew", "OneReservation", "AllReservations"};
  return kNames[static_cast<int>(info.param)];
}

// Of address space that valgrind has, too.
Options SmallOptions() {
  Options options;
  options.max_size_bytes = 1 << 30;
  return options;
}

class OutOfSpaceTest : public testing::TestWithParam<Refused> {
 protected:
  using Model = std::map<std::string, std::string>;

  OutOfSpaceTest() : directory_(Medium::kTmpfs), path_(directory_.Path("store")) { Open(); }
  ~OutOfSpaceTest() override {
    std::cout << refused_ << " calls refused, " << survived_ << " done all the same\n";
  }

  void Open() {
    db_.reset();
    absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(path_, SmallOptions());
    ASSERT_THAT(opened.status(), IsOk());
    db_ = *std::move(opened);
  }

  bool of_memory() const {
    return GetParam() == Refused::kOneNew || GetParam() == Refused::kAllNew;
  }

  // Runs call() with `allowed` allocations granted; whether any was refused.
  bool Starve(int allowed, const std::function<absl::Status()>& call, absl::Status* status) {
    if (of_memory()) {
      const bool all = GetParam() == Refused::kAllNew;
      FailingAllocation failing(allowed, all ? FailingThreads::kAll : FailingThreads::kThis,
                                all ? Failing::kThatAndAllAfter : Failing::kOne);
      *status = call();
      return failing.failed() != 0;
    }
    blocks_refused = 0;
    blocks_fail_once = GetParam() == Refused::kOneReservation;
    blocks_allowed = allowed;
    *status = call();
    blocks_allowed = INT32_MAX;
    return blocks_refused != 0;
  }

  // Calls `call` with ever more allowed, until it meets no refusal. After each `verify`, told
  // whether it succeeded.
  void FailEach(const std::function<absl::Status()>& call,
                const std::function<void(bool done)>& verify, int stride = 1) {
    for (int allowed = 0;; allowed += stride) {
      SCOPED_TRACE(absl::StrCat("allowed ", allowed));
      absl::Status status;
      const bool met = Starve(allowed, call, &status);
      if (status.ok()) {
        survived_ += met ? 1 : 0;
      } else {
        ++refused_;
        ASSERT_THAT(status, HasCode(absl::StatusCode::kResourceExhausted));
        // What libpmemobj begins and fails to end, when it adds a part, it does not begin again.
        const bool must_reopen = absl::StrContains(std::string(status.message()), "reopen it");
        ASSERT_TRUE(met || must_reopen) << status;
        if (must_reopen) Open();
      }
      verify(status.ok());
      if (!met && status.ok()) return;
      ASSERT_FALSE(HasFailure());
    }
  }

  void ExpectAsInModel(const std::string& key) {
    const absl::StatusOr<std::string> got = db_->Get(key);
    const auto wanted = model_.find(key);
    if (wanted == model_.end()) {
      EXPECT_THAT(got.status(), HasCode(absl::StatusCode::kNotFound)) << key;
    } else {
      EXPECT_TRUE(got.ok() && *got == wanted->second) << key << ": " << got.status();
    }
  }
  void ExpectModel() {
    ExpectEqual(*db_, model_);
    Open();  // As after a crash.
    ExpectEqual(*db_, model_);
  }

  void Fill(int count) {
    for (int i = 0; i < count; ++i) {
      const std::string key = NumberedKey(i);
      model_[key] = ValueFor(key, 0, i % 40 == 0 ? 60'000 : 150);
      ASSERT_THAT(db_->Put(key, model_[key]), IsOk());
    }
  }

  TemporaryDirectory directory_;
  const std::string path_;
  std::unique_ptr<Db> db_;
  Model model_;
  int refused_ = 0, survived_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Each, OutOfSpaceTest,
                         testing::Values(Refused::kOneNew, Refused::kAllNew,
                                         Refused::kOneReservation, Refused::kAllReservations),
                         RefusedName);

TEST_P(OutOfSpaceTest, Batches) {
  Fill(200);
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(absl::StrCat("batch ", round));
    Model after = model_;
    WriteBatch batch;
    for (int i = round; i < 300; i += 3) {
      const std::string key = NumberedKey(i);
      if (i % 5 == 0) {
        ASSERT_THAT(batch.Delete(key), IsOk());
        after.erase(key);
      } else {
        after[key] = ValueFor(key, static_cast<uint64_t>(round), i % 50 == 1 ? 200'000 : 400);
        ASSERT_THAT(batch.Put(key, after[key]), IsOk());
      }
    }
    FailEach([&] { return db_->Write(batch); },
             [&](bool done) {
               // It may be done though another thread's allocation was refused, and is made again.
               if (done) model_ = after;
               for (int i = round; i < 300; i += 33) ExpectAsInModel(NumberedKey(i));
             },
             of_memory() ? 7 : 1);
    ASSERT_FALSE(HasFatalFailure());
    // With a snapshot that needs what it replaces.
    if (round == 2) {
      absl::StatusOr<Snapshot> snapshot = db_->GetSnapshot();
      ASSERT_THAT(snapshot.status(), IsOk());
      FailEach([&] { return db_->Write(batch); }, [](bool) {}, of_memory() ? 7 : 1);
      for (const auto& [key, value] : model_) {
        ASSERT_TRUE(db_->Get(key, *snapshot).value_or("") == value) << key;
      }
    }
    ASSERT_NO_FATAL_FAILURE(ExpectModel());
  }
}

TEST_P(OutOfSpaceTest, ConditionalChanges) {
  for (int i = 0; i < 500; ++i) {
    const std::string key = NumberedKey(i * 7 % 500);
    const size_t size = i % 20 == 0 ? 80'000 : 90;
    const std::string first = ValueFor(key, 1, size), second = ValueFor(key, 2, size + 1),
                      third = ValueFor(key, 3, size / 2);
    const auto becomes = [&](const std::string& value) {
      return [this, &key, &value](bool done) {
        if (done) model_[key] = value;
        ExpectAsInModel(key);
      };
    };
    FailEach(
        [&] {
          absl::Status status = db_->Insert(key, first);
          // A call that was done in spite of a refusal is made again.
          return absl::IsAlreadyExists(status) && model_.count(key) != 0 ? absl::OkStatus()
                                                                         : status;
        },
        becomes(first));
    FailEach(
        [&] {
          return db_->Update(key,
                             [&](std::optional<std::string_view>,
                                 std::string* value) -> absl::StatusOr<UpdateAction> {
                               *value = second;
                               return UpdateAction::kPut;
                             });
        },
        becomes(second));
    FailEach(
        [&] {
          absl::Status status = db_->CompareAndSwap(key, second, third);
          return absl::IsAborted(status) && model_[key] == third ? absl::OkStatus() : status;
        },
        becomes(third));
    ASSERT_FALSE(HasFailure());
  }
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

TEST_P(OutOfSpaceTest, ValuesInPlace) {
  Fill(50);
  for (int i = 0; i < 40; ++i) {
    const std::string key = NumberedKey(i * 3);
    const std::string value = ValueFor(key, 9, i % 3 == 0 ? 3'000'000 : i % 3 == 1 ? 100'000 : 500);
    FailEach(
        [&]() -> absl::Status {
          absl::StatusOr<ValueWriter> writer = db_->NewValueWriter(key, value.size());
          if (!writer.ok()) return writer.status();
          std::copy(value.begin(), value.end(), writer->bytes().begin());
          return writer->Commit();
        },
        [&](bool done) {
          if (done) model_[key] = value;
          ExpectAsInModel(key);
        });
    ASSERT_FALSE(HasFailure());
  }
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

TEST_P(OutOfSpaceTest, RangesSnapshotsAndWhatTheyRead) {
  Fill(600);
  const Model before = model_;
  std::optional<Snapshot> snapshot;
  FailEach(
      [&]() -> absl::Status {
        absl::StatusOr<Snapshot> taken = db_->GetSnapshot();
        if (taken.ok()) snapshot.emplace(*std::move(taken));
        return taken.status();
      },
      [](bool) {});
  const auto nothing = [](bool) {};
  std::vector<std::string> keys;
  for (int i = 0; i < 600; ++i) keys.push_back(NumberedKey(i));
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<std::string> values(keys.size());
  std::vector<absl::Status> statuses(keys.size());
  FailEach(
      [&]() -> absl::Status {
        absl::Status status =
            db_->MultiGet(views, absl::MakeSpan(values), absl::MakeSpan(statuses));
        for (const absl::Status& each : statuses) status.Update(each);
        for (std::string& value : values) std::string().swap(value);  // To be allocated again.
        return status;
      },
      nothing, of_memory() ? 97 : 1);
  FailEach([&] { return db_->ApproximateRange(keys[3], keys[400]).status(); }, nothing);
  // Half of them goes; the snapshot keeps it.
  FailEach([&] { return db_->DeleteRange(keys[100], keys[400]).status(); },
           [&](bool done) {
             for (int i = 100; i < 400; ++i) {
               const bool there = db_->Contains(keys[i]).ok();
               EXPECT_FALSE(done && there) << keys[i];
               if (!there) model_.erase(keys[i]);
             }
           });
  FailEach(
      [&]() -> absl::Status {
        for (int i = 0; i < 600; i += 50) {
          absl::StatusOr<std::string> got = db_->Get(keys[i], *snapshot);
          if (!got.ok()) return got.status();
          EXPECT_TRUE(*got == before.at(keys[i]));
        }
        return absl::OkStatus();
      },
      nothing);
  FailEach(
      [&]() -> absl::Status {
        IteratorOptions options;
        options.snapshot = &*snapshot;
        const std::unique_ptr<Iterator> it = db_->NewIterator(options);
        if (it == nullptr) return absl::ResourceExhaustedError("");
        size_t seen = 0;
        for (it->SeekToLast(); it->Valid(); it->Prev()) ++seen;
        EXPECT_TRUE(!it->status().ok() || seen == before.size());
        return it->status();
      },
      nothing);
  snapshot.reset();
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

TEST_P(OutOfSpaceTest, BackupsAndRestores) {
  class StringSink : public ByteSink {
   public:
    absl::Status Append(std::string_view more) override {
      bytes.append(more);
      return absl::OkStatus();
    }
    std::string bytes;
  };
  class StringSource : public ByteSource {
   public:
    explicit StringSource(std::string_view bytes) : rest_(bytes) {}
    absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
      const size_t size = std::min(buffer.size(), rest_.size());
      std::copy_n(rest_.begin(), size, buffer.begin());
      rest_.remove_prefix(size);
      return size;
    }

   private:
    std::string_view rest_;
  };
  Fill(300);
  const std::string large = "large";
  model_[large] = ValueFor(large, 1, 3'000'000);
  ASSERT_THAT(db_->Put(large, model_[large]), IsOk());
  StringSink sink;
  FailEach(
      [&] {
        sink.bytes.clear();
        return db_->Backup(&sink).status();
      },
      [](bool) {});
  const std::string restored = directory_.Path("restored");
  FailEach(
      [&] {
        StringSource source(sink.bytes);
        return Db::Restore(&source, restored, SmallOptions()).status();
      },
      [&](bool done) {
        EXPECT_FALSE(std::filesystem::exists(restored + ".restoring"));
        EXPECT_EQ(std::filesystem::exists(restored), done);
        if (!done) return;
        absl::StatusOr<std::unique_ptr<Db>> again = Db::Open(restored, SmallOptions());
        ASSERT_THAT(again.status(), IsOk());
        ExpectEqual(**again, model_);
        again->reset();
        std::filesystem::remove_all(restored);
      },
      of_memory() ? 9 : 1);
  ASSERT_NO_FATAL_FAILURE(ExpectModel());
}

}  // namespace
}  // namespace daxkv::kv
