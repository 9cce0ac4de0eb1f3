/*
 * Descriptors that the supervisor polls. Those by which others make it work (doors, connections, who asks at the
 * control socket) are outside: what they cost is limited, by toll.c.
 */
#ifndef UFFD_SERVE_POLL_H
#define UFFD_SERVE_POLL_H

#include <stdbool.h>

#include "uffd_pager.h"

/* What is called when the descriptor is ready. It lives as long as the descriptor is polled. */
struct uffd_poll {
  void (*ready)(uffd_pager *pager, void *owner);
  void *owner;
  bool outside;
};

int uffd_poll_add(uffd_pager *pager, int fd, struct uffd_poll *poll);                /* -errno with a sentence */
void uffd_poll_write(uffd_pager *pager, int fd, struct uffd_poll *poll, bool write); /* poll for room to write too? */
void uffd_poll_drop(uffd_pager *pager, int fd); /* does nothing when the descriptor is not polled */
/* Calls whoever is ready first. 1: there was one, 0: nobody within timeout_ms, -errno with a sentence. */
int uffd_poll_one(uffd_pager *pager, int epoll_fd, int timeout_ms);

#endif
