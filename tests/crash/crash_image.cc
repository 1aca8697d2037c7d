#include "tests/crash/crash_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_format.h"
#include "tests/crash/arena.h"

namespace daxkv::crash {
namespace {

constexpr uint64_t kPageSizeBytes = 4096;
constexpr unsigned kWordsOfLine = kLineSizeBytes / 8;
constexpr unsigned kAllWords = (1u << kWordsOfLine) - 1;

std::string PartPath(const std::string& path, size_t number) {
  return absl::StrFormat("%s/parts/%06d.pmem", path, number);
}

int MakePart(const std::string& path, size_t number, uint64_t size_bytes) {
  const int file = open(PartPath(path, number).c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || ftruncate(file, static_cast<off_t>(size_bytes)) != 0) Die("making a part");
  return file;
}

void MakeDirectory(const std::string& path) {
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path + "/parts");
  std::ofstream set(path + "/daxkv.set");
  set << "PMEMPOOLSET\nOPTION SINGLEHDR\n" << kArenaSizeBytes << " " << path << "/parts\n";
}

uint64_t HashLine(uint64_t offset, const void* bytes) {
  return XXH64(bytes, kLineSizeBytes, offset);
}

}  // namespace

CrashImage::CrashImage(std::string path, Platform platform)
    : path_(std::move(path)),
      unit_size_bytes_(platform == Platform::kCacheLines ? kLineSizeBytes : kPageSizeBytes),
      atom_size_bytes_(platform == Platform::kCacheLines ? 8 : 512),
      durable_(MapArena()),
      live_(MapArena()) {
  MakeDirectory(path_);
}

CrashImage::~CrashImage() {
  UnmapArena(durable_);
  UnmapArena(live_);
}

void CrashImage::AddPart(uint64_t offset, uint64_t size_bytes) {
  const int file = MakePart(path_, parts_.size(), size_bytes);
  MapFile(durable_, offset, size_bytes, file);
  close(file);
  parts_.emplace_back(offset, size_bytes);
}

void CrashImage::RemoveAddedParts() const {
  for (size_t number = parts_.size(); unlink(PartPath(path_, number).c_str()) == 0;) ++number;
}

void CrashImage::CopyTo(const std::string& path) const {
  MakeDirectory(path);
  for (size_t number = 0; number < parts_.size(); ++number) {
    const auto [offset, size_bytes] = parts_[number];
    const int file = MakePart(path, number, size_bytes);
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

// ---- The trace ----

void CrashImage::Apply(const Event& event) {
  switch (event.kind) {
    case EventKind::kPart:
      return AddPart(event.offset, event.a);
    case EventKind::kDurable:
      SetDurable(event.offset, event.bytes);
      return SetLive(event.offset, event.bytes);
    case EventKind::kStore:
      return SetLive(event.offset, event.bytes);
    case EventKind::kFlush:
      memcpy(pending_[event.thread][event.offset].bytes, event.bytes, kLineSizeBytes);
      return SetLive(event.offset, event.bytes);
    case EventKind::kFence:
      for (const auto& [offset, line] : pending_[event.thread]) SetDurable(offset, line.bytes);
      pending_[event.thread].clear();
      return;
    case EventKind::kPunch:
      return Punch(event.offset, event.a);
    case EventKind::kPoint:
      return;
  }
}

void CrashImage::SetDurable(uint64_t offset, const void* bytes) {
  pages_.insert(offset / kPageSizeBytes * kPageSizeBytes);
  hash_ ^= HashLine(offset, durable_ + offset) ^ HashLine(offset, bytes);
  memcpy(durable_ + offset, bytes, kLineSizeBytes);
  NoteDifference(offset);
}

void CrashImage::SetLive(uint64_t offset, const void* bytes) {
  memcpy(live_ + offset, bytes, kLineSizeBytes);
  NoteDifference(offset);
}

void CrashImage::NoteDifference(uint64_t offset) {
  if (memcmp(durable_ + offset, live_ + offset, kLineSizeBytes) != 0) {
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
  pages_.insert(offset / kPageSizeBytes * kPageSizeBytes);
  hash_ ^= HashLine(offset, durable_ + offset) ^ HashLine(offset, line.bytes);
  memcpy(durable_ + offset, line.bytes, kLineSizeBytes);
}

void CrashImage::Unpatch() {
  for (auto undo = undo_.rbegin(); undo != undo_.rend(); ++undo) {
    hash_ ^=
        HashLine(undo->offset, durable_ + undo->offset) ^ HashLine(undo->offset, undo->line.bytes);
    memcpy(durable_ + undo->offset, undo->line.bytes, kLineSizeBytes);
  }
  undo_.clear();
}

const void* CrashImage::Flushed(uint64_t offset) const {
  for (const auto& [thread, lines] : pending_) {
    const auto line = lines.find(offset);
    if (line != lines.end()) return line->second.bytes;
  }
  return nullptr;
}

void CrashImage::Patch(Survivors survivors, uint64_t seed) {
  switch (survivors) {
    case Survivors::kNone:
      return;
    case Survivors::kFlushed:
      for (const auto& [thread, lines] : pending_) {
        for (const auto& [offset, line] : lines) PatchLine(offset, line.bytes, kAllWords);
      }
      return;
    case Survivors::kEverything:
      for (const uint64_t offset : dirty_) PatchLine(offset, live_ + offset, kAllWords);
      return;
    case Survivors::kRandom:
      return PatchAtRandom(seed);
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
    const void* flushed = Flushed(offset);
    if (offset / unit_size_bytes_ != unit) {
      unit = offset / unit_size_bytes_;
      whole = random() % 256 < (flushed != nullptr ? flushed_chance : stored_chance);
      torn = whole && random() % 256 < torn_chance;
    }
    if (!whole) continue;
    const void* bytes = flushed != nullptr && random() % 2 == 0 ? flushed : live_ + offset;
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
