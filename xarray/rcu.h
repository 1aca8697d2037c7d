// RCU for all of daxkv: a small wrapper over liburcu's `bp` flavour.
//
// Of its flavours this is the one whose grace period sleeps (poll, 10 ms) for a reader that is not
// done soon. `memb` waits on a futex that every other reader wakes at the end of each section: with
// two clients and a background thread on two processors, one preempted reader cost some hundred
// wake-ups and membarriers, interrupts of the other reader, a grace period; YCSB B ran at 0.89 of
// the speed (1 M records of 1 KB, tmpfs, interleaved).
//
// RCU lets readers walk a shared structure with neither lock nor atomic read-modify-write. A
// writer unlinks an object, and frees it only after a *grace period*: a time in which every read
// section that could still see the object has ended.
//
//   {                                     | {
//     rcu::ReadGuard guard;               |   std::lock_guard lock(list_lock);
//     Item* item = head.load(acquire);    |   Item* old = head.exchange(next);   // unlink first
//     use(item);                          |   rcu::Retire(old);                  // delete later
//   }                                     | }
//
// Threads register themselves at their first read section, and are forgotten when they exit.
//
// Rules
// R1. Inside a ReadGuard never sleep, never wait for a lock that is held across a grace period,
//     never do file I/O: memory of the whole process waits for the slowest reader.
// R2. Unlink *every* path to an object before Retire/Defer. A writer may be preempted between the
//     two; nothing but the order of these steps protects a reader that starts in that gap.
// R3. Synchronize and Barrier must not be called inside a ReadGuard (asserted), nor in a deferred
//     callback.
// R4. Never fork() inside a ReadGuard. In the child the sections of other threads, which it does not
//     have, hold nothing up.
// R5. At fork() the callback thread is stopped first, since it may want any lock; only then may
//     locks be taken that callbacks need, and they are given back before it goes on. Prepare
//     handlers run in the reverse order of pthread_atfork, and this wrapper's is installed at the
//     first use of RCU: so whoever owns such a lock installs its handlers before that, as
//     node_pool.cc does before main().
//
// ThreadSanitizer knows the order that RCU gives: the end of a read section happens before the end
// of the next grace period, and a deferred callback happens after both its Defer and that grace
// period. Nothing is suppressed; a real race is still reported.
#ifndef DAXKV_XARRAY_RCU_H_
#define DAXKV_XARRAY_RCU_H_

#include <utility>

#if defined(__SANITIZE_THREAD__)
#define DAXKV_RCU_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define DAXKV_RCU_TSAN 1
#endif
#endif

// liburcu asks for this name before it shows the few-line read functions that may be inlined under
// any licence. Under ThreadSanitizer the library's own, uninstrumented copies are called instead, and
// under UndefinedBehaviorSanitizer (.bazelrc defines the name): liburcu's readers lie where its
// arena puts them, which is less aligned than their type says.
#if !defined(DAXKV_RCU_TSAN) && !defined(DAXKV_RCU_LIBRARY_CALLS) && !defined(_LGPL_SOURCE)
#define _LGPL_SOURCE  // NOLINT(bugprone-reserved-identifier): liburcu's choice
#endif
#include <urcu/urcu-bp.h>

namespace daxkv::rcu {

namespace internal {
inline thread_local bool t_is_ready = false;
void GetReady();
void Call(::rcu_head* head, void (*callback)(::rcu_head*));
#ifdef DAXKV_RCU_TSAN
void AnnotateSectionEnd();
void AnnotateCallback(::rcu_head* head);
#else
inline void AnnotateSectionEnd() {}
inline void AnnotateCallback(::rcu_head*) {}
#endif

template <typename T>
void Delete(T* object) {
  delete object;
}
template <typename Holder>
void RunAndDelete(Holder* holder) {
  holder->closure();
  delete holder;
}
}  // namespace internal

// A read section, from construction to destruction. Nests. About 1 ns.
class ReadGuard {
 public:
  ReadGuard() {
    if (__builtin_expect(!internal::t_is_ready, false)) internal::GetReady();
    urcu_bp_read_lock();
  }
  ~ReadGuard() {
    internal::AnnotateSectionEnd();
    urcu_bp_read_unlock();
  }
  ReadGuard(const ReadGuard&) = delete;
  ReadGuard& operator=(const ReadGuard&) = delete;
};

// Whether the calling thread is inside a read section. For assertions of R1.
bool InReadSection();

// Waits until every read section that was under way at the call has ended. Microseconds if they all
// are short and their threads running, else steps of 10 ms.
void Synchronize();

// Waits until every callback deferred before the call, by any thread, has run. Milliseconds.
void Barrier();

// What a type inherits so that its objects can be deferred without further memory.
class Head : private ::rcu_head {
  template <auto callback, typename T>
  friend void Defer(T* object);
};

// Runs callback(object) after a grace period, in liburcu's callback thread. Never blocks for a
// grace period, never allocates, may be called inside a ReadGuard. T derives from Head; an object
// may be deferred once.
template <auto callback, typename T>
void Defer(T* object) {
  internal::Call(static_cast<Head*>(object), [](::rcu_head* head) {
    internal::AnnotateCallback(head);
    callback(static_cast<T*>(static_cast<Head*>(head)));
  });
}

// Deletes the object after a grace period. As Defer.
template <typename T>
void Retire(T* object) {
  Defer<internal::Delete<T>>(object);
}

// Runs a closure after a grace period. As Defer, but allocates (and may so throw std::bad_alloc).
template <typename Closure>
void DeferClosure(Closure closure) {
  struct Holder : Head {
    explicit Holder(Closure c) : closure(std::move(c)) {}
    Closure closure;
  };
  Defer<internal::RunAndDelete<Holder>>(new Holder(std::move(closure)));
}

}  // namespace daxkv::rcu

#endif  // DAXKV_XARRAY_RCU_H_
