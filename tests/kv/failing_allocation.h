// Makes operator new, and the allocation of array nodes, fail in this test binary. The .cc file
// replaces the one and hooks into the other; nothing else need be done.
//
// Thread safety: one test thread arms and disarms; the replaced operators run on every thread.
#ifndef DAXKV_TESTS_KV_FAILING_ALLOCATION_H_
#define DAXKV_TESTS_KV_FAILING_ALLOCATION_H_

#include <cstdint>

namespace daxkv::kv {

enum class FailingThreads { kThis, kAll };
enum class Failing { kOne, kThatAndAllAfter };

// While one lives, allocation number `allowed` (counted from 0) of the threads fails.
class FailingAllocation {
 public:
  FailingAllocation(int64_t allowed, FailingThreads threads, Failing failing);
  // The `one_in`-th part of all allocations fails, by chance.
  FailingAllocation(uint64_t seed, uint64_t one_in);
  ~FailingAllocation();
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;

  // How many have failed.
  int64_t failed() const;
};

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_FAILING_ALLOCATION_H_
