/*
 * Descriptors that the supervisor polls: one epoll descriptor, and in it one more for those that are outside.
 */
#include "serve/supervisor/poll.h"

#include <string.h>
#include <sys/epoll.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"

static int set_of(const uffd_pager *pager, const struct uffd_poll *poll) {
  return poll->outside ? pager->toll.fd : pager->epoll_fd;
}

int uffd_poll_add(uffd_pager *pager, int fd, struct uffd_poll *poll) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = poll};
  if (epoll_ctl(set_of(pager, poll), EPOLL_CTL_ADD, fd, &event) == 0) return 0;
  return fail(errno, "A descriptor cannot be waited for: %s.", strerror(errno));
}

void uffd_poll_write(uffd_pager *pager, int fd, struct uffd_poll *poll, bool write) {
  struct epoll_event event = {.events = write ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = poll};
  (void)epoll_ctl(set_of(pager, poll), EPOLL_CTL_MOD, fd, &event);
}

void uffd_poll_drop(uffd_pager *pager, int fd) {
  (void)epoll_ctl(pager->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
  (void)epoll_ctl(pager->toll.fd, EPOLL_CTL_DEL, fd, NULL);
}

/* One event at a time: an event may free the owner of another. */
int uffd_poll_one(uffd_pager *pager, int epoll_fd, int timeout_ms) {
  struct epoll_event event;
  int count = epoll_wait(epoll_fd, &event, 1, timeout_ms);
  if (count < 0 && errno != EINTR) return fail(errno, "The pager cannot wait: %s.", strerror(errno));
  if (count <= 0) return 0;
  const struct uffd_poll *poll = event.data.ptr;
  poll->ready(pager, poll->owner);
  return 1;
}
