/*
 * Only in builds for tests: holds a thread at a named point, and tells which named step is left out.
 */
#include "base/base.h"

#ifdef UFFD_BARRIERS
#include <stdlib.h>
#include <string.h>

_Atomic(void (*)(const char *name, void *ctx)) uffd_barrier_hook;

/* Nothing changes the environment while tests run, so a signal handler may read it too. */
bool uffd_is_broken(const char *name) {
  const char *broken = getenv("UFFD_BREAK");
  return broken != NULL && strcmp(broken, name) == 0;
}
#else
typedef int uffd_no_barriers; /* ISO C wants something in every file */
#endif
