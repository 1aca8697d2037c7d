#include "tools/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

constexpr absl::Duration kBetweenDraws = absl::Milliseconds(100);
constexpr uint64_t kCallsBetweenClockReads = 64;
constexpr int kBarWidth = 24;

}  // namespace

Progress::Progress(std::string what, uint64_t total_bytes, uint64_t total_records)
    : what_(std::move(what)),
      total_bytes_(total_bytes),
      total_records_(total_records),
      on_terminal_(isatty(STDERR_FILENO) == 1),
      start_(absl::Now()) {}

Progress::~Progress() {
  if (on_terminal_ && last_drawn_ != absl::InfinitePast()) std::fputs("\r\x1b[K", stderr);
}

void Progress::Update(uint64_t records, uint64_t size_bytes) {
  if (!on_terminal_ || calls_++ % kCallsBetweenClockReads != 0) return;
  const absl::Time now = absl::Now();
  if (now - last_drawn_ >= kBetweenDraws) Draw(records, size_bytes, now);
}

void Progress::Draw(uint64_t records, uint64_t size_bytes, absl::Time now) {
  last_drawn_ = now;
  const double seconds = std::max(1e-3, absl::ToDoubleSeconds(now - start_));
  std::string line = what_;
  const uint64_t total = total_bytes_ != 0 ? total_bytes_ : total_records_;
  const uint64_t done = total_bytes_ != 0 ? size_bytes : records;
  if (total != 0) {
    const double part = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const int filled = static_cast<int>(part * kBarWidth);
    absl::StrAppend(&line, " [", std::string(static_cast<size_t>(filled), '#'),
                    std::string(static_cast<size_t>(kBarWidth - filled), '.'), "]",
                    absl::StrFormat(" %3.0f %%", part * 100));
    if (part > 0)
      absl::StrAppend(
          &line, ", ",
          absl::FormatDuration(absl::Seconds(static_cast<int64_t>(seconds / part - seconds + 0.5))),
          " to go");
  }
  absl::StrAppend(&line, ", ", Grouped(records), " records (",
                  Grouped(static_cast<uint64_t>(static_cast<double>(records) / seconds)), "/s), ",
                  HumanBytes(size_bytes));
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
}

}  // namespace daxkv::tools
