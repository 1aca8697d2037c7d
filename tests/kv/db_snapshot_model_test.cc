// Snapshots and iterators against a versioned model: random changes, splits, snapshots released in
// any order, walks both ways.
#include <algorithm>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "rapidcheck.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using Model = std::map<std::string, std::string>;

// Keys that share prefixes, and some that are prefixes of others.
std::string KeyOf(unsigned number) {
  std::string key = absl::StrCat("k", number % 700);
  if (number % 5 == 0) key.push_back('\0');
  if (number % 7 == 0) key.append(static_cast<size_t>(number % 40), 'x');
  return key;
}

class Checked {
 public:
  Checked(Db* db) : db_(*db) {}
  ~Checked() { held_.clear(); }

  void Put(unsigned number) {
    const std::string key = KeyOf(number);
    const std::string value = ValueFor(key, ++version_, number % 90);
    RC_ASSERT(db_.Put(key, value).ok());
    now_[key] = value;
  }
  void Delete(unsigned number) {
    const absl::Status deleted = db_.Delete(KeyOf(number));
    const bool was_there = now_.erase(KeyOf(number)) == 1;
    const bool as_expected = was_there ? deleted.ok() : absl::IsNotFound(deleted);
    RC_ASSERT(as_expected);
  }
  // A run of neighbours: this is what splits leaves.
  void PutMany(unsigned from) {
    Model group;
    for (unsigned i = from; i < from + 150; ++i) {
      const std::string key = KeyOf(i);
      group[key] = ValueFor(key, ++version_, i % 50);
    }
    std::vector<KeyValue> records;
    for (const auto& [key, value] : group) {
      records.push_back({key, value});
      now_[key] = value;
    }
    RC_ASSERT(db_.PutGroup(records).ok());
  }
  void DeleteMany(unsigned from) {
    std::vector<std::string> keys;
    for (unsigned i = from; i < from + 100; ++i) keys.push_back(KeyOf(i));
    for (const std::string& key : keys) now_.erase(key);
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    RC_ASSERT(db_.DeleteGroup(views).ok());
  }
  void Take() {
    absl::StatusOr<Snapshot> snapshot = db_.GetSnapshot();
    RC_ASSERT(snapshot.ok());
    held_.push_back({*std::move(snapshot), now_});
  }
  void Release(unsigned which) {
    if (!held_.empty()) held_.erase(std::next(held_.begin(), which % held_.size()));
  }
  void Look(unsigned which) {
    if (held_.empty()) {
      const std::unique_ptr<Iterator> it = db_.NewIterator();
      Walk(*it, now_, which);
      return;
    }
    const Held& held = *std::next(held_.begin(), which % held_.size());
    IteratorOptions options;
    options.snapshot = &held.snapshot;
    const std::unique_ptr<Iterator> it = db_.NewIterator(options);
    Walk(*it, held.model, which);
    const std::string key = KeyOf(which);
    const absl::StatusOr<std::string> got = db_.Get(key, held.snapshot);
    const auto expected = held.model.find(key);
    if (expected == held.model.end()) {
      RC_ASSERT(absl::IsNotFound(got.status()));
    } else {
      RC_ASSERT(got.ok() && *got == expected->second);
    }
  }
  void LookAtAll() {
    for (unsigned i = 0; i < held_.size(); ++i) Look(i);
    const std::unique_ptr<Iterator> it = db_.NewIterator();
    Walk(*it, now_, 1);
    const absl::StatusOr<CheckReport> report = db_.Check();
    RC_ASSERT(report.ok());
    RC_ASSERT(report->faults == std::vector<std::string>());
  }

 private:
  struct Held {
    Snapshot snapshot;
    Model model;
  };

  static void Expect(const Iterator& it, const Model& model, Model::const_iterator at) {
    RC_ASSERT(it.status().ok());
    RC_ASSERT(it.Valid() == (at != model.end()));
    if (at == model.end()) return;
    RC_ASSERT(it.key() == at->first);
    RC_ASSERT(it.value() == at->second);
  }

  void Walk(Iterator& it, const Model& model, unsigned seed) {
    auto at = model.begin();
    for (it.SeekToFirst(); at != model.end(); it.Next(), ++at) Expect(it, model, at);
    RC_ASSERT(!it.Valid());
    it.SeekToLast();
    for (auto back = model.rbegin(); back != model.rend(); it.Prev(), ++back) {
      RC_ASSERT(it.Valid());
      RC_ASSERT(it.key() == back->first);
      RC_ASSERT(it.value() == back->second);
    }
    RC_ASSERT(!it.Valid());
    // To and fro from somewhere.
    const std::string key = KeyOf(seed * 31);
    at = model.lower_bound(key);
    it.Seek(key);
    Expect(it, model, at);
    for (unsigned i = 0; i < 300 && it.Valid(); ++i) {
      if ((seed + i * i) % 5 < 3) {
        it.Next();
        ++at;
      } else {
        it.Prev();
        at = at == model.begin() ? model.end() : std::prev(at);
      }
      Expect(it, model, at);
    }
    it.SeekForPrev(key);
    at = model.upper_bound(key);
    Expect(it, model, at == model.begin() ? model.end() : std::prev(at));
  }

  Db& db_;
  Model now_;
  uint64_t version_ = 0;
  std::list<Held> held_;
};

TEST(SnapshotModelTest, AnySequenceOfCalls) {
  const TemporaryDirectory directory(Medium::kTmpfs);
  const bool held = rc::check("snapshots and iterators do what copies of a map do", [&] {
    const auto steps =
        *rc::gen::container<std::vector<std::pair<unsigned, unsigned>>>(rc::gen::pair(
            rc::gen::inRange(0u, 16u), rc::gen::resize(100, rc::gen::inRange(0u, 3000u))));
    Options options = TestOptions();
    options.error_if_exists = true;
    const std::string path = directory.Path(absl::StrCat("store"));
    std::filesystem::remove_all(path);
    absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, options);
    RC_ASSERT(db.ok());
    {
      Checked checked(db->get());
      for (const auto& [what, number] : steps) {
        if (what < 4) {
          checked.Put(number);
        } else if (what < 6) {
          checked.Delete(number);
        } else if (what < 9) {
          checked.PutMany(number);
        } else if (what < 10) {
          checked.DeleteMany(number);
        } else if (what < 12) {
          checked.Take();
        } else if (what < 14) {
          checked.Release(number);
        } else {
          checked.Look(number);
        }
      }
      checked.LookAtAll();
    }
    RC_ASSERT((*db)->Close().ok());
  });
  EXPECT_TRUE(held);
}

}  // namespace
}  // namespace daxkv::kv
