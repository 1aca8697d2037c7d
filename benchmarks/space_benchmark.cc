// Micro-benchmarks of kv::Space on /dev/shm: what a slot costs, and what deriving an extent costs.
//
//   bazel run --config=opt //benchmarks:space_benchmark
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "dax/pool.h"
#include "kv/record.h"
#include "kv/space.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

class Store {
 public:
  Store() {
    if (mkdtemp(directory_.data()) == nullptr) abort();
    Open();
  }
  ~Store() {
    space_.reset();
    pool_.reset();
    std::filesystem::remove_all(directory_);
  }
  // Closes as a crash would, and opens again.
  void Reopen() {
    space_.reset();
    pool_.reset();
    Open();
  }
  Space& space() { return *space_; }

 private:
  void Open() {
    dax::PoolOptions options;
    options.max_size_bytes = uint64_t{8} << 30;
    pool_ = dax::Pool::Open(directory_ + "/pool", options).value();
    space_ = Space::Open(pool_.get()).value();
  }

  std::string directory_ = "/dev/shm/space_benchmark_XXXXXX";
  std::unique_ptr<dax::Pool> pool_;
  std::unique_ptr<Space> space_;
};

// Says at once that every slot lives: what remains is Space's own work.
class EverythingLives : public LivenessOracle {
 public:
  absl::StatusOr<bool> IsLive(SlotKind, Address) override { return true; }
};

// A slot is allocated and the oldest of 1024 is retired.
void BM_AllocateAndRetire(benchmark::State& state) {
  Store store;
  const uint64_t size_bytes = static_cast<uint64_t>(state.range(0));
  std::vector<Address> ring(1024);
  size_t i = 0;
  for (auto _ : state) {
    Address& oldest = ring[i++ % ring.size()];
    const Address fresh = store.space().Allocate(SlotKind::kRecord, size_bytes).value();
    if (oldest != kNullAddress) {
      rcu::ReadGuard guard;
      store.space().Retire(oldest, nullptr);
    }
    oldest = fresh;
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_AllocateAndRetire)->Arg(128)->Arg(1024);

void BM_PresentUntil(benchmark::State& state) {
  Store store;
  const Address address = store.space().Allocate(SlotKind::kRecord, 1000).value();
  rcu::ReadGuard guard;
  for (auto _ : state) benchmark::DoNotOptimize(store.space().PresentUntil(address));
}
BENCHMARK(BM_PresentUntil);

// Full extents of 2 MiB after a crash.
void BM_DerivePerHugeExtent(benchmark::State& state) {
  const uint64_t size_bytes = static_cast<uint64_t>(state.range(0));
  Store store;
  uint64_t extents = 0;
  while (extents < 64) {
    const Address address = store.space().Allocate(SlotKind::kRecord, size_bytes).value();
    WriteRecord(store.space(), address, kValueRecord, 1, "key",
                std::string(size_bytes - RecordSizeBytes(3, 0), 'v'));
    if (address % (2 << 20) < 2 * size_bytes + 9000) extents = store.space().stats()->slab_extents;
  }
  EverythingLives oracle;
  double extents_derived = 0;
  for (auto _ : state) {
    state.PauseTiming();
    store.Reopen();
    store.space().SetLivenessOracle(&oracle);
    extents_derived += static_cast<double>(store.space().stats()->slab_size_bytes >> 21);
    state.ResumeTiming();
    if (!store.space().MakeRoom().ok()) abort();
  }
  state.counters["us_per_extent"] = benchmark::Counter(
      extents_derived * 1e-6, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_DerivePerHugeExtent)->Arg(128)->Arg(1024)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace daxkv::kv

BENCHMARK_MAIN();
