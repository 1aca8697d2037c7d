// YCSB's number generators: who is asked for how often.
//
// Every generator is a plain value that one thread owns; threads share only AcknowledgedCounter
// and plain atomic counters. Numbers are those of YCSB's own core package (its off-by-one at the
// end of the scrambled range included), so that figures compare.
#ifndef DAXKV_BENCHMARKS_YCSB_GENERATORS_H_
#define DAXKV_BENCHMARKS_YCSB_GENERATORS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/ycsb/random.h"

namespace daxkv::ycsb {

// FNV-1a over the 8 bytes of `value`, lowest first, and then Java's Math.abs: never negative,
// except that the most negative number stays itself.
int64_t FnvHash64(int64_t value);

// Writes key names without allocating.
class KeyNamer {
 public:
  static constexpr int kMaxZeroPadding = 1000;

  // `hashed`: the name holds FnvHash64 of the key's number, else the number itself.
  KeyNamer(bool hashed, int zero_padding) : hashed_(hashed), zero_padding_(zero_padding) {}
  // "user" and the digits, zeros before them up to `zero_padding`. Good until the next call.
  std::string_view Name(int64_t key_number);

 private:
  const bool hashed_;
  const int zero_padding_;
  char buffer_[kMaxZeroPadding + 32] = {'u', 's', 'e', 'r'};
};

// Ranks 0..items-1; rank r comes with probability proportional to 1 / (r + 1)^theta.
// Source: Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994.
// Ranks 0 and 1 follow the law exactly, the others its integral.
class ZipfianGenerator {
 public:
  static constexpr double kTheta = 0.99;

  // Costs one pow() an item.
  explicit ZipfianGenerator(int64_t items, double theta = kTheta);
  // With the sum of 1 / i^theta over 1..items known in advance.
  ZipfianGenerator(int64_t items, double theta, double zeta);

  int64_t Next(Random* random) { return Next(random, items_); }
  // Over 0..items-1; costs one pow() for each item more than there have been so far.
  int64_t Next(Random* random, int64_t items);

  // The sum of 1 / i^theta over first < i <= last.
  static double Zeta(int64_t first, int64_t last, double theta);

 private:
  void SetItems(int64_t items, double zeta);

  double theta_;
  double alpha_;         // 1 / (1 - theta).
  double second_limit_;  // 1 + 0.5^theta: below it, rank 1.
  int64_t items_ = 0;
  double zeta_ = 0;
  double eta_ = 0;
};

// Numbers of inserted keys, given out in order; a number counts as there for readers once it and
// all before it have been acknowledged. Any thread may call every method at the same time.
class AcknowledgedCounter {
 public:
  explicit AcknowledgedCounter(int64_t first) : next_(first), last_acknowledged_(first - 1) {}

  int64_t Next() { return next_.fetch_add(1, std::memory_order_relaxed); }
  void Acknowledge(int64_t number);
  // Pairs with the release in Acknowledge: who sees the number finds its insert done.
  int64_t last() const { return last_acknowledged_.load(std::memory_order_acquire); }

 private:
  std::mutex mutex_;
  std::vector<int64_t> pending_;  // A min-heap of those above a gap. At most one per thread.
  alignas(64) std::atomic<int64_t> next_;
  alignas(64) std::atomic<int64_t> last_acknowledged_;
};

// Chooses the key that the next operation touches. May give a number above the last acknowledged
// one, or below 0: the caller then asks again, as YCSB's does.
class KeyChooser {
 public:
  virtual ~KeyChooser() = default;
  virtual int64_t Next(Random* random) = 0;
  // Another of the same distribution, for another thread.
  virtual std::unique_ptr<KeyChooser> Clone() const = 0;
};

// Every key of first..last alike.
std::unique_ptr<KeyChooser> UniformChooser(int64_t first, int64_t last);
// Zipfian over first..last, the popular keys scattered by FnvHash64 of their ranks among
// 10,000,000,001 items, so that the popular keys stay the same when the range grows.
std::unique_ptr<KeyChooser> ScrambledZipfianChooser(int64_t first, int64_t last);
// Zipfian by age: the last acknowledged key is the most popular. `counter` must outlive it.
std::unique_ptr<KeyChooser> LatestChooser(const AcknowledgedCounter* counter);
// first..last in turn, over and over, all threads together.
std::unique_ptr<KeyChooser> SequentialChooser(int64_t first, int64_t last);
// `hot_operations` of the choices fall into the first `hot_data` of the keys; both are fractions.
std::unique_ptr<KeyChooser> HotspotChooser(int64_t first, int64_t last, double hot_data,
                                           double hot_operations);
// Exponential by age: `percentile` per cent of the choices fall into the newest `range` keys.
std::unique_ptr<KeyChooser> ExponentialChooser(const AcknowledgedCounter* counter,
                                               double percentile, double range);

// Lengths of fields and scans, min..max.
class LengthGenerator {
 public:
  enum class Distribution { kConstant, kUniform, kZipfian };

  // kConstant always gives `max`; kZipfian prefers short ones.
  LengthGenerator(Distribution distribution, int64_t min, int64_t max);
  int64_t Next(Random* random);
  bool is_constant() const { return distribution_ == Distribution::kConstant || min_ == max_; }
  int64_t max() const { return max_; }

 private:
  Distribution distribution_;
  int64_t min_, max_;
  ZipfianGenerator zipfian_;
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_GENERATORS_H_
