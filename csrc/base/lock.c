/*
 * Locks of what the whole process shares. A fork copies such a lock as it is, and a thread that the child does not have
 * may hold it.
 */
#include <time.h>

#include "base/base.h"

#define OPENING (UINT64_C(1) << 63)

/* Not sched_yield(): a real-time thread would keep the processor from the thread that it waits for. */
static void wait_a_moment(void) {
  struct timespec moment = {0, 20000};
  nanosleep(&moment, NULL);
}

/* The thread that makes the mutex anew locks it before any other thread can. */
static bool open_anew(struct uffd_lock *lock, uint64_t own) {
  uint64_t seen = atomic_load(&lock->process);
  while (seen != own) {
    if (seen == (own | OPENING)) {
      wait_a_moment();
      seen = atomic_load(&lock->process);
    } else if (atomic_compare_exchange_strong(&lock->process, &seen, own | OPENING)) {
      pthread_mutex_init(&lock->mutex, NULL);
      pthread_mutex_lock(&lock->mutex);
      atomic_store(&lock->process, own);
      return true;
    }
  }
  return false;
}

bool uffd_lock(struct uffd_lock *lock) {
  if (open_anew(lock, uffd_process())) return true;
  pthread_mutex_lock(&lock->mutex);
  return false;
}

void uffd_unlock(struct uffd_lock *lock) {
  pthread_mutex_unlock(&lock->mutex);
}
