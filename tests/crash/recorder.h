// Records the trace of a pool while a store works on it.
//
// What a thread has flushed is durable at its next fence, with the bytes that it had at the flush,
// or newer ones that another thread's fence has made durable meanwhile: a line never goes back.
// A line that was stored to and not flushed may be durable or not. Changes of files and their names
// count as durable at once.
//
// Threads of the store may run freely. Events come one by one, in the order in which they take the
// recorder's mutex; a line is read word by word, as the threads store to it, and each word that the
// flushing thread has stored is in what is read. Stores that another thread makes at the same time
// are in it or not: both are states that the machine could have written back.
//
// Thread safety: all of it from any thread. Outlives the store: its threads may still be on their
// way through here when Stop returns.
#ifndef DAXKV_TESTS_CRASH_RECORDER_H_
#define DAXKV_TESTS_CRASH_RECORDER_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/crash/interposer.h"
#include "tests/crash/store_files.h"
#include "tests/crash/trace.h"

namespace daxkv::crash {

// What was done since the counters were last taken.
struct FlushCounts {
  uint64_t flushes = 0;         // Calls, copies among them.
  uint64_t lines = 0;           // Lines flushed.
  uint64_t clean_lines = 0;     // ...that were durable as they are.
  uint64_t repeated_lines = 0;  // ...that the same thread had flushed as they are before its fence.
  uint64_t fences = 0;          // Fences, msyncs.
  uint64_t empty_fences = 0;    // ...with nothing to make durable.
};

class Recorder : public Observer {
 public:
  explicit Recorder(StoreFiles files);
  ~Recorder() override;
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // Takes what the files hold for durable, and begins to observe.
  void Start();
  // Ends it. The trace is whole, and nothing is added any more.
  void Stop();
  Trace& trace() { return trace_; }

  // The operation of that number begins; has returned.
  void Begin(uint64_t operation);
  void End(uint64_t operation);
  // The power may fail here.
  void Point();
  // The counters since the last call.
  FlushCounts TakeCounts();

  void OnFlush(const char* address, size_t size_bytes) override;
  void OnFence() override;
  uint64_t OnBarrierBegin() override;
  void OnBarrierEnd(uint64_t flushes) override;
  void OnMsync(const char* address, size_t size_bytes) override;
  void OnPunch(int file, uint64_t offset, uint64_t size_bytes) override;
  void OnUnmap() override;
  void OnWithheldFlush(const char* address, size_t size_bytes) override;
  void OnWithheldMsync(const char* address, size_t size_bytes) override;
  void OnWithheldFence() override;
  void OnWriteBack() override;
  void OnDeath() override;
  void OnBirth() override;

 private:
  struct Part {
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    uint64_t inode = 0;
  };
  struct Mapped {
    uint64_t first = 0, last = 0;  // Addresses.
    uint64_t offset = 0;           // In the pool.
  };
  struct Flushed {
    uint64_t number;  // Later flushes have higher ones.
    Event event;
  };
  // By pool offset; of each line what it was at each flush, in order. A fence makes the last of
  // them durable, a barrier the last of those that came before it.
  using Lines = std::map<uint64_t, std::vector<Flushed>>;

  void AddNewParts();
  void ReadMappings();
  // False: the address is in no part.
  bool Translate(const char* address, uint64_t* offset);
  void FlushLine(uint64_t offset, uint32_t thread);
  void SetDurable(uint64_t offset, const Flushed& flushed);
  void NoteStores();
  // Of lines that are in memory as `seen_` has them. Returns how many were not durable.
  uint64_t MakeDurable(uint64_t begin, uint64_t end);
  // Of those that are not durable.
  void WithholdLines(uint64_t begin, uint64_t end);
  void Withhold(uint64_t offset, uint64_t number);
  void AddPoint();
  void Add(EventKind kind, uint64_t offset, uint64_t a = 0, uint64_t b = 0);
  Event LineEvent(EventKind kind, uint64_t offset) const;

  const StoreFiles files_;
  std::mutex mutex_;
  std::vector<Part> parts_;
  std::vector<Mapped> mapped_;
  bool mappings_stale_ = true;
  bool openable_ = false;
  bool stopped_ = false;
  bool dead_ = false;  // The process.
  // All three by pool offset.
  char* live_ = nullptr;     // The files themselves.
  char* seen_ = nullptr;     // What the trace says is in memory.
  char* durable_ = nullptr;  // What the trace says is durable.
  uint64_t size_bytes_ = 0;
  std::unordered_map<uint32_t, Lines> pending_;  // By thread.
  uint64_t flushes_ = 0;
  uint64_t withheld_calls_ = 0;
  FlushCounts counts_;
  Trace trace_;
};

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_RECORDER_H_
