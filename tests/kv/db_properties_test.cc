// Any sequence of calls in any keyspaces, on one thread, does what it would do to maps; RapidCheck
// finds the shortest that does not.
#include <rapidcheck.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kv/format.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Model = std::map<std::string, std::string>;

// What is done, to which keys, and how large the value is; small numbers, so that calls meet.
struct Step {
  int call;
  int key, other;
  int size;
};
constexpr int kCalls = 21;
constexpr int kKeyspaces = 3;

void showValue(const Step& step, std::ostream& out) {
  out << "{" << step.call << ", " << step.key << ", " << step.other << ", " << step.size << "}";
}

rc::Gen<Step> AnyStep() {
  return rc::gen::map(rc::gen::tuple(rc::gen::inRange(0, kCalls), rc::gen::inRange(0, 40),
                                     rc::gen::inRange(0, 40), rc::gen::inRange(0, 12)),
                      [](const std::tuple<int, int, int, int>& numbers) {
                        return Step{std::get<0>(numbers), std::get<1>(numbers),
                                    std::get<2>(numbers), std::get<3>(numbers)};
                      });
}

// Short keys, keys that begin others, and some of nearly 64 KiB.
std::string KeyOf(int number) {
  if (number % 10 == 9) return std::string(kMaxKeySizeBytes - 3, 'a') + absl::StrCat(number);
  if (number % 10 == 8) return std::string(1, 'a') + std::string(number / 10, '\0');
  return absl::StrCat("a", number % 7, std::string(number / 7, '\xff'));
}

class Machine {
 public:
  Machine() : directory_(Medium::kTmpfs), path_(directory_.Path("store")) { Open(); }
  ~Machine() { db_.reset(); }

  void Run(const Step& step) {
    ++version_;
    const std::string key = KeyOf(step.key), other = KeyOf(step.other);
    static constexpr int kSizes[] = {0, 1, 7, 8, 100, 231, 232, 1000, 4096, 32768, 70000, 300000};
    const std::string value = ValueFor(key, version_, kSizes[step.size]);
    const bool there = model().count(key) != 0;
    switch (step.call) {
      case 0:
      case 1:
        Expect(keyspace().Put(key, value), absl::StatusCode::kOk);
        model()[key] = value;
        break;
      case 2:
        Expect(keyspace().Delete(key), there ? absl::StatusCode::kOk : absl::StatusCode::kNotFound);
        model().erase(key);
        break;
      case 3:
        Expect(keyspace().Insert(key, value),
               there ? absl::StatusCode::kAlreadyExists : absl::StatusCode::kOk);
        model().emplace(key, value);
        break;
      case 4:
        Update(key, step);
        break;
      case 5:
        Swap(key, value, step);
        break;
      case 6:
        Batch(step);
        break;
      case 7:
        WriteInPlace(key, value);
        break;
      case 8:
        DeleteRange(key, other);
        break;
      case 9:
        Group(step);
        break;
      case 10:
        ReadMany(step);
        break;
      case 11:
        ReadOne(key);
        break;
      case 12:
        Scan(key, other);
        break;
      case 13:
        Approximate(key, other);
        break;
      case 14:
        Expect(db_->Compact().status(), absl::StatusCode::kOk);
        break;
      case 15:
        Expect(db_->Close(), absl::StatusCode::kOk);
        Open();
        break;
      case 16:
        db_.reset();
        Open();
        break;
      case 17:
        keyspace().NewValueWriter(key, value.size()).IgnoreError();  // Abandoned.
        break;
      case 18:
      case 19:
        current_ = step.other % kKeyspaces;
        break;
      case 20:
        Drop();
        break;
    }
  }

  void ExpectModels() {
    uint64_t records = 0;
    for (current_ = 0; current_ < kKeyspaces; ++current_) {
      ExpectModel();
      records += model().size();
    }
    const absl::StatusOr<CheckReport> report = db_->Check();
    RC_ASSERT(report.ok());
    RC_ASSERT(report->faults.empty());
    RC_ASSERT(report->records == records);
  }

 private:
  Keyspace& keyspace() { return handles_[static_cast<size_t>(current_)]; }
  Model& model() { return models_[current_]; }
  const Model& model() const { return models_[current_]; }

  void ExpectModel() {
    std::unique_ptr<Iterator> it = keyspace().NewIterator();
    it->SeekToFirst();
    for (const auto& [key, value] : model()) {
      RC_ASSERT(it->Valid());
      RC_ASSERT(it->key() == key);
      RC_ASSERT(it->value() == value);
      it->Next();
    }
    RC_ASSERT(!it->Valid());
  }

  void Open() {
    absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(path_, TestOptions());
    RC_ASSERT(opened.ok());
    db_ = *std::move(opened);
    handles_ = {*db_};
    for (int number = 1; number < kKeyspaces; ++number) {
      absl::StatusOr<Keyspace> keyspace = db_->OpenKeyspace(NameOf(number));
      if (absl::IsNotFound(keyspace.status())) keyspace = db_->CreateKeyspace(NameOf(number));
      RC_ASSERT(keyspace.ok());
      handles_.push_back(*std::move(keyspace));
    }
  }
  static std::string NameOf(int keyspace) { return absl::StrCat("keyspace ", keyspace); }

  // Another one comes in its place.
  void Drop() {
    if (current_ == 0) return Expect(db_->DropKeyspace("none"), absl::StatusCode::kNotFound);
    const Keyspace dropped = keyspace();
    Expect(db_->DropKeyspace(NameOf(current_)), absl::StatusCode::kOk);
    Expect(dropped.Get("a").status(), absl::StatusCode::kNotFound);
    const absl::StatusOr<Keyspace> made = db_->CreateKeyspace(NameOf(current_));
    Expect(made.status(), absl::StatusCode::kOk);
    keyspace() = *made;
    model().clear();
  }

  static void Expect(const absl::Status& status, absl::StatusCode code) {
    if (status.code() != code) RC_LOG() << status.ToString() << "\n";
    RC_ASSERT(status.code() == code);
  }

  std::optional<std::string> ModelValue(const std::string& key) const {
    const auto it = model().find(key);
    return it == model().end() ? std::nullopt : std::optional<std::string>(it->second);
  }

  void Update(const std::string& key, const Step& step) {
    const std::optional<std::string> before = ModelValue(key);
    Expect(keyspace().Update(key,
                             [&](std::optional<std::string_view> current,
                                 std::string* next) -> absl::StatusOr<UpdateAction> {
                               RC_ASSERT(current == before);
                               if (step.other % 4 == 0) return UpdateAction::kKeep;
                               if (step.other % 4 == 1) return UpdateAction::kDelete;
                               *next = absl::StrCat(before.value_or("").size(), "/", version_);
                               return UpdateAction::kPut;
                             }),
           absl::StatusCode::kOk);
    if (step.other % 4 == 1) model().erase(key);
    if (step.other % 4 > 1) {
      model()[key] = absl::StrCat(before.value_or("").size(), "/", version_);
    }
  }

  void Swap(const std::string& key, const std::string& value, const Step& step) {
    const std::optional<std::string> before = ModelValue(key);
    std::optional<std::string> expected = before;
    if (step.other % 3 == 0) expected = "something else";
    if (step.other % 5 == 0) expected.reset();
    std::optional<std::string> desired = value;
    if (step.other % 2 == 0) desired.reset();
    Expect(keyspace().CompareAndSwap(key, expected, desired),
           expected == before ? absl::StatusCode::kOk : absl::StatusCode::kAborted);
    if (expected != before) return;
    if (desired) {
      model()[key] = *desired;
    } else {
      model().erase(key);
    }
  }

  // In all keyspaces.
  void Batch(const Step& step) {
    WriteBatch batch;
    for (int i = 0; i <= step.other; ++i, current_ = (current_ + 1) % kKeyspaces) {
      const std::string key = KeyOf((step.key + i * 7) % 40);
      if ((step.size + i) % 3 == 0) {
        Expect(batch.Delete(keyspace(), key), absl::StatusCode::kOk);
        model().erase(key);
      } else {
        const std::string value = ValueFor(key, version_ * 100 + i, i * step.size);
        Expect(batch.Put(keyspace(), key, value), absl::StatusCode::kOk);
        model()[key] = value;
      }
    }
    Expect(db_->Write(batch), absl::StatusCode::kOk);
  }

  void WriteInPlace(const std::string& key, const std::string& value) {
    absl::StatusOr<ValueWriter> writer = keyspace().NewValueWriter(key, value.size());
    Expect(writer.status(), absl::StatusCode::kOk);
    std::copy(value.begin(), value.end(), writer->bytes().begin());
    Expect(writer->Commit(), absl::StatusCode::kOk);
    model()[key] = value;
  }

  void DeleteRange(const std::string& from, const std::string& to) {
    const absl::StatusOr<uint64_t> deleted = keyspace().DeleteRange(from, to);
    if (to < from) return Expect(deleted.status(), absl::StatusCode::kInvalidArgument);
    Expect(deleted.status(), absl::StatusCode::kOk);
    const auto begin = model().lower_bound(from), end = model().lower_bound(to);
    RC_ASSERT(*deleted == static_cast<uint64_t>(std::distance(begin, end)));
    model().erase(begin, end);
  }

  void Group(const Step& step) {
    std::vector<std::string> keys, values;
    for (int i = 0; i < step.other; ++i) {
      keys.push_back(KeyOf((step.key + i * 3) % 40));
      values.push_back(ValueFor(keys.back(), version_ * 100 + i, i * 10));
    }
    if (step.size % 2 == 0) {
      const std::vector<std::string_view> views(keys.begin(), keys.end());
      Expect(keyspace().DeleteGroup(views).status(), absl::StatusCode::kOk);
      for (const std::string& key : keys) model().erase(key);
      return;
    }
    std::vector<KeyValue> records;
    for (size_t i = 0; i < keys.size(); ++i) records.push_back({keys[i], values[i]});
    Expect(keyspace().PutGroup(records).status(), absl::StatusCode::kOk);
    for (size_t i = 0; i < keys.size(); ++i) model()[keys[i]] = values[i];
  }

  void ReadMany(const Step& step) {
    std::vector<std::string> names;
    for (int i = 0; i < step.other; ++i) names.push_back(KeyOf((step.key + i * 11) % 40));
    const std::vector<std::string_view> keys(names.begin(), names.end());
    std::vector<std::string> values(keys.size());
    std::vector<absl::Status> statuses(keys.size());
    Expect(keyspace().MultiGet(keys, absl::MakeSpan(values), absl::MakeSpan(statuses)),
           absl::StatusCode::kOk);
    for (size_t i = 0; i < keys.size(); ++i) {
      const std::optional<std::string> value = ModelValue(names[i]);
      Expect(statuses[i], value ? absl::StatusCode::kOk : absl::StatusCode::kNotFound);
      if (value) RC_ASSERT(values[i] == *value);
    }
  }

  void ReadOne(const std::string& key) {
    const std::optional<std::string> value = ModelValue(key);
    const absl::StatusCode code = value ? absl::StatusCode::kOk : absl::StatusCode::kNotFound;
    Expect(keyspace().Contains(key), code);
    const absl::StatusOr<PinnedValue> pinned = keyspace().Pin(key);
    Expect(pinned.status(), code);
    if (value) RC_ASSERT(pinned->value() == *value);
    if (value) RC_ASSERT(*keyspace().Get(key) == *value);
  }

  void Scan(const std::string& from, const std::string& to) {
    IteratorOptions options;
    options.upper_bound = to;
    std::unique_ptr<Iterator> it = keyspace().NewIterator(options);
    auto at = model().lower_bound(from);
    for (it->Seek(from); it->Valid(); it->Next(), ++at) {
      RC_ASSERT(at != model().end());
      RC_ASSERT(it->key() == at->first);
      RC_ASSERT(it->value() == at->second);
    }
    RC_ASSERT(it->status().ok());
    const bool stopped_rightly = at == model().end() || at->first >= to;
    RC_ASSERT(stopped_rightly);
  }

  void Approximate(const std::string& from, const std::string& to) {
    const absl::StatusOr<RangeEstimate> estimate = keyspace().ApproximateRange(from, to);
    if (to < from) return Expect(estimate.status(), absl::StatusCode::kInvalidArgument);
    Expect(estimate.status(), absl::StatusCode::kOk);
    RC_ASSERT(estimate->records_error == 0u);  // So few are counted.
    RC_ASSERT(estimate->records == static_cast<uint64_t>(std::distance(model().lower_bound(from),
                                                                       model().lower_bound(to))));
  }

  TemporaryDirectory directory_;
  const std::string path_;
  std::unique_ptr<Db> db_;
  int current_ = 0;                // The keyspace that calls go to; 0 is the default one.
  std::vector<Keyspace> handles_;  // Of all.
  Model models_[kKeyspaces];
  uint64_t version_ = 0;
};

TEST(DbPropertiesTest, AnyCallsDoWhatTheyDoToAMap) {
  const bool holds = rc::check("keyspaces are maps", [] {
    const auto steps = *rc::gen::scale(2.0, rc::gen::container<std::vector<Step>>(AnyStep()));
    Machine machine;
    for (const Step& step : steps) machine.Run(step);
    machine.ExpectModels();
  });
  EXPECT_TRUE(holds);
}

}  // namespace
}  // namespace daxkv::kv
