// Stands in for fallocate and its kin in the test's binary, of libpmemobj's calls too: asks the
// test, which defines OnFallocate, and passes the call on.
#ifndef DAXKV_TESTS_DAX_FALLOCATE_WATCH_H_
#define DAXKV_TESTS_DAX_FALLOCATE_WATCH_H_

#include <sys/types.h>

namespace daxkv {

// Before a call for blocks (punching is none): 0, or the errno with which it is to fail. From any
// thread.
int OnFallocate(off_t length);

}  // namespace daxkv

#endif  // DAXKV_TESTS_DAX_FALLOCATE_WATCH_H_
