#include "xarray/rcu.h"

#include <pthread.h>
#include <urcu/static/urcu-bp.h>

#include <cassert>
#include <condition_variable>
#include <mutex>

#ifdef DAXKV_RCU_TSAN
extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace daxkv::rcu {
namespace internal {
namespace {

// Prepare handlers run in the reverse order. First the callback thread is stopped, which may have
// to wait for its grace period; then liburcu takes its own locks, and forgets in the child the
// threads that are not there.
void InstallForkHandlers() {
  pthread_atfork(&urcu_bp_before_fork, &urcu_bp_after_fork_parent, &urcu_bp_after_fork_child);
  pthread_atfork(&urcu_bp_call_rcu_before_fork, &urcu_bp_call_rcu_after_fork_parent,
                 &urcu_bp_call_rcu_after_fork_child);
}

#ifdef DAXKV_RCU_TSAN
// Released by every section end, acquired by every grace period end.
char g_sections;

void AnnotateGracePeriodEnd() { __tsan_acquire(&g_sections); }
#else
void AnnotateGracePeriodEnd() {}
#endif

// What Barrier waits for. All callbacks run in one queue, in order, so the last one tells of all.
// (liburcu's own barrier serves several queues, by means that ThreadSanitizer cannot see.)
struct Signal : Head {
  std::mutex mutex;
  std::condition_variable changed;
  bool raised = false;
};

void Raise(Signal* signal) {
  // Under the mutex to the end: the waiter destroys the signal as soon as it gets it.
  std::lock_guard<std::mutex> lock(signal->mutex);
  signal->raised = true;
  signal->changed.notify_one();
}

}  // namespace

#ifdef DAXKV_RCU_TSAN
void AnnotateSectionEnd() { __tsan_release(&g_sections); }

void AnnotateCallback(::rcu_head* head) {
  __tsan_acquire(head);
  AnnotateGracePeriodEnd();
}
#endif

void GetReady() {
  static std::once_flag once;
  std::call_once(once, &InstallForkHandlers);
  t_is_ready = true;
}

void Call(::rcu_head* head, void (*callback)(::rcu_head*)) {
  if (!t_is_ready) GetReady();
#ifdef DAXKV_RCU_TSAN
  __tsan_release(head);
#endif
  urcu_bp_call_rcu(head, callback);
}

}  // namespace internal

bool InReadSection() { return internal::t_is_ready && urcu_bp_read_ongoing() != 0; }

void Synchronize() {
  assert(!InReadSection());
  urcu_bp_synchronize_rcu();
  internal::AnnotateGracePeriodEnd();
}

void Barrier() {
  assert(!InReadSection());
  internal::Signal signal;
  Defer<&internal::Raise>(&signal);
  std::unique_lock<std::mutex> lock(signal.mutex);
  signal.changed.wait(lock, [&] { return signal.raised; });
}

}  // namespace daxkv::rcu
