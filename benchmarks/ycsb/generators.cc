#include "benchmarks/ycsb/generators.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <functional>

namespace daxkv::ycsb {
namespace {

// YCSB's size of the unscrambled range, and its zeta at theta 0.99, which takes minutes to sum.
constexpr int64_t kScrambledItems = 10'000'000'001;
constexpr double kScrambledZeta = 26.46902820178302;

// base to the power of `exponent`. With YCSB's theta that is 100 but for rounding, and eight
// multiplications are quicker than pow.
double Power(double base, double exponent) {
  const double whole = std::nearbyint(exponent);
  if (std::abs(exponent - whole) > 1e-9 || whole > 1000) return std::pow(base, exponent);
  double power = 1;
  for (auto rest = static_cast<unsigned>(whole); rest > 0; rest >>= 1, base *= base) {
    if (rest & 1) power *= base;
  }
  return power;
}

class Uniform final : public KeyChooser {
 public:
  Uniform(int64_t first, int64_t last) : first_(first), count_(last - first + 1) {}
  int64_t Next(Random* random) override {
    return first_ + static_cast<int64_t>(random->Below(static_cast<uint64_t>(count_)));
  }
  std::unique_ptr<KeyChooser> Clone() const override { return std::make_unique<Uniform>(*this); }

 private:
  int64_t first_, count_;
};

class ScrambledZipfian final : public KeyChooser {
 public:
  ScrambledZipfian(int64_t first, int64_t last)
      : first_(first),
        count_(last - first + 1),
        ranks_(kScrambledItems, ZipfianGenerator::kTheta, kScrambledZeta) {}
  int64_t Next(Random* random) override { return first_ + FnvHash64(ranks_.Next(random)) % count_; }
  std::unique_ptr<KeyChooser> Clone() const override {
    return std::make_unique<ScrambledZipfian>(*this);
  }

 private:
  int64_t first_, count_;
  ZipfianGenerator ranks_;
};

class Latest final : public KeyChooser {
 public:
  explicit Latest(const AcknowledgedCounter* counter)
      : counter_(counter), ages_(std::max<int64_t>(counter->last(), 1)) {}
  int64_t Next(Random* random) override {
    const int64_t last = counter_->last();
    return last - ages_.Next(random, std::max<int64_t>(last, 1));
  }
  std::unique_ptr<KeyChooser> Clone() const override { return std::make_unique<Latest>(*this); }

 private:
  const AcknowledgedCounter* counter_;
  ZipfianGenerator ages_;
};

class Sequential final : public KeyChooser {
 public:
  Sequential(int64_t first, int64_t last)
      : first_(first), count_(last - first + 1), turn_(std::make_shared<std::atomic<int64_t>>(0)) {}
  int64_t Next(Random*) override {
    return first_ + turn_->fetch_add(1, std::memory_order_relaxed) % count_;
  }
  std::unique_ptr<KeyChooser> Clone() const override { return std::make_unique<Sequential>(*this); }

 private:
  int64_t first_, count_;
  std::shared_ptr<std::atomic<int64_t>> turn_;  // Shared by the clones.
};

class Hotspot final : public KeyChooser {
 public:
  Hotspot(int64_t first, int64_t last, double hot_data, double hot_operations)
      : first_(first),
        count_(last - first + 1),
        hot_count_(static_cast<int64_t>(static_cast<double>(count_) * hot_data)),
        hot_operations_(hot_operations) {}
  int64_t Next(Random* random) override {
    const bool wants_hot = random->NextDouble() < hot_operations_;
    // An empty part leaves everything to the other.
    const bool hot = (wants_hot && hot_count_ > 0) || hot_count_ == count_;
    const int64_t size = hot ? hot_count_ : count_ - hot_count_;
    const int64_t start = hot ? first_ : first_ + hot_count_;
    return start + static_cast<int64_t>(random->Below(static_cast<uint64_t>(size)));
  }
  std::unique_ptr<KeyChooser> Clone() const override { return std::make_unique<Hotspot>(*this); }

 private:
  int64_t first_, count_, hot_count_;
  double hot_operations_;
};

class Exponential final : public KeyChooser {
 public:
  Exponential(const AcknowledgedCounter* counter, double percentile, double range)
      : counter_(counter), mean_(range / -std::log(1 - percentile / 100)) {}
  int64_t Next(Random* random) override {
    // 1 - [0, 1) is never 0.
    const double age = -std::log(1 - random->NextDouble()) * mean_;
    return counter_->last() - static_cast<int64_t>(std::min(age, 0x1.0p62));
  }
  std::unique_ptr<KeyChooser> Clone() const override {
    return std::make_unique<Exponential>(*this);
  }

 private:
  const AcknowledgedCounter* counter_;
  double mean_;
};

}  // namespace

int64_t FnvHash64(int64_t value) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int octet = 0; octet < 8; ++octet) {
    hash ^= (static_cast<uint64_t>(value) >> (8 * octet)) & 0xff;
    hash *= 1099511628211;
  }
  return static_cast<int64_t>(static_cast<int64_t>(hash) < 0 ? 0 - hash : hash);
}

std::string_view KeyNamer::Name(int64_t key_number) {
  char digits[24];
  const char* end =
      std::to_chars(digits, digits + sizeof(digits), hashed_ ? FnvHash64(key_number) : key_number)
          .ptr;
  const size_t length = static_cast<size_t>(end - digits);
  const size_t fill =
      static_cast<size_t>(zero_padding_) > length ? static_cast<size_t>(zero_padding_) - length : 0;
  std::memset(buffer_ + 4, '0', fill);
  std::memcpy(buffer_ + 4 + fill, digits, length);
  return {buffer_, 4 + fill + length};
}

ZipfianGenerator::ZipfianGenerator(int64_t items, double theta)
    : ZipfianGenerator(items, theta, Zeta(0, items, theta)) {}

ZipfianGenerator::ZipfianGenerator(int64_t items, double theta, double zeta)
    : theta_(theta), alpha_(1 / (1 - theta)), second_limit_(1 + std::pow(0.5, theta)) {
  SetItems(items, zeta);
}

double ZipfianGenerator::Zeta(int64_t first, int64_t last, double theta) {
  double sum = 0;
  for (int64_t i = first + 1; i <= last; ++i) sum += 1 / std::pow(static_cast<double>(i), theta);
  return sum;
}

void ZipfianGenerator::SetItems(int64_t items, double zeta) {
  items_ = items;
  zeta_ = zeta;
  // The paper's eta. Below three items there is nothing left for it to spread.
  eta_ = items < 3 ? 0
                   : (1 - std::pow(2.0 / static_cast<double>(items), 1 - theta_)) /
                         (1 - Zeta(0, 2, theta_) / zeta);
}

int64_t ZipfianGenerator::Next(Random* random, int64_t items) {
  if (items > items_) SetItems(items, zeta_ + Zeta(items_, items, theta_));
  const double u = random->NextDouble();
  const double scaled = u * zeta_;
  if (scaled < 1 || items < 2) return 0;
  if (scaled < second_limit_ || items < 3) return 1;
  const double rank = static_cast<double>(items) * Power(eta_ * u - eta_ + 1, alpha_);
  return std::min(static_cast<int64_t>(rank), items - 1);  // Rounding may reach `items`.
}

void AcknowledgedCounter::Acknowledge(int64_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  int64_t last = last_acknowledged_.load(std::memory_order_relaxed);
  pending_.push_back(number);
  std::push_heap(pending_.begin(), pending_.end(), std::greater<>());
  while (!pending_.empty() && pending_.front() == last + 1) {
    ++last;
    std::pop_heap(pending_.begin(), pending_.end(), std::greater<>());
    pending_.pop_back();
  }
  // Pairs with the acquire in last().
  last_acknowledged_.store(last, std::memory_order_release);
}

std::unique_ptr<KeyChooser> UniformChooser(int64_t first, int64_t last) {
  return std::make_unique<Uniform>(first, last);
}
std::unique_ptr<KeyChooser> ScrambledZipfianChooser(int64_t first, int64_t last) {
  return std::make_unique<ScrambledZipfian>(first, last);
}
std::unique_ptr<KeyChooser> LatestChooser(const AcknowledgedCounter* counter) {
  return std::make_unique<Latest>(counter);
}
std::unique_ptr<KeyChooser> SequentialChooser(int64_t first, int64_t last) {
  return std::make_unique<Sequential>(first, last);
}
std::unique_ptr<KeyChooser> HotspotChooser(int64_t first, int64_t last, double hot_data,
                                           double hot_operations) {
  return std::make_unique<Hotspot>(first, last, hot_data, hot_operations);
}
std::unique_ptr<KeyChooser> ExponentialChooser(const AcknowledgedCounter* counter,
                                               double percentile, double range) {
  return std::make_unique<Exponential>(counter, percentile, range);
}

LengthGenerator::LengthGenerator(Distribution distribution, int64_t min, int64_t max)
    : distribution_(distribution),
      min_(distribution == Distribution::kConstant ? max : min),
      max_(max),
      zipfian_(distribution == Distribution::kZipfian ? max - min + 1 : 1) {}

int64_t LengthGenerator::Next(Random* random) {
  switch (distribution_) {
    case Distribution::kConstant:
      break;
    case Distribution::kUniform:
      return min_ + static_cast<int64_t>(random->Below(static_cast<uint64_t>(max_ - min_ + 1)));
    case Distribution::kZipfian:
      return min_ + zipfian_.Next(random);
  }
  return max_;
}

}  // namespace daxkv::ycsb
