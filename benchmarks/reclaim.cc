// Space going back to the file system while a reader holds a pin.
//
//   reclaim STORE [GIB]
//
// Loads GIB (1) GiB of 1 KB records into a new store at the path STORE, pins one value, deletes the
// first 99 % in load order, that value included, and compacts. Prints the blocks of the files at
// each step. A reader thread compares the pinned bytes from the load to the end.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kv/db.h"

namespace daxkv {
namespace {

constexpr uint64_t kValueSizeBytes = 1000;
constexpr uint64_t kGroupRecords = 8192;

std::string Key(uint64_t number) { return absl::StrFormat("record/%012d", number); }

std::string Value(uint64_t number) {
  std::string value = absl::StrFormat("value %d ", number);
  while (value.size() < kValueSizeBytes)
    value.push_back(static_cast<char>('a' + value.size() % 26));
  return value;
}

void PrintBlocks(const kv::Db& db, const char* when, uint64_t of_bytes) {
  const absl::StatusOr<kv::Info> info = db.GetInfo();
  if (!info.ok()) return;
  std::printf("%-34s %9.1f MiB of blocks", when,
              static_cast<double>(info->dax.pool.file_blocks_bytes) / (1 << 20));
  if (of_bytes != 0) {
    std::printf(", %.1f %% back", 100 - 100 *
                                            static_cast<double>(info->dax.pool.file_blocks_bytes) /
                                            static_cast<double>(of_bytes));
  }
  std::printf("\n");
}

absl::Status Load(kv::Db& db, uint64_t records) {
  for (uint64_t begin = 0; begin < records; begin += kGroupRecords) {
    std::vector<std::string> texts;
    for (uint64_t i = begin; i < std::min(records, begin + kGroupRecords); ++i) {
      texts.push_back(Key(i));
      texts.push_back(Value(i));
    }
    std::vector<kv::KeyValue> group;
    for (size_t i = 0; i < texts.size(); i += 2) group.push_back({texts[i], texts[i + 1]});
    if (absl::StatusOr<kv::GroupResult> put = db.PutGroup(group); !put.ok()) return put.status();
  }
  return absl::OkStatus();
}

absl::Status DeleteUpTo(kv::Db& db, uint64_t records) {
  for (uint64_t begin = 0; begin < records; begin += kGroupRecords) {
    std::vector<std::string> keys;
    for (uint64_t i = begin; i < std::min(records, begin + kGroupRecords); ++i) {
      keys.push_back(Key(i));
    }
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    absl::StatusOr<kv::GroupResult> deleted = db.DeleteGroup(views);
    if (!deleted.ok()) return deleted.status();
  }
  return absl::OkStatus();
}

// Compares the pinned bytes over and over until told to stop; then says how often.
class PinReader {
 public:
  PinReader(std::string_view bytes, std::string expected)
      : thread_([this, bytes, expected = std::move(expected)] {
          while (!stop_.load(std::memory_order_relaxed)) {
            if (bytes != expected) std::abort();
            ++comparisons_;
          }
        }) {}
  uint64_t Stop() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
    return comparisons_;
  }

 private:
  std::atomic<bool> stop_{false};
  uint64_t comparisons_ = 0;
  std::thread thread_;
};

absl::Status Run(const std::string& path, uint64_t size_bytes) {
  kv::Options options;
  options.error_if_exists = true;
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, options);
  if (!db.ok()) return db.status();
  PrintBlocks(**db, "new", 0);
  const uint64_t records = size_bytes / (kValueSizeBytes + Key(0).size());
  const absl::Time start = absl::Now();
  if (absl::Status status = Load(**db, records); !status.ok()) return status;
  std::printf("%d records loaded in %.1f s\n", static_cast<int>(records),
              absl::ToDoubleSeconds(absl::Now() - start));
  const absl::StatusOr<kv::Info> loaded = (*db)->GetInfo();
  if (!loaded.ok()) return loaded.status();
  const uint64_t loaded_bytes = loaded->dax.pool.file_blocks_bytes;
  PrintBlocks(**db, "loaded", 0);

  const uint64_t pinned_number = records / 2;
  absl::StatusOr<kv::PinnedValue> pinned = (*db)->Pin(Key(pinned_number));
  if (!pinned.ok()) return pinned.status();
  PinReader reader(pinned->value(), Value(pinned_number));
  if (absl::Status status = DeleteUpTo(**db, records * 99 / 100); !status.ok()) return status;
  PrintBlocks(**db, "99 % deleted", 0);
  const absl::Time compact_start = absl::Now();
  absl::StatusOr<kv::CompactionResult> compacted = (*db)->Compact();
  if (!compacted.ok()) return compacted.status();
  std::printf("compacted in %.2f s: %d extents freed, %d kept by the pin\n",
              absl::ToDoubleSeconds(absl::Now() - compact_start),
              static_cast<int>(compacted->extents_freed),
              static_cast<int>(compacted->extents_pinned));
  PrintBlocks(**db, "compacted, one value pinned", loaded_bytes);
  std::printf("pinned bytes compared %d times, always right\n", static_cast<int>(reader.Stop()));
  *pinned = kv::PinnedValue();
  if (compacted = (*db)->Compact(); !compacted.ok()) return compacted.status();
  PrintBlocks(**db, "pin gone, compacted", loaded_bytes);
  const absl::StatusOr<kv::CheckReport> report = (*db)->Check();
  if (!report.ok()) return report.status();
  std::printf("check: %d records, %d faults\n", static_cast<int>(report->records),
              static_cast<int>(report->faults.size()));
  return (*db)->Close();
}

}  // namespace
}  // namespace daxkv

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: reclaim STORE [GIB]\n");
    return 2;
  }
  const uint64_t gib = argc == 3 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const absl::Status status = daxkv::Run(argv[1], gib << 30);
  if (!status.ok()) std::fprintf(stderr, "reclaim: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
