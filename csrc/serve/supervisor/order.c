/*
 * Orders to the supervisor: a word of bits, and an eventfd that wakes it.
 */
#include "serve/supervisor/order.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"

static int order(uffd_pager *pager, uint32_t what) {
  uint64_t one = 1;
  int saved = errno; /* of the code that a signal has interrupted */
  uint32_t before = atomic_fetch_or(&pager->orders, what);
  (void)!write(pager->order_fd, &one, sizeof(one));
  errno = saved;
  return (before & what) != 0 ? -EALREADY : 0;
}

int uffd_pager_reload(uffd_pager *pager) {
  (void)order(pager, UFFD_ORDER_RELOAD);
  return 0;
}

int uffd_pager_drain(uffd_pager *pager) {
  return order(pager, UFFD_ORDER_DRAIN);
}

static void take_order(uffd_pager *pager, void *owner) {
  uint64_t count;
  (void)owner;
  (void)!read(pager->order_fd, &count, sizeof(count));
}

int uffd_orders_open(uffd_pager *pager) {
  pager->order_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK); /* 1: the first step has work, it starts the workers */
  if (pager->order_fd < 0) return fail(errno, "No descriptor for a pager: %s.", strerror(errno));
  pager->order_poll = (struct uffd_poll){.ready = take_order, .owner = pager};
  return uffd_poll_add(pager, pager->order_fd, &pager->order_poll);
}

uint32_t uffd_orders(const uffd_pager *pager) {
  return atomic_load(&pager->orders);
}

void uffd_order_done(uffd_pager *pager, uint32_t what) {
  atomic_fetch_and(&pager->orders, ~what);
}
