// What a store's files cost beyond keys and values, and what comes back.
//
//   space_amplification STORE [--value BYTES] [--records N] [--overwrites N]
//
// Loads N records (1,000,000) with values of BYTES (1000) bytes under hashed keys into a new store
// at the path STORE, leaves it alone for a few seconds, compacts it, and prints where every byte of
// the files' blocks went. Then overwrites all of them again and again (10 times), deletes a random
// 90 % and compacts, while two readers get and pin what stays and compare it; first with 20 other
// pins held all the while, then without, then without readers.
//
// Goals: blocks / bytes of keys and values <= 1.10 for 1 KB and <= 1.35 for 100 B values after the
// load, <= 1.3 times the loaded files after the overwrites, >= 85 % of the blocks back after the
// deletes with readers running.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kv/db.h"

namespace daxkv {
namespace {

constexpr uint64_t kGroupRecords = 2000;
constexpr uint64_t kPins = 20;
constexpr int kReaders = 2;
// After which the background has given spare blocks back, and has looked whether to compact.
constexpr absl::Duration kShortIdle = absl::Seconds(1), kIdle = absl::Seconds(5);

struct Parameters {
  std::string path;
  uint64_t value_size_bytes = 1000;
  uint64_t records = 1'000'000;
  uint64_t overwrites = 10;
};

uint64_t Mix(uint64_t x) {  // The finalizer of SplitMix64.
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// 24 bytes, in no order.
std::string Key(uint64_t number) { return absl::StrFormat("user%020d", Mix(number + 1)); }

std::string Value(uint64_t number, uint64_t version, uint64_t size_bytes) {
  std::string value = absl::StrFormat("value %d version %d ", number, version);
  value.resize(size_bytes, static_cast<char>('a' + number % 26));
  return value;
}

bool IsKept(uint64_t number) { return Mix(number ^ 0x5bd1e995) % 10 == 0; }

absl::Status Put(kv::Db& db, const Parameters& parameters, uint64_t version) {
  for (uint64_t begin = 0; begin < parameters.records; begin += kGroupRecords) {
    std::vector<std::string> texts;
    for (uint64_t i = begin; i < std::min(parameters.records, begin + kGroupRecords); ++i) {
      texts.push_back(Key(i));
      texts.push_back(Value(i, version, parameters.value_size_bytes));
    }
    std::vector<kv::KeyValue> group;
    for (size_t i = 0; i < texts.size(); i += 2) group.push_back({texts[i], texts[i + 1]});
    if (absl::StatusOr<kv::GroupResult> put = db.PutGroup(group); !put.ok()) return put.status();
  }
  return absl::OkStatus();
}

absl::Status DeleteMost(kv::Db& db, uint64_t records) {
  for (uint64_t begin = 0; begin < records; begin += kGroupRecords) {
    std::vector<std::string> keys;
    for (uint64_t i = begin; i < std::min(records, begin + kGroupRecords); ++i) {
      if (!IsKept(i)) keys.push_back(Key(i));
    }
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    absl::StatusOr<kv::GroupResult> deleted = db.DeleteGroup(views);
    if (!deleted.ok()) return deleted.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> BlocksBytes(const kv::Db& db) {
  const absl::StatusOr<kv::Info> info = db.GetInfo();
  if (!info.ok()) return info.status();
  return info->dax.pool.file_blocks_bytes;
}

double MiB(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// Where the blocks of the files are.
absl::Status PrintBudget(const kv::Db& db) {
  const absl::StatusOr<kv::Info> info = db.GetInfo(/*count_bytes=*/true);
  if (!info.ok()) return info.status();
  const uint64_t of = std::max<uint64_t>(1, info->key_value_size_bytes);
  const auto line = [of](const char* what, uint64_t bytes) {
    std::printf("  %-44s %10.2f MiB %7.4f\n", what, MiB(bytes),
                static_cast<double>(bytes) / static_cast<double>(of));
  };
  uint64_t record_slots = 0, free_record_slots = 0, node_slots = 0, free_node_slots = 0;
  uint64_t fence_slots = 0, free_fence_slots = 0, headers = 0, known = 0;
  for (const kv::SlotClassUsage& usage : info->slot_classes) {
    const uint64_t used = usage.used_slots * usage.slot_size_bytes;
    const uint64_t unused = (usage.slots - usage.used_slots) * usage.slot_size_bytes;
    known += usage.size_bytes;
    headers += usage.size_bytes - used - unused;
    if (usage.kind == kv::SlotKind::kRecord) {
      record_slots += used, free_record_slots += unused;
    } else if (usage.kind == kv::SlotKind::kFence) {
      fence_slots += used, free_fence_slots += unused;
    } else {
      node_slots += used, free_node_slots += unused;
    }
  }
  const uint64_t record_headers = info->records * sizeof(kv::RecordHeader);
  const uint64_t live = info->dax.pool.live_pages << dax::kPageShift;
  std::printf("%d records, %d leaves (%.1f records in each), %d inner nodes\n",
              static_cast<int>(info->records), static_cast<int>(info->leaves),
              static_cast<double>(info->records) / static_cast<double>(info->leaves),
              static_cast<int>(info->inner_nodes));
  line("keys and values", info->key_value_size_bytes);
  line("record headers", record_headers);
  line("rounding of records to slots",
       record_slots - std::min(record_slots, info->key_value_size_bytes + record_headers));
  line("free record slots", free_record_slots);
  line("leaves and inner nodes", node_slots);
  line("free node slots", free_node_slots);
  line("fences", fence_slots);
  line("free fence slots", free_fence_slots);
  line("extents' headers, maps and rests", headers);
  line("extents whose maps are not loaded", live - std::min(live, known));
  line("blocks outside of extents", info->dax.pool.file_blocks_bytes - live);
  line("all blocks", info->dax.pool.file_blocks_bytes);
  return absl::OkStatus();
}

// Threads that get and pin what DeleteMost leaves, and compare it.
class Readers {
 public:
  Readers(const kv::Db& db, const Parameters& parameters, uint64_t version) {
    for (int i = 0; i < kReaders; ++i) {
      threads_.emplace_back([this, &db, &parameters, version, i] {
        for (uint64_t n = static_cast<uint64_t>(i); !stop_; ++n) {
          const uint64_t number = Mix(n) % parameters.records;
          if (!IsKept(number)) continue;
          const std::string expected = Value(number, version, parameters.value_size_bytes);
          const absl::StatusOr<std::string> value = db.Get(Key(number));
          wrong_ += !value.ok() || *value != expected;
          const absl::StatusOr<kv::PinnedValue> pinned = db.Pin(Key(number));
          wrong_ += !pinned.ok() || pinned->value() != expected;
          ++reads_;
        }
      });
    }
  }
  // How many values they compared.
  absl::StatusOr<uint64_t> Stop() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    if (wrong_ != 0) return absl::InternalError("a reader found a wrong value");
    return reads_.load();
  }
  ~Readers() { Stop().IgnoreError(); }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> reads_{0}, wrong_{0};
  std::vector<std::thread> threads_;
};

absl::Status Run(const Parameters& parameters) {
  kv::Options options;
  options.error_if_exists = true;
  absl::StatusOr<std::unique_ptr<kv::Db>> opened = kv::Db::Open(parameters.path, options);
  if (!opened.ok()) return opened.status();
  kv::Db& db = **opened;
  const auto blocks = [&db](const char* when, uint64_t of) -> absl::StatusOr<uint64_t> {
    absl::StatusOr<uint64_t> bytes = BlocksBytes(db);
    if (!bytes.ok()) return bytes;
    std::printf("%-46s %10.2f MiB", when, MiB(*bytes));
    if (of != 0) std::printf(" %7.4f", static_cast<double>(*bytes) / static_cast<double>(of));
    std::printf("\n");
    std::fflush(stdout);
    return bytes;
  };

  absl::Time start = absl::Now();
  absl::Status status = Put(db, parameters, 0);
  if (!status.ok()) return status;
  const uint64_t payload = parameters.records * (Key(0).size() + parameters.value_size_bytes);
  std::printf("loaded in %.1f s\n", absl::ToDoubleSeconds(absl::Now() - start));
  if (auto bytes = blocks("right after the load", payload); !bytes.ok()) return bytes.status();
  absl::SleepFor(kShortIdle);
  if (auto bytes = blocks("after the load, idle for 1 s", payload); !bytes.ok()) {
    return bytes.status();
  }
  absl::SleepFor(kIdle);
  if (auto bytes = blocks("after the load, idle for 6 s", payload); !bytes.ok()) {
    return bytes.status();
  }
  const auto compact = [&](const char* when) -> absl::Status {
    start = absl::Now();
    absl::StatusOr<kv::CompactionResult> result = db.Compact();
    if (!result.ok()) return result.status();
    std::printf(
        "%s: %.1f s, %d extents freed, %d records (%.1f MiB) moved, "
        "%.1f MiB trimmed\n",
        when, absl::ToDoubleSeconds(absl::Now() - start), static_cast<int>(result->extents_freed),
        static_cast<int>(result->records_moved), MiB(result->moved_size_bytes),
        MiB(result->trimmed_size_bytes));
    return absl::OkStatus();
  };
  status = compact("compacted");
  if (!status.ok()) return status;
  const absl::StatusOr<uint64_t> loaded = blocks("after the load, compacted", payload);
  if (!loaded.ok()) return loaded.status();
  status = PrintBudget(db);
  if (!status.ok()) return status;

  uint64_t most = 0;
  for (uint64_t version = 1; version <= parameters.overwrites; ++version) {
    status = Put(db, parameters, version);
    if (!status.ok()) return status;
    const absl::StatusOr<uint64_t> bytes = BlocksBytes(db);
    if (!bytes.ok()) return bytes.status();
    most = std::max(most, *bytes);
  }
  if (parameters.overwrites > 0) {
    std::printf("overwritten %d times: at most %.2f MiB, %.4f of the loaded files\n",
                static_cast<int>(parameters.overwrites), MiB(most),
                static_cast<double>(most) / static_cast<double>(*loaded));
  }

  std::vector<uint64_t> pinned_numbers;
  std::vector<kv::PinnedValue> pins;
  for (uint64_t i = 0; pins.size() < kPins && i < parameters.records; ++i) {
    const uint64_t number = Mix(i + 77) % parameters.records;
    absl::StatusOr<kv::PinnedValue> pinned = db.Pin(Key(number));
    if (!pinned.ok()) return pinned.status();
    pins.push_back(*std::move(pinned));
    pinned_numbers.push_back(number);
  }
  Readers readers(db, parameters, parameters.overwrites);
  start = absl::Now();
  status = DeleteMost(db, parameters.records);
  if (!status.ok()) return status;
  std::printf("deleted a random 90 %% in %.1f s, %d values pinned, %d readers\n",
              absl::ToDoubleSeconds(absl::Now() - start), static_cast<int>(pins.size()), kReaders);
  status = compact("compacted, with pins and readers");
  if (!status.ok()) return status;
  if (auto bytes = blocks("with pins and readers, of the loaded files", *loaded); !bytes.ok()) {
    return bytes.status();
  }
  for (size_t i = 0; i < pins.size(); ++i) {
    if (pins[i].value() !=
        Value(pinned_numbers[i], parameters.overwrites, parameters.value_size_bytes)) {
      return absl::InternalError("a pinned value changed");
    }
  }
  pins.clear();
  status = compact("compacted, with readers");
  if (!status.ok()) return status;
  if (auto bytes = blocks("with readers, of the loaded files", *loaded); !bytes.ok()) {
    return bytes.status();
  }
  const absl::StatusOr<uint64_t> compared = readers.Stop();
  if (!compared.ok()) return compared.status();
  std::printf("readers compared %d values\n", static_cast<int>(*compared));
  status = compact("compacted, alone");
  if (!status.ok()) return status;
  if (auto bytes = blocks("of the loaded files", *loaded); !bytes.ok()) return bytes.status();
  status = PrintBudget(db);
  if (!status.ok()) return status;
  const absl::StatusOr<kv::CheckReport> check = db.Check();
  if (!check.ok()) return check.status();
  for (const std::string& fault : check->faults) std::printf("fault: %s\n", fault.c_str());
  std::printf("check: %d records, %d faults\n", static_cast<int>(check->records),
              static_cast<int>(check->faults.size()));
  return db.Close();
}

}  // namespace
}  // namespace daxkv

int main(int argc, char** argv) {
  daxkv::Parameters parameters;
  const auto number = [&](int i, uint64_t* to) {
    return i + 1 < argc && absl::SimpleAtoi(argv[i + 1], to);
  };
  bool valid = argc >= 2;
  if (valid) parameters.path = argv[1];
  for (int i = 2; valid && i < argc; i += 2) {
    valid = (std::strcmp(argv[i], "--value") == 0 && number(i, &parameters.value_size_bytes)) ||
            (std::strcmp(argv[i], "--records") == 0 && number(i, &parameters.records)) ||
            (std::strcmp(argv[i], "--overwrites") == 0 && number(i, &parameters.overwrites));
  }
  if (!valid || parameters.records == 0 || parameters.value_size_bytes < 64) {
    std::fprintf(stderr,
                 "usage: space_amplification STORE [--value BYTES] [--records N] "
                 "[--overwrites N]\n");
    return 2;
  }
  const absl::Status status = daxkv::Run(parameters);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
