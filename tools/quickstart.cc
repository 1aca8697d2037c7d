// kvctl quickstart: what daxkv does, on real input of this machine, in a temporary folder.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kv/db.h"
#include "tools/commands.h"
#include "tools/record_reader.h"
#include "tools/store.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

namespace fs = std::filesystem;
using Record = std::pair<std::string, std::string>;

constexpr size_t kRecordsPerGroup = 8192;
constexpr size_t kRandomReads = 200'000;
constexpr size_t kScanLength = 50;
constexpr uint64_t kHugeValueSizeBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxInputSizeBytes = uint64_t{64} << 20;
constexpr absl::Duration kWriterLife = absl::Milliseconds(700);

// Real input, and where it came from.
struct Input {
  std::string source;
  std::vector<Record> records;
  uint64_t size_bytes = 0;

  void Add(std::string key, std::string value) {
    size_bytes += key.size() + value.size();
    records.emplace_back(std::move(key), std::move(value));
  }
};

Input DebianIndex() {
  Input input;
  input.source = "the Debian package index (apt-cache dumpavail)";
  std::FILE* pipe = popen("apt-cache dumpavail 2>/dev/null", "r");
  if (pipe == nullptr) return input;
  absl::StatusOr<std::unique_ptr<RecordReader>> reader = NewRecordReader("debian", pipe);
  std::string key;
  std::string value;
  while (reader.ok() && (*reader)->Next(&key, &value).value_or(false))
    input.Add(std::move(key), std::move(value));
  pclose(pipe);
  return input;
}

Input Dictionary() {
  Input input;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/usr/share/dict", error)) {
    std::FILE* file = std::fopen(entry.path().c_str(), "rb");
    if (file == nullptr) continue;
    LineReader lines(file);
    std::string_view line;
    while (lines.Next(&line).value_or(false))
      if (!line.empty() && line.size() <= kv::kMaxKeySizeBytes)
        input.Add(std::string(line),
                  absl::StrCat(entry.path().filename().string(), " line ", lines.line_number()));
    std::fclose(file);
    input.source = entry.path().string();
    if (!input.records.empty()) break;
  }
  return input;
}

Input Headers() {
  Input input;
  input.source = "the files of /usr/include";
  std::error_code error;
  const auto options = fs::directory_options::skip_permission_denied;
  for (auto it = fs::recursive_directory_iterator("/usr/include", options, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (!it->is_regular_file(error) || input.size_bytes > kMaxInputSizeBytes) continue;
    absl::StatusOr<std::string> bytes = ReadWholeFile(it->path().string(), kv::kMaxValueSizeBytes);
    if (bytes.ok() && it->path().string().size() <= kv::kMaxKeySizeBytes)
      input.Add(it->path().string(), *std::move(bytes));
  }
  return input;
}

absl::StatusOr<Input> FindInput() {
  for (Input (*find)() : {DebianIndex, Dictionary, Headers}) {
    Input input = find();
    if (input.records.size() >= 100) return input;
  }
  return absl::UnavailableError(
      "no real input found: neither the Debian package index, nor /usr/share/dict, nor "
      "/usr/include");
}

class Stopwatch {
 public:
  double seconds() const { return std::max(1e-9, absl::ToDoubleSeconds(absl::Now() - start_)); }
  uint64_t PerSecond(uint64_t count) const {
    return static_cast<uint64_t>(static_cast<double>(count) / seconds());
  }
  double MicrosecondsEach(uint64_t count) const {
    return seconds() * 1e6 / static_cast<double>(std::max<uint64_t>(1, count));
  }

 private:
  const absl::Time start_ = absl::Now();
};

void Say(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void Step(int number, const char* title) { Say(absl::StrFormat("\n%d. %s", number, title)); }

absl::StatusOr<uint64_t> Blocks(const kv::Db& db) {
  absl::StatusOr<kv::Info> info = db.GetInfo();
  if (!info.ok()) return info.status();
  return info->dax.pool.file_blocks_bytes;
}

absl::Status LoadInput(kv::Db& db, const Input& input) {
  const Stopwatch watch;
  std::vector<kv::KeyValue> group;
  for (size_t at = 0; at < input.records.size();) {
    group.clear();
    for (; at < input.records.size() && group.size() < kRecordsPerGroup; ++at)
      group.push_back({input.records[at].first, input.records[at].second});
    if (absl::StatusOr<kv::GroupResult> put = db.PutGroup(group); !put.ok()) return put.status();
  }
  Say(absl::StrFormat(
      "   %s records, %s, from %s\n   %.2f s: %s records/s, durable by groups of %d",
      Grouped(input.records.size()), HumanBytes(input.size_bytes), input.source, watch.seconds(),
      Grouped(watch.PerSecond(input.records.size())), kRecordsPerGroup));
  return absl::OkStatus();
}

absl::Status ReadAndScan(const kv::Db& db, const Input& input) {
  std::mt19937_64 random(2018);
  std::string value;
  const Stopwatch reads;
  for (size_t i = 0; i < kRandomReads; ++i) {
    const Record& record = input.records[random() % input.records.size()];
    if (absl::Status status = db.Get(record.first, &value); !status.ok()) return status;
  }
  Say(absl::StrFormat("   %s random reads, checksums verified: %.2f us each", Grouped(kRandomReads),
                      reads.MicrosecondsEach(kRandomReads)));
  const Stopwatch scan;
  uint64_t records = 0;
  const std::unique_ptr<kv::Iterator> it = db.NewIterator();
  for (it->SeekToFirst(); it->Valid(); it->Next()) ++records;
  if (!it->status().ok()) return it->status();
  Say(absl::StrFormat("   a scan of all %s records in key order: %s records/s", Grouped(records),
                      Grouped(scan.PerSecond(records))));
  const std::string& middle = input.records[input.records.size() / 2].first;
  it->Seek(middle);
  for (size_t i = 0; i < kScanLength && it->Valid(); ++i) it->Next();
  if (!it->status().ok()) return it->status();
  Say(absl::StrFormat("   %d records on from \"%s\" is \"%s\"", kScanLength, Escaped(middle),
                      it->Valid() ? Escaped(it->key()) : "the end"));
  return absl::OkStatus();
}

std::string HugeValue(const Input& input) {
  std::string value;
  value.reserve(kHugeValueSizeBytes);
  for (size_t at = 0; value.size() < kHugeValueSizeBytes; at = (at + 1) % input.records.size())
    value.append(input.records[at].second).push_back('\n');
  value.resize(kHugeValueSizeBytes);
  return value;
}

// Puts the huge value and returns a pin on it.
absl::StatusOr<kv::PinnedValue> PinHuge(kv::Db& db, const std::string& value) {
  if (absl::Status status = db.Put("quickstart/huge", value); !status.ok()) return status;
  const Stopwatch copy_watch;
  absl::StatusOr<std::string> copy = db.Get("quickstart/huge");
  if (!copy.ok()) return copy.status();
  const double copy_ms = copy_watch.seconds() * 1e3;
  const Stopwatch pin_watch;
  absl::StatusOr<kv::PinnedValue> pinned = db.Pin("quickstart/huge");
  if (!pinned.ok()) return pinned.status();
  const double pin_ms = pin_watch.seconds() * 1e3;
  if (*copy != value || pinned->value() != value)
    return absl::DataLossError("the huge value came back different");
  Say(absl::StrFormat(
      "   a value of %s: a copy takes %.2f ms, a pin %.2f ms (both verify its "
      "checksum)\n   its bytes lie in the pool at %p, in extents of 2 MiB",
      HumanBytes(value.size()), copy_ms, pin_ms, static_cast<const void*>(pinned->value().data())));
  return pinned;
}

absl::Status DeleteMost(kv::Db& db, const Input& input, const std::string& huge) {
  absl::StatusOr<kv::PinnedValue> pinned = PinHuge(db, huge);
  if (!pinned.ok()) return pinned.status();
  Step(4, "Delete nearly everything, the pinned value too");
  absl::StatusOr<uint64_t> before = Blocks(db);
  if (!before.ok()) return before.status();
  std::vector<std::string_view> keys;
  for (size_t at = 0; at < input.records.size() * 99 / 100; ++at)
    keys.push_back(input.records[at].first);
  keys.push_back("quickstart/huge");
  const Stopwatch watch;
  absl::StatusOr<kv::GroupResult> deleted = db.DeleteGroup(keys);
  if (!deleted.ok()) return deleted.status();
  Say(absl::StrFormat("   %s deletes: %s a second", Grouped(deleted->replaced),
                      Grouped(watch.PerSecond(deleted->replaced))));
  if (absl::StatusOr<kv::CompactionResult> compacted = db.Compact(); !compacted.ok())
    return compacted.status();
  absl::StatusOr<uint64_t> held = Blocks(db);
  if (!held.ok()) return held.status();
  if (pinned->value() != huge) return absl::DataLossError("a pinned byte changed");
  Say(absl::StrFormat(
      "   blocks of the files: %s, after compaction %s\n   the pinned value is still "
      "there, byte for byte, and alone keeps its extents",
      HumanBytes(*before), HumanBytes(*held)));
  *pinned = kv::PinnedValue();
  if (absl::StatusOr<kv::CompactionResult> compacted = db.Compact(); !compacted.ok())
    return compacted.status();
  absl::StatusOr<uint64_t> after = Blocks(db);
  if (!after.ok()) return after.status();
  Say(absl::StrFormat("   pin released, compacted: %s", HumanBytes(*after)));
  return absl::OkStatus();
}

std::string WriterKey(uint64_t number) { return absl::StrFormat("writer/%012d", number); }
std::string WriterValue(uint64_t number) {
  return absl::StrFormat("value %d of the child that was killed", number);
}

// The child: puts numbered records and counts, in shared memory, those that returned.
[[noreturn]] void WriteUntilKilled(const std::string& path, std::atomic<uint64_t>* acknowledged) {
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  if (!db.ok()) _exit(1);
  for (uint64_t number = 0;; ++number) {
    if (!(*db)->Put(WriterKey(number), WriterValue(number)).ok()) _exit(1);
    acknowledged->store(number + 1, std::memory_order_release);  // Pairs with the parent's acquire.
  }
}

absl::Status VerifyAcknowledged(const std::string& path, uint64_t acknowledged) {
  const Stopwatch open_watch;
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  if (!db.ok()) return db.status();
  const double open_ms = open_watch.seconds() * 1e3;
  for (uint64_t number = 0; number < acknowledged; ++number) {
    absl::StatusOr<std::string> value = (*db)->Get(WriterKey(number));
    if (!value.ok() || *value != WriterValue(number))
      return absl::DataLossError(absl::StrCat("acknowledged write ", number, " is lost"));
  }
  absl::StatusOr<kv::CheckReport> report = (*db)->Check();
  if (!report.ok()) return report.status();
  if (!report->faults.empty()) return absl::DataLossError(report->faults.front());
  Say(absl::StrFormat("   reopened in %.1f ms: all %s acknowledged writes are there; check: clean",
                      open_ms, Grouped(acknowledged)));
  return (*db)->Close();
}

absl::Status KillAWriter(const std::string& path) {
  void* const page = mmap(nullptr, sizeof(std::atomic<uint64_t>), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return absl::ErrnoToStatus(errno, "no shared page");
  auto* const acknowledged = new (page) std::atomic<uint64_t>(0);
  const auto unmap = absl::MakeCleanup([page] { munmap(page, sizeof(std::atomic<uint64_t>)); });
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "cannot start a child");
  if (child == 0) WriteUntilKilled(path, acknowledged);
  absl::SleepFor(kWriterLife);
  kill(child, SIGKILL);
  int wait_status = 0;
  if (waitpid(child, &wait_status, 0) != child || !WIFSIGNALED(wait_status))
    return absl::InternalError("the writing child ended by itself");
  const uint64_t count = acknowledged->load(std::memory_order_acquire);
  Say(absl::StrFormat("   killed after %d ms and %s returned puts",
                      absl::ToInt64Milliseconds(kWriterLife), Grouped(count)));
  return VerifyAcknowledged(path, count);
}

absl::Status Tour(const std::string& path) {
  Step(1, "Make a store and load real input");
  absl::StatusOr<Input> input = FindInput();
  if (!input.ok()) return input.status();
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  if (!db.ok()) return db.status();
  absl::StatusOr<kv::Info> info = (*db)->GetInfo();
  if (!info.ok()) return info.status();
  Say(absl::StrFormat("   %s\n   medium %s: %s", path, dax::MediaClassName(info->media.media_class),
                      dax::MediaPromise(info->media)));
  if (absl::Status status = LoadInput(**db, *input); !status.ok()) return status;
  Step(2, "Read and scan");
  if (absl::Status status = ReadAndScan(**db, *input); !status.ok()) return status;
  Step(3, "Pin a huge value: its bytes in the pool, without a copy");
  if (absl::Status status = DeleteMost(**db, *input, HugeValue(*input)); !status.ok())
    return status;
  if (absl::Status status = (*db)->Close(); !status.ok()) return status;
  db->reset();
  Step(5, "Kill a writing process with SIGKILL");
  return KillAWriter(path);
}

}  // namespace

absl::Status Quickstart() {
  std::error_code error;
  const fs::path folder = fs::temp_directory_path(error);
  std::string name = ((error ? fs::path("/tmp") : folder) / "daxkv-quickstart-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr)
    return absl::UnavailableError(absl::StrCat("cannot make ", name, ": ", std::strerror(errno)));
  const auto remove = absl::MakeCleanup([&name] {
    std::error_code ignored;
    fs::remove_all(name, ignored);
  });
  const Stopwatch watch;
  if (absl::Status status = Tour(absl::StrCat(name, "/store")); !status.ok()) return status;
  Say(absl::StrFormat(
      "\nDone in %.1f s; the temporary store is removed. From here:\n"
      "  tools/run put planet Saturn && tools/run get planet\n"
      "  apt-cache dumpavail | tools/run load --format debian - && tools/run scan --limit 3\n"
      "  tools/run info; tools/run check; tools/run --help\n"
      "  README.md: embedding daxkv in a program, YCSB, the design",
      watch.seconds()));
  return absl::OkStatus();
}

}  // namespace daxkv::tools
