/*
 * A loop's first failure, and whether it has stopped because of it (on_error stop).
 */
#ifndef UFFD_LOOP_PAGES_FAILURE_H
#define UFFD_LOOP_PAGES_FAILURE_H

#include "base/base.h"

/* Any thread. */
struct uffd_failure {
  _Atomic bool stopped;
  _Atomic int state; /* 0 none, 1 being written, 2 there */
  int error;
  char text[512];
  /* set once */
  uffd_log_fn *log; /* each failure's sentence; NULL: nobody wants them */
  void *log_ctx;
};

/*
 * Keeps error (positive) and the calling thread's sentence, if it is the first, and says the sentence to the log and to
 * whoever wants this loop's failures. One that repeats (on_error retry) is said when it is the first.
 */
void uffd_failure_note(struct uffd_failure *failure, int error, bool repeats);
/* Says the calling thread's sentence to both, without keeping it: no page has failed. */
void uffd_failure_say(const struct uffd_failure *failure);
/* The error and its sentence, cut to length; 0 and an empty text when there is none. */
int uffd_failure_tell(const struct uffd_failure *failure, char *text, size_t length);

#endif
