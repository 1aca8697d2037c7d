#include "tests/crash/campaign.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "tests/crash/arena.h"
#include "tests/crash/crash_image.h"
#include "tests/crash/judge.h"

namespace daxkv::crash {
namespace {

constexpr unsigned kMostWorkers = 16;
constexpr unsigned kPatienceSeconds = 60;  // With one image.

// What the processes of a campaign share.
struct Shared {
  std::atomic<bool> stop;
  std::atomic<uint64_t> points, images, recovery_images;
  // Where a worker is, should it die there.
  struct Place {
    std::atomic<uint64_t> point, variant, recovery_point;
  } places[kMostWorkers];
  struct Counts {
    uint64_t operations;
    FlushCounts flushes;
  } counts[8];  // By Operation::Kind; the recorder's.
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
std::string Wait(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) Die("waitpid");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  if (WIFSIGNALED(status)) return absl::StrCat("died of signal ", WTERMSIG(status));
  return absl::StrCat("exited with ", WEXITSTATUS(status));
}

void AddCounts(const FlushCounts& more, FlushCounts* sum) {
  sum->flushes += more.flushes;
  sum->lines += more.lines;
  sum->clean_lines += more.clean_lines;
  sum->repeated_lines += more.repeated_lines;
  sum->fences += more.fences;
  sum->empty_fences += more.empty_fences;
}

// ---- Recording ----

// Empty, or why an operation failed.
std::string RecordOperations(Store& store, const std::vector<Operation>& operations,
                             Recorder& recorder, Shared* shared) {
  for (size_t i = 0; i < operations.size(); ++i) {
    recorder.Begin(i);
    const absl::Status done = store.Do(operations[i]);
    if (!done.ok()) return absl::StrCat("operation ", i, ": ", done.ToString());
    recorder.Acknowledge(i);
    if (shared != nullptr) {
      Shared::Counts& counts = shared->counts[static_cast<int>(operations[i].kind)];
      ++counts.operations;
      AddCounts(recorder.TakeCounts(), &counts.flushes);
    }
  }
  return "";
}

class Campaign {
 public:
  Campaign(const Script& script, const Plan& plan)
      : script_(script), plan_(plan), shared_(MapShared()) {
    std::string path = "/dev/shm/daxkv_crash_XXXXXX";
    if (mkdtemp(path.data()) == nullptr) Die("mkdtemp");
    path_ = path;
  }
  ~Campaign() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    munmap(shared_, sizeof(Shared));
  }

  Outcome Run();

 private:
  std::string In(const std::string& name) const { return absl::StrCat(path_, "/", name); }
  std::string In(const std::string& name, unsigned worker) const {
    return absl::StrCat(path_, "/", name, worker);
  }
  void Record();
  void Judge(unsigned worker);
  void JudgeRecovery(const CrashImage& image, const Expectation& expected, uint64_t seed,
                     const std::string& where, unsigned worker);
  void JudgeOne(const std::string& image_path, const CrashImage& image, const Expectation& expected,
                const std::string& where, unsigned worker);

  const Script& script_;
  const Plan& plan_;
  Shared* const shared_;
  std::string path_;
  // Of one worker.
  absl::flat_hash_set<uint64_t> hashes_;
  unsigned faults_ = 0;
};

void Campaign::Record() {
  SetPlatform(script_.platform);
  Store store(In("store"));
  absl::Status status;
  if (!script_.setup.empty()) status = store.Open();
  for (const Operation& operation : script_.setup) {
    if (status.ok()) status = store.Do(operation);
  }
  if (!status.ok()) return AddLine(In("faults"), absl::StrCat("setup: ", status.ToString()));
  Recorder recorder(In("store"));
  if (plan_.count_sites) CountCallSites();
  DropCallSite(plan_.dropped);
  recorder.Start();
  const std::string failed = RecordOperations(store, script_.operations, recorder, shared_);
  recorder.Stop();
  // A mutant may fail by itself.
  if (!failed.empty()) AddLine(In("faults"), absl::StrCat("recording, ", failed));
  WriteVector(In("trace"), recorder.trace());
  for (const CallSite& site : CallSites()) {
    AddLine(In("sites"), absl::StrCat(site.kind == CallKind::kFence ? 1 : 0, " ",
                                      reinterpret_cast<uint64_t>(site.return_address), " ",
                                      site.calls, " ", site.name));
  }
}

// ---- Judging ----

void Campaign::JudgeOne(const std::string& image_path, const CrashImage& image,
                        const Expectation& expected, const std::string& where, unsigned worker) {
  hashes_.insert(image.Hash());
  shared_->images.fetch_add(1, std::memory_order_relaxed);
  alarm(kPatienceSeconds);
  const std::string fault = JudgeImage(image_path, expected);
  alarm(0);
  image.RemoveAddedParts();
  if (fault.empty()) return;
  AddLine(In("faults", worker), absl::StrCat(where, ": ", fault));
  if (++faults_ >= plan_.most_faults) shared_->stop = true;
}

struct Variant {
  Survivors survivors;
  uint64_t seed;
};

// The plain images come first, as many random ones as there is room for after them.
std::vector<Variant> Variants(uint64_t count, uint64_t seed) {
  std::vector<Variant> variants = {
      {Survivors::kNone, 0}, {Survivors::kFlushed, 0}, {Survivors::kEverything, 0}};
  for (uint64_t i = 3; i < count; ++i) variants.push_back({Survivors::kRandom, seed * 1009 + i});
  return variants;
}

void Campaign::Judge(unsigned worker) {
  SetPlatform(script_.platform);
  OpenCopyOnWrite(true);
  const Trace trace = ReadVector<Event>(In("trace"));
  const auto points = static_cast<uint64_t>(std::count_if(
      trace.begin(), trace.end(), [](const Event& e) { return e.kind == EventKind::kPoint; }));
  if (worker == 0) shared_->points = points;
  if (points == 0) return;
  // With few images, some points are passed over.
  constexpr uint64_t kLeastVariants = 5;
  const uint64_t stride = std::max<uint64_t>(1, points * kLeastVariants / plan_.images);
  const uint64_t variants = std::max(kLeastVariants, plan_.images * stride / points);

  CrashImage image(In("image", worker), script_.platform);
  Expectation expected;
  Store unused("");
  for (const Operation& operation : script_.setup) Change(operation, &expected.acknowledged);
  uint64_t acknowledged = 0, point = 0, images = 0;
  for (const Event& event : trace) {
    if (shared_->stop.load(std::memory_order_relaxed)) break;
    if (event.kind != EventKind::kPoint) {
      image.Apply(event);
      continue;
    }
    for (; acknowledged < event.a; ++acknowledged) {
      Change(script_.operations[acknowledged], &expected.acknowledged);
    }
    expected.in_flight = event.b > event.a ? &script_.operations[event.a] : nullptr;
    if (++point % stride != 0 || point / stride % plan_.workers != worker) continue;
    absl::flat_hash_set<uint64_t> here;  // Equal images at one point need one judgement.
    uint64_t number = 0;
    for (const Variant& variant : Variants(variants, plan_.seed * 1000003 + point)) {
      shared_->places[worker].point = point;
      shared_->places[worker].variant = number++;
      image.Patch(variant.survivors, variant.seed);
      if (here.insert(image.Hash()).second) {
        const std::string where = absl::StrCat(
            script_.name, ", seed ", plan_.seed, ", point ", point, " of ", points, " (operation ",
            event.a,
            expected.in_flight == nullptr
                ? " not begun)"
                : absl::StrCat(" in flight: ", KindName(expected.in_flight->kind), ")"),
            ", variant ", number - 1);
        JudgeOne(image.path(), image, expected, where, worker);
        if (plan_.recoveries_every != 0 && ++images % plan_.recoveries_every == 0 && faults_ == 0) {
          JudgeRecovery(image, expected, plan_.seed + images, where, worker);
        }
      }
      image.Unpatch();
    }
  }
  WriteVector(In("hashes", worker), std::vector<uint64_t>(hashes_.begin(), hashes_.end()));
}

// Records how the store recovers from this image and takes new writes, and judges images of that.
void Campaign::JudgeRecovery(const CrashImage& image, const Expectation& expected, uint64_t seed,
                             const std::string& where, unsigned worker) {
  const std::string path = In("recovery", worker);
  image.CopyTo(path);
  OpenCopyOnWrite(false);
  Model found;
  std::vector<Operation> operations;
  Trace trace;
  {
    Recorder recorder(path);
    Store store(path);
    recorder.Start();
    std::string fault = store.Open().ToString();
    if (fault == "OK") fault = CompareStore(store.db(), expected, &found);
    if (fault.empty()) {
      operations = WritesAfterRecovery(found);
      fault = RecordOperations(store, operations, recorder, nullptr);
    }
    recorder.Stop();
    if (!fault.empty()) AddLine(In("faults", worker), absl::StrCat(where, ", recovery: ", fault));
    trace = std::move(recorder.trace());
  }
  OpenCopyOnWrite(true);
  const auto points = static_cast<uint64_t>(std::count_if(
      trace.begin(), trace.end(), [](const Event& e) { return e.kind == EventKind::kPoint; }));
  const uint64_t stride = std::max<uint64_t>(1, points * 2 / plan_.images_of_recovery);
  CrashImage second(In("second", worker), script_.platform);
  Expectation now;
  now.acknowledged = std::move(found);
  uint64_t acknowledged = 0, point = 0;
  for (const Event& event : trace) {
    if (event.kind != EventKind::kPoint) {
      second.Apply(event);
      continue;
    }
    for (; acknowledged < event.a; ++acknowledged) {
      Change(operations[acknowledged], &now.acknowledged);
    }
    now.in_flight = event.b > event.a ? &operations[event.a] : nullptr;
    if ((++point + seed) % stride != 0) continue;
    shared_->places[worker].recovery_point = point;
    for (const Survivors survivors : {Survivors::kNone, Survivors::kRandom}) {
      second.Patch(survivors, seed * 31 + point);
      shared_->recovery_images.fetch_add(1, std::memory_order_relaxed);
      JudgeOne(second.path(), second, now,
               absl::StrCat(where, ", point ", point, " of its recovery"), worker);
      second.Unpatch();
    }
  }
  shared_->places[worker].recovery_point = 0;
}

Outcome Campaign::Run() {
  const auto begin = std::chrono::steady_clock::now();
  Outcome outcome;
  const std::string recording = Wait(Fork([this] { Record(); }));
  if (!recording.empty()) outcome.faults.push_back("recording: " + recording);
  std::vector<pid_t> workers;
  for (unsigned worker = 0; worker < plan_.workers; ++worker) {
    workers.push_back(Fork([this, worker] { Judge(worker); }));
  }
  absl::flat_hash_set<uint64_t> hashes;
  for (unsigned worker = 0; worker < plan_.workers; ++worker) {
    const std::string died = Wait(workers[worker]);
    const Shared::Place& place = shared_->places[worker];
    if (!died.empty()) {
      outcome.faults.push_back(absl::StrCat(
          script_.name, ", seed ", plan_.seed, ", point ", place.point.load(), ", variant ",
          place.variant.load(), ", recovery point ", place.recovery_point.load(), ": ", died));
    }
    for (const uint64_t hash : ReadVector<uint64_t>(In("hashes", worker))) hashes.insert(hash);
    for (std::string& line : ReadLines(In("faults", worker))) outcome.faults.push_back(line);
  }
  for (std::string& line : ReadLines(In("faults"))) outcome.faults.push_back(line);
  for (const std::string& line : ReadLines(In("sites"))) {
    CallSite site;
    std::istringstream in(line);
    int fence = 0;
    uint64_t address = 0;
    in >> fence >> address >> site.calls >> site.name;
    site.kind = fence != 0 ? CallKind::kFence : CallKind::kFlush;
    site.return_address = reinterpret_cast<const void*>(address);
    outcome.sites.push_back(site);
  }
  for (int kind = 0; kind < 8; ++kind) {
    const Shared::Counts& counts = shared_->counts[kind];
    if (counts.operations == 0) continue;
    outcome.counts[KindName(static_cast<Operation::Kind>(kind))] = {counts.operations,
                                                                    counts.flushes};
  }
  outcome.points = shared_->points;
  outcome.images = shared_->images;
  outcome.recovery_images = shared_->recovery_images;
  outcome.distinct_images = hashes.size();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return outcome;
}

}  // namespace

Outcome RunCampaign(const Script& script, const Plan& plan) { return Campaign(script, plan).Run(); }

}  // namespace daxkv::crash
