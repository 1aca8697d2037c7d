// Opens crash images copy-on-write, and spares libpmemobj's own open, by far the dearest part of a
// judgement, where it would only repeat what it did.
//
// The test binary's pmemobj_open and pmemobj_close come before libpmemobj's. An image whose bytes
// outside the store's own parts (page descriptors, pages, the state of opening, the root area) are
// those of the image that is open already, to the line, takes over its libpmemobj pool: the
// mapping's private pages go, so that the file's bytes show, and the lines that libpmemobj's open
// had changed are put back. A pool is really closed as soon as anything outside those parts was
// flushed in it: libpmemobj has changed its own state, and so has what it knows about it.
// daxkv's open runs whole for each image.
//
// Thread safety: none, but that the store that is open may use threads.
#ifndef DAXKV_TESTS_CRASH_POOL_CACHE_H_
#define DAXKV_TESTS_CRASH_POOL_CACHE_H_

#include <cstddef>
#include <cstdint>

#include "tests/crash/crash_image.h"

namespace daxkv::crash {

// From here on stores are opened copy-on-write: they are `image`, which stays as it is. Null:
// stores are opened in earnest again. A pool that is kept open for an image goes with the call for
// another, or for null.
void OpenCopiesOf(CrashImage* image);

// How many times libpmemobj really opened an image.
uint64_t RealOpens();

// Where the open pool's bytes were flushed; called by what takes libpmem's place.
void NoteFlushOfImage(const char* address, size_t size_bytes);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_POOL_CACHE_H_
