/*
 * Failures of a client's loop on their way to the supervisor: written by its handler, which never waits, and passed on
 * by the watchdog. When too many come at once, the rest is counted.
 */
#ifndef UFFD_SERVE_FLAWS_H
#define UFFD_SERVE_FLAWS_H

#include <stdatomic.h>

#include "serve/paper/channel.h"
#include "serve/worker/mouth.h"

#define UFFD_FLAWS 16u

struct uffd_flaws {
  /* the handler's */
  _Atomic uint64_t written; /* so far; texts[i % UFFD_FLAWS] is the i-th */
  _Atomic uint64_t missed;  /* that did not fit */
  char texts[UFFD_FLAWS][UFFD_MESSAGE_TEXT];
  /* who tells the supervisor: the watchdog, and the main thread when the watchdog has let go of the client */
  _Atomic uint64_t told;
  uint64_t missed_told;
};

void uffd_flaws_note(void *ctx, int level, const char *sentence); /* an uffd_log_fn */
/* error: an errno, of the first one. */
void uffd_flaws_tell(struct uffd_flaws *flaws, const struct uffd_mouth *mouth, uint64_t client, int error);

#endif
