#include "tests/crash/recording.h"

#include <thread>

#include "absl/strings/str_cat.h"

namespace daxkv::crash {
namespace {

std::string RecordOne(const Operation& operation, size_t number, Store& store, Recorder& recorder) {
  recorder.Begin(number);
  const absl::Status done = operation.run(store, operation.changes);
  if (!done.ok()) {
    return absl::StrCat("operation ", number, ", ", operation.name, ": ", done.ToString());
  }
  if (operation.unfinished) {
    recorder.Point();
  } else {
    recorder.End(number);
  }
  return "";
}

void AddCounts(const FlushCounts& more, FlushCounts* sum) {
  sum->flushes += more.flushes;
  sum->lines += more.lines;
  sum->clean_lines += more.clean_lines;
  sum->repeated_lines += more.repeated_lines;
  sum->fences += more.fences;
  sum->empty_fences += more.empty_fences;
}

}  // namespace

std::string RecordOperations(const std::vector<Operation>& operations, size_t first_number,
                             Store& store, Recorder& recorder, CountsByName* counts) {
  recorder.TakeCounts();
  for (size_t i = 0; i < operations.size(); ++i) {
    std::string fault = RecordOne(operations[i], first_number + i, store, recorder);
    if (!fault.empty()) return fault;
    OperationCounts& sum = (*counts)[operations[i].name];
    ++sum.operations;
    AddCounts(recorder.TakeCounts(), &sum.flushes);
  }
  return "";
}

std::string RecordThreads(const std::vector<std::vector<Operation>>& threads, size_t first_number,
                          Store& store, Recorder& recorder, CountsByName* counts) {
  recorder.TakeCounts();
  OperationCounts& sum = (*counts)["of threads"];
  std::vector<std::string> faults(threads.size());
  std::vector<std::thread> running;
  size_t number = first_number;
  for (size_t i = 0; i < threads.size(); ++i) {
    running.emplace_back([&, i, number] {
      for (size_t done = 0; done < threads[i].size() && faults[i].empty(); ++done) {
        faults[i] = RecordOne(threads[i][done], number + done, store, recorder);
      }
    });
    number += threads[i].size();
    sum.operations += threads[i].size();
  }
  for (std::thread& thread : running) thread.join();
  AddCounts(recorder.TakeCounts(), &sum.flushes);
  for (const std::string& fault : faults) {
    if (!fault.empty()) return fault;
  }
  return "";
}

}  // namespace daxkv::crash
