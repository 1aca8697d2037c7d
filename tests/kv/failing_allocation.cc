#include "tests/kv/failing_allocation.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#include "xarray/node.h"

namespace daxkv::kv {
namespace {

enum class Mode { kOff, kOne, kAllAfter, kByChance };

std::atomic<Mode> mode{Mode::kOff};
std::atomic<bool> all_threads{false};
std::atomic<int64_t> left{0};
std::atomic<uint64_t> state{0};
std::atomic<uint64_t> part{1};
std::atomic<int64_t> failures{0};
thread_local bool chosen = false;

bool Fails() {
  const Mode now = mode.load(std::memory_order_relaxed);
  if (now == Mode::kOff || (!chosen && !all_threads.load(std::memory_order_relaxed))) return false;
  bool fails;
  if (now == Mode::kByChance) {
    uint64_t bits = state.fetch_add(0x9e3779b97f4a7c15, std::memory_order_relaxed);
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    fails = (bits >> 20) % part.load(std::memory_order_relaxed) == 0;
  } else {
    const int64_t number = left.fetch_sub(1, std::memory_order_relaxed);
    fails = number == 0 || (number < 0 && now == Mode::kAllAfter);
  }
  if (fails) failures.fetch_add(1, std::memory_order_relaxed);
  return fails;
}

void* Allocate(size_t size_bytes, size_t alignment) {
  if (Fails()) return nullptr;
  if (size_bytes == 0) size_bytes = 1;
  if (alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__) return std::malloc(size_bytes);
  return std::aligned_alloc(alignment, (size_bytes + alignment - 1) / alignment * alignment);
}

void* AllocateOrThrow(size_t size_bytes, size_t alignment) {
  void* memory = Allocate(size_bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// The nodes of arrays come from a pool of their own, which seldom asks operator new.
void Arm(Mode to) {
  xarray::internal::SetAllocationHook(to == Mode::kOff ? nullptr : +[] { return !Fails(); });
  mode.store(to);
}

}  // namespace

FailingAllocation::FailingAllocation(int64_t allowed, FailingThreads threads, Failing failing) {
  failures.store(0);
  left.store(allowed);
  chosen = true;
  all_threads.store(threads == FailingThreads::kAll);
  Arm(failing == Failing::kOne ? Mode::kOne : Mode::kAllAfter);
}

FailingAllocation::FailingAllocation(uint64_t seed, uint64_t one_in) {
  failures.store(0);
  state.store(seed);
  part.store(one_in);
  chosen = true;
  all_threads.store(true);
  Arm(Mode::kByChance);
}

FailingAllocation::~FailingAllocation() {
  Arm(Mode::kOff);
  chosen = false;
}

int64_t FailingAllocation::failed() const { return failures.load(); }

}  // namespace daxkv::kv

// What the standard says of each form follows from these; the array forms call the plain ones.
void* operator new(size_t size) {
  return daxkv::kv::AllocateOrThrow(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(size_t size, std::align_val_t alignment) {
  return daxkv::kv::AllocateOrThrow(size, static_cast<size_t>(alignment));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return daxkv::kv::Allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return daxkv::kv::Allocate(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size) { return operator new(size); }
void* operator new[](size_t size, std::align_val_t alignment) {
  return operator new(size, alignment);
}
void* operator new[](size_t size, const std::nothrow_t& nothrow) noexcept {
  return operator new(size, nothrow);
}
void* operator new[](size_t size, std::align_val_t alignment,
                     const std::nothrow_t& nothrow) noexcept {
  return operator new(size, alignment, nothrow);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
