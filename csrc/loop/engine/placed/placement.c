/*
 * Placed handlers: making and ending their seats, and what the loop says of them.
 */
#include "loop/engine/placed/placement.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_FIRST_NS UINT64_C(1000000) /* of the guard's looks */

void uffd_placement_ring(struct uffd_placement *placement) {
  atomic_fetch_add_explicit(&placement->bell, 1, memory_order_release);
  syscall(SYS_futex, &placement->bell, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void uffd_placement_sleep(struct uffd_placement *placement, uint32_t bell, uint64_t timeout) {
  const struct timespec time = {(time_t)(timeout / 1000000000), (long)(timeout % 1000000000)};
  syscall(SYS_futex, &placement->bell, FUTEX_WAIT_PRIVATE, bell, timeout == UINT64_MAX ? NULL : &time, NULL, 0);
}

bool uffd_placement_ends(const struct uffd_placement *placement) {
  return atomic_load_explicit(&placement->handler->stop, memory_order_acquire);
}

int uffd_placement_pin(const struct uffd_placement *placement, int tid, int cpu) {
  cpu_set_t one = placement->home;
  if (!placement->bounded || cpu >= CPU_SETSIZE) return -ENOTSUP;
  if (cpu >= 0) {
    if (!CPU_ISSET((size_t)cpu, &placement->home)) return -EPERM; /* the program was bound to others */
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
  }
  return sched_setaffinity(tid, sizeof(one), &one) == 0 ? 0 : -errno;
}

uint32_t uffd_placement_pid(const struct uffd_source *source) {
  bool own = source->child || source->count == 0;
  return own ? 0 : (uint32_t)source->slices[0].region->memory->pid;
}

int uffd_placement_faulter_cpu(struct uffd_placement *placement) {
  const struct uffd_handler_state *handler = placement->handler;
  return uffd_faulter_cpu(&placement->faulter, handler->faulter_pid, handler->faulter_tid);
}

/*
 * The companion is told of each arrival once, because it reads all there is. The guard is told as long as something is
 * there: so it sees what the companion leaves unread.
 */
static int watch(const struct uffd_seat *seat, int operation, int fd, bool heard) {
  bool once = seat->index == UFFD_SEAT_COMPANION;
  struct epoll_event event = {.events = (heard ? EPOLLIN : 0u) | (once ? (uint32_t)EPOLLET : 0u), .data.fd = fd};
  return epoll_ctl(seat->epoll_fd, operation, fd, &event) == 0 ? 0 : -errno;
}

int uffd_placement_watch(struct uffd_handler_state *handler, int fd) {
  bool heard = fd == handler->wake_fd || !atomic_load(&handler->loop->paused);
  struct uffd_placement *placement = handler->placement;
  for (uint32_t i = 0; placement != NULL && i < UFFD_SEATS; i++) {
    int result = watch(&placement->seats[i], EPOLL_CTL_ADD, fd, heard);
    if (result < 0) return result;
  }
  return 0;
}

void uffd_placement_hear(struct uffd_handler_state *handler, int fd, bool heard) {
  struct uffd_placement *placement = handler->placement;
  for (uint32_t i = 0; placement != NULL && i < UFFD_SEATS; i++) {
    watch(&placement->seats[i], EPOLL_CTL_MOD, fd, heard);
  }
}

/* A descriptor that is closed leaves the sets by itself, but not while a forked child has a copy. */
void uffd_placement_unwatch(struct uffd_handler_state *handler, int fd) {
  struct uffd_placement *placement = handler->placement;
  for (uint32_t i = 0; placement != NULL && i < UFFD_SEATS; i++) {
    epoll_ctl(placement->seats[i].epoll_fd, EPOLL_CTL_DEL, fd, NULL);
  }
}

int uffd_placement_create(struct uffd_handler_state *handler) {
  struct uffd_placement *placement = NEW(struct uffd_placement);
  if (placement == NULL) return fail(ENOMEM, "No memory for a handler's threads.");
  placement->handler = handler;
  placement->bounded = sched_getaffinity(0, sizeof(placement->home), &placement->home) == 0;
  placement->charge = UFFD_SEAT_COMPANION;
  placement->due_ns = UINT64_MAX;
  placement->period_ns = PERIOD_FIRST_NS;
  uffd_faulter_init(&placement->faulter);
  for (uint32_t i = 0; i < UFFD_SEATS; i++) {
    placement->seats[i] = (struct uffd_seat){
        .placement = placement,
        .index = i,
        .epoll_fd = epoll_create1(EPOLL_CLOEXEC),
        .cpu = -1,
        .seen_cpu = -1,
    };
  }
  handler->placement = placement;
  if (placement->seats[UFFD_SEATS - 1].epoll_fd >= 0 && uffd_placement_watch(handler, handler->wake_fd) == 0) return 0;
  return fail(errno, "Cannot make the descriptors of a handler's threads: %s.", strerror(errno));
}

void uffd_placement_destroy(struct uffd_placement *placement) {
  if (placement == NULL) return;
  for (uint32_t i = 0; i < UFFD_SEATS; i++) {
    if (placement->seats[i].epoll_fd >= 0) close(placement->seats[i].epoll_fd);
  }
  uffd_faulter_close(&placement->faulter);
  DELETE(placement);
}

static void *run(void *argument) {
  struct uffd_seat *seat = argument;
  const struct uffd_handler_state *handler = seat->placement->handler;
  atomic_store_explicit(&seat->tid, (int)syscall(SYS_gettid), memory_order_relaxed);
  if (seat->index == UFFD_SEAT_GUARD) {
    uffd_guard_run(seat);
  } else {
    uffd_companion_run(seat);
  }
  uint64_t one = 1;
  (void)!write(handler->wake_fd, &one, sizeof(one)); /* for the other seat: a pass may have read the stop away */
  return NULL;
}

/* The companion first, because the guard watches it. */
int uffd_placement_start(struct uffd_placement *placement, uint32_t *started) {
  for (*started = 0; *started < UFFD_SEATS; ++*started) {
    struct uffd_seat *seat = &placement->seats[UFFD_SEATS - 1 - *started];
    char name[16];
    snprintf(name, sizeof(name), "uffd/%u.%u", placement->handler->index, seat->index);
    int result = uffd_thread_start(&seat->thread, run, seat, name);
    if (result < 0) return result;
    pthread_getcpuclockid(seat->thread, &seat->clock);
  }
  return 0;
}

/* A companion that waits for a processor in SCHED_IDLE may wait for long: it is relieved first. */
void uffd_placement_join(struct uffd_placement *placement, uint32_t started) {
  uffd_placement_ring(placement);
  for (uint32_t i = UFFD_SEATS; i-- > UFFD_SEATS - started;) {
    struct uffd_seat *seat = &placement->seats[i];
    if (i == UFFD_SEAT_COMPANION) uffd_guard_relieve(seat);
    pthread_join(seat->thread, NULL);
  }
}

int uffd_loop_placement(const uffd_loop *loop, const char **why) {
  const struct uffd_placement *placement = loop->handlers[0]->placement;
  const char *told;
  bool companion = false;
  if (loop->engine != UFFD_ENGINE_THREADS) {
    told = "Only the threads engine has threads to place.";
  } else if (placement == NULL) {
    told = "It was asked for.";
  } else if (uffd_seat_has_charge(&placement->seats[UFFD_SEAT_COMPANION])) {
    companion = true;
    told = "A thread in SCHED_IDLE follows the thread that faults: it is the default.";
  } else if (atomic_load_explicit(&placement->refused, memory_order_relaxed)) {
    told = "A thread may not enter SCHED_IDLE here.";
  } else {
    told = "The processors are busy: faults would wait for a thread in SCHED_IDLE. It is asked now and then.";
  }
  if (why != NULL) *why = told;
  return companion ? UFFD_PLACEMENT_COMPANION : UFFD_PLACEMENT_NONE;
}
