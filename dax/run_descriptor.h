// The 8-byte word that describes one run on the medium (invariant P1 of pool.h).
//
//   bits   0..12  size code: 0..8 = 2^code pages; 8 + n = n * 512 pages, n = 1..4096
//   bits  13..20  kind, 1..255
//   bits  21..36  owner
//   bit   37      live
//   bits  38..55  a reserved run: the low bits of the open epoch that reserved it; a live one: 0
//   bits  56..63  check: a hash of the bits above and of the run's first page
//
// Zero is "no run begins here". The check makes a stray or misplaced word known as damage.
#ifndef DAXKV_DAX_RUN_DESCRIPTOR_H_
#define DAXKV_DAX_RUN_DESCRIPTOR_H_

#include <cstdint>
#include <optional>

#include "dax/pool.h"

namespace daxkv::dax {

inline constexpr unsigned kEpochBits = 18;
inline constexpr uint64_t kEpochMask = (uint64_t{1} << kEpochBits) - 1;

// The pages that a request for `pages` gets: a power of two up to 512, then a multiple of 512.
uint64_t RoundToRunPages(uint64_t pages);

// `run` must be well formed: rounded pages, aligned, a kind. `epoch` counts for reserved runs only.
uint64_t EncodeRunDescriptor(const Run& run, uint64_t epoch);

struct RunDescriptor {
  Run run;
  uint64_t epoch = 0;  // Low kEpochBits bits, of a reserved run.
};

// Nothing when `word`, found at `first_page`, is no descriptor that EncodeRunDescriptor made for
// that page. `word` must not be zero.
std::optional<RunDescriptor> DecodeRunDescriptor(uint64_t word, uint64_t first_page);

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_RUN_DESCRIPTOR_H_
