/*
 * What others may make the supervisor work. Whoever connects, hands over, or asks at the control socket costs processor
 * time, and clients' faults need the same processors. So all of that together gets a share of a processor; beyond it,
 * those who want something wait outside, in the kernel's queues. Clients that are served, and workers, never wait.
 */
#ifndef UFFD_SERVE_TOLL_H
#define UFFD_SERVE_TOLL_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/supervisor/poll.h"

struct uffd_toll {
  int fd; /* epoll: all that is outside; -1: none */
  struct uffd_poll poll;
  bool shut;
  bool worked;         /* since it was counted last: */
  uint64_t used_ns;    /* processor time of this thread then, */
  uint64_t counted_ns; /* when that was, */
  int64_t credit_ns;   /* and the processor time that was left; below 0: they have used more */
};

int uffd_toll_open(uffd_pager *pager); /* -errno with a sentence */
/* Before work for them that no descriptor tells of. False: not now. */
bool uffd_toll_let_in(uffd_pager *pager);
/* At the end of what was done at once. Those who are outside pay for all of it, if they were the cause of some of it.
 */
void uffd_toll_count(uffd_pager *pager);
uint64_t uffd_toll_next(const uffd_pager *pager); /* when uffd_toll_let_in() may be asked; 0: now */
uint64_t uffd_toll_due(const uffd_pager *pager);  /* when those outside are let in again; UINT64_MAX: they are */

#endif
