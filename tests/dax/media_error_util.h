// Real media errors for tests: pages that raise a real SIGBUS.
#ifndef DAXKV_TESTS_DAX_MEDIA_ERROR_UTIL_H_
#define DAXKV_TESTS_DAX_MEDIA_ERROR_UTIL_H_

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>

#include "dax/pool.h"

namespace daxkv::dax {

// From now on touching the page raises SIGBUS: by the kernel's own injection of memory failures
// (BUS_MCEERR_AR; needs root and CONFIG_MEMORY_FAILURE), or else by a page of an empty file in its
// place (BUS_ADRERR), which leaves the pool's file as it is.
inline void LosePageAt(char* address) {
  static const bool injects = [] {
    void* probe = mmap(nullptr, kPageSizeBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    const bool works = madvise(probe, kPageSizeBytes, MADV_HWPOISON) == 0;
    munmap(probe, kPageSizeBytes);
    printf("media errors by %s\n", works ? "MADV_HWPOISON" : "a page beyond a file's end");
    return works;
  }();
  {
    // For a page of a DAX file the kernel sends the signal here and now, and once.
    const SurviveMediaErrors survive;
    // Where the medium's pages can't be poisoned (on some file systems) the other way serves.
    if (injects && madvise(address, kPageSizeBytes, MADV_HWPOISON) == 0) return;
  }
  const int empty = memfd_create("nothing", MFD_CLOEXEC);
  ASSERT_GE(empty, 0);
  // Not by the C library's name: ThreadSanitizer would take it for a store to the page.
  ASSERT_EQ(syscall(SYS_mmap, address, kPageSizeBytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED, empty, 0),
            reinterpret_cast<intptr_t>(address));
  close(empty);
}

inline void LosePage(const Pool& pool, uint64_t page) { LosePageAt(pool.At(page << kPageShift)); }

}  // namespace daxkv::dax

#endif  // DAXKV_TESTS_DAX_MEDIA_ERROR_UTIL_H_
