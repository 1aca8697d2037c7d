// How much of a stretch of memory the processor maps by huge pages (2 MiB), as the kernel counts
// it.
#ifndef DAXKV_DAX_HUGE_PAGES_H_
#define DAXKV_DAX_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace daxkv::dax {

struct HugePages {
  uint64_t mapped_bytes = 0;    // Address space with a file behind it.
  uint64_t resident_bytes = 0;  // Of it, mapped by page tables now.
  // Of that, by huge pages, by what is behind it: tmpfs, another file's page cache, private memory.
  uint64_t shmem_bytes = 0;
  uint64_t file_bytes = 0;
  uint64_t anonymous_bytes = 0;
  // False on DAX, of whose mappings the kernel keeps no count: then only mapped_bytes tells
  // something. (There, count page faults: tests/dax_vm.)
  bool counted = true;

  uint64_t huge_bytes() const { return shmem_bytes + file_bytes + anonymous_bytes; }
};

// From /proc/self/smaps, for the mappings that touch [begin, begin + size_bytes), whole. The kernel
// walks their page tables for it: milliseconds for a GiB of small pages.
//   kInternal  it can't be read
absl::StatusOr<HugePages> CountHugePages(const void* begin, uint64_t size_bytes);

// Asks the kernel to use huge pages there where it has a choice (MADV_HUGEPAGE; tmpfs mounted with
// huge=advise, khugepaged). Nothing happens where it has none.
void AdviseHugePages(void* begin, uint64_t size_bytes);

// Has the kernel map the pages now (MADV_POPULATE_READ or _WRITE), and whole 2 MiB of them by huge
// pages if it can (MADV_COLLAPSE, Linux 6.1; a failure of that is no error). Pages without blocks
// get some.
//   kUnimplemented      a kernel before 5.14
//   kResourceExhausted  no memory, or no blocks
absl::Status PopulatePages(const char* begin, uint64_t size_bytes, bool for_writing);

// Gives 2 MiB of a mapped file on tmpfs, which begin at a multiple of that in memory and in the
// file, a huge page (MADV_COLLAPSE): a third of what 512 small pages cost. It takes one small page
// first. Whether it came; all that has been stored there stays.
bool AllocateHugePage(const char* begin);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_HUGE_PAGES_H_
