/*
 * Descriptors that the supervisor polls: one epoll descriptor.
 */
#include <string.h>
#include <sys/epoll.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/poll.h"

int uffd_poll_add(uffd_pager *pager, int fd, struct uffd_poll *poll) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = poll};
  if (epoll_ctl(pager->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) return 0;
  return fail(errno, "A descriptor cannot be waited for: %s.", strerror(errno));
}

void uffd_poll_write(uffd_pager *pager, int fd, struct uffd_poll *poll, bool write) {
  struct epoll_event event = {.events = write ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = poll};
  (void)epoll_ctl(pager->epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

void uffd_poll_drop(uffd_pager *pager, int fd) {
  (void)epoll_ctl(pager->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}
