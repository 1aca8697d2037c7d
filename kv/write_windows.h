// Write windows: what lets a thread wait until every writer that was storing a moment ago has done
// so, at the cost of two uncontended atomic additions for a writer.
//
//   writer                                   | other thread
//   WriteWindows::Token window = w.Enter();  |   flag.store(true);       // sequentially consistent
//   if (flag.load()) ...                     |   w.WaitForAll();
//   StoreSomething();                        |   // All stores of writers that did not see the flag
//   w.Leave(window);                         |   // are seen here.
//
// Like SRCU (Documentation/RCU in the Linux kernel): counters of two phases; new windows open in
// the current phase, so that a stream of them keeps nobody waiting. Each thread has one of a few
// counter lines and leaves by the line that it entered.
//
// Thread safety: every method from any thread. A window is short: whoever is in one waits for
// nothing but its own stores, except where a caller says so.
//
// Invariant
//   W1  WaitForAll returns only when every window has been left whose Enter came before the call
//       (in the one order of all sequentially consistent operations). A window entered later sees
//       what the caller stored, sequentially consistently, before the call.
#ifndef DAXKV_KV_WRITE_WINDOWS_H_
#define DAXKV_KV_WRITE_WINDOWS_H_

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <mutex>

namespace daxkv::kv {

class WriteWindows {
  static constexpr unsigned kLines = 16;

 public:
  // An open window; to be given back to Leave.
  class Token {
    friend class WriteWindows;
    std::atomic<uint64_t>* counter_ = nullptr;
  };

  Token Enter() {
    Token token;
    // Relaxed: a phase that has just passed is waited for as well.
    const unsigned phase = phase_.load(std::memory_order_relaxed) % 2;
    token.counter_ = &lines_[LineNumber()].open[phase];
    token.counter_->fetch_add(1, std::memory_order_seq_cst);  // W1
    return token;
  }

  void Leave(Token token) {
    // Pairs with the acquiring load in Drain: the waiter sees what was stored in the window.
    token.counter_->fetch_sub(1, std::memory_order_release);
  }

  void WaitForAll() {
    std::lock_guard<std::mutex> lock(wait_mutex_);
    const unsigned phase = phase_.load(std::memory_order_relaxed) % 2;
    // In the other phase there are only windows of threads that read the phase before the last
    // flip and entered after it.
    Drain(phase ^ 1);
    phase_.store(phase ^ 1, std::memory_order_relaxed);
    Drain(phase);
  }

 private:
  struct alignas(64) Line {
    std::atomic<uint64_t> open[2] = {};
  };

  static unsigned LineNumber() {
    static std::atomic<unsigned> next{0};
    thread_local const unsigned number = next.fetch_add(1, std::memory_order_relaxed) % kLines;
    return number;
  }

  void Drain(unsigned phase) {
    constexpr unsigned kSpins = 100;
    // Sequentially consistent, as the caller's store before the call is: no fence between (W1).
    for (Line& line : lines_) {
      for (unsigned spins = 0; line.open[phase].load(std::memory_order_seq_cst) != 0; ++spins) {
        if (spins < kSpins) {
          __builtin_ia32_pause();
        } else {
          sched_yield();
        }
      }
    }
  }

  Line lines_[kLines];
  std::atomic<unsigned> phase_{0};
  std::mutex wait_mutex_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_WRITE_WINDOWS_H_
