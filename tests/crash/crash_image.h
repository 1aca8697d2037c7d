// Builds the images that a power cut may leave, from a trace, in part files that a store can be
// opened on.
//
//   CrashImage image(files, Platform::kCacheLines);
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
#include "tests/crash/store_files.h"
#include "tests/crash/trace.h"

namespace daxkv::crash {

// What of the bytes that are not durable the image has.
enum class Survivors {
  kNone,
  kFlushed,     // All that was flushed, with or without a fence.
  kEverything,  // All that is in memory.
  // For what a mutation has withheld (trace.h), and no later flush has made up for:
  kAllButWithheld,      // All that is in memory but those lines, which are as they were before...
  kAllButLastWithheld,  // ...or those of the last mutated call alone, as they were before that...
  kSomeWithheld,        // ...or a random choice of their words, torn lines among them.
  kFlushedButWithheld,  // All that was flushed but those lines.
  kRandom,  // A random choice of cache lines (or pages), some of them torn: of a line each
            // 8-byte word, of a page each 512-byte sector came or did not.
};

class CrashImage {
 public:
  // Makes a store without parts, in place of what is there.
  CrashImage(StoreFiles files, Platform platform);
  ~CrashImage();
  CrashImage(const CrashImage&) = delete;
  CrashImage& operator=(const CrashImage&) = delete;

  const StoreFiles& files() const { return files_; }
  void Apply(const Event& event);

  // Lets the image differ from what is durable. The same seed gives the same image.
  void Patch(Survivors survivors, uint64_t seed);
  void Unpatch();
  // Whether something is withheld.
  bool IsMutated() const { return !withheld_.empty(); }
  // Equal for equal images.
  uint64_t Hash() const { return hash_; }
  // Whether the last part is one that libpmemobj has not taken into its heap: an open removes it.
  bool HasUntakenPart() const;
  // Removes part files that a store on a copy-on-write mapping has added.
  void RemoveAddedParts() const;
  // Makes the same image, as it is now, at another place.
  void CopyTo(const StoreFiles& to) const;

  // The image's bytes, by pool offset.
  const char* bytes() const { return durable_; }
  uint64_t size_bytes() const { return size_bytes_; }
  // Offsets of the first byte and of the one after the last, multiples of a line.
  using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;
  // Equal for images that are equal outside `ranges`.
  uint64_t HashOutside(const Ranges& ranges);

 private:
  struct Line {
    unsigned char bytes[kLineSizeBytes];
  };
  struct FlushedLine {
    Line line;
    uint64_t number;  // Later flushes have higher ones.
  };
  struct WithheldLine {
    Line line;        // As it was then.
    uint64_t call;    // The mutated one.
    uint64_t number;  // Of the flush that makes up for it.
  };
  struct Undo {
    uint64_t offset;
    Line line;
  };

  void AddPart(uint64_t offset, uint64_t size_bytes);
  void SetDurable(uint64_t offset, const void* bytes);
  void SetLive(uint64_t offset, const void* bytes);
  void Punch(uint64_t offset, uint64_t size_bytes);
  void Change(uint64_t offset, const void* bytes);
  void NoteDifference(uint64_t offset);
  void NoteFlush(const Event& event);
  void ForgetFlushes();
  void NoteWithheld(const Event& event);
  // A flush of that number is durable.
  void MakeUpFor(uint64_t offset, uint64_t number);
  void Fence(uint32_t thread);
  void Barrier(uint64_t flushes);
  void Complete(uint64_t offset, const FlushedLine& flushed);
  // Takes the words of `mask` from `bytes`.
  void PatchLine(uint64_t offset, const void* bytes, unsigned mask);
  // What threads have flushed of a line, in order.
  std::vector<const FlushedLine*> Flushed(uint64_t offset) const;
  void PatchAtRandom(uint64_t seed);
  void PatchAllBut(Survivors survivors, uint64_t seed);
  // What of a unit that may be written back apart from others is withheld; null: nothing.
  const std::vector<WithheldLine>* WithheldAt(uint64_t offset) const;

  const StoreFiles files_;
  const uint64_t unit_size_bytes_;                    // What is written back as one...
  const uint64_t atom_size_bytes_;                    // ...and what of it is never torn.
  std::vector<std::pair<uint64_t, uint64_t>> parts_;  // Offset, size.
  char* durable_ = nullptr;                           // The files themselves.
  char* live_ = nullptr;
  uint64_t size_bytes_ = 0;
  std::set<uint64_t> pages_;  // That are not all zero, perhaps.
  std::set<uint64_t> dirty_;  // Lines where the two differ, or that are flushed without a fence.
  // Thread, offset; of each line what it was at each flush, in order.
  using FlushedLines = std::map<uint64_t, std::vector<FlushedLine>>;
  std::map<uint32_t, FlushedLines> pending_;
  uint64_t flushes_ = 0;
  std::map<uint64_t, std::vector<WithheldLine>> withheld_;  // By offset; the last call's last.
  uint64_t last_withheld_call_ = 0;
  std::vector<Undo> undo_;
  uint64_t hash_ = 0;
  Ranges outside_of_;  // Of hash_outside_.
  uint64_t hash_outside_ = 0;
};

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_CRASH_IMAGE_H_
