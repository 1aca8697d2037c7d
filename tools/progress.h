// A progress line on stderr: records/s, bytes, time to go. Silent unless stderr is a terminal.
#ifndef DAXKV_TOOLS_PROGRESS_H_
#define DAXKV_TOOLS_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace daxkv::tools {

class Progress {
 public:
  // `total_bytes` (or, if that is 0, `total_records`) makes a bar and an ETA; both 0: unknown.
  Progress(std::string what, uint64_t total_bytes, uint64_t total_records);
  // Clears the line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Cheap to call per record: draws at most ten times a second.
  void Update(uint64_t records, uint64_t size_bytes);
  absl::Duration elapsed() const { return absl::Now() - start_; }

 private:
  void Draw(uint64_t records, uint64_t size_bytes, absl::Time now);

  const std::string what_;
  const uint64_t total_bytes_;
  const uint64_t total_records_;
  const bool on_terminal_;
  const absl::Time start_;
  absl::Time last_drawn_ = absl::InfinitePast();
  uint64_t calls_ = 0;
};

}  // namespace daxkv::tools

#endif  // DAXKV_TOOLS_PROGRESS_H_
