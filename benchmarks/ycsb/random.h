// The driver's random numbers: xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom
// Number Generators", 2021), seeded through splitmix64. One per thread; the same seed gives the
// same sequence on every machine.
#ifndef DAXKV_BENCHMARKS_YCSB_RANDOM_H_
#define DAXKV_BENCHMARKS_YCSB_RANDOM_H_

#include <cstdint>

namespace daxkv::ycsb {

class Random {
 public:
  // Different `stream`s of one seed are independent for every practical purpose.
  explicit Random(uint64_t seed, uint64_t stream = 0) {
    uint64_t mix = seed ^ (stream * 0xd1342543de82ef95);
    for (uint64_t& word : state_) word = SplitMix(&mix);
  }

  uint64_t Next() {
    const uint64_t result = RotateLeft(state_[0] + state_[3], 23) + state_[0];
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = RotateLeft(state_[3], 45);
    return result;
  }

  // In [0, 1), all 53 bits random.
  double NextDouble() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

  // In [0, bound), bound >= 1. Lemire's multiplication without his rejection step: the bias is
  // below bound / 2^64.
  uint64_t Below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * bound) >> 64);
  }

 private:
  static uint64_t RotateLeft(uint64_t word, int bits) {
    return (word << bits) | (word >> (64 - bits));
  }
  static uint64_t SplitMix(uint64_t* state) {
    uint64_t mixed = (*state += 0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }

  uint64_t state_[4];
};

}  // namespace daxkv::ycsb

#endif  // DAXKV_BENCHMARKS_YCSB_RANDOM_H_
