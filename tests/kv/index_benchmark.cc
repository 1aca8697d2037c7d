// Figures of the index on DRAM, one thread: what a look-up, a scan and a change cost without a
// medium's waits, in CPU time. Arguments: numbers of keys (default 100000 and 1000000).
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

// CPU time of this thread: other programs on the machine count less.
double NowNs() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

std::string Key(uint64_t n, bool hashed) {
  char key[32];
  snprintf(key, sizeof(key), "user%019llu",
           static_cast<unsigned long long>(hashed ? (n + 1) * 0x9e3779b97f4a7c15 >> 1 : n));
  return key;
}

// Nanoseconds for each of `count` calls.
template <typename Body>
double Time(uint64_t count, Body body) {
  const double start = NowNs();
  body();
  return (NowNs() - start) / static_cast<double>(count);
}

void Check(const absl::Status& status) {
  if (status.ok()) return;
  fprintf(stderr, "%s\n", status.ToString().c_str());
  exit(1);
}

void Measure(uint64_t keys, bool hashed) {
  const std::string value(100, 'v');
  IndexHarness store((keys * 500) + (64 << 20), /*track=*/false);
  ArenaMemory& memory = store.memory();
  Index& index = store.index();
  memory.reuse = false;
  std::vector<std::string> names(keys);
  std::vector<Address> records(keys);
  for (uint64_t i = 0; i < keys; ++i) {
    names[i] = Key(i, hashed);
    records[i] = *store.Write(names[i], value);
  }
  memory.drains = 0;
  const double insert = Time(keys, [&] {
    for (uint64_t i = 0; i < keys; ++i) Check(index.Upsert(names[i], records[i]).status());
  });
  const double drains = static_cast<double>(memory.drains) / static_cast<double>(keys);

  std::vector<uint32_t> order(keys);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  uint64_t sum = 0;
  const double find = Time(keys, [&] {
    for (const uint32_t i : order) {
      Check(index.Find(names[i], [&](const RecordView& record) {
        sum += record.value.size();
        return absl::OkStatus();
      }));
    }
  });
  const double scan = Time(keys, [&] { sum += store.Scan()->size(); });
  for (uint64_t i = 0; i < keys; ++i) records[i] = *store.Write(names[i], value);
  const double update = Time(keys, [&] {
    for (const uint32_t i : order) Check(index.Upsert(names[i], records[i]).status());
  });
  const IndexStats stats = index.stats();
  const double per_key = 1.0 / static_cast<double>(keys);
  printf(
      "%8llu %-9s insert %5.0f ns, find %5.0f ns, update %5.0f ns, scan %4.0f ns/key; "
      "%.4f drains/insert, %.1f keys/leaf, %.1f pool B/key, %.2f view B/key, height %u\n",
      static_cast<unsigned long long>(keys), hashed ? "hashed" : "ascending", insert, find, update,
      scan, drains, static_cast<double>(keys) / static_cast<double>(stats.leaves),
      static_cast<double>(stats.leaves * kLeafSizeBytes + stats.inner_nodes * kInnerSizeBytes) *
          per_key,
      static_cast<double>(stats.view_size_bytes) * per_key, stats.height);
  if (sum == 0) exit(1);
}

}  // namespace
}  // namespace daxkv::kv

int main(int argc, char** argv) {
  std::vector<uint64_t> counts = {100000, 1000000};
  if (argc > 1) counts.clear();
  for (int i = 1; i < argc; ++i) counts.push_back(strtoull(argv[i], nullptr, 10));
  for (const uint64_t keys : counts) {
    daxkv::kv::Measure(keys, /*hashed=*/true);
    daxkv::kv::Measure(keys, /*hashed=*/false);
  }
}
