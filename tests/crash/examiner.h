// Builds and judges one worker's share of the images of a trace.
//
// Thread safety: none.
#ifndef DAXKV_TESTS_CRASH_EXAMINER_H_
#define DAXKV_TESTS_CRASH_EXAMINER_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "tests/crash/campaign.h"
#include "tests/crash/crash_image.h"
#include "tests/crash/expectation.h"
#include "tests/crash/judge.h"
#include "tests/crash/trace.h"

namespace daxkv::crash {

// Where a worker is, should it die there; and what it has done. Shared by processes.
struct Progress {
  std::atomic<uint64_t> point, variant, recovery_point;
  std::atomic<uint64_t> images, recovery_images, real_opens;
};

class Examiner {
 public:
  // Files are made in `directory`. `stop`: workers that found enough tell each other.
  Examiner(const Script& script, const Plan& plan, std::string directory, unsigned worker,
           Progress* progress, std::atomic<bool>* stop);

  void Examine(const Trace& trace);
  const absl::flat_hash_set<uint64_t>& hashes() const { return hashes_; }
  // Called with each line that tells of a fault.
  std::function<void(const std::string&)> on_fault;

 private:
  uint64_t Images() const { return std::max<uint64_t>(kLeastImages, plan_.images); }
  // The numbers, from 1, of the points to look at.
  std::vector<uint64_t> ChoosePoints(const Trace& trace) const;
  std::vector<uint64_t> ChooseMutatedPoints(const Trace& trace) const;
  Survivors SurvivorsOf(uint64_t variant) const;
  void ExaminePoint(CrashImage& image, const Expectation& expected, uint64_t point);
  // `image` is as it was when it was built.
  void JudgeOne(CrashImage& image, const Expectation& expected, const std::string& where);
  std::string JudgeInPlace(CrashImage& image, const Expectation& expected);
  std::string JudgeCopy(const CrashImage& image, const Expectation& expected);
  void JudgeRecovery(CrashImage& image, const Expectation& expected, uint64_t seed,
                     const std::string& where);
  void JudgeImagesOfRecovery(const Trace& trace, const std::vector<Operation>& operations,
                             Expectation expected, uint64_t seed, const std::string& where);
  std::string Keep(const CrashImage& image);

  static constexpr uint64_t kLeastImages = 20;

  const Script& script_;
  const Plan& plan_;
  const std::string directory_;
  const unsigned worker_;
  Progress& progress_;
  std::atomic<bool>& stop_;
  const std::vector<const Operation*> operations_;
  Damage damage_;          // To the store, at this place of the trace.
  uint64_t variants_ = 0;  // Of a point.
  uint64_t judged_ = 0;    // First level.
  unsigned faults_ = 0;
  absl::flat_hash_set<uint64_t> hashes_;
};

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_EXAMINER_H_
