// Builds the images that a power cut may leave, from a trace, in part files that a store can be
// opened on.
//
//   CrashImage image(directory, Platform::kCacheLines);
//   for (const Event& event : trace) {
//     if (event.kind == EventKind::kPoint) { image.Patch(...); ...open it...; image.Unpatch(); }
//     else image.Apply(event);
//   }
//
// Thread safety: none.
#ifndef DAXKV_TESTS_CRASH_CRASH_IMAGE_H_
#define DAXKV_TESTS_CRASH_CRASH_IMAGE_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/crash/interposer.h"
#include "tests/crash/trace.h"

namespace daxkv::crash {

// What of the bytes that are not durable the image has.
enum class Survivors {
  kNone,
  kFlushed,     // All that was flushed, with or without a fence.
  kEverything,  // All that is in memory.
  kRandom,      // A random choice of cache lines (or pages), some of them torn: of a line each
                // 8-byte word, of a page each 512-byte sector came or did not.
};

class CrashImage {
 public:
  // Makes `path` a store's directory without parts.
  CrashImage(std::string path, Platform platform);
  ~CrashImage();
  CrashImage(const CrashImage&) = delete;
  CrashImage& operator=(const CrashImage&) = delete;

  const std::string& path() const { return path_; }
  void Apply(const Event& event);

  // Lets the image differ from what is durable. The same seed gives the same image.
  void Patch(Survivors survivors, uint64_t seed);
  void Unpatch();
  // Equal for equal images.
  uint64_t Hash() const { return hash_; }
  // Removes part files that a store on a copy-on-write mapping has added.
  void RemoveAddedParts() const;
  // Makes the same image, as it is now, at another path.
  void CopyTo(const std::string& path) const;

 private:
  struct Line {
    unsigned char bytes[kLineSizeBytes];
  };
  struct Undo {
    uint64_t offset;
    Line line;
  };

  void AddPart(uint64_t offset, uint64_t size_bytes);
  void SetDurable(uint64_t offset, const void* bytes);
  void SetLive(uint64_t offset, const void* bytes);
  void Punch(uint64_t offset, uint64_t size_bytes);
  void NoteDifference(uint64_t offset);
  // Takes the words of `mask` from `bytes`.
  void PatchLine(uint64_t offset, const void* bytes, unsigned mask);
  const void* Flushed(uint64_t offset) const;
  void PatchAtRandom(uint64_t seed);

  const std::string path_;
  const uint64_t unit_size_bytes_;                    // What is written back as one...
  const uint64_t atom_size_bytes_;                    // ...and what of it is never torn.
  std::vector<std::pair<uint64_t, uint64_t>> parts_;  // Offset, size.
  char* durable_ = nullptr;                           // The files themselves.
  char* live_ = nullptr;
  std::set<uint64_t> pages_;                              // That are not all zero, perhaps.
  std::set<uint64_t> dirty_;                              // Lines where the two differ.
  std::map<uint64_t, std::map<uint64_t, Line>> pending_;  // Thread, offset.
  std::vector<Undo> undo_;
  uint64_t hash_ = 0;
};

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_CRASH_IMAGE_H_
