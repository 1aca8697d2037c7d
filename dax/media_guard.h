// Reading a pool's bytes in a way that survives a media error.
//
//   dax::MediaGuard guard(pool);
//   std::string copy(pinned->data(), pinned->size_bytes());
//   if (!guard.Intact()) return pool.SettleMediaErrors() ...;   // `copy` may hold zeros.
//
// Inside a guard a page that can't be read any more reads as zeros instead of killing the process
// (sigbus.h tells how); Intact() says afterwards whether that may have happened. Every call of
// daxkv that touches the pool has a guard of its own; this is for programs that copy pinned bytes.
#ifndef DAXKV_DAX_MEDIA_GUARD_H_
#define DAXKV_DAX_MEDIA_GUARD_H_

#include <cstdint>

namespace daxkv::dax {

class Pool;

// Who survives a SIGBUS for a lost page of the pool.
enum class SigbusPolicy {
  kOff,      // No handler: the signal is the program's. Media errors come by ReportLostPage only.
  kGuarded,  // Whoever is inside a MediaGuard: all calls of daxkv. The default.
  kAlways,   // Also who reads pinned bytes without one: he asks Pool::IsLost before he trusts them.
};

namespace internal {
// Read by the signal handler of the same thread. Initial-exec: no allocation at the first touch.
extern __thread unsigned media_guard_depth __attribute__((tls_model("initial-exec")));
}  // namespace internal

// Survives, without telling what was lost: for code that finds out in another way.
class SurviveMediaErrors {
 public:
  SurviveMediaErrors() { ++internal::media_guard_depth; }
  ~SurviveMediaErrors() { --internal::media_guard_depth; }
  SurviveMediaErrors(const SurviveMediaErrors&) = delete;
  SurviveMediaErrors& operator=(const SurviveMediaErrors&) = delete;
};

// One thread's, for a bounded piece of work; may be nested.
class MediaGuard {
 public:
  explicit MediaGuard(const Pool& pool);
  MediaGuard(const MediaGuard&) = delete;
  MediaGuard& operator=(const MediaGuard&) = delete;

  // Whether everything read so far was really the pool's bytes, except that pages for which
  // Pool::IsLost was true at the start may read as zeros.
  bool Intact() const;

 private:
  const SurviveMediaErrors survive_;
  const Pool& pool_;
  const uint64_t events_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_MEDIA_GUARD_H_
