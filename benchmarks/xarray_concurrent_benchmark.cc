// Readers beside a writer: one array or map of 1,000,000 entries, for a fifth of a second.
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "benchmarks/xarray_benchmarks.h"
#include "benchmarks/xarray_maps.h"

namespace daxkv::xarray {
namespace {

constexpr uint32_t kEntries = 1000000;
constexpr auto kDuration = std::chrono::milliseconds(200);

// A map of another kind, safe for readers and writers by the usual means.
template <typename Map>
class Locked {
 public:
  static constexpr const char* kName = Map::kName;
  uint64_t Load(uint64_t key) {
    std::shared_lock<std::shared_mutex> lock(mutex_);
    return map_.Load(key);
  }
  void Store(uint64_t key, uint64_t value) {
    std::unique_lock<std::shared_mutex> lock(mutex_);
    map_.Store(key, value);
  }

 private:
  std::shared_mutex mutex_;
  Map map_;
};

struct Rates {
  double reads = 0;  // millions a second, all readers together
  double writes = 0;
};

// One pseudo-random key after the other; every thread has its own.
class Keys {
 public:
  explicit Keys(uint64_t seed) : state_(seed * 2 + 1) {}
  uint64_t Next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 32) * kEntries >> 32;
  }

 private:
  uint64_t state_;
};

template <typename Map>
Rates Measure(Map& map, int readers, int writers) {
  std::atomic<bool> stop{false};
  std::atomic<int> ready{0};
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> writes{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < readers + writers; ++i) {
    threads.emplace_back([&, i] {
      Keys keys(i);
      uint64_t done = 0;
      uint64_t sum = 0;
      ready.fetch_add(1);
      for (; !stop.load(std::memory_order_relaxed); done += 64) {
        for (int k = 0; k < 64; ++k) {
          const uint64_t key = keys.Next();
          if (i < readers) {
            sum += map.Load(key);
          } else {
            map.Store(key, done + 1);
          }
        }
      }
      benchmark::DoNotOptimize(sum);
      (i < readers ? reads : writes).fetch_add(done);
    });
  }
  while (ready.load() < readers + writers) std::this_thread::yield();
  const auto start = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(kDuration);
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  return {static_cast<double>(reads.load()) / took.count(),
          static_cast<double>(writes.load()) / took.count()};
}

// Reads and writes are two rows.
template <typename Map>
void RegisterRates(const std::string& setting, int readers, int writers) {
  const auto shared_map = []() -> Map& {
    static std::unique_ptr<Map> map;
    if (map == nullptr) {
      map = std::make_unique<Map>();
      for (uint32_t key = 0; key < kEntries; ++key) map->Store(key, key + 1);
    }
    return *map;
  };
  const auto once = [&](const std::string& what, auto value) {
    benchmark::RegisterBenchmark(RowName(what + ", " + setting, kEntries, Map::kName).c_str(),
                                 [=](benchmark::State& state) {
                                   for (auto _ : state) {
                                     const Rates rates = Measure(shared_map(), readers, writers);
                                     state.counters["value"] = value(rates);
                                   }
                                 })
        ->Iterations(1);
  };
  once("million reads", [](const Rates& rates) { return rates.reads; });
  if (writers > 0) once("million writes", [](const Rates& rates) { return rates.writes; });
}

template <typename Map>
void RegisterMap() {
  RegisterRates<Map>("1 reader alone", 1, 0);
  RegisterRates<Map>("1 reader + 1 writer", 1, 1);
  RegisterRates<Map>("2 readers + 1 writer", 2, 1);
}

}  // namespace

void RegisterConcurrentBenchmarks() {
  RegisterMap<XArrayMap>();
  RegisterMap<Locked<JudyMap>>();
  RegisterMap<Locked<BtreeMap>>();
  RegisterMap<Locked<FlatHashMap>>();
}

}  // namespace daxkv::xarray
