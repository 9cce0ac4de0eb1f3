/*
 * Test builds only: where a test hooks in to hold a thread at a named point.
 */
#include "base/base.h"

#ifdef UFFD_BARRIERS
_Atomic(void (*)(const char *name, void *ctx)) uffd_barrier_hook;
#else
typedef int uffd_no_barriers; /* ISO C wants something in every file */
#endif
