#include "benchmarks/ycsb/process_memory.h"

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace daxkv::ycsb {

std::vector<ReportLine> ProcessMemoryLines() {
  std::vector<ReportLine> lines;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    // "RssAnon:	     352 kB".
    std::istringstream words(line);
    std::string name;
    uint64_t kib;
    if (!(words >> name >> kib)) continue;
    if (name != "RssAnon:" && name != "RssFile:" && name != "RssShmem:") continue;
    name.pop_back();
    lines.push_back({"PROCESS", absl::StrCat(name, "(bytes)"), absl::StrCat(kib * 1024)});
  }
  return lines;
}

}  // namespace daxkv::ycsb
