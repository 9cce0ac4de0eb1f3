/*
 * All threads of uffd are started here.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/base.h"

int uffd_thread_start(pthread_t *thread, void *(*run)(void *), void *argument, const char *name) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(thread, NULL, run, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error != 0) return fail(error, "Cannot start the thread %s: %s.", name, strerror(error));
  pthread_setname_np(*thread, name);
  return 0;
}
