/*
 * Which system calls does a thread make that may wait? A tracer, a process of its own, stops the thread at each call
 * and compares it with a list of those that never wait, or wait for nobody but the kernel; calls.c has the list, with a
 * reason for each.
 */
#ifndef UFFD_TESTS_CALLS_H
#define UFFD_TESTS_CALLS_H

#include "check.h"

#define CALLS_MAX 64

/* Shared with the tracer. */
struct calls_seen {
  _Atomic int ready, stop;
  _Atomic uint64_t judged; /* calls so far */
  unsigned kinds;          /* of calls that may wait: so many of what follows are set */
  struct {
    char text[400];
    unsigned times;
  } found[CALLS_MAX];
};

struct calls {
  struct calls_seen *seen;
  pid_t process, tracer;
};

/*
 * Begins. inside: in shared memory, calls count only while it is not 0; NULL: always. Skips where nobody may trace.
 */
void calls_watch(struct calls *calls, pid_t process, const _Atomic int *inside);
/* The traced process says that its sibling may trace it. */
void calls_allow(void);
/* Lets go of the process, names the calls that may wait on stderr, and returns how many kinds there were. */
unsigned calls_end(struct calls *calls);

#endif
