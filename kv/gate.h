// A gate: lets calls into something that will end, and tells when the last one has left. Internal
// to kv/. Costs a call two uncontended atomic additions, as write_windows.h does.
//
// Thread safety: every method from any thread.
//
// Invariant
//   A1  Once IsEmpty, after Close, has returned true, nobody is inside any more.
#ifndef DAXKV_KV_GATE_H_
#define DAXKV_KV_GATE_H_

#include <atomic>
#include <cstdint>

namespace daxkv::kv {

class Gate {
  struct alignas(64) Line {
    std::atomic<uint64_t> inside{0};
  };

 public:
  // A call that is inside, unless it was refused. Without a gate it is always inside.
  class Pass {
   public:
    explicit Pass(Gate* gate) {
      if (gate == nullptr) return;
      inside_ = &gate->LineOfThread().inside;
      // Either Close sees us, or we see it: both are sequentially consistent.
      inside_->fetch_add(1, std::memory_order_seq_cst);
      refused_ = gate->closed_.load(std::memory_order_seq_cst);
    }
    ~Pass() {
      // Pairs with the load in IsEmpty: who sees us gone sees what we did.
      if (inside_ != nullptr) inside_->fetch_sub(1, std::memory_order_release);
    }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    bool refused() const { return refused_; }

   private:
    std::atomic<uint64_t>* inside_ = nullptr;
    bool refused_ = false;
  };

  // From now on every call is refused.
  void Close() { closed_.store(true, std::memory_order_seq_cst); }
  bool IsEmpty() const {
    for (const Line& line : lines_) {
      if (line.inside.load(std::memory_order_seq_cst) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr unsigned kLines = 16;

  Line& LineOfThread() {
    static std::atomic<unsigned> next{0};
    thread_local const unsigned number = next.fetch_add(1, std::memory_order_relaxed) % kLines;
    return lines_[number];
  }

  Line lines_[kLines];
  std::atomic<bool> closed_{false};
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_GATE_H_
