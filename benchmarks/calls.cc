// What calls that do several things at once cost, beside doing these one by one.
//
//   calls STORE [RECORDS]
//
// Loads RECORDS (1,000,000) records of 1 KB into a new store at the path STORE, then measures pairs
// in turn, several times, and prints the medians: 16 Gets and MultiGet of 16 keys (random ones);
// 100 Puts and a batch of 100 (random keys, 100 B values); Get and Put of a counter, and Update;
// Put, and Put and Delete, of new keys; Put of 64 MiB and ValueWriter. The figures mean something
// only beside the medium's promise, which it prints.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kv/db.h"

namespace daxkv {
namespace {

constexpr size_t kGroupRecords = 8192;
constexpr size_t kTogether = 16;
constexpr size_t kBatchSize = 100;
constexpr size_t kLargeSizeBytes = size_t{64} << 20;
constexpr int kRuns = 7;

std::string Key(uint64_t number) { return absl::StrFormat("record/%012d", number); }

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "calls: %s\n", status.ToString().c_str());
  std::exit(1);
}

class Calls {
 public:
  Calls(kv::Db* db, uint64_t records) : db_(*db), records_(records) {}

  void Load() {
    const std::string value(1000, 'v');
    for (uint64_t begin = 0; begin < records_; begin += kGroupRecords) {
      std::vector<std::string> keys;
      for (uint64_t i = begin; i < std::min(records_, begin + kGroupRecords); ++i) {
        keys.push_back(Key(i));
      }
      std::vector<kv::KeyValue> group;
      for (const std::string& key : keys) group.push_back({key, value});
      Check(db_.PutGroup(group).status());
    }
  }

  // Runs `one` and `other` in turn, `times` each a run, and prints the medians of kRuns runs.
  void Compare(const char* what, int times, const std::function<void()>& one, const char* with,
               const std::function<void()>& other) {
    const auto measure = [&](const std::function<void()>& function) {
      const absl::Time begin = absl::Now();
      for (int i = 0; i < times; ++i) function();
      return absl::ToDoubleMicroseconds(absl::Now() - begin) / times;
    };
    std::vector<double> ones, others;
    for (int run = 0; run < kRuns; ++run) {
      ones.push_back(measure(one));
      others.push_back(measure(other));
    }
    std::sort(ones.begin(), ones.end());
    std::sort(others.begin(), others.end());
    std::printf("%-24s %12.2f us   %-24s %12.2f us   %.2fx\n", what, ones[kRuns / 2], with,
                others[kRuns / 2], ones[kRuns / 2] / others[kRuns / 2]);
    std::fflush(stdout);
  }

  void CompareGets() {
    std::string names[kTogether], values[kTogether];
    std::string_view keys[kTogether];
    absl::Status statuses[kTogether];
    const auto pick = [&] {
      for (size_t i = 0; i < kTogether; ++i) {
        names[i] = Key(random_() % records_);
        keys[i] = names[i];
      }
    };
    Compare(
        "16 Gets of 1 KB", 5000,
        [&] {
          pick();
          for (size_t i = 0; i < kTogether; ++i) Check(db_.Get(keys[i], &values[i]));
        },
        "MultiGet of 16",
        [&] {
          pick();
          Check(db_.MultiGet(keys, absl::MakeSpan(values), absl::MakeSpan(statuses)));
          for (const absl::Status& status : statuses) Check(status);
        });
  }

  void CompareBatches(int times) {
    const std::string value(100, 'b');
    Compare(
        "100 Puts of 100 B", times,
        [&] {
          for (size_t i = 0; i < kBatchSize; ++i) {
            Check(db_.Put(Key(random_() % records_), value));
          }
        },
        "Write of a batch of 100",
        [&] {
          kv::WriteBatch batch;
          for (size_t i = 0; i < kBatchSize; ++i) {
            Check(batch.Put(Key(random_() % records_), value));
          }
          Check(db_.Write(batch));
        });
  }

  void CompareUpdates(int times) {
    uint64_t number = 0;
    std::string value(sizeof(number), '\0');
    const auto key = [&] { return absl::StrFormat("counter/%03d", random_() % 1000); };
    Compare(
        "Get and Put of 8 B", times,
        [&] {
          const std::string name = key();
          absl::Status got = db_.Get(name, &value);
          number = 0;
          if (got.ok()) std::memcpy(&number, value.data(), sizeof(number));
          ++number;
          Check(db_.Put(name, {reinterpret_cast<const char*>(&number), sizeof(number)}));
        },
        "Update of 8 B",
        [&] {
          Check(db_.Update(key(),
                           [](std::optional<std::string_view> current,
                              std::string* next) -> absl::StatusOr<kv::UpdateAction> {
                             uint64_t count = 0;
                             if (current.has_value())
                               std::memcpy(&count, current->data(), sizeof(count));
                             ++count;
                             next->assign(reinterpret_cast<const char*>(&count), sizeof(count));
                             return kv::UpdateAction::kPut;
                           }));
        });
  }

  // A Delete of what was put a moment ago waits for more than one of what is there for long
  // (kv/recent_puts.h).
  void CompareDeletes(int times) {
    const std::string value(100, 'd');
    uint64_t number = 0;
    Compare(
        "Put of 100 B", times, [&] { Check(db_.Put(Key(records_ + ++number), value)); },
        "Put and Delete of 100 B",
        [&] {
          const std::string key = Key(records_ + ++number);
          Check(db_.Put(key, value));
          Check(db_.Delete(key));
        });
  }

  // Both make the value's bytes first: one in DRAM, the other in place.
  void CompareLargeValues() {
    std::string value(kLargeSizeBytes, 'l');
    char fill = 'a';
    Compare(
        "fill, Put of 64 MiB", 1,
        [&] {
          std::memset(value.data(), ++fill, value.size());
          Check(db_.Put("large", value));
        },
        "ValueWriter, filled",
        [&] {
          absl::StatusOr<kv::ValueWriter> writer = db_.NewValueWriter("large", kLargeSizeBytes);
          Check(writer.status());
          std::memset(writer->bytes().data(), ++fill, writer->bytes().size());
          Check(writer->Commit());
        });
  }

 private:
  kv::Db& db_;
  const uint64_t records_;
  std::mt19937_64 random_{1};
};

int Main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: calls STORE [RECORDS]\n");
    return 2;
  }
  const std::string path = argv[1];
  const uint64_t records = argc == 3 ? std::strtoull(argv[2], nullptr, 10) : 1000000;
  kv::Options options;
  options.error_if_exists = true;
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, options);
  Check(db.status());
  const absl::StatusOr<kv::Info> info = (*db)->GetInfo();
  Check(info.status());
  const bool slow = info->media.media_class == dax::MediaClass::kPageCache;
  std::printf("medium: %s; %llu records of 1 KB; medians of %d runs\n",
              slow ? "page cache (msync)" : "memory (flushes and fences)",
              static_cast<unsigned long long>(records), kRuns);
  Calls calls(db->get(), records);
  calls.Load();
  calls.CompareGets();
  calls.CompareUpdates(slow ? 10 : 20000);
  calls.CompareDeletes(slow ? 50 : 20000);
  calls.CompareBatches(slow ? 1 : 300);
  calls.CompareLargeValues();
  Check((*db)->Close());
  std::filesystem::remove_all(path);
  return 0;
}

}  // namespace
}  // namespace daxkv

int main(int argc, char** argv) { return daxkv::Main(argc, argv); }
