// The XArray against JudyL, absl::btree_map, absl::flat_hash_map and std::map, in one process.
//
//   bazel run --config=opt //benchmarks:xarray
//
// prints one table of medians and says of each goal whether it is met. --runs shows every run, too;
// Google Benchmark's own flags, such as --benchmark_filter=load, work as always. Single-threaded
// rows are CPU time, so that other load on the machine disturbs them less.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <memory>
#include <mutex>

#include "benchmarks/xarray_benchmarks.h"
#include "benchmarks/xarray_maps.h"
#include "benchmarks/xarray_table.h"
#include "xarray/node.h"

namespace daxkv::xarray {
namespace {

constexpr uint32_t kCached[] = {64, 4096, 65536};
constexpr uint32_t kLarge = 1000000;
constexpr unsigned kHugeOrder = 9;
constexpr uint32_t kHugeEntries = 100000;

template <typename Map>
void Fill(Map& map, const std::vector<uint32_t>& keys) {
  for (uint32_t key : keys) map.Store(key, key + 1);
}

// A full map that all reading rows of this size share. Values are key + 1.
template <typename Map>
Map& Full(uint32_t n) {
  static std::map<uint32_t, std::unique_ptr<Map>> maps;
  std::unique_ptr<Map>& map = maps[n];
  if (map == nullptr) {
    map = std::make_unique<Map>();
    Fill(*map, Shuffled(n));
  }
  return *map;
}

// ---- Rows that read ----

// At least 4096 keys, so that the loop around them costs little.
std::vector<uint32_t> KeysToRead(uint32_t n) {
  std::vector<uint32_t> keys = Shuffled(n);
  while (keys.size() < 4096) keys.insert(keys.end(), keys.begin(), keys.begin() + n);
  return keys;
}

template <typename Map>
void Load(benchmark::State& state, uint32_t n) {
  const Map& map = Full<Map>(n);
  const std::vector<uint32_t> keys = KeysToRead(n);
  for (auto _ : state) {
    uint64_t sum = 0;
    for (uint32_t key : keys) sum += map.Load(key);
    benchmark::DoNotOptimize(sum);
  }
  SetNsPerOperation(state, keys.size());
}

void LoadUnderRcu(benchmark::State& state, uint32_t n) {
  XArray& array = Full<XArrayMap>(n).array();
  const std::vector<uint32_t> keys = KeysToRead(n);
  for (auto _ : state) {
    rcu::ReadGuard guard;
    uint64_t sum = 0;
    for (uint32_t key : keys) sum += array.LoadUnderRcu(key).raw();
    benchmark::DoNotOptimize(sum);
  }
  SetNsPerOperation(state, keys.size());
}

// Each loaded value is the next key: one circle through all.
template <typename Map>
void DependentLoad(benchmark::State& state, uint32_t n) {
  Map map;
  const std::vector<uint32_t> circle = Shuffled(n);
  for (uint32_t i = 0; i < n; ++i) map.Store(circle[i], circle[(i + 1) % n]);
  uint64_t key = 0;
  for (auto _ : state) {
    for (uint32_t i = 0; i < 100000; ++i) key = map.Load(key);
    benchmark::DoNotOptimize(key);
  }
  SetNsPerOperation(state, 100000);
}

template <typename Map>
void Iterate(benchmark::State& state, uint32_t n) {
  Map& map = Full<Map>(n);
  for (auto _ : state) {
    uint64_t sum = 0;
    map.ForEach([&](uint64_t value) { sum += value; });
    benchmark::DoNotOptimize(sum);
  }
  SetNsPerOperation(state, n);
}

void IterateMarked(benchmark::State& state, uint32_t n) {
  XArrayMap map;
  Fill(map, Shuffled(n));
  const std::vector<uint32_t> keys = Shuffled(n);
  for (uint32_t i = 0; i < n / 100; ++i) map.array().SetMark(keys[i], Mark::k0);
  for (auto _ : state) {
    Cursor cursor(map.array());
    rcu::ReadGuard guard;
    uint64_t sum = 0;
    while (Entry entry = cursor.FindNextMarked(UINT64_MAX, Mark::k0)) sum += entry.value();
    benchmark::DoNotOptimize(sum);
  }
  SetNsPerOperation(state, n / 100);
}

// Without marks one keeps a set of the marked keys beside the map, and looks each up.
void IterateJudySideSet(benchmark::State& state, uint32_t n) {
  JudyMap& map = Full<JudyMap>(n);
  void* marked = nullptr;
  const std::vector<uint32_t> keys = Shuffled(n);
  for (uint32_t i = 0; i < n / 100; ++i) Judy1Set(&marked, keys[i], PJE0);
  for (auto _ : state) {
    uint64_t sum = 0;
    Word_t key = 0;
    for (int at = Judy1First(marked, &key, PJE0); at != 0; at = Judy1Next(marked, &key, PJE0)) {
      sum += map.Load(key);
    }
    benchmark::DoNotOptimize(sum);
  }
  Judy1FreeArray(&marked, PJE0);
  SetNsPerOperation(state, n / 100);
}

// ---- Rows that write ----

template <typename Map>
void Overwrite(benchmark::State& state, uint32_t n) {
  Map& map = Full<Map>(n);
  const std::vector<uint32_t> keys = KeysToRead(n);
  for (auto _ : state) {
    for (uint32_t key : keys) map.Store(key, key + 1);
  }
  SetNsPerOperation(state, keys.size());
}

std::vector<uint32_t> Sequential(uint32_t n) {
  std::vector<uint32_t> keys(n);
  std::iota(keys.begin(), keys.end(), 0);
  return keys;
}

// Runs `change` on a fresh map per iteration; what makes and frees the map is not counted.
template <typename Map, typename Prepare, typename Change>
void OnFreshMaps(benchmark::State& state, Prepare prepare, Change change) {
  for (auto _ : state) {
    state.PauseTiming();
    auto map = std::make_unique<Map>();
    prepare(*map);
    state.ResumeTiming();
    change(*map);
    state.PauseTiming();
    map.reset();
    rcu::Barrier();
    state.ResumeTiming();
  }
}

template <typename Map>
void Store(benchmark::State& state, const std::vector<uint32_t>& keys) {
  OnFreshMaps<Map>(
      state, [](Map&) {}, [&](Map& map) { Fill(map, keys); });
  SetNsPerOperation(state, keys.size());
}

// In order, by one cursor under one lock.
void StoreUnderOneLock(benchmark::State& state, uint32_t n) {
  OnFreshMaps<XArrayMap>(
      state, [](XArrayMap&) {},
      [&](XArrayMap& map) {
        Cursor cursor(map.array());
        std::unique_lock<XArray> lock(map.array());
        for (uint64_t key = 0; key < n; ++key) {
          cursor.Set(key);
          while (!cursor.Store(Entry::Value(key)).ok()) {
            lock.unlock();
            if (!cursor.Reserve().ok()) __builtin_trap();
            lock.lock();
          }
        }
      });
  SetNsPerOperation(state, n);
}

template <typename Map>
void Erase(benchmark::State& state, const std::vector<uint32_t>& keys) {
  const std::vector<uint32_t> fill = Sequential(static_cast<uint32_t>(keys.size()));
  OnFreshMaps<Map>(
      state, [&](Map& map) { Fill(map, fill); },
      [&](Map& map) {
        for (uint32_t key : keys) map.Erase(key);
      });
  SetNsPerOperation(state, keys.size());
}

// ---- Entries of order 9; the other maps use the first index as the key ----

uint64_t FirstOf(uint32_t i) { return uint64_t{i} << kHugeOrder; }

void StoreHuge(XArrayMap& map, uint64_t index, uint64_t value) {
  if (!map.array().Store(index, kHugeOrder, Entry::Value(value)).ok()) __builtin_trap();
}
template <typename Map>
void StoreHuge(Map& map, uint64_t index, uint64_t value) {
  map.Store(index, value);
}

uint64_t LoadHuge(XArrayMap& map, uint64_t index) { return map.Load(index); }
uint64_t LoadHuge(JudyMap& map, uint64_t index) { return map.LoadAtOrBefore(index); }
// A hash table cannot search: it has to be told the order.
uint64_t LoadHuge(FlatHashMap& map, uint64_t index) {
  return map.Load(index >> kHugeOrder << kHugeOrder);
}
template <typename Map>
uint64_t LoadHuge(Map& map, uint64_t index) {
  auto it = map.map().upper_bound(index);
  return it == map.map().begin() ? 0 : (--it)->second;
}

template <typename Map>
void FillHuge(Map& map) {
  for (uint32_t i : Shuffled(kHugeEntries)) StoreHuge(map, FirstOf(i), i + 1);
}
template <typename Map>
Map& FullHuge() {
  static std::unique_ptr<Map> map;
  if (map == nullptr) {
    map = std::make_unique<Map>();
    FillHuge(*map);
  }
  return *map;
}

template <typename Map>
void HugeStore(benchmark::State& state) {
  const std::vector<uint32_t> order = Shuffled(kHugeEntries);
  OnFreshMaps<Map>(
      state, [](Map&) {},
      [&](Map& map) {
        for (uint32_t i : order) StoreHuge(map, FirstOf(i), i + 1);
      });
  SetNsPerOperation(state, kHugeEntries);
}

template <typename Map>
void HugeLoad(benchmark::State& state) {
  Map& map = FullHuge<Map>();
  std::mt19937 random(1);
  std::vector<uint64_t> indices(kHugeEntries);
  for (uint64_t& index : indices) index = random() % FirstOf(kHugeEntries);
  for (auto _ : state) {
    uint64_t sum = 0;
    for (uint64_t index : indices) sum += LoadHuge(map, index);
    benchmark::DoNotOptimize(sum);
  }
  SetNsPerOperation(state, kHugeEntries);
}

template <typename Map>
void HugeIterate(benchmark::State& state) {
  Map& map = FullHuge<Map>();
  for (auto _ : state) {
    uint64_t sum = 0;
    map.ForEach([&](uint64_t value) { sum += value; });
    benchmark::DoNotOptimize(sum);
  }
  SetNsPerOperation(state, kHugeEntries);
}

template <typename Map>
void HugeOverwrite(benchmark::State& state) {
  Map& map = FullHuge<Map>();
  const std::vector<uint32_t> order = Shuffled(kHugeEntries);
  for (auto _ : state) {
    for (uint32_t i : order) StoreHuge(map, FirstOf(i), i + 1);
  }
  SetNsPerOperation(state, kHugeEntries);
}

template <typename Map>
void HugeErase(benchmark::State& state) {
  const std::vector<uint32_t> order = Shuffled(kHugeEntries);
  OnFreshMaps<Map>(
      state, [](Map& map) { FillHuge(map); },
      [&](Map& map) {
        for (uint32_t i : order) map.Erase(FirstOf(i));
      });
  SetNsPerOperation(state, kHugeEntries);
}

// ---- Memory ----

uint64_t UsedBytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd +
         static_cast<uint64_t>(internal::LiveNodes()) * sizeof(internal::Node<6>);
}

template <typename Map>
void BytesPerEntry(benchmark::State& state, uint32_t n) {
  const std::vector<uint32_t> keys = Sequential(n);
  double bytes = 0;
  for (auto _ : state) {
    rcu::Barrier();
    const uint64_t before = UsedBytes();
    Map map;
    Fill(map, keys);
    bytes = static_cast<double>(UsedBytes() - before);
  }
  state.counters["value"] = bytes / n;
}

// ---- Registration ----

template <typename Fn>
void Register(const std::string& name, Fn fn) {
  benchmark::RegisterBenchmark(name.c_str(), fn);
}
template <typename Fn>
void RegisterOnce(const std::string& name, Fn fn) {
  benchmark::RegisterBenchmark(name.c_str(), fn)->Iterations(1);
}

template <typename Map>
void RegisterMap() {
  const auto name = [](const std::string& row, uint32_t n) { return RowName(row, n, Map::kName); };
  for (uint32_t n : kCached) {
    Register(name("load", n), [n](auto& state) { Load<Map>(state, n); });
    Register(name("overwrite", n), [n](auto& state) { Overwrite<Map>(state, n); });
    Register(name("iterate", n), [n](auto& state) { Iterate<Map>(state, n); });
  }
  const uint32_t n = kLarge;
  Register(name("load", n), [](auto& state) { Load<Map>(state, n); });
  Register(name("dependent load", n), [](auto& state) { DependentLoad<Map>(state, n); });
  Register(name("iterate", n), [](auto& state) { Iterate<Map>(state, n); });
  RegisterOnce(name("store sequential", n), [](auto& state) { Store<Map>(state, Sequential(n)); });
  RegisterOnce(name("store random", n), [](auto& state) { Store<Map>(state, Shuffled(n)); });
  RegisterOnce(name("erase sequential", n), [](auto& state) { Erase<Map>(state, Sequential(n)); });
  RegisterOnce(name("erase random", n), [](auto& state) { Erase<Map>(state, Shuffled(n)); });
  RegisterOnce(name("bytes per entry", n), [](auto& state) { BytesPerEntry<Map>(state, n); });

  const uint32_t huge = kHugeEntries;
  RegisterOnce(name("order 9 store", huge), [](auto& state) { HugeStore<Map>(state); });
  Register(name("order 9 load", huge), [](auto& state) { HugeLoad<Map>(state); });
  Register(name("order 9 iterate", huge), [](auto& state) { HugeIterate<Map>(state); });
  Register(name("order 9 overwrite", huge), [](auto& state) { HugeOverwrite<Map>(state); });
  RegisterOnce(name("order 9 erase", huge), [](auto& state) { HugeErase<Map>(state); });
}

void RegisterAll() {
  RegisterMap<XArrayMap>();
  RegisterMap<JudyMap>();
  RegisterMap<BtreeMap>();
  RegisterMap<FlatHashMap>();
  RegisterMap<StdMap>();
  const char* const under_one = "xarray u";
  for (uint32_t n : {kCached[0], kCached[1], kCached[2], kLarge}) {
    Register(RowName("load", n, under_one), [n](auto& state) { LoadUnderRcu(state, n); });
  }
  RegisterOnce(RowName("store sequential", kLarge, under_one),
               [](auto& state) { StoreUnderOneLock(state, kLarge); });
  Register(RowName("iterate 1% marked", kLarge, XArrayMap::kName),
           [](auto& state) { IterateMarked(state, kLarge); });
  Register(RowName("iterate 1% marked", kLarge, JudyMap::kName),
           [](auto& state) { IterateJudySideSet(state, kLarge); });
  RegisterConcurrentBenchmarks();
}

}  // namespace
}  // namespace daxkv::xarray

int main(int argc, char** argv) {
  bool show_runs = false;
  // Before the user's own flags, which so have the last word.
  std::vector<char*> args = {argv[0]};
  std::string defaults[] = {"--benchmark_repetitions=5", "--benchmark_min_time=0.05",
                            "--benchmark_enable_random_interleaving=true",
                            "--benchmark_report_aggregates_only=false"};
  for (std::string& flag : defaults) args.push_back(flag.data());
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--runs") {
      show_runs = true;
    } else {
      args.push_back(argv[i]);
    }
  }
  int count = static_cast<int>(args.size());
  daxkv::xarray::RegisterAll();
  benchmark::Initialize(&count, args.data());
  if (benchmark::ReportUnrecognizedArguments(count, args.data())) return 2;
  daxkv::xarray::TableReporter reporter(show_runs);
  benchmark::RunSpecifiedBenchmarks(&reporter);
  reporter.PrintTable();
}
