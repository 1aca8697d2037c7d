#include "xarray/rcu.h"

#include <pthread.h>
#include <urcu/static/urcu-memb.h>

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

pthread_key_t g_exit_key;

// Runs at thread exit after all thread_local destructors, which may still use RCU. Should another
// key's destructor use it even later, the thread registers again and this runs again.
void UnregisterThread(void*) {
  t_registered = false;
  urcu_memb_unregister_thread();
}

void InitializeOnce() {
  pthread_key_create(&g_exit_key, &UnregisterThread);
  // The callback thread must neither hold a lock across fork() nor be missing in the child.
  pthread_atfork(&urcu_memb_call_rcu_before_fork, &urcu_memb_call_rcu_after_fork_parent,
                 &urcu_memb_call_rcu_after_fork_child);
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

void RegisterThread() {
  static std::once_flag once;
  std::call_once(once, &InitializeOnce);
  t_registered = true;
  // liburcu registers its callback threads itself; a callback may use RCU, too.
  if (URCU_TLS(urcu_memb_reader).registered) return;
  urcu_memb_register_thread();
  pthread_setspecific(g_exit_key, &g_exit_key);
}

void Call(::rcu_head* head, void (*callback)(::rcu_head*)) {
  // liburcu reads its per-thread state to pick a callback queue.
  if (!t_registered) RegisterThread();
#ifdef DAXKV_RCU_TSAN
  __tsan_release(head);
#endif
  urcu_memb_call_rcu(head, callback);
}

}  // namespace internal

bool InReadSection() { return internal::t_registered && urcu_memb_read_ongoing() != 0; }

void Synchronize() {
  assert(!InReadSection());
  urcu_memb_synchronize_rcu();
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
