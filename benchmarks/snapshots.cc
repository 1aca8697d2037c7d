// What snapshots cost that are held for long.
//
//   snapshots STORE [RECORDS [VALUE_BYTES]]
//
// Loads RECORDS (200,000) records into a new store at the path STORE, then, with 0, 1 and 100
// snapshots held (100: one taken after each hundredth of the records was overwritten), overwrites
// and reads random keys for a while, and prints the rates, what is kept, and the blocks and memory
// that it takes. Then what taking and releasing one costs, of an unchanged store and between puts;
// and what releasing all does. Last, two stores in turn, of which one holds a snapshot all the
// time, for a million overwrites each: the rates of its puts and gets as a multiple of the other's.
// The figures mean something only beside the medium's promise, which it prints.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kv/db.h"

namespace daxkv {
namespace {

constexpr absl::Duration kMeasured = absl::Seconds(2);
constexpr int kTakes = 2000;

std::string Key(uint64_t number) { return absl::StrFormat("record/%012d", number); }

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "snapshots: %s\n", status.ToString().c_str());
  std::exit(1);
}

// Anonymous memory of this process: the pool's pages are not in it.
uint64_t AnonymousSizeBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    uint64_t kib = 0;
    if (word == "RssAnon:" && status >> kib) return kib << 10;
  }
  return 0;
}

class Bench {
 public:
  Bench(kv::Db* db, uint64_t records, size_t value_size_bytes)
      : db_(*db), records_(records), value_(value_size_bytes, 'v') {}

  void Load() {
    for (uint64_t i = 0; i < records_; ++i) Check(db_.Put(Key(i), value_));
  }

  // Overwrites keys of a random order, `count` of them.
  void Overwrite(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) PutOne();
  }
  void PutOne() { Check(db_.Put(Key(random_() % records_), value_)); }
  void GetOne() { Check(db_.Get(Key(random_() % records_), &read_)); }

  template <typename Operation>
  double RatePerSecond(Operation operation) {
    const absl::Time begin = absl::Now();
    uint64_t done = 0;
    for (; absl::Now() - begin < kMeasured; done += 64) {
      for (int i = 0; i < 64; ++i) operation();
    }
    return static_cast<double>(done) / absl::ToDoubleSeconds(absl::Now() - begin);
  }

  void Hold(int count) {
    held_.clear();
    // Slots of the versions kept until now come free.
    Check(db_.Compact(absl::Now() + absl::Seconds(5)).status());
    const kv::Info before = Info();
    const uint64_t memory_before = AnonymousSizeBytes();
    for (int i = 0; i < count; ++i) {
      absl::StatusOr<kv::Snapshot> snapshot = db_.GetSnapshot();
      Check(snapshot.status());
      held_.push_back(*std::move(snapshot));
      Overwrite(count == 1 ? 0 : records_ / static_cast<uint64_t>(count));
    }
    const double puts = RatePerSecond([this] { PutOne(); });
    const double gets = RatePerSecond([this] { GetOne(); });
    double gets_at = 0;
    if (!held_.empty()) {
      gets_at = RatePerSecond(
          [this] { Check(db_.Get(Key(random_() % records_), held_.front(), &read_)); });
    }
    const kv::Info after = Info();
    const double versions = std::max<double>(1, static_cast<double>(after.snapshot_versions));
    const auto grown = [&](uint64_t now, uint64_t then) {
      return (static_cast<double>(now) - static_cast<double>(then)) / versions;
    };
    std::printf("%9d %10.0f %10.0f %12.0f %12d %14.0f %14.0f\n", count, puts, gets, gets_at,
                static_cast<int>(after.snapshot_versions),
                after.snapshot_versions == 0
                    ? 0
                    : grown(after.dax.pool.file_blocks_bytes, before.dax.pool.file_blocks_bytes),
                after.snapshot_versions == 0 ? 0 : grown(AnonymousSizeBytes(), memory_before));
    std::fflush(stdout);
  }

  void TakeAndRelease() {
    const auto per_take_us = [&](bool puts_between) {
      absl::Duration taking, releasing;
      for (int i = 0; i < kTakes; ++i) {
        const absl::Time begin = absl::Now();
        absl::StatusOr<kv::Snapshot> snapshot = db_.GetSnapshot();
        taking += absl::Now() - begin;
        Check(snapshot.status());
        if (puts_between) PutOne();
        const absl::Time release = absl::Now();
        snapshot = absl::UnknownError("");
        releasing += absl::Now() - release;
      }
      std::printf("%s: take %.2f us, release %.2f us\n",
                  puts_between ? "with a put between" : "of an unchanged store",
                  absl::ToDoubleMicroseconds(taking) / kTakes,
                  absl::ToDoubleMicroseconds(releasing) / kTakes);
    };
    per_take_us(false);
    per_take_us(true);
  }

  void ReleaseAll() {
    const kv::Info info = Info();
    const absl::Time begin = absl::Now();
    held_.clear();
    std::printf("releasing all, with %d versions kept: %.1f ms\n",
                static_cast<int>(info.snapshot_versions),
                absl::ToDoubleMilliseconds(absl::Now() - begin));
  }

 private:
  kv::Info Info() {
    absl::StatusOr<kv::Info> info = db_.GetInfo();
    Check(info.status());
    return *info;
  }

  kv::Db& db_;
  const uint64_t records_;
  const std::string value_;
  std::mt19937_64 random_{1};
  std::string read_;
  std::vector<kv::Snapshot> held_;
};

constexpr int kTurns = 10;
constexpr uint64_t kOfTurn = 100'000;

// Seconds that `count` calls took.
template <typename Operation>
double SecondsOf(uint64_t count, Operation operation) {
  const absl::Time begin = absl::Now();
  for (uint64_t i = 0; i < count; ++i) operation();
  return absl::ToDoubleSeconds(absl::Now() - begin);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::unique_ptr<kv::Db> MustOpen(const std::string& path) {
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  Check(db.status());
  return *std::move(db);
}

void HoldForLong(const std::string& path, uint64_t records, size_t value_size_bytes) {
  const std::string paths[] = {path + ".held", path + ".free"};
  {
    const std::unique_ptr<kv::Db> dbs[] = {MustOpen(paths[0]), MustOpen(paths[1])};
    Bench benches[] = {{dbs[0].get(), records, value_size_bytes},
                       {dbs[1].get(), records, value_size_bytes}};
    for (Bench& bench : benches) bench.Load();
    {
      const absl::StatusOr<kv::Snapshot> snapshot = dbs[0]->GetSnapshot();
      Check(snapshot.status());
      std::vector<double> put_ratios, get_ratios;
      for (int turn = 0; turn < kTurns; ++turn) {
        double put_s[2], get_s[2];
        for (const int which : {turn % 2, 1 - turn % 2}) {
          put_s[which] = SecondsOf(kOfTurn, [&] { benches[which].PutOne(); });
        }
        for (const int which : {turn % 2, 1 - turn % 2}) {
          get_s[which] = SecondsOf(kOfTurn, [&] { benches[which].GetOne(); });
        }
        put_ratios.push_back(put_s[1] / put_s[0]);
        get_ratios.push_back(get_s[1] / get_s[0]);
      }
      const absl::StatusOr<kv::Stats> stats = dbs[0]->GetStats();
      Check(stats.status());
      std::printf(
          "one held for %d overwrites: puts %.2fx, gets %.2fx of without; %d versions kept\n",
          static_cast<int>(kTurns * kOfTurn), Median(put_ratios), Median(get_ratios),
          static_cast<int>(stats->snapshot_versions));
    }
    for (const std::unique_ptr<kv::Db>& db : dbs) Check(db->Close());
  }
  for (const std::string& used : paths) std::filesystem::remove_all(used);
}

int Main(int argc, char** argv) {
  if (argc < 2 || argc > 4) {
    std::fprintf(stderr, "usage: snapshots STORE [RECORDS [VALUE_BYTES]]\n");
    return 2;
  }
  const std::string path = argv[1];
  if (std::filesystem::exists(path)) {
    std::fprintf(stderr, "snapshots: %s is there already\n", path.c_str());
    return 2;
  }
  const uint64_t records = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 200'000;
  const size_t value_size_bytes = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1000;
  {
    absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
    Check(db.status());
    Check((*db)->GetInfo().status());
    std::printf("%s, %d records of %d bytes\n",
                dax::MediaClassName((*db)->GetInfo()->media.media_class).data(),
                static_cast<int>(records), static_cast<int>(value_size_bytes));
    Bench bench(db->get(), records, value_size_bytes);
    bench.Load();
    std::printf("%9s %10s %10s %12s %12s %14s %14s\n", "snapshots", "puts/s", "gets/s", "gets at/s",
                "versions", "blocks/version", "memory/version");
    for (int count : {0, 1, 100}) bench.Hold(count);
    bench.ReleaseAll();
    bench.TakeAndRelease();
    Check((*db)->Close());
  }
  std::filesystem::remove_all(path);
  HoldForLong(path, records, value_size_bytes);
  return 0;
}

}  // namespace
}  // namespace daxkv

int main(int argc, char** argv) { return daxkv::Main(argc, argv); }
