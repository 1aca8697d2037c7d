/* One entry of a mapping and the threads that lock it, wait for it, erase it and wake each other:
 * dax/mapping_lock.cc and dax/wait_table.h, for spin. model/run checks it, and checks that it finds
 * each of the bugs below when built in.
 *
 * An atomic block is what happens under the array's lock. A sleeper enters the wait table inside
 * such a block and sleeps outside, as the code does.
 *
 * Checked: two threads never hold the lock; a thread unlocks what it locked; every thread comes to
 * its end (spin: no invalid end state), so no wake-up is lost.
 *
 * Bugs: ERASE_WAKES_ONE (kernel: 23738832), UNLOCK_WAKES_NONE, ENQUEUE_AFTER_UNLOCK,
 * SHARED_USES_UP_WAKE (kernel: d8a70641), WOKEN_GIVES_UP (kernel: get_unlocked
 * results that were dropped).
 */
#define THREADS 3

bool present = true;
bool locked = false;
byte holders = 0;

chan lockers = [THREADS] of { byte };  /* Exclusive sleepers, oldest first. */
bool watching[THREADS];                /* Shared sleepers. */
bool woken[THREADS];

inline WakeShared() {
  other = 0;
  do
  :: other < THREADS ->
       if
       :: watching[other] -> watching[other] = false; woken[other] = true; spent = true
       :: else -> skip
       fi;
       other++
  :: else -> break
  od
}

inline WakeExclusive() {
  if
  :: nempty(lockers) -> lockers?other; woken[other] = true
  :: empty(lockers) -> skip
  fi
}

inline WakeOne() {
  spent = false;
  WakeShared();
#ifdef SHARED_USES_UP_WAKE
  if
  :: spent -> skip
  :: else -> WakeExclusive()
  fi;
#else
  WakeExclusive();
#endif
  other = 0
}

inline WakeAll() {
  WakeShared();
  do
  :: nempty(lockers) -> lockers?other; woken[other] = true
  :: empty(lockers) -> break
  od;
  other = 0
}

proctype Locker(byte me) {
  byte other;
  bool spent;
  bool late = false;

again:
  atomic {
    if
    :: !present -> goto end
    :: present && !locked ->
#ifdef WOKEN_GIVES_UP
       if
       :: late -> goto end
       :: else -> skip
       fi;
#endif
       locked = true; holders++; assert(holders == 1); goto held
    :: present && locked && late -> goto end
    :: present && locked && !late ->
       woken[me] = false;
#ifndef ENQUEUE_AFTER_UNLOCK
       lockers!me
#endif
    fi
  }
#ifdef ENQUEUE_AFTER_UNLOCK
  lockers!me;
#endif
  if
  :: atomic { woken[me] -> woken[me] = false }
#ifdef WOKEN_GIVES_UP
     if
     :: late = true
     :: skip
     fi
#endif
  :: atomic { me == 0 && lockers??[eval(me)] -> lockers??eval(me); late = true }  /* Its deadline; only one has any. */
  fi;
  goto again;

held:
  if
  :: atomic {  /* Unlock. */
       assert(locked && holders == 1);
       locked = false; holders--;
#ifndef UNLOCK_WAKES_NONE
       WakeOne()
#endif
     }
  :: atomic {  /* Erase. */
       assert(locked && holders == 1);
       locked = false; holders--; present = false;
#ifdef ERASE_WAKES_ONE
       WakeOne()
#else
       WakeAll()
#endif
     }
  fi;
  if
  :: goto again
  :: skip
  fi;
end:
  skip
}

/* A fault or a pin: waits while the entry is locked, installs what is absent. */
proctype Faulter(byte me) {
again:
  atomic {
    if
    :: !present -> present = true; goto end
    :: present && !locked -> goto end
    :: present && locked -> woken[me] = false; watching[me] = true
    fi
  }
  atomic { woken[me] -> woken[me] = false };
  goto again;
end:
  skip
}

init {
  byte i = 0;
  atomic {
    do
    :: i < THREADS ->
         if
         :: run Locker(i)
         :: run Faulter(i)
         fi;
         i++
    :: else -> break
    od
  }
}
