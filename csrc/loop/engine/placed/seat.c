/*
 * What every seat does: wait without the state, take it, run a pass, give it. The state is handed over with one word,
 * acquire and release; nobody waits for it.
 */
#include <sched.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "loop/engine/placed/placement.h"

#define EVENTS 16

/* epoll_pwait2() is Linux 5.11; the number is the same everywhere. */
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

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

bool uffd_seat_take(struct uffd_seat *seat) {
  uint32_t nobody = 0;
  return atomic_compare_exchange_strong_explicit(&seat->placement->owner, &nobody, seat->index + 1,
                                                 memory_order_acquire, memory_order_relaxed);
}

static void count_turn(struct uffd_placement *placement) {
  atomic_fetch_add_explicit(&placement->turns, 1, memory_order_relaxed);
}

void uffd_seat_give(struct uffd_seat *seat) {
  struct uffd_placement *placement = seat->placement;
  uint64_t due = uffd_handler_due(placement->handler);
  if (due != UINT64_MAX && due != 0) due += uffd_now();
  atomic_store_explicit(&placement->due_ns, due, memory_order_relaxed);
  count_turn(placement);
  atomic_store_explicit(&placement->owner, 0, memory_order_release);
}

/* Whoever spins has no processor time but what nobody else wants: its class is SCHED_IDLE. */
static bool spins(const struct uffd_seat *seat) {
  return seat->placement->kind == UFFD_PLACEMENT_SPIN && seat->index != 0;
}

/*
 * Readers pinned to each processor are all told of everything, and those who come too late forget it. So whoever comes
 * first looks into every source: what came after that is told to it again.
 */
static bool looks_everywhere(const struct uffd_seat *seat) {
  return seat->fresh || seat->placement->kind == UFFD_PLACEMENT_PERCPU;
}

static bool take_charged(struct uffd_seat *seat, uint32_t charge) {
  const struct uffd_placement *placement = seat->placement;
  if (uffd_placement_ends(placement)) return false;
  if (atomic_load_explicit(&placement->charge, memory_order_acquire) != charge) return false;
  if (uffd_seat_take(seat)) return true;
  if (seat->fresh) sched_yield(); /* who gave the charge is about to give the state */
  return false;
}

bool uffd_seat_turn(struct uffd_seat *seat, uint32_t charge, unsigned *answered) {
  struct uffd_placement *placement = seat->placement;
  struct uffd_handler_state *handler = placement->handler;
  struct epoll_event events[EVENTS];
  uint64_t due = due_in(placement);
  int count = seat->fresh ? 0 : wait_for_events(seat, spins(seat) ? 0 : due, events);
  if (spins(seat) && count == 0 && due != 0 && !seat->fresh) {
    count_turn(placement);
    sched_yield();
    return false;
  }
  if (seat->index != 0) BARRIER("seated", seat);
  if (!take_charged(seat, charge)) {
    if (count > 0 && placement->kind != UFFD_PLACEMENT_PERCPU) seat->fresh = true;
    return false;
  }
  if (seat->fresh) uffd_handler_ready(handler, handler->wake_fd);
  if (looks_everywhere(seat)) uffd_handler_ready_all(handler);
  for (int i = 0; i < count; i++) {
    uffd_handler_ready(handler, events[i].data.fd);
  }
  *answered = uffd_handler_work(handler, seat->fresh || count > 0);
  seat->fresh = false;
  return true;
}

bool uffd_seat_sees_work(const struct uffd_seat *seat, uint64_t late_ns) {
  struct epoll_event event;
  if (epoll_wait(seat->epoll_fd, &event, 1, 0) > 0) return true;
  uint64_t due = atomic_load_explicit(&seat->placement->due_ns, memory_order_relaxed);
  return due != UINT64_MAX && uffd_now() > due + late_ns;
}

void uffd_seat_watch(const struct uffd_seat *seat, uint64_t timeout_ns) {
  struct epoll_event events[EVENTS];
  wait_for_events(seat, timeout_ns, events);
}
