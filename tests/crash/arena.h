// Address space for a pool's bytes, of which files may take parts.
#ifndef DAXKV_TESTS_CRASH_ARENA_H_
#define DAXKV_TESTS_CRASH_ARENA_H_

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/crash/trace.h"

namespace daxkv::crash {

[[noreturn]] inline void Die(const char* what) {
  perror(what);
  abort();
}

inline char* MapArena() {
  void* mapped = mmap(nullptr, kArenaSizeBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) Die("mmap of an arena");
  return static_cast<char*>(mapped);
}

inline void UnmapArena(char* arena) {
  if (arena != nullptr) syscall(SYS_munmap, arena, kArenaSizeBytes);
}

// Lets a file take the arena's bytes from `offset` on.
inline void MapFile(char* arena, uint64_t offset, uint64_t size_bytes, int file) {
  if (offset + size_bytes > kArenaSizeBytes) Die("the pool is larger than an arena");
  void* mapped =
      mmap(arena + offset, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
  if (mapped == MAP_FAILED) Die("mmap of a part");
}

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_ARENA_H_
