// Does operations to a store while a recorder looks.
//
// Thread safety: none.
#ifndef DAXKV_TESTS_CRASH_RECORDING_H_
#define DAXKV_TESTS_CRASH_RECORDING_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/crash/recorder.h"
#include "tests/crash/script.h"

namespace daxkv::crash {

// Of operations of one kind together.
struct OperationCounts {
  uint64_t operations = 0;
  FlushCounts flushes;
};
using CountsByName = std::map<std::string, OperationCounts>;

// Does one operation after another, numbered from `first_number` on. Empty, or why one failed.
std::string RecordOperations(const std::vector<Operation>& operations, size_t first_number,
                             Store& store, Recorder& recorder, CountsByName* counts);
// The same for lists of them at the same time, a thread for each.
std::string RecordThreads(const std::vector<std::vector<Operation>>& threads, size_t first_number,
                          Store& store, Recorder& recorder, CountsByName* counts);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_RECORDING_H_
