#include "tests/crash/crash_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>

#include "dax/object_chunks.h"
#include "tests/crash/arena.h"

namespace daxkv::crash {
namespace {

constexpr uint64_t kPageSizeBytes = 4096;
constexpr unsigned kWordsOfLine = kLineSizeBytes / 8;
constexpr unsigned kAllWords = (1u << kWordsOfLine) - 1;

int MakePart(const StoreFiles& files, size_t number, uint64_t size_bytes) {
  const int file = open(files.PartPath(number).c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || ftruncate(file, static_cast<off_t>(size_bytes)) != 0) Die("making a part");
  return file;
}

void MakeStore(const StoreFiles& files) {
  const std::string& path = files.path();
  std::filesystem::remove_all(path);
  if (!files.grows()) return;
  std::filesystem::create_directories(path + "/parts");
  std::ofstream set(files.CommitPath());
  set << "PMEMPOOLSET\nOPTION SINGLEHDR\n" << kArenaSizeBytes << " " << path << "/parts\n";
}

// The first that came after the flush of that number.
template <typename FlushedLine>
auto FirstAfter(const std::vector<FlushedLine>& of_line, uint64_t number) {
  return std::find_if(of_line.begin(), of_line.end(),
                      [number](const FlushedLine& flushed) { return flushed.number > number; });
}

uint64_t HashLine(uint64_t offset, const void* bytes) {
  return XXH64(bytes, kLineSizeBytes, offset);
}

}  // namespace

CrashImage::CrashImage(StoreFiles files, Platform platform)
    : files_(std::move(files)),
      unit_size_bytes_(platform == Platform::kCacheLines ? kLineSizeBytes : kPageSizeBytes),
      atom_size_bytes_(platform == Platform::kCacheLines ? 8 : 512),
      durable_(MapArena()),
      live_(MapArena()) {
  MakeStore(files_);
}

CrashImage::~CrashImage() {
  UnmapArena(durable_);
  UnmapArena(live_);
}

void CrashImage::AddPart(uint64_t offset, uint64_t size_bytes) {
  const int file = MakePart(files_, parts_.size(), size_bytes);
  MapFile(durable_, offset, size_bytes, file);
  close(file);
  parts_.emplace_back(offset, size_bytes);
  size_bytes_ = offset + size_bytes;
}

bool CrashImage::HasUntakenPart() const {
  const std::optional<uint64_t> end =
      dax::ObjectChunks::FindEnd(size_bytes_, [this](uint64_t offset, void* to, uint64_t wanted) {
        const bool there = offset <= size_bytes_ && wanted <= size_bytes_ - offset;
        if (there) memcpy(to, durable_ + offset, wanted);
        return there;
      });
  return parts_.size() > 1 && end.has_value() && parts_.back().first >= *end;
}

void CrashImage::RemoveAddedParts() const {
  if (!files_.grows()) return;
  for (size_t number = parts_.size(); unlink(files_.PartPath(number).c_str()) == 0;) ++number;
}

void CrashImage::CopyTo(const StoreFiles& to) const {
  MakeStore(to);
  for (size_t number = 0; number < parts_.size(); ++number) {
    const auto [offset, size_bytes] = parts_[number];
    const int file = MakePart(to, number, size_bytes);
    for (auto page = pages_.lower_bound(offset); page != pages_.lower_bound(offset + size_bytes);
         ++page) {
      if (pwrite(file, durable_ + *page, kPageSizeBytes, static_cast<off_t>(*page - offset)) !=
          static_cast<ssize_t>(kPageSizeBytes)) {
        Die("copying an image");
      }
    }
    close(file);
  }
}

bool IsIn(const CrashImage::Ranges& ranges, uint64_t offset) {
  return std::any_of(ranges.begin(), ranges.end(), [offset](const auto& range) {
    return offset >= range.first && offset < range.second;
  });
}

uint64_t CrashImage::HashOutside(const Ranges& ranges) {
  if (ranges == outside_of_) return hash_outside_;
  static constexpr unsigned char kZeros[kLineSizeBytes] = {};
  outside_of_ = ranges;
  hash_outside_ = 0;
  for (const uint64_t page : pages_) {
    for (uint64_t at = page; at < page + kPageSizeBytes; at += kLineSizeBytes) {
      if (IsIn(ranges, at) || memcmp(durable_ + at, kZeros, kLineSizeBytes) == 0) continue;
      hash_outside_ ^= HashLine(at, durable_ + at) ^ HashLine(at, kZeros);
    }
  }
  return hash_outside_;
}

// Every change of the image goes through here.
void CrashImage::Change(uint64_t offset, const void* bytes) {
  pages_.insert(offset / kPageSizeBytes * kPageSizeBytes);
  const uint64_t changed = HashLine(offset, durable_ + offset) ^ HashLine(offset, bytes);
  hash_ ^= changed;
  if (!IsIn(outside_of_, offset)) hash_outside_ ^= changed;
  memcpy(durable_ + offset, bytes, kLineSizeBytes);
}

// ---- The trace ----

void CrashImage::Apply(const Event& event) {
  switch (event.kind) {
    case EventKind::kPart:
      return AddPart(event.offset, event.a);
    case EventKind::kDurable:
      withheld_.erase(event.offset);
      SetDurable(event.offset, event.bytes);
      return SetLive(event.offset, event.bytes);
    case EventKind::kStore:
      return SetLive(event.offset, event.bytes);
    case EventKind::kFlush:
      NoteFlush(event);
      return SetLive(event.offset, event.bytes);
    case EventKind::kFence:
      return Fence(event.thread);
    case EventKind::kBarrier:
      return Barrier(event.a);
    case EventKind::kDeath:
      return ForgetFlushes();
    case EventKind::kPunch:
      return Punch(event.offset, event.a);
    case EventKind::kBegin:
    case EventKind::kEnd:
    case EventKind::kPoint:
      return;
    case EventKind::kWithheld:
      return NoteWithheld(event);
  }
}

void CrashImage::NoteFlush(const Event& event) {
  FlushedLine flushed;
  memcpy(flushed.line.bytes, event.bytes, kLineSizeBytes);
  flushed.number = ++flushes_;
  pending_[event.thread][event.offset].push_back(flushed);
}

void CrashImage::ForgetFlushes() {
  const std::map<uint32_t, FlushedLines> forgotten = std::move(pending_);
  pending_.clear();
  for (const auto& [thread, lines] : forgotten) {
    for (const auto& [offset, flushed] : lines) NoteDifference(offset);
  }
}

void CrashImage::NoteWithheld(const Event& event) {
  WithheldLine withheld;
  memcpy(withheld.line.bytes, event.bytes, kLineSizeBytes);
  withheld.call = last_withheld_call_ = event.a;
  withheld.number = event.b;
  withheld_[event.offset].push_back(withheld);
  SetLive(event.offset, event.bytes);
}

void CrashImage::MakeUpFor(uint64_t offset, uint64_t number) {
  const auto found = withheld_.find(offset);
  if (found == withheld_.end()) return;
  std::vector<WithheldLine>& lines = found->second;
  lines.erase(std::remove_if(lines.begin(), lines.end(),
                             [number](const auto& line) { return line.number <= number; }),
              lines.end());
  if (lines.empty()) withheld_.erase(found);
}

void CrashImage::Fence(uint32_t thread) {
  const FlushedLines lines = std::move(pending_[thread]);
  pending_.erase(thread);
  for (const auto& [offset, flushed] : lines) Complete(offset, flushed.back());
}

void CrashImage::Complete(uint64_t offset, const FlushedLine& flushed) {
  // What others flushed before is older than what is durable now.
  for (auto& [other_thread, others] : pending_) {
    const auto other = others.find(offset);
    if (other == others.end()) continue;
    other->second.erase(other->second.begin(), FirstAfter(other->second, flushed.number));
    if (other->second.empty()) others.erase(other);
  }
  MakeUpFor(offset, flushed.number);
  SetDurable(offset, flushed.line.bytes);
}

void CrashImage::Barrier(uint64_t flushes) {
  std::map<uint64_t, std::pair<uint64_t, FlushedLine>> done;  // By number, with the offset.
  for (auto& [thread, lines] : pending_) {
    for (const auto& [offset, of_line] : lines) {
      const auto after = FirstAfter(of_line, flushes);
      if (after == of_line.begin()) continue;
      const FlushedLine& last = *std::prev(after);
      done.emplace(last.number, std::make_pair(offset, last));
    }
  }
  for (const auto& [number, line] : done) Complete(line.first, line.second);
}

void CrashImage::SetDurable(uint64_t offset, const void* bytes) {
  Change(offset, bytes);
  NoteDifference(offset);
}

void CrashImage::SetLive(uint64_t offset, const void* bytes) {
  memcpy(live_ + offset, bytes, kLineSizeBytes);
  NoteDifference(offset);
}

void CrashImage::NoteDifference(uint64_t offset) {
  if (memcmp(durable_ + offset, live_ + offset, kLineSizeBytes) != 0 || !Flushed(offset).empty()) {
    dirty_.insert(offset);
  } else {
    dirty_.erase(offset);
  }
}

void CrashImage::Punch(uint64_t offset, uint64_t size_bytes) {
  const unsigned char zeros[kLineSizeBytes] = {};
  const uint64_t end = offset + size_bytes;
  // First what is durable and what is not, then nothing is left to write back.
  for (auto page = pages_.lower_bound(offset); page != pages_.end() && *page < end;) {
    for (uint64_t at = *page; at < *page + kPageSizeBytes; at += kLineSizeBytes) {
      SetDurable(at, zeros);
      SetLive(at, zeros);
    }
    page = pages_.erase(page);
  }
  while (true) {
    const auto line = dirty_.lower_bound(offset);
    if (line == dirty_.end() || *line >= end) break;
    SetLive(uint64_t{*line}, zeros);
  }
  for (auto& [thread, lines] : pending_) {
    lines.erase(lines.lower_bound(offset), lines.lower_bound(end));
  }
  withheld_.erase(withheld_.lower_bound(offset), withheld_.lower_bound(end));
}

// ---- What survives ----

void CrashImage::PatchLine(uint64_t offset, const void* bytes, unsigned mask) {
  Line line;
  memcpy(line.bytes, durable_ + offset, kLineSizeBytes);
  undo_.push_back({offset, line});
  for (unsigned word = 0; word < kWordsOfLine; ++word) {
    if ((mask >> word & 1) != 0) {
      memcpy(line.bytes + word * 8, static_cast<const char*>(bytes) + word * 8, 8);
    }
  }
  Change(offset, line.bytes);
}

void CrashImage::Unpatch() {
  for (auto undo = undo_.rbegin(); undo != undo_.rend(); ++undo) {
    Change(undo->offset, undo->line.bytes);
  }
  undo_.clear();
}

std::vector<const CrashImage::FlushedLine*> CrashImage::Flushed(uint64_t offset) const {
  std::vector<const FlushedLine*> flushed;
  for (const auto& [thread, lines] : pending_) {
    const auto line = lines.find(offset);
    if (line == lines.end()) continue;
    for (const FlushedLine& version : line->second) flushed.push_back(&version);
  }
  std::sort(flushed.begin(), flushed.end(),
            [](const FlushedLine* a, const FlushedLine* b) { return a->number < b->number; });
  return flushed;
}

void CrashImage::Patch(Survivors survivors, uint64_t seed) {
  switch (survivors) {
    case Survivors::kNone:
      return;
    case Survivors::kFlushed:
      for (const uint64_t offset : dirty_) {
        const std::vector<const FlushedLine*> flushed = Flushed(offset);
        if (!flushed.empty()) PatchLine(offset, flushed.back()->line.bytes, kAllWords);
      }
      return;
    case Survivors::kEverything:
      for (const uint64_t offset : dirty_) PatchLine(offset, live_ + offset, kAllWords);
      return;
    case Survivors::kRandom:
      return PatchAtRandom(seed);
    case Survivors::kAllButWithheld:
    case Survivors::kAllButLastWithheld:
    case Survivors::kSomeWithheld:
    case Survivors::kFlushedButWithheld:
      return PatchAllBut(survivors, seed);
  }
}

const std::vector<CrashImage::WithheldLine>* CrashImage::WithheldAt(uint64_t offset) const {
  // Of a page, a sector is the least that comes or does not.
  const uint64_t unit = unit_size_bytes_ == kLineSizeBytes ? kLineSizeBytes : atom_size_bytes_;
  const auto found = withheld_.lower_bound(offset / unit * unit);
  if (found == withheld_.end() || found->first >= offset / unit * unit + unit) return nullptr;
  return &found->second;
}

void CrashImage::PatchAllBut(Survivors survivors, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (const uint64_t offset : dirty_) {
    const std::vector<WithheldLine>* withheld = WithheldAt(offset);
    if (withheld == nullptr) {
      const std::vector<const FlushedLine*> flushed = Flushed(offset);
      if (survivors != Survivors::kFlushedButWithheld) {
        PatchLine(offset, live_ + offset, kAllWords);
      } else if (!flushed.empty()) {
        PatchLine(offset, flushed.back()->line.bytes, kAllWords);
      }
      continue;
    }
    if (survivors == Survivors::kSomeWithheld) {
      const bool whole = random() % 2 == 0 || unit_size_bytes_ != kLineSizeBytes;
      const auto words = static_cast<unsigned>(random()) & kAllWords;
      // All lines of a sector alike.
      const uint64_t sector = offset / atom_size_bytes_;
      const bool comes =
          std::mt19937_64(unit_size_bytes_ == kLineSizeBytes ? words : sector + seed)() % 2 == 0;
      PatchLine(offset, live_ + offset, whole ? (comes ? kAllWords : 0) : words);
      continue;
    }
    if (survivors != Survivors::kAllButLastWithheld) continue;
    if (withheld->back().call != last_withheld_call_) {
      PatchLine(offset, live_ + offset, kAllWords);
    } else if (withheld->size() > 1 && unit_size_bytes_ == kLineSizeBytes) {
      PatchLine(offset, (withheld->end() - 2)->line.bytes, kAllWords);
    }
  }
}

// Whether few or most lines come differs from image to image; so does whether lines that nobody
// flushed come at all.
void CrashImage::PatchAtRandom(uint64_t seed) {
  std::mt19937_64 random(seed);
  static constexpr unsigned kChances[] = {26, 77, 128, 179, 230};  // Of 256.
  const unsigned flushed_chance = kChances[random() % 5];
  const unsigned stored_chance = random() % 4 == 0 ? 0 : kChances[random() % 5];
  const unsigned torn_chance = random() % 3 * 128;
  uint64_t unit = ~uint64_t{0}, atom = ~uint64_t{0};
  bool whole = false, torn = false, atom_comes = false;
  for (const uint64_t offset : dirty_) {
    const std::vector<const FlushedLine*> flushed = Flushed(offset);
    if (offset / unit_size_bytes_ != unit) {
      unit = offset / unit_size_bytes_;
      whole = random() % 256 < (flushed.empty() ? stored_chance : flushed_chance);
      torn = whole && random() % 256 < torn_chance;
    }
    if (!whole) continue;
    const void* bytes = live_ + offset;
    const uint64_t choice = flushed.empty() ? 0 : random() % (2 * flushed.size());
    if (!flushed.empty() && choice < flushed.size()) bytes = flushed[choice]->line.bytes;
    unsigned mask = kAllWords;
    if (torn && atom_size_bytes_ < kLineSizeBytes) {
      mask = static_cast<unsigned>(random()) & kAllWords;
    } else if (torn) {
      if (offset / atom_size_bytes_ != atom) {
        atom = offset / atom_size_bytes_;
        atom_comes = random() % 2 == 0;
      }
      if (!atom_comes) continue;
    }
    PatchLine(offset, bytes, mask);
  }
}

}  // namespace daxkv::crash
