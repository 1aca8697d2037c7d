#include "xarray/node.h"

#include <sched.h>

#include <new>

#include "xarray/node_pool.h"

namespace daxkv::xarray::internal {
namespace {

std::atomic<int64_t> g_live_nodes{0};
std::atomic<bool (*)()> g_allow_allocation{nullptr};
std::atomic<void (*)(const void*)> g_retire_stall{nullptr};

// The sanitizers find a use after free in memory of their own allocators only.
#if defined(__SANITIZE_ADDRESS__) || defined(DAXKV_RCU_TSAN)
constexpr bool kUsePool = false;
#elif defined(__has_feature)
constexpr bool kUsePool = !__has_feature(address_sanitizer);
#else
constexpr bool kUsePool = true;
#endif

template <unsigned kSlotShift>
Node<kSlotShift>* AllocateNode() {
  using Node = Node<kSlotShift>;
  bool (*allow)() = g_allow_allocation.load(std::memory_order_acquire);
  if (allow != nullptr && !allow()) return nullptr;
  Node* node;
  if constexpr (kUsePool) {
    void* memory = NodePool<sizeof(Node)>::Get().Allocate();
    node = memory == nullptr ? nullptr : new (memory) Node();
  } else {
    node = new (std::nothrow) Node();
  }
  if (node != nullptr) g_live_nodes.fetch_add(1, std::memory_order_relaxed);
  return node;
}

template <unsigned kSlotShift>
void FreeNode(Node<kSlotShift>* node) {
  using Node = Node<kSlotShift>;
  g_live_nodes.fetch_sub(1, std::memory_order_relaxed);
  if constexpr (kUsePool) {
    node->~Node();
    NodePool<sizeof(Node)>::Get().Free(node);
  } else {
    delete node;
  }
}

// Spins briefly, then lets a preempted writer run.
class Backoff {
 public:
  void Wait() {
    if (++rounds_ % 64 != 0) {
      __builtin_ia32_pause();
    } else {
      sched_yield();
    }
  }

 private:
  unsigned rounds_ = 0;
};

}  // namespace

template <unsigned kSlotShift>
Tie Node<kSlotShift>::TryReadTieBesideTies(unsigned slot) const {
  const uint32_t version = tie_version.load(std::memory_order_acquire);
  const Entry entry = Load(slot);
  // Behind the last slot comes slot 0 here, which is never a sibling.
  const Entry next = Load((slot + 1) & kSlotMask);
  // Relaxed: the acquire loads above come first.
  const bool changed = version % 2 != 0 || tie_version.load(std::memory_order_relaxed) != version;
  if (changed || entry.is_sibling()) return {};
  // A null or a node before somebody else's siblings cannot be: a tie is whole in any one moment.
  return {entry, slot, next.is_sibling() ? next.sibling_slots() : 1};
}

template <unsigned kSlotShift>
Tie Node<kSlotShift>::ReadTieSlow(unsigned slot) const {
  Backoff backoff;
  for (;;) {
    const uint32_t version = tie_version.load(std::memory_order_acquire);
    Tie tie{Load(slot), slot, 1};
    if (tie.entry.is_sibling()) {
      tie.slot = tie.entry.sibling_first();
      tie.entry = Load(tie.slot);
    }
    if (tie.slot + 1 < kSlots) {
      const Entry next = Load(tie.slot + 1);
      if (next.is_sibling()) tie.slots = next.sibling_slots();
    }
    // Relaxed: the acquire loads above come first.
    if (version % 2 == 0 && tie_version.load(std::memory_order_relaxed) == version) return tie;
    backoff.Wait();
  }
}

template <unsigned kSlotShift>
NodeReserve<kSlotShift>::~NodeReserve() {
  while (size_ > 0) FreeNode(Take(0));
}

template <unsigned kSlotShift>
bool NodeReserve<kSlotShift>::FillTo(uint64_t nodes) {
  while (size_ < nodes) {
    Node<kSlotShift>* node = AllocateNode<kSlotShift>();
    if (node == nullptr) return false;
    Push(node);
  }
  return true;
}

template <unsigned kSlotShift>
Node<kSlotShift>* NodeReserve<kSlotShift>::Take(unsigned shift) {
  Node<kSlotShift>* node = list_;
  list_ = node->parent;
  --size_;
  node->shift = static_cast<uint8_t>(shift);
  node->parent = nullptr;
  return node;
}

template <unsigned kSlotShift>
void NodeReserve<kSlotShift>::PutBack(Node<kSlotShift>* node) {
  // Whatever a writer had prepared in it goes.
  node->count = 0;
  node->full = 0;
  node->tie_version.store(0, std::memory_order_relaxed);
  for (auto& bits : node->marks) bits.store(0, std::memory_order_relaxed);
  for (auto& slot : node->slots) slot.store(0, std::memory_order_relaxed);
  Push(node);
}

template <unsigned kSlotShift>
void NodeReserve<kSlotShift>::Push(Node<kSlotShift>* node) {
  node->parent = list_;
  list_ = node;
  ++size_;
}

template <unsigned kSlotShift>
void RetireNode(Node<kSlotShift>* node) {
  void (*stall)(const void*) = g_retire_stall.load(std::memory_order_acquire);
  if (stall != nullptr) stall(node);
  rcu::Defer<&FreeNode<kSlotShift>>(node);
}

int64_t LiveNodes() { return g_live_nodes.load(std::memory_order_relaxed); }

void SetAllocationHook(bool (*allow)()) {
  g_allow_allocation.store(allow, std::memory_order_release);
}

void SetRetireHook(void (*stall)(const void*)) {
  g_retire_stall.store(stall, std::memory_order_release);
}

template struct Node<3>;
template struct Node<6>;
template class NodeReserve<3>;
template class NodeReserve<6>;
template void RetireNode<3>(Node<3>*);
template void RetireNode<6>(Node<6>*);

}  // namespace daxkv::xarray::internal
