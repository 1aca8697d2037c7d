#include "dax/run_descriptor.h"

#include <algorithm>

namespace daxkv::dax {
namespace {

constexpr unsigned kKindShift = 13;
constexpr unsigned kOwnerShift = 21;
constexpr unsigned kLiveShift = 37;
constexpr unsigned kEpochShift = 38;
constexpr unsigned kCheckShift = 56;
constexpr uint64_t kSizeCodeMask = (uint64_t{1} << kKindShift) - 1;
constexpr uint64_t kMaxSizeCode = 8 + kMaxRunPages / kHugePages;
static_assert(kEpochShift + kEpochBits == kCheckShift);
static_assert(kMaxSizeCode <= kSizeCodeMask);

// Multiply-xorshift: every input bit reaches the eight that are kept.
uint64_t CheckOf(uint64_t body, uint64_t first_page) {
  uint64_t hash = (body ^ (first_page << 20) ^ (first_page >> 44)) * 0x9E3779B97F4A7C15u;
  hash = (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93u;
  return hash >> kCheckShift;
}

uint64_t SizeCodeOf(uint64_t pages) {
  if (pages >= kHugePages) return 8 + pages / kHugePages;
  return static_cast<uint64_t>(__builtin_ctzll(pages));
}

}  // namespace

uint64_t RoundToRunPages(uint64_t pages) {
  if (pages >= kHugePages) return (pages + kHugePages - 1) & ~(kHugePages - 1);
  return pages <= 1 ? 1 : uint64_t{1} << (64 - __builtin_clzll(pages - 1));
}

uint64_t EncodeRunDescriptor(const Run& run, uint64_t epoch) {
  uint64_t body = SizeCodeOf(run.pages) | (uint64_t{run.kind} << kKindShift) |
                  (uint64_t{run.owner} << kOwnerShift);
  if (run.live) {
    body |= uint64_t{1} << kLiveShift;
  } else {
    body |= (epoch & kEpochMask) << kEpochShift;
  }
  return body | (CheckOf(body, run.first_page) << kCheckShift);
}

std::optional<RunDescriptor> DecodeRunDescriptor(uint64_t word, uint64_t first_page) {
  const uint64_t body = word & ((uint64_t{1} << kCheckShift) - 1);
  if (CheckOf(body, first_page) != word >> kCheckShift) return std::nullopt;
  const uint64_t size_code = body & kSizeCodeMask;
  if (size_code > kMaxSizeCode) return std::nullopt;
  RunDescriptor descriptor;
  Run& run = descriptor.run;
  run.first_page = first_page;
  run.pages = size_code <= 8 ? uint64_t{1} << size_code : (size_code - 8) * kHugePages;
  run.kind = static_cast<uint8_t>(body >> kKindShift);
  run.owner = static_cast<uint16_t>(body >> kOwnerShift);
  run.live = ((body >> kLiveShift) & 1) != 0;
  descriptor.epoch = (body >> kEpochShift) & kEpochMask;
  if (run.kind == 0 || (run.live && descriptor.epoch != 0)) return std::nullopt;
  if (first_page % std::min(run.pages, kHugePages) != 0) return std::nullopt;
  return descriptor;
}

}  // namespace daxkv::dax
