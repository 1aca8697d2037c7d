// Check counting for the test groups: every Check() is one dynamic check of one group.
#ifndef DAXKV_TESTS_XARRAY_GROUPS_TESTING_H_
#define DAXKV_TESTS_XARRAY_GROUPS_TESTING_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <string>

#include "tests/xarray/xarray_testing.h"

namespace daxkv::xarray {

// The full number of checks runs in optimized builds without sanitizers, about a hundredth
// elsewhere.
#if defined(NDEBUG) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(DAXKV_RCU_TSAN)
inline constexpr uint64_t kScale = 1;
#else
inline constexpr uint64_t kScale = 100;
#endif

// Counts the checks of one group at one node size; when it ends, prints the count and fails if it
// is below `at_least`.
class Group {
 public:
  Group(const char* name, unsigned slots, uint64_t at_least)
      : name_(name), slots_(slots), at_least_(kScale == 1 ? at_least : 1) {}
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    std::printf("[ CHECKS ] %-24s %2u slots %12llu checks\n", name_, slots_,
                static_cast<unsigned long long>(checks_));
    EXPECT_GE(checks_, at_least_) << name_ << " checks less than it says";
    EXPECT_EQ(failures_, 0u);
  }

  // At most the first ten failures of a group are told.
  void Check(bool holds, const char* what, uint64_t a = 0, uint64_t b = 0) {
    ++checks_;
    if (__builtin_expect(!holds, false) && failures_++ < 10) {
      ADD_FAILURE() << name_ << ": " << what << " (" << a << ", " << b << ")";
    }
  }

 private:
  const char* name_;
  unsigned slots_;
  uint64_t at_least_;
  uint64_t checks_ = 0;
  uint64_t failures_ = 0;
};

inline constexpr uint64_t MaskOf(unsigned order) { return (uint64_t{1} << order) - 1; }
// A value that tells its index and order.
inline Entry Tagged(uint64_t index, unsigned order) {
  return V((index << 6 | order) & Entry::kMaxValue);
}

}  // namespace daxkv::xarray

#endif  // DAXKV_TESTS_XARRAY_GROUPS_TESTING_H_
