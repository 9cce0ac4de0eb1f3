/*
 * What both seats do: wait without owning the handler's state, take the state, run a pass, give the state back. The
 * state is handed over with one word, acquire and release; nobody waits for it.
 */
#include <sched.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "loop/engine/handler.h"
#include "loop/engine/placed/placement.h"

#define EVENTS 16

/* epoll_pwait2() is Linux 5.11; the number is the same everywhere. */
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

bool uffd_seat_has_charge(const struct uffd_seat *seat) {
  return atomic_load_explicit(&seat->placement->charge, memory_order_acquire) == seat->index;
}

static int wait_for_events(const struct uffd_seat *seat, uint64_t timeout, struct epoll_event events[EVENTS]) {
  static _Atomic bool lacking;
  if (timeout == UINT64_MAX) return epoll_wait(seat->epoll_fd, events, EVENTS, -1);
  if (timeout == 0) return epoll_wait(seat->epoll_fd, events, EVENTS, 0);
  struct timespec time = {(time_t)(timeout / 1000000000), (long)(timeout % 1000000000)};
  if (!atomic_load_explicit(&lacking, memory_order_relaxed)) {
    int count = (int)syscall(SYS_epoll_pwait2, seat->epoll_fd, events, EVENTS, &time, NULL, 0);
    if (count >= 0 || errno != ENOSYS) return count;
    atomic_store_explicit(&lacking, true, memory_order_relaxed);
  }
  struct pollfd ready = {.fd = seat->epoll_fd, .events = POLLIN};
  if (ppoll(&ready, 1, &time, NULL) <= 0) return 0;
  return epoll_wait(seat->epoll_fd, events, EVENTS, 0);
}

/* Nanoseconds until a pass is due without a descriptor that says so. */
static uint64_t due_in(const struct uffd_placement *placement) {
  uint64_t due = atomic_load_explicit(&placement->due_ns, memory_order_relaxed);
  if (due == UINT64_MAX || due == 0) return due;
  uint64_t now = uffd_now();
  return due > now ? due - now : 0;
}

static bool take(struct uffd_seat *seat) {
  uint32_t nobody = 0;
  return atomic_compare_exchange_strong_explicit(&seat->placement->owner, &nobody, seat->index + 1,
                                                 memory_order_acquire, memory_order_relaxed);
}

void uffd_seat_give(struct uffd_seat *seat) {
  struct uffd_placement *placement = seat->placement;
  uint64_t due = uffd_handler_due(placement->reader);
  if (due != UINT64_MAX && due != 0) due += uffd_now();
  atomic_store_explicit(&placement->due_ns, due, memory_order_relaxed);
  atomic_store_explicit(&placement->backlog, uffd_jobs_backlog(placement->reader), memory_order_relaxed);
  atomic_fetch_add_explicit(&placement->passes, 1, memory_order_relaxed);
  atomic_store_explicit(&placement->owner, 0, memory_order_release);
}

static bool take_charged(struct uffd_seat *seat) {
  if (uffd_placement_ends(seat->placement) || !uffd_seat_has_charge(seat)) return false;
  if (take(seat)) return true;
  if (seat->fresh) sched_yield(); /* the seat that gave the charge is about to give the state */
  return false;
}

bool uffd_seat_pass(struct uffd_seat *seat, unsigned *answered) {
  struct uffd_reader *reader = seat->placement->reader;
  struct epoll_event events[EVENTS];
  int count = seat->fresh ? 0 : wait_for_events(seat, due_in(seat->placement), events);
  if (seat->index == UFFD_SEAT_COMPANION) BARRIER("seated", seat);
  if (!take_charged(seat)) {
    if (count > 0) seat->fresh = true;
    return false;
  }
  if (seat->fresh) {
    uffd_handler_readable(reader, reader->wake_fd);
    uffd_handler_readable_all(reader);
  }
  for (int i = 0; i < count; i++) {
    uffd_handler_readable(reader, events[i].data.fd);
  }
  *answered = uffd_handler_work(reader, seat->fresh || count > 0);
  seat->fresh = false;
  return true;
}

bool uffd_seat_sees_work(const struct uffd_seat *seat, uint64_t late_ns) {
  struct epoll_event event;
  if (epoll_wait(seat->epoll_fd, &event, 1, 0) > 0) return true;
  uint64_t due = atomic_load_explicit(&seat->placement->due_ns, memory_order_relaxed);
  return due != UINT64_MAX && uffd_now() > due + late_ns;
}

void uffd_seat_wait(const struct uffd_seat *seat) {
  struct epoll_event event;
  epoll_wait(seat->epoll_fd, &event, 1, -1);
}
