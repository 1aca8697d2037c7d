// How long a store takes to open, by its size, after a clean close and after SIGKILL.
//
//   open_time FOLDER [RECORDS...]
//
// For each number of records (10000, 100000, 1000000) makes a store in FOLDER, then opens it five
// times after a clean close and five times after its process was killed while it was putting.
// Prints medians: of the whole open, and of the first put and get after it.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
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

constexpr int kRounds = 5;
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

void Fill(const std::string& path, uint64_t records) {
  const std::unique_ptr<kv::Db> db = MustOpen(path);
  const std::string value(1000, 'v');
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

struct Times {
  std::vector<double> open_ms, put_ms, get_ms;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Opens, puts, gets; closes, or keeps putting until it is killed.
void OpenOnce(const std::string& path, bool kill_it, Times* times) {
  int results[2];
  if (pipe(results) != 0) std::abort();
  InChild(kill_it, [&](int busy_pipe) {
    double ms[3];
    const absl::Time start = absl::Now();
    const std::unique_ptr<kv::Db> db = MustOpen(path);
    ms[0] = absl::ToDoubleMilliseconds(absl::Now() - start);
    const absl::Time put_start = absl::Now();
    if (!db->Put(Key(17), std::string(1000, 'w')).ok()) std::abort();
    ms[1] = absl::ToDoubleMilliseconds(absl::Now() - put_start);
    const absl::Time get_start = absl::Now();
    if (!db->Get(Key(4711)).ok()) std::abort();
    ms[2] = absl::ToDoubleMilliseconds(absl::Now() - get_start);
    if (write(results[1], ms, sizeof(ms)) != sizeof(ms)) std::abort();
    if (!kill_it) {
      if (!db->Close().ok()) std::abort();
      return;
    }
    if (write(busy_pipe, "b", 1) != 1) std::abort();
    for (uint64_t i = 0;; ++i) {
      if (!db->Put(Key(i % 5000), std::string(1000, 'x')).ok()) std::abort();
    }
  });
  double ms[3];
  if (read(results[0], ms, sizeof(ms)) != sizeof(ms)) std::abort();
  times->open_ms.push_back(ms[0]);
  times->put_ms.push_back(ms[1]);
  times->get_ms.push_back(ms[2]);
  close(results[0]);
  close(results[1]);
}

void Measure(const std::string& folder, uint64_t records) {
  const std::string path = absl::StrCat(folder, "/open_time.", records);
  std::filesystem::remove_all(path);
  InChild(false, [&](int) { Fill(path, records); });
  Times clean;
  for (int i = 0; i < kRounds; ++i) OpenOnce(path, false, &clean);
  // The first of these still finds a clean store.
  Times killed;
  OpenOnce(path, true, &killed);
  killed = Times();
  for (int i = 0; i < kRounds; ++i) OpenOnce(path, true, &killed);
  std::printf("%10d %12.1f %10.3f %10.3f %14.1f %10.3f %10.3f\n", static_cast<int>(records),
              Median(clean.open_ms), Median(clean.put_ms), Median(clean.get_ms),
              Median(killed.open_ms), Median(killed.put_ms), Median(killed.get_ms));
  std::fflush(stdout);
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace daxkv

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: open_time FOLDER [RECORDS...]\n");
    return 2;
  }
  std::vector<uint64_t> sizes;
  for (int i = 2; i < argc; ++i) sizes.push_back(std::strtoull(argv[i], nullptr, 10));
  if (sizes.empty()) sizes = {10'000, 100'000, 1'000'000};
  std::printf("%10s %12s %10s %10s %14s %10s %10s\n", "records", "clean: open", "put ms", "get ms",
              "killed: open", "put ms", "get ms");
  for (const uint64_t records : sizes) daxkv::Measure(argv[1], records);
  return 0;
}
