/*
 * So many bytes a second at most, for whoever asks before it works: any number of threads, each of which is told when
 * to ask again. Nothing is saved up: after a pause the next piece goes at once, and no more than that.
 */
#ifndef UFFD_LOOP_RATE_H
#define UFFD_LOOP_RATE_H

#include <stdatomic.h>
#include <stdint.h>

struct uffd_rate {
  uint64_t bytes_a_second;  /* 0: no limit */
  _Atomic uint64_t free_ns; /* when the next piece may go */
};

/* Takes leave for so many bytes at once: 0, or the time to ask again at. */
uint64_t uffd_rate_take(struct uffd_rate *rate, uint64_t now_ns, uint64_t bytes);
/* Those of them that were not needed. */
void uffd_rate_give_back(struct uffd_rate *rate, uint64_t bytes);

#endif
