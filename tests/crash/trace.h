// What happened to a pool, as the recorder saw it: enough to build any image that a power cut may
// have left.
#ifndef DAXKV_TESTS_CRASH_TRACE_H_
#define DAXKV_TESTS_CRASH_TRACE_H_

#include <cstdint>
#include <vector>

namespace daxkv::crash {

inline constexpr uint64_t kLineSizeBytes = 64;
inline constexpr uint64_t kArenaSizeBytes = uint64_t{1} << 30;  // Of addresses; pools are smaller.

enum class EventKind : uint32_t {
  kPart,      // A file of `a` bytes came, at pool offset `offset`.
  kDurable,   // A line is durable with these bytes.
  kStore,     // A line was seen to have these bytes in memory.
  kFlush,     // A thread began to write a line back while it had these bytes.
  kFence,     // What the thread flushed is durable now.
  kBarrier,   // What any thread flushed up to its flush number `a` (from 1) is durable now.
  kDeath,     // The process died before it flushed what no fence of it has completed.
  kPunch,     // `a` bytes from `offset` on are a hole, at once durable.
  kBegin,     // Operation number `a` begins.
  kEnd,       // Operation number `a` has returned.
  kPoint,     // The power may fail here.
  kWithheld,  // What a mutated call, number `a` (from 1), would have written back: a line, with the
              // bytes that it has. A flush with a number of at least `b` makes up for it.
};

struct Event {
  EventKind kind = EventKind::kPoint;
  uint32_t thread = 0;
  uint64_t offset = 0;  // In the pool.
  uint64_t a = 0;
  uint64_t b = 0;
  unsigned char bytes[kLineSizeBytes] = {};
};

using Trace = std::vector<Event>;

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_TRACE_H_
