/*
 * The pump engine: the caller runs the one handler's passes, and may wait for them with a descriptor of its own loop.
 */
#include <string.h>
#include <sys/epoll.h>

#include "loop/loop.h"

#define NS_PER_MS UINT64_C(1000000)

int uffd_pump_start(uffd_loop *loop) {
  loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (loop->epoll_fd < 0) return fail(errno, "Cannot make the pump's descriptor: %s.", strerror(errno));
  uffd_pump_watch(loop->handlers[0], loop->handlers[0]->wake_fd);
  return 0;
}

static _Thread_local char self; /* its address tells threads apart */

void uffd_drive(uffd_loop *loop) {
  atomic_store_explicit(&loop->driver, &self, memory_order_relaxed);
}

bool uffd_is_driver(const uffd_loop *loop) {
  return loop->engine == UFFD_ENGINE_PUMP && atomic_load_explicit(&loop->driver, memory_order_relaxed) == &self;
}

void uffd_pump_watch(struct uffd_handler_state *handler, int fd) {
  if (handler->loop->epoll_fd < 0) return;
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(handler->loop->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* A descriptor that is closed leaves the set by itself, but not while a forked child has a copy. */
void uffd_pump_unwatch(struct uffd_handler_state *handler, int fd) {
  if (handler->loop->epoll_fd >= 0) epoll_ctl(handler->loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static int check_pump(const uffd_loop *loop) {
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (loop->engine != UFFD_ENGINE_PUMP) return fail(EINVAL, "Not a pump: its own threads answer this loop's faults.");
  return 0;
}

int uffd_loop_step(uffd_loop *loop, int timeout_ms) {
  int result = check_pump(loop);
  if (result == 0) result = uffd_loop_check(loop);
  if (result < 0) return result;
  uffd_drive(loop);
  uint64_t end = timeout_ms < 0 ? UINT64_MAX : uffd_now() + (uint64_t)timeout_ms * NS_PER_MS;
  for (;;) {
    uint64_t now = uffd_now();
    unsigned answered = uffd_handler_pass(loop->handlers[0], end == UINT64_MAX ? end : end > now ? end - now : 0);
    /* a stopped loop still answers, with poison: nobody may sleep for ever */
    result = uffd_loop_check_stopped(loop);
    if (result < 0) return result;
    if (answered != 0 || uffd_now() >= end) return (int)answered;
  }
}

int uffd_loop_fd(const uffd_loop *loop) {
  int result = check_pump(loop);
  return result < 0 ? result : loop->epoll_fd;
}

int uffd_loop_timeout(const uffd_loop *loop) {
  int result = check_pump(loop);
  if (result < 0) return result;
  uint64_t due = uffd_handler_due(loop->handlers[0]);
  return due == UINT64_MAX ? -1 : (int)((due + NS_PER_MS - 1) / NS_PER_MS);
}
