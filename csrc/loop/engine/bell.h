/*
 * Bells: who has got what a resolver said LATER for rings its handler's bell. Bells lie in a table that is never freed,
 * so a key that has had its day rings nobody.
 */
#ifndef UFFD_LOOP_ENGINE_BELL_H
#define UFFD_LOOP_ENGINE_BELL_H

#include "base/base.h"

#define UFFD_BELL_ALL UINT32_MAX /* a range of all offsets */

struct uffd_bell {
  /* set by uffd_bell_open() */
  uint64_t process;
  int wake_fd; /* of a reader: written when somebody rings; -1: threads sleep at the bell */
  /* any thread, atomic */
  _Atomic uint32_t ringers; /* who is ringing now, and OPEN */
  _Atomic uint64_t rung;  /* one range that holds all for which somebody rang since the reader looked; 0: nobody has */
  _Atomic uint32_t rings; /* futex: how often, for those who sleep */
  _Atomic uint32_t sleepers;
};

struct uffd_bell *uffd_bell_open(int wake_fd); /* NULL: there are none left */
/* Wakes who sleeps, and waits for who is ringing; wake_fd may be closed then. NULL is allowed. */
void uffd_bell_close(struct uffd_bell *bell);

/* [low, high): offsets in a region of which more is there. Any thread, also in a signal handler. */
void uffd_bell_ring(struct uffd_bell *bell, uint64_t low, uint64_t high);

static inline bool uffd_bell_has_rung(const struct uffd_bell *bell) {
  return atomic_load_explicit(&bell->rung, memory_order_relaxed) != 0;
}
/* The range that was rung for, which is nobody's from now on; 0: none. The reader. */
uint64_t uffd_bell_take(struct uffd_bell *bell);
bool uffd_bell_reaches(uint64_t range, uint64_t offset);

/* Sleeps until somebody has rung since rings was seen, for so long at most. */
void uffd_bell_sleep(struct uffd_bell *bell, uint32_t seen, uint64_t timeout_ns);

#endif
