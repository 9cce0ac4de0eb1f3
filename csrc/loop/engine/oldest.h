/*
 * The fault that has waited longest, for a watchdog to name. Its reader writes it, any thread reads it.
 */
#ifndef UFFD_LOOP_ENGINE_OLDEST_H
#define UFFD_LOOP_ENGINE_OLDEST_H

#include "loop/line/line.h"

/* Odd sequence: being written; read_ns 0: there is none. */
struct uffd_oldest {
  _Atomic uint64_t sequence, read_ns, address, flags, tid, offset, cookie;
  _Atomic uint64_t kind[UFFD_KIND_WORDS];
};

void uffd_oldest_set(struct uffd_oldest *oldest, const struct uffd_pending *fault);
void uffd_oldest_clear(struct uffd_oldest *oldest);
/* False: there is none. handler is left to the caller. */
bool uffd_oldest_read(const struct uffd_oldest *oldest, uint64_t now, struct uffd_waiting *found);

#endif
