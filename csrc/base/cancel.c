/*
 * A thread must not be cancelled (pthread_cancel) while it holds a lock, while a job of its own lies on its stack, or
 * while it is counted somewhere.
 */
#include "base/base.h"

static _Thread_local unsigned depth;
static _Thread_local int outermost; /* state to go back to */

void uffd_hold_cancel(void) {
  int before;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
  if (depth++ == 0) outermost = before;
}

void uffd_let_cancel(void) {
  if (--depth == 0) pthread_setcancelstate(outermost, NULL);
}
