#include "benchmarks/ycsb/driver.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <ostream>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "benchmarks/ycsb/core_workload.h"
#include "benchmarks/ycsb/process_memory.h"

namespace daxkv::ycsb {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// What this thread has spent on a CPU; other processes' shares of it are not in it.
uint64_t ThreadCpuNs() {
  struct timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Holds a thread back to its share of the target rate. A thread that fell behind catches up.
class Throttle {
 public:
  // `operations_per_second` of all `threads`; 0: no limit.
  Throttle(double operations_per_second, size_t threads, size_t index, Clock::time_point start) {
    if (operations_per_second <= 0) return;
    const std::chrono::duration<double> tick(static_cast<double>(threads) / operations_per_second);
    tick_ = std::chrono::duration_cast<Clock::duration>(tick);
    // Spread the threads over a tick.
    start_ = start + tick_ * static_cast<int64_t>(index) / static_cast<int64_t>(threads);
  }
  void WaitFor(uint64_t operation) const {
    if (tick_ == Clock::duration::zero()) return;
    std::this_thread::sleep_until(start_ + tick_ * static_cast<int64_t>(operation));
  }

 private:
  Clock::duration tick_ = Clock::duration::zero();
  Clock::time_point start_;
};

// Threads wait here until all are ready, so that preparing counts for none of them.
class StartingGate {
 public:
  void WaitUntilOpen() {
    std::unique_lock<std::mutex> lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  Clock::time_point OpenWhenWaiting(size_t threads) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ == threads; });
    open_ = true;
    start_ = Clock::now();
    changed_.notify_all();
    return start_;
  }
  Clock::time_point start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return start_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t waiting_ = 0;
  bool open_ = false;
  Clock::time_point start_;
};

// One client thread: its session, its measurements, its share of the operations.
struct Client {
  std::unique_ptr<Session> session;
  ThreadMeasurements measurements;
  uint64_t share = 0;   // 0 in a run: until the end of time.
  uint64_t cpu_ns = 0;  // Once it has finished.
  std::thread thread;
};

class PhaseRun {
 public:
  PhaseRun(const Settings& settings, Phase phase, CoreWorkload* workload, Engine* engine,
           std::ostream* status)
      : settings_(settings),
        phase_(phase),
        workload_(workload),
        engine_(engine),
        status_(status),
        target_(settings.Real("target")),
        group_(phase == Phase::kLoad ? engine->load_group_records() : 1) {}

  absl::Status Prepare(Engine* engine) {
    size_t threads = static_cast<size_t>(settings_.Whole("threadcount"));
    const uint64_t operations = workload_->operations();
    if (operations > 0) threads = std::min<uint64_t>(threads, operations);
    for (size_t i = 0; i < threads; ++i) {
      auto client = std::make_unique<Client>();
      client->share = operations / threads + (i < operations % threads ? 1 : 0);
      absl::StatusOr<std::unique_ptr<Session>> session = engine->NewSession();
      if (!session.ok()) return session.status();
      client->session = *std::move(session);
      clients_.push_back(std::move(client));
    }
    if (phase_ != Phase::kRun) return absl::OkStatus();
    for (int64_t i = 0; i < settings_.Whole("backgroundwriters"); ++i) {
      auto writer = std::make_unique<Client>();
      absl::StatusOr<std::unique_ptr<Session>> session = engine->NewSession();
      if (!session.ok()) return session.status();
      writer->session = *std::move(session);
      writers_.push_back(std::move(writer));
    }
    return absl::OkStatus();
  }

  // Runs all clients to their end; returns the milliseconds it took.
  double Run() {
    for (size_t i = 0; i < clients_.size(); ++i) {
      clients_[i]->thread = std::thread([this, i] { RunClient(i); });
    }
    for (size_t i = 0; i < writers_.size(); ++i) {
      writers_[i]->thread = std::thread([this, i] { RunWriter(i); });
    }
    std::thread compactor;
    const bool compacts = phase_ == Phase::kRun && settings_.Flag("backgroundcompaction");
    if (compacts) compactor = std::thread([this] { RunCompactions(); });
    start_ = gate_.OpenWhenWaiting(clients_.size() + writers_.size() + (compacts ? 1 : 0));
    Watch();
    for (const std::unique_ptr<Client>& client : clients_) client->thread.join();
    // Relaxed: a flag that says nothing about other memory.
    done_.store(true, std::memory_order_relaxed);
    for (const std::unique_ptr<Client>& writer : writers_) writer->thread.join();
    if (compacts) compactor.join();
    return std::chrono::duration<double, std::milli>(end_ - start_).count();
  }

  MeasurementTotals Totals(bool finished) const {
    MeasurementTotals totals;
    for (const std::unique_ptr<Client>& client : clients_) {
      client->measurements.AddTo(&totals, finished);
    }
    return totals;
  }
  // What the clients spent on CPUs; once Run has returned.
  uint64_t CpuNs() const {
    uint64_t sum_ns = 0;
    for (const std::unique_ptr<Client>& client : clients_) sum_ns += client->cpu_ns;
    return sum_ns;
  }
  // What the background writers did; once Run has returned.
  MeasurementTotals WriterTotals() const {
    MeasurementTotals totals;
    for (const std::unique_ptr<Client>& writer : writers_) {
      writer->measurements.AddTo(&totals, /*finished=*/true);
    }
    return totals;
  }
  // Of the background; once Run has returned. An error ended the run.
  const absl::StatusOr<uint64_t>& Compactions() const { return compactions_; }

 private:
  // Updates without a pause for as long as the clients run.
  void RunWriter(size_t index) {
    Client* writer = writers_[index].get();
    Worker worker(workload_, writer->session.get(), &writer->measurements, clients_.size() + index);
    gate_.WaitUntilOpen();
    while (!done_.load(std::memory_order_relaxed)) worker.UpdateAny();
  }

  // Compacts again and again for as long as the clients run.
  void RunCompactions() {
    gate_.WaitUntilOpen();
    while (!done_.load(std::memory_order_relaxed)) {
      if (absl::Status status = engine_->Compact(); !status.ok()) {
        compactions_ = status;
        stop_.store(true, std::memory_order_relaxed);
        return;
      }
      ++*compactions_;
    }
  }

  void RunClient(size_t index) {
    Client* client = clients_[index].get();
    Worker worker(workload_, client->session.get(), &client->measurements, index);
    if (phase_ == Phase::kRun && settings_.Flag("warmup")) {
      worker.ReadAll(index, clients_.size());
    }
    gate_.WaitUntilOpen();
    const Throttle throttle(target_, clients_.size(), index, gate_.start());
    const uint64_t cpu_start_ns = ThreadCpuNs();
    if (phase_ == Phase::kLoad) {
      LoadShare(client->share, throttle, &worker);
    } else if (phase_ == Phase::kDelete) {
      for (uint64_t done = 0; done < client->share && !stopped(); ++done) {
        throttle.WaitFor(done);
        worker.Delete().IgnoreError();  // Measured there.
      }
    } else {
      const uint64_t share = client->share == 0 ? UINT64_MAX : client->share;
      for (uint64_t done = 0; done < share && !stopped();) {
        throttle.WaitFor(done);
        done += worker.Transact(share - done);
      }
    }
    client->cpu_ns = ThreadCpuNs() - cpu_start_ns;
    const std::lock_guard<std::mutex> lock(mutex_);
    ++finished_;
    end_ = Clock::now();
    changed_.notify_all();
  }

  void LoadShare(uint64_t share, const Throttle& throttle, Worker* worker) {
    for (uint64_t done = 0; done < share && !stopped();) {
      throttle.WaitFor(done);
      const uint64_t count = std::min<uint64_t>(group_, share - done);
      if (!worker->Load(count).ok()) stop_.store(true, std::memory_order_relaxed);
      done += count;
    }
  }

  // Relaxed: a flag that says nothing about other memory.
  bool stopped() const { return stop_.load(std::memory_order_relaxed); }

  // Waits for the clients, prints the status lines, ends the run when its time is up.
  void Watch() {
    const auto deadline = start_ + std::chrono::seconds(settings_.Whole("maxexecutiontime"));
    const bool has_deadline = settings_.Whole("maxexecutiontime") > 0;
    const auto interval = std::chrono::seconds(settings_.Whole("status.interval"));
    Clock::time_point next_status = start_ + interval;
    MeasurementTotals before;
    std::unique_lock<std::mutex> lock(mutex_);
    const auto all_finished = [this] { return finished_ == clients_.size(); };
    while (!all_finished()) {
      Clock::time_point wake = Clock::now() + std::chrono::hours(1);
      if (status_ != nullptr) wake = std::min(wake, next_status);
      if (has_deadline && !stopped()) wake = std::min(wake, deadline);
      changed_.wait_until(lock, wake, all_finished);
      if (has_deadline && Clock::now() >= deadline) stop_.store(true, std::memory_order_relaxed);
      if (status_ != nullptr && Clock::now() >= next_status && !all_finished()) {
        lock.unlock();
        PrintStatus(interval, &before);
        next_status += interval;
        lock.lock();
      }
    }
  }

  void PrintStatus(std::chrono::seconds interval, MeasurementTotals* before) {
    MeasurementTotals now = Totals(/*finished=*/false);
    const uint64_t done = Done(now);
    const double seconds = MillisecondsSince(start_) / 1000;
    const double rate =
        static_cast<double>(done - Done(*before)) / static_cast<double>(interval.count());
    std::string line =
        absl::StrFormat("%s %.0f sec: %d operations; %.1f current ops/sec;",
                        absl::FormatTime("%Y-%m-%d %H:%M:%E3S", absl::Now(), absl::LocalTimeZone()),
                        seconds, done, rate);
    if (workload_->operations() > done && done > 0) {
      const double left = static_cast<double>(workload_->operations() - done);
      absl::StrAppendFormat(&line, " est completion in %.0f seconds",
                            left * seconds / static_cast<double>(done));
    }
    *status_ << line << IntervalText(*before, now) << std::endl;
    *before = std::move(now);
  }

 public:
  // Operations of the mix: a read-modify-write is one of them, its read and update are not.
  static uint64_t Done(const MeasurementTotals& totals) {
    const auto all = [&](Operation operation) {
      uint64_t count = 0;
      for (uint64_t outcomes : totals.operations[static_cast<size_t>(operation)].outcomes) {
        count += outcomes;
      }
      return count;
    };
    const uint64_t parts = all(Operation::kRead) + all(Operation::kUpdate);
    // Each read-modify-write brought one of either. Counters are read one after the other while
    // threads go on, hence the guard.
    const uint64_t twice = std::min(parts, 2 * all(Operation::kReadModifyWrite));
    return parts - twice + all(Operation::kInsert) + all(Operation::kScan) +
           all(Operation::kReadModifyWrite) + all(Operation::kDelete);
  }

 private:
  const Settings& settings_;
  const Phase phase_;
  CoreWorkload* const workload_;
  Engine* const engine_;
  std::ostream* const status_;
  const double target_;
  const size_t group_;
  std::vector<std::unique_ptr<Client>> clients_, writers_;
  StartingGate gate_;
  Clock::time_point start_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> done_{false};  // For the background.
  absl::StatusOr<uint64_t> compactions_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t finished_ = 0;    // Under mutex_.
  Clock::time_point end_;  // Of the last to finish; under mutex_.
};

void Append(std::vector<ReportLine> more, std::vector<ReportLine>* lines) {
  std::move(more.begin(), more.end(), std::back_inserter(*lines));
}

}  // namespace

std::vector<PropertyRule> DriverRules() {
  return {
      WholeRule("threadcount", "1", 1, 1024, "client threads; -threads"),
      RealRule("target", "0", 0, 1'000'000'000, "operations a second, all threads; 0: no limit"),
      WholeRule("maxexecutiontime", "0", 0, 31'536'000,
                "seconds after which a phase ends; 0: never"),
      WholeRule("backgroundwriters", "0", 0, 64,
                "threads besides that update at full speed as long as a run lasts"),
      FlagRule("backgroundcompaction", false,
               "a thread besides that compacts the store again and again as long as a run lasts"),
      FlagRule(
          "warmup", false,
          "read every record once before a run begins, so that no page is touched first in it"),
      FlagRule("compactatend", false, "compact the store when the operations are done"),
      WholeRule("status.interval", "10", 1, 86400, "seconds between the status lines of -s"),
      ChoiceRule("measurementtype", {"hdrhistogram", "histogram"},
                 "both are one histogram with three significant digits"),
      ChoiceRule("measurement.interval", {"op"}, "latencies count from an operation's start"),
      TextRule("hdrhistogram.percentiles", "50,95,99,99.9", "percentiles to report"),
      ChoiceRule("exporter",
                 {"site.ycsb.measurements.exporter.TextMeasurementsExporter",
                  "com.yahoo.ycsb.measurements.exporter.TextMeasurementsExporter"},
                 "the report's form; there is one"),
      TextRule("exportfile", "", "where the report goes; empty: standard output"),
  };
}

absl::StatusOr<RunResult> RunPhase(const EngineType& type, const Settings& settings, Phase phase,
                                   std::ostream* status) {
  absl::StatusOr<std::vector<double>> percentiles =
      ParsePercentiles(settings.Text("hdrhistogram.percentiles"));
  if (!percentiles.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(settings.Origin("hdrhistogram.percentiles"),
                     ": hdrhistogram.percentiles: ", std::string(percentiles.status().message())));
  }
  absl::StatusOr<std::unique_ptr<CoreWorkload>> workload = CoreWorkload::Make(settings, phase);
  if (!workload.ok()) return workload.status();

  const Clock::time_point open_start = Clock::now();
  absl::StatusOr<std::unique_ptr<Engine>> engine = type.open(settings, phase);
  if (!engine.ok()) return engine.status();
  const double open_ms = MillisecondsSince(open_start);

  RunResult result;
  MeasurementTotals writer_totals;
  double run_ms;
  uint64_t cpu_ns, compactions = 0;
  {
    PhaseRun run(settings, phase, workload->get(), engine->get(), status);
    if (absl::Status prepared = run.Prepare(engine->get()); !prepared.ok()) return prepared;
    run_ms = run.Run();
    result.totals = run.Totals(/*finished=*/true);
    writer_totals = run.WriterTotals();
    cpu_ns = run.CpuNs();
    if (!run.Compactions().ok()) return run.Compactions().status();
    compactions = *run.Compactions();
  }
  double compact_ms = 0;
  if (settings.Flag("compactatend")) {
    const Clock::time_point compact_start = Clock::now();
    if (absl::Status status = (*engine)->Compact(); !status.ok()) return status;
    compact_ms = MillisecondsSince(compact_start);
  }
  const std::vector<ReportLine> process_lines = ProcessMemoryLines();
  absl::StatusOr<std::vector<ReportLine>> report = (*engine)->Report();
  if (!report.ok()) return report.status();
  const Clock::time_point close_start = Clock::now();
  if (absl::Status closed = (*engine)->Close(); !closed.ok()) return closed;
  ThreadMeasurements cleanup;
  cleanup.Record(Operation::kCleanup, static_cast<uint64_t>(MillisecondsSince(close_start) * 1e6),
                 absl::OkStatus());
  cleanup.AddTo(&result.totals, /*finished=*/true);

  const uint64_t operations = PhaseRun::Done(result.totals);
  result.lines = OverallLines(run_ms, operations);
  result.lines.push_back(
      {"OVERALL", "ClientCpuPerOperation(ns)",
       absl::StrFormat(
           "%.1f",
           operations == 0 ? 0.0 : static_cast<double>(cpu_ns) / static_cast<double>(operations))});
  Append(OperationLines(result.totals, *percentiles), &result.lines);
  for (ReportLine& line : OperationLines(writer_totals, *percentiles)) {
    line.section = "BACKGROUND-" + line.section;
    result.lines.push_back(std::move(line));
  }
  if (settings.Flag("backgroundcompaction")) {
    result.lines.push_back({"BACKGROUND-COMPACTION", "Operations", absl::StrCat(compactions)});
  }
  Append(process_lines, &result.lines);
  const std::string section = absl::AsciiStrToUpper(type.name);
  result.lines.push_back({section, "OpenTime(ms)", absl::StrFormat("%.3f", open_ms)});
  if (settings.Flag("compactatend")) {
    result.lines.push_back({section, "CompactTime(ms)", absl::StrFormat("%.3f", compact_ms)});
  }
  Append(*std::move(report), &result.lines);
  return result;
}

}  // namespace daxkv::ycsb
