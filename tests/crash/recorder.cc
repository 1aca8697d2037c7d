#include "tests/crash/recorder.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "tests/crash/arena.h"

namespace daxkv::crash {
namespace {

constexpr uint64_t kPageSizeBytes = 4096;

// Other threads may be storing: words come whole.
void CopyLine(void* to, const char* from) {
  uint64_t words[kLineSizeBytes / 8];
  for (uint64_t i = 0; i < kLineSizeBytes / 8; ++i) {
    words[i] = __atomic_load_n(reinterpret_cast<const uint64_t*>(from) + i, __ATOMIC_RELAXED);
  }
  memcpy(to, words, sizeof(words));
}

// The first that came after the flush of that number.
template <typename Flushed>
auto FirstAfter(const std::vector<Flushed>& of_line, uint64_t number) {
  return std::find_if(of_line.begin(), of_line.end(),
                      [number](const Flushed& flushed) { return flushed.number > number; });
}

}  // namespace

Recorder::Recorder(StoreFiles files)
    : files_(std::move(files)), live_(MapArena()), seen_(MapArena()), durable_(MapArena()) {}

Recorder::~Recorder() {
  SetObserver(nullptr);
  for (char* arena : {live_, seen_, durable_}) UnmapArena(arena);
}

void Recorder::Start() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    AddNewParts();
  }
  SetObserver(this);
}

void Recorder::Stop() {
  SetObserver(nullptr);
  const std::lock_guard<std::mutex> lock(mutex_);
  stopped_ = true;
}

void Recorder::Add(EventKind kind, uint64_t offset, uint64_t a, uint64_t b) {
  Event event;
  event.kind = kind;
  event.thread = CurrentThread();
  event.offset = offset;
  event.a = a;
  event.b = b;
  trace_.push_back(event);
}

Event Recorder::LineEvent(EventKind kind, uint64_t offset) const {
  Event event;
  event.kind = kind;
  event.thread = CurrentThread();
  event.offset = offset;
  CopyLine(event.bytes, live_ + offset);
  return event;
}

// A part's bytes at its arrival are durable: it came whole, with its name.
void Recorder::AddNewParts() {
  while (true) {
    if (!files_.grows() && !parts_.empty()) return;
    int file = -1;
    for (const std::string& path : {files_.PartPath(parts_.size()), files_.UnfinishedPath(),
                                    files_.StagedPartPath(parts_.size())}) {
      if (file < 0) file = open(path.c_str(), O_RDWR | O_CLOEXEC);
    }
    struct stat info;
    if (file < 0) return;
    if (fstat(file, &info) != 0 || info.st_size == 0) {
      close(file);
      return;
    }
    Part part;
    part.offset = size_bytes_;
    part.size_bytes = static_cast<uint64_t>(info.st_size);
    part.inode = info.st_ino;
    MapFile(live_, part.offset, part.size_bytes, file);
    close(file);
    parts_.push_back(part);
    size_bytes_ += part.size_bytes;
    mappings_stale_ = true;
    Add(EventKind::kPart, part.offset, part.size_bytes);
    NoteStores();
    for (Event& event : trace_) {
      if (event.kind != EventKind::kStore || event.offset < part.offset) continue;
      event.kind = EventKind::kDurable;
      memcpy(durable_ + event.offset, event.bytes, kLineSizeBytes);
    }
  }
}

void Recorder::ReadMappings() {
  mapped_.clear();
  mappings_stale_ = false;
  std::ifstream maps("/proc/self/maps");
  std::string line;
  const auto arena = reinterpret_cast<uint64_t>(live_);
  while (std::getline(maps, line)) {
    uint64_t first, last, file_offset, inode;
    if (sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %" SCNu64, &first, &last,
               &file_offset, &inode) != 4) {
      continue;
    }
    if (first >= arena && first < arena + kArenaSizeBytes) continue;
    for (const Part& part : parts_) {
      if (part.inode == inode && line.find(files_.path()) != line.npos) {
        mapped_.push_back({first, last, part.offset + file_offset});
      }
    }
  }
}

bool Recorder::Translate(const char* address, uint64_t* offset) {
  const auto wanted = reinterpret_cast<uint64_t>(address);
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (attempt == 1 || mappings_stale_) {
      AddNewParts();
      ReadMappings();
    }
    for (const Mapped& mapped : mapped_) {
      if (wanted < mapped.first || wanted >= mapped.last) continue;
      *offset = mapped.offset + (wanted - mapped.first);
      return *offset < size_bytes_;
    }
  }
  return false;
}

// ---- What was stored ----

// Only pages that the files hold: to look at a hole would fill it.
void Recorder::NoteStores() {
  std::vector<unsigned char> resident(size_bytes_ / kPageSizeBytes);
  if (resident.empty()) return;
  if (mincore(live_, size_bytes_, resident.data()) != 0) Die("mincore");
  for (uint64_t page = 0; page < resident.size(); ++page) {
    const uint64_t begin = page * kPageSizeBytes;
    if ((resident[page] & 1) == 0 || memcmp(live_ + begin, seen_ + begin, kPageSizeBytes) == 0) {
      continue;
    }
    for (uint64_t at = begin; at < begin + kPageSizeBytes; at += kLineSizeBytes) {
      if (memcmp(live_ + at, seen_ + at, kLineSizeBytes) == 0) continue;
      trace_.push_back(LineEvent(EventKind::kStore, at));
      memcpy(seen_ + at, trace_.back().bytes, kLineSizeBytes);
    }
  }
}

void Recorder::AddPoint() {
  AddNewParts();
  NoteStores();
  openable_ = openable_ || access(files_.CommitPath().c_str(), F_OK) == 0;
  if (openable_) Add(EventKind::kPoint, 0);
}

void Recorder::Begin(uint64_t operation) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Add(EventKind::kBegin, 0, operation);
}

void Recorder::End(uint64_t operation) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Add(EventKind::kEnd, 0, operation);
  AddPoint();
}

void Recorder::Point() {
  const std::lock_guard<std::mutex> lock(mutex_);
  AddPoint();
}

FlushCounts Recorder::TakeCounts() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const FlushCounts taken = counts_;
  counts_ = FlushCounts();
  return taken;
}

// ---- What was flushed ----

void Recorder::FlushLine(uint64_t offset, uint32_t thread) {
  ++counts_.lines;
  const Event event = LineEvent(EventKind::kFlush, offset);
  Lines& lines = pending_[thread];
  const auto pending = lines.find(offset);
  if (pending != lines.end() &&
      memcmp(pending->second.back().event.bytes, event.bytes, kLineSizeBytes) == 0) {
    ++counts_.repeated_lines;
    return;
  }
  if (pending == lines.end() && memcmp(durable_ + offset, event.bytes, kLineSizeBytes) == 0) {
    ++counts_.clean_lines;
    return;
  }
  lines[offset].push_back({++flushes_, event});
  memcpy(seen_ + offset, event.bytes, kLineSizeBytes);
  trace_.push_back(event);
}

void Recorder::OnFlush(const char* address, size_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  uint64_t offset;
  if (stopped_ || dead_ || size_bytes == 0 || !Translate(address, &offset)) return;
  ++counts_.flushes;
  const uint64_t last = std::min(offset + size_bytes, size_bytes_) - 1;
  for (uint64_t line = offset / kLineSizeBytes; line <= last / kLineSizeBytes; ++line) {
    FlushLine(line * kLineSizeBytes, CurrentThread());
  }
}

void Recorder::OnFence() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_ || dead_) return;
  ++counts_.fences;
  Lines& lines = pending_[CurrentThread()];
  if (lines.empty()) {
    ++counts_.empty_fences;
    return;
  }
  AddPoint();
  const Lines done = std::move(lines);
  lines.clear();
  for (const auto& [offset, flushed] : done) SetDurable(offset, flushed.back());
  Add(EventKind::kFence, 0);
}

void Recorder::SetDurable(uint64_t offset, const Flushed& flushed) {
  memcpy(durable_ + offset, flushed.event.bytes, kLineSizeBytes);
  // What others flushed before is older than what is durable now.
  for (auto& [thread, others] : pending_) {
    const auto other = others.find(offset);
    if (other == others.end()) continue;
    other->second.erase(other->second.begin(), FirstAfter(other->second, flushed.number));
    if (other->second.empty()) others.erase(other);
  }
}

uint64_t Recorder::OnBarrierBegin() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return flushes_;
}

void Recorder::OnBarrierEnd(uint64_t flushes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_ || dead_) return;
  std::map<uint64_t, std::pair<uint64_t, Flushed>> done;  // By number, with the offset.
  for (auto& [thread, lines] : pending_) {
    for (const auto& [offset, of_line] : lines) {
      const auto after = FirstAfter(of_line, flushes);
      if (after == of_line.begin()) continue;
      const Flushed& last = *std::prev(after);
      done.emplace(last.number, std::make_pair(offset, last));
    }
  }
  if (done.empty()) return;
  for (const auto& [number, line] : done) SetDurable(line.first, line.second);
  Add(EventKind::kBarrier, 0, flushes);
}

void Recorder::OnMsync(const char* address, size_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  uint64_t offset;
  if (stopped_ || dead_ || !Translate(address, &offset)) return;
  ++counts_.fences;
  AddPoint();
  const uint64_t begin = offset / kPageSizeBytes * kPageSizeBytes;
  const uint64_t end = std::min(
      (offset + size_bytes + kPageSizeBytes - 1) / kPageSizeBytes * kPageSizeBytes, size_bytes_);
  const uint64_t dirty = MakeDurable(begin, end);
  counts_.lines += dirty;
  if (dirty == 0) ++counts_.empty_fences;
}

uint64_t Recorder::MakeDurable(uint64_t begin, uint64_t end) {
  uint64_t dirty = 0;
  for (uint64_t page = begin; page < end; page += kPageSizeBytes) {
    if (memcmp(seen_ + page, durable_ + page, kPageSizeBytes) == 0) continue;
    for (uint64_t at = page; at < page + kPageSizeBytes; at += kLineSizeBytes) {
      if (memcmp(seen_ + at, durable_ + at, kLineSizeBytes) == 0) continue;
      ++dirty;
      Add(EventKind::kDurable, at);
      memcpy(trace_.back().bytes, seen_ + at, kLineSizeBytes);
      memcpy(durable_ + at, seen_ + at, kLineSizeBytes);
    }
  }
  return dirty;
}

void Recorder::OnDeath() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_) return;
  NoteStores();
  pending_.clear();
  Add(EventKind::kDeath, 0);
  dead_ = true;
}

void Recorder::OnBirth() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_) return;
  dead_ = false;
  for (uint64_t page = 0; page < size_bytes_; page += kPageSizeBytes) {
    if (memcmp(live_ + page, seen_ + page, kPageSizeBytes) == 0) continue;
    memcpy(live_ + page, seen_ + page, kPageSizeBytes);
  }
}

void Recorder::OnWriteBack() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_ || dead_) return;
  AddPoint();
  MakeDurable(0, size_bytes_);
}

void Recorder::OnPunch(int file, uint64_t offset, uint64_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  struct stat info;
  if (stopped_ || dead_ || fstat(file, &info) != 0) return;
  for (const Part& part : parts_) {
    if (part.inode != info.st_ino || offset >= part.size_bytes) continue;
    const uint64_t begin = part.offset + offset;
    size_bytes = std::min(size_bytes, part.size_bytes - offset);
    AddPoint();
    Add(EventKind::kPunch, begin, size_bytes);
    for (char* bytes : {seen_, durable_}) {
      if (madvise(bytes + begin, size_bytes, MADV_DONTNEED) != 0) Die("madvise");
    }
    for (auto& [thread, lines] : pending_) {
      lines.erase(lines.lower_bound(begin), lines.lower_bound(begin + size_bytes));
    }
    return;
  }
}

// ---- What a mutation keeps from becoming durable ----

void Recorder::Withhold(uint64_t offset, uint64_t number) {
  trace_.push_back(LineEvent(EventKind::kWithheld, offset));
  trace_.back().a = withheld_calls_;
  trace_.back().b = number;
}

void Recorder::WithholdLines(uint64_t begin, uint64_t end) {
  ++withheld_calls_;
  for (uint64_t at = begin; at < end; at += kLineSizeBytes) {
    if (memcmp(durable_ + at, live_ + at, kLineSizeBytes) != 0) Withhold(at, flushes_ + 1);
  }
}

void Recorder::OnWithheldFlush(const char* address, size_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  uint64_t offset;
  if (stopped_ || dead_ || size_bytes == 0 || !Translate(address, &offset)) return;
  const uint64_t end = std::min(offset + size_bytes, size_bytes_);
  WithholdLines(offset / kLineSizeBytes * kLineSizeBytes, end);
}

void Recorder::OnWithheldMsync(const char* address, size_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  uint64_t offset;
  if (stopped_ || dead_ || !Translate(address, &offset)) return;
  const uint64_t end = std::min(
      (offset + size_bytes + kPageSizeBytes - 1) / kPageSizeBytes * kPageSizeBytes, size_bytes_);
  WithholdLines(offset / kPageSizeBytes * kPageSizeBytes, end);
}

void Recorder::OnWithheldFence() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_ || dead_) return;
  ++withheld_calls_;
  for (const auto& [offset, flushed] : pending_[CurrentThread()]) {
    Withhold(offset, flushed.back().number);
  }
}

void Recorder::OnUnmap() { __atomic_store_n(&mappings_stale_, true, __ATOMIC_RELAXED); }

}  // namespace daxkv::crash
