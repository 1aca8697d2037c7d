// How long a store takes to open, by its size, after a clean close and after SIGKILL.
//
//   open_time FOLDER [--value BYTES] [RECORDS...]
//
// For each number of records (10000, 100000, 1000000), with values of BYTES (1000), makes a store
// in FOLDER, then opens it after a clean close, and after its process was killed while it was
// putting, nine times for each of five calls that come first: a put of a record like those there
// are, a delete, a get, GetStats and GetInfo. Prints medians: of the whole open; of what libpmemobj
// itself takes to open such a pool, in turn with them and in the same state; of the first calls;
// and of the close after such an open and a call or two.
//
// Goal: the same at every size, and at most 20 ms more than libpmemobj. (GetInfo counts all records
// and walks all pages: db.h.)
#include <libpmemobj.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kv/db.h"

namespace daxkv {
namespace {

constexpr int kRounds = 9;
constexpr uint64_t kGroupRecords = 8192;

std::string Key(uint64_t number) { return absl::StrFormat("record/%012d", number * 7919); }

// Runs `body` in a child, so that every open is by a fresh process. With `kill_it`, the child ends
// by SIGKILL when it says, through a pipe, that it is busy.
void InChild(bool kill_it, const std::function<void(int busy_pipe)>& body) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    body(ends[1]);
    _exit(0);
  }
  char byte = 0;
  if (kill_it) {
    if (read(ends[0], &byte, 1) != 1) std::abort();
    usleep(20000);
    kill(child, SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (kill_it != WIFSIGNALED(status)) std::abort();
  close(ends[0]);
  close(ends[1]);
}

std::unique_ptr<kv::Db> MustOpen(const std::string& path) {
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  if (db.ok()) return *std::move(db);
  std::fprintf(stderr, "open_time: %s\n", db.status().ToString().c_str());
  std::abort();
}

void Fill(const std::string& path, uint64_t records, size_t value_size_bytes) {
  const std::unique_ptr<kv::Db> db = MustOpen(path);
  const std::string value(value_size_bytes, 'v');
  for (uint64_t begin = 0; begin < records; begin += kGroupRecords) {
    std::vector<std::string> keys;
    for (uint64_t i = begin; i < std::min(records, begin + kGroupRecords); ++i) {
      keys.push_back(Key(i));
    }
    std::vector<kv::KeyValue> group;
    for (const std::string& key : keys) group.push_back({key, value});
    if (!db->PutGroup(group).ok()) std::abort();
  }
  if (!db->Close().ok()) std::abort();
}

// What comes first after an open.
enum Call { kPut, kDelete, kGet, kStats, kInfo, kCalls };

struct Times {
  std::vector<double> open_ms, libpmemobj_ms;
  std::array<std::vector<double>, kCalls> call_ms;
  std::vector<double> close_ms;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

absl::Status Do(kv::Db& db, Call call, size_t value_size_bytes) {
  switch (call) {
    case kPut:
      return db.Put(Key(17), std::string(value_size_bytes, 'w'));
    case kDelete:
      return db.Delete(Key(19));
    case kStats:
      return db.GetStats().status();
    case kInfo:
      return db.GetInfo().status();
    default:
      return db.Get(Key(4711)).status();
  }
}

// Opens and makes one call; closes, or keeps putting until it is killed.
void OpenOnce(const std::string& path, size_t value_size_bytes, bool kill_it, Call call,
              Times* times) {
  int results[2];
  if (pipe(results) != 0) std::abort();
  InChild(kill_it, [&](int busy_pipe) {
    double ms[3] = {};
    const absl::Time start = absl::Now();
    const std::unique_ptr<kv::Db> db = MustOpen(path);
    ms[0] = absl::ToDoubleMilliseconds(absl::Now() - start);
    const absl::Time call_start = absl::Now();
    if (!Do(*db, call, value_size_bytes).ok()) std::abort();
    ms[1] = absl::ToDoubleMilliseconds(absl::Now() - call_start);
    // For the next deletes.
    if (!db->Put(Key(19), std::string(value_size_bytes, 'v')).ok()) std::abort();
    if (!kill_it) {
      const absl::Time close_start = absl::Now();
      if (!db->Close().ok()) std::abort();
      ms[2] = absl::ToDoubleMilliseconds(absl::Now() - close_start);
    }
    if (write(results[1], ms, sizeof(ms)) != sizeof(ms)) std::abort();
    if (!kill_it) return;
    if (write(busy_pipe, "b", 1) != 1) std::abort();
    for (uint64_t i = 0;; ++i) {
      if (!db->Put(Key(i % 5000), std::string(value_size_bytes, 'x')).ok()) std::abort();
    }
  });
  double ms[3];
  if (read(results[0], ms, sizeof(ms)) != sizeof(ms)) std::abort();
  times->open_ms.push_back(ms[0]);
  times->call_ms[call].push_back(ms[1]);
  if (!kill_it) times->close_ms.push_back(ms[2]);
  close(results[0]);
  close(results[1]);
}

// What libpmemobj takes for the pool below the store, in the state that it is in.
void OpenByLibpmemobjAlone(const std::string& path, Times* times) {
  int results[2];
  if (pipe(results) != 0) std::abort();
  InChild(false, [&](int) {
    const absl::Time start = absl::Now();
    PMEMobjpool* const pool = pmemobj_open((path + "/daxkv.set").c_str(), nullptr);
    const double ms = absl::ToDoubleMilliseconds(absl::Now() - start);
    if (pool == nullptr) {
      std::fprintf(stderr, "open_time: libpmemobj: %s\n", pmemobj_errormsg());
      std::abort();
    }
    if (write(results[1], &ms, sizeof(ms)) != sizeof(ms)) std::abort();
    pmemobj_close(pool);
  });
  double ms;
  if (read(results[0], &ms, sizeof(ms)) != sizeof(ms)) std::abort();
  times->libpmemobj_ms.push_back(ms);
  close(results[0]);
  close(results[1]);
}

void Measure(const std::string& folder, uint64_t records, size_t value_size_bytes) {
  const std::string path = absl::StrCat(folder, "/open_time.", records);
  std::filesystem::remove_all(path);
  InChild(false, [&](int) { Fill(path, records, value_size_bytes); });
  const auto print = [records](const char* after, const Times& times) {
    const double all = Median(times.open_ms), libpmemobj = Median(times.libpmemobj_ms);
    std::printf("%10d %-10s %10.1f %12.1f %12.1f", static_cast<int>(records), after, all,
                libpmemobj, all - libpmemobj);
    for (const std::vector<double>& ms : times.call_ms) std::printf(" %12.3f", Median(ms));
    std::printf(" %12.3f\n", Median(times.close_ms));
    std::fflush(stdout);
  };
  const auto open_once = [&](bool kill_it, Call call, Times* times) {
    OpenOnce(path, value_size_bytes, kill_it, call, times);
  };
  Times clean;
  for (int i = 0; i < kRounds; ++i) {
    for (int call = 0; call < kCalls; ++call) open_once(false, static_cast<Call>(call), &clean);
    OpenByLibpmemobjAlone(path, &clean);
  }
  print("close", clean);
  // Each begins with a store whose process was killed.
  Times killed, closed, unused;
  open_once(true, kGet, &unused);
  for (int i = 0; i < kRounds; ++i) {
    for (int call = 0; call < kCalls; ++call) open_once(true, static_cast<Call>(call), &killed);
    OpenByLibpmemobjAlone(path, &killed);
    open_once(true, kGet, &unused);
    open_once(false, kGet, &closed);
    open_once(true, kGet, &unused);
  }
  killed.close_ms = closed.close_ms;
  print("SIGKILL", killed);
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace daxkv

int main(int argc, char** argv) {
  std::vector<uint64_t> sizes;
  size_t value_size_bytes = 1000;
  for (int i = 2; i < argc; ++i) {
    if (std::strcmp(argv[i], "--value") == 0 && i + 1 < argc) {
      value_size_bytes = std::strtoull(argv[++i], nullptr, 10);
    } else {
      sizes.push_back(std::strtoull(argv[i], nullptr, 10));
    }
  }
  // The first calls are of records 17 to 4711.
  if (argc < 2 || std::any_of(sizes.begin(), sizes.end(), [](uint64_t n) { return n < 5000; })) {
    std::fprintf(stderr, "usage: open_time FOLDER [--value BYTES] [RECORDS, 5000 at least...]\n");
    return 2;
  }
  if (sizes.empty()) sizes = {10'000, 100'000, 1'000'000};
  std::printf("%10s %-10s %10s %12s %12s %12s %12s %12s %12s %12s %12s\n", "records", "after",
              "open ms", "libpmemobj", "ours", "first put", "first delete", "first get", "GetStats",
              "GetInfo", "close");
  for (const uint64_t records : sizes) daxkv::Measure(argv[1], records, value_size_bytes);
  return 0;
}
