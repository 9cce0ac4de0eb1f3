/*
 * The toll: processor time that those who are outside have used, against what they get.
 */
#include "serve/supervisor/toll.h"

#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"

#define SHARE     8         /* they get one of so many parts of a processor, */
#define CREDIT_NS 100000000 /* and this much at once, when they have used none for a while */
#define RESUME_NS 500000    /* who has used it up gets so much before it goes on */
#define EVENTS    16        /* of theirs, before others have their turn */

static uint64_t used_ns(void) {
  struct timespec used;
  (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return (uint64_t)used.tv_sec * UINT64_C(1000000000) + (uint64_t)used.tv_nsec;
}

static void let_in(uffd_pager *pager, void *owner) {
  int result = 1;
  (void)owner;
  pager->toll.worked = true;
  for (int i = 0; i < EVENTS && result == 1; i++) {
    result = uffd_poll_one(pager, pager->toll.fd, 0);
  }
}

int uffd_toll_open(uffd_pager *pager) {
  struct uffd_toll *toll = &pager->toll;
  toll->fd = epoll_create1(EPOLL_CLOEXEC);
  if (toll->fd < 0) return fail(errno, "No descriptors for a pager: %s.", strerror(errno));
  toll->credit_ns = CREDIT_NS;
  toll->counted_ns = uffd_now();
  toll->used_ns = used_ns();
  toll->poll = (struct uffd_poll){.ready = let_in};
  return uffd_poll_add(pager, toll->fd, &toll->poll);
}

bool uffd_toll_let_in(uffd_pager *pager) {
  if (!pager->toll.shut) pager->toll.worked = true;
  return !pager->toll.shut;
}

static void shut(uffd_pager *pager, bool shut) {
  struct uffd_toll *toll = &pager->toll;
  struct epoll_event event = {.events = shut ? 0 : EPOLLIN, .data.ptr = &toll->poll};
  if (toll->shut != shut && epoll_ctl(pager->epoll_fd, EPOLL_CTL_MOD, toll->fd, &event) == 0) toll->shut = shut;
}

void uffd_toll_count(uffd_pager *pager) {
  struct uffd_toll *toll = &pager->toll;
  uint64_t now = uffd_now(), used = used_ns();
  toll->credit_ns += (int64_t)((now - toll->counted_ns) / SHARE);
  if (toll->credit_ns > CREDIT_NS) toll->credit_ns = CREDIT_NS;
  if (toll->worked) toll->credit_ns -= (int64_t)(used - toll->used_ns);
  toll->worked = false;
  toll->counted_ns = now;
  toll->used_ns = used;
  shut(pager, toll->credit_ns < (toll->shut ? RESUME_NS : 0));
}

uint64_t uffd_toll_next(const uffd_pager *pager) {
  return pager->toll.shut ? uffd_toll_due(pager) : 0;
}

uint64_t uffd_toll_due(const uffd_pager *pager) {
  const struct uffd_toll *toll = &pager->toll;
  return toll->shut ? toll->counted_ns + (uint64_t)(RESUME_NS - toll->credit_ns) * SHARE : UINT64_MAX;
}
