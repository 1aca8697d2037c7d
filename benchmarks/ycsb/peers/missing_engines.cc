// Names the peers whose libraries were not there when this program was built.
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "benchmarks/ycsb/engine.h"

namespace daxkv::ycsb {
namespace {

// DAXKV_MISSING_ENGINES comes from the build: names with commas between.
const bool kRegistered = [] {
  const std::vector<std::string> names =
      absl::StrSplit(DAXKV_MISSING_ENGINES, ',', absl::SkipEmpty());
  for (const std::string& name : names) {
    MissingEngineRegistration(
        {name, "its library was not installed; run tools/setup --peers and build again"});
  }
  return true;
}();

}  // namespace
}  // namespace daxkv::ycsb
