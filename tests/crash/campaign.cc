#include "tests/crash/campaign.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "tests/crash/arena.h"
#include "tests/crash/examiner.h"
#include "tests/crash/trace.h"

namespace daxkv::crash {
namespace {

constexpr unsigned kMostWorkers = 16;

// What the processes of a campaign share.
struct Shared {
  std::atomic<bool> stop;
  Progress progress[kMostWorkers];
};

Shared* MapShared() {
  void* mapped =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) Die("mmap");
  return new (mapped) Shared();
}

template <typename T>
void WriteVector(const std::string& path, const std::vector<T>& items) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(items.data()),
             static_cast<std::streamsize>(items.size() * sizeof(T)));
  if (!file.flush()) Die("writing a campaign's file");
}

template <typename T>
std::vector<T> ReadVector(const std::string& path) {
  std::error_code error;
  const uint64_t size_bytes = std::filesystem::file_size(path, error);
  if (error) return {};
  std::vector<T> items(size_bytes / sizeof(T));
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(items.data()),
            static_cast<std::streamsize>(items.size() * sizeof(T)));
  return items;
}

void AddLine(const std::string& path, const std::string& line) {
  std::ofstream(path, std::ios::app) << line << "\n";
}

std::vector<std::string> ReadLines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// Runs `body` in a child without threads of ours. Returns its pid.
pid_t Fork(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child < 0) Die("fork");
  if (child != 0) return child;
  body();
  _exit(0);
}

// Empty, or how the child failed.
std::string Wait(pid_t child, double* cpu_seconds) {
  int status = 0;
  rusage usage = {};
  if (wait4(child, &status, 0, &usage) != child) Die("wait4");
  for (const timeval& time : {usage.ru_utime, usage.ru_stime}) {
    *cpu_seconds += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  if (WIFSIGNALED(status)) return absl::StrCat("died of signal ", WTERMSIG(status));
  return absl::StrCat("exited with ", WEXITSTATUS(status));
}

class Campaign {
 public:
  Campaign(const Script& script, const Plan& plan)
      : script_(script), plan_(plan), shared_(MapShared()) {
    std::string path = "/dev/shm/daxkv_crash_XXXXXX";
    if (mkdtemp(path.data()) == nullptr) Die("mkdtemp");
    path_ = path;
    if (plan.keep_in.empty()) return;
    // One for each failing campaign; it goes if it stays empty.
    plan_.keep_in = absl::StrCat(plan.keep_in, "/", script.name, ".", getpid());
    std::filesystem::create_directories(plan_.keep_in);
  }
  ~Campaign() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    if (!plan_.keep_in.empty()) rmdir(plan_.keep_in.c_str());
    munmap(shared_, sizeof(Shared));
  }

  Outcome Run();

 private:
  std::string In(const std::string& name) const { return absl::StrCat(path_, "/", name); }
  std::string In(const std::string& name, unsigned worker) const {
    return absl::StrCat(path_, "/", name, worker);
  }
  std::string TracePath() const { return plan_.trace.empty() ? In("trace") : plan_.trace; }
  void Record();
  void Judge(unsigned worker);
  void TakeResults(unsigned worker, const std::string& died, Outcome* outcome);
  void ReadCounts(Outcome* outcome) const;
  void ReadSites(Outcome* outcome) const;
  void KeepTrace(Outcome* outcome) const;

  const Script& script_;
  Plan plan_;
  Shared* const shared_;
  std::string path_;
  absl::flat_hash_set<uint64_t> hashes_;
};

void Campaign::Record() {
  SetPlatform(script_.platform);
  const StoreFiles files(In("store"), script_.shape);
  Recorder recorder(files);
  Store store(files);
  absl::Status status;
  if (!script_.setup.empty()) status = store.Open();
  for (const Operation& operation : script_.setup) {
    if (status.ok()) status = operation.run(store, operation.changes);
  }
  if (!status.ok()) return AddLine(In("faults"), absl::StrCat("setup: ", status.ToString()));
  if (plan_.count_sites) CountCallSites();
  Mutate(plan_.mutated, plan_.mutation);
  CountsByName counts;
  recorder.Start();
  std::string failed = RecordOperations(script_.operations, 0, store, recorder, &counts);
  if (failed.empty() && !script_.threads.empty()) {
    failed = RecordThreads(script_.threads, script_.operations.size(), store, recorder, &counts);
  }
  recorder.Stop();
  // A mutant may fail by itself.
  if (!failed.empty()) AddLine(In("faults"), absl::StrCat("recording: ", failed));
  WriteVector(In("trace"), recorder.trace());
  for (const auto& [name, sum] : counts) {
    WriteVector(In("counts ") + name, std::vector<OperationCounts>{sum});
  }
  for (const CallSite& site : CallSites()) {
    AddLine(In("sites"), absl::StrCat(site.kind == CallKind::kFence ? 1 : 0, " ",
                                      reinterpret_cast<uint64_t>(site.return_address), " ",
                                      site.calls, " ", site.name));
  }
}

void Campaign::Judge(unsigned worker) {
  SetPlatform(script_.platform);
  const std::string directory = In("worker", worker);
  std::filesystem::create_directory(directory);
  Examiner examiner(script_, plan_, directory, worker, &shared_->progress[worker], &shared_->stop);
  examiner.on_fault = [&](const std::string& line) { AddLine(In("faults", worker), line); };
  examiner.Examine(ReadVector<Event>(TracePath()));
  WriteVector(In("hashes", worker),
              std::vector<uint64_t>(examiner.hashes().begin(), examiner.hashes().end()));
}

void Campaign::TakeResults(unsigned worker, const std::string& died, Outcome* outcome) {
  const Progress& progress = shared_->progress[worker];
  if (!died.empty()) {
    outcome->faults.push_back(absl::StrCat(
        script_.name, ", seed ", plan_.seed, ", point ", progress.point.load(), ", variant ",
        progress.variant.load(), ", recovery point ", progress.recovery_point.load(), ": ", died));
  }
  for (const uint64_t hash : ReadVector<uint64_t>(In("hashes", worker))) hashes_.insert(hash);
  for (std::string& line : ReadLines(In("faults", worker))) {
    outcome->faults.push_back(std::move(line));
  }
  outcome->images += progress.images;
  outcome->recovery_images += progress.recovery_images;
  outcome->real_opens += progress.real_opens;
}

void Campaign::ReadCounts(Outcome* outcome) const {
  const std::string prefix = "counts ";
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    const std::string name = entry.path().filename();
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    const auto counts = ReadVector<OperationCounts>(entry.path());
    if (!counts.empty()) outcome->counts[name.substr(prefix.size())] = counts[0];
  }
}

void Campaign::ReadSites(Outcome* outcome) const {
  for (const std::string& line : ReadLines(In("sites"))) {
    CallSite site;
    std::istringstream in(line);
    int fence = 0;
    uint64_t address = 0;
    in >> fence >> address >> site.calls >> site.name;
    site.kind = fence != 0 ? CallKind::kFence : CallKind::kFlush;
    site.return_address = reinterpret_cast<const void*>(address);
    outcome->sites.push_back(site);
  }
}

void Campaign::KeepTrace(Outcome* outcome) const {
  const std::string kept = plan_.keep_in + "/trace";
  std::error_code error;
  std::filesystem::copy_file(TracePath(), kept, std::filesystem::copy_options::overwrite_existing,
                             error);
  if (error) return;
  outcome->faults.push_back(absl::StrCat(
      "to judge one of these again: bazel run --config=opt //tests/crash:crash_test -- ",
      "--gtest_filter='*/", script_.name, "' --seed=", plan_.seed, " --trace=", kept,
      " --only=POINT.VARIANT"));
}

Outcome Campaign::Run() {
  const auto begin = std::chrono::steady_clock::now();
  Outcome outcome;
  double recording_seconds = 0;
  if (plan_.trace.empty()) {
    const std::string failed = Wait(Fork([this] { Record(); }), &recording_seconds);
    if (!failed.empty()) outcome.faults.push_back("recording: " + failed);
  }
  for (const Event& event : ReadVector<Event>(TracePath())) {
    outcome.points += event.kind == EventKind::kPoint ? 1 : 0;
  }
  if (plan_.only_point != 0) plan_.workers = 1;
  std::vector<pid_t> workers;
  for (unsigned worker = 0; worker < plan_.workers; ++worker) {
    workers.push_back(Fork([this, worker] { Judge(worker); }));
  }
  for (unsigned worker = 0; worker < plan_.workers; ++worker) {
    TakeResults(worker, Wait(workers[worker], &outcome.cpu_seconds), &outcome);
  }
  for (std::string& line : ReadLines(In("faults"))) outcome.faults.push_back(std::move(line));
  ReadCounts(&outcome);
  ReadSites(&outcome);
  if (!outcome.faults.empty() && !plan_.keep_in.empty()) KeepTrace(&outcome);
  outcome.distinct_images = hashes_.size();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return outcome;
}

}  // namespace

Outcome RunCampaign(const Script& script, const Plan& plan) { return Campaign(script, plan).Run(); }

}  // namespace daxkv::crash
