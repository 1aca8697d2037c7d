// Named points at which a test may hold a thread, to force an interleaving. Optimised builds
// (NDEBUG) have none: there a YieldPoint compiles to nothing.
#ifndef DAXKV_DAX_YIELD_POINT_H_
#define DAXKV_DAX_YIELD_POINT_H_

#include <atomic>

namespace daxkv::dax {

#ifdef NDEBUG
inline constexpr bool kYieldPoints = false;
#else
inline constexpr bool kYieldPoints = true;
#endif

using YieldHook = void (*)(const char* point);

namespace internal {
inline std::atomic<YieldHook> g_yield_hook{nullptr};
}  // namespace internal

// Sets what runs at each yield point; nullptr (the default) for nothing. For tests.
inline void SetYieldHook(YieldHook hook) {
  // Release pairs with the acquire in YieldPoint: the hook sees what its setter prepared.
  internal::g_yield_hook.store(hook, std::memory_order_release);
}

// One load of a constant cache line when no hook is set.
inline void YieldPoint([[maybe_unused]] const char* point) {
  if constexpr (kYieldPoints) {
    YieldHook hook = internal::g_yield_hook.load(std::memory_order_acquire);
    if (__builtin_expect(hook != nullptr, false)) hook(point);
  }
}

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_YIELD_POINT_H_
