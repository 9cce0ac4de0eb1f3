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

/* ---- for all seats */

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

/* ---- descriptors */

/*
 * A seat that is placed hears of each arrival once: it reads all there is. The guard is told as long as something is
 * there, which is how it sees what others leave lying.
 */
static int watch(const struct uffd_seat *seat, int operation, int fd, bool heard) {
  bool once = seat->index != 0 || seat->placement->kind == UFFD_PLACEMENT_PERCPU;
  struct epoll_event event = {.events = (heard ? EPOLLIN : 0u) | (once ? (uint32_t)EPOLLET : 0u), .data.fd = fd};
  return epoll_ctl(seat->epoll_fd, operation, fd, &event) == 0 ? 0 : -errno;
}

int uffd_placement_watch(struct uffd_handler_state *handler, int fd) {
  bool heard = fd == handler->wake_fd || !atomic_load(&handler->loop->paused);
  struct uffd_placement *placement = handler->placement;
  for (uint32_t i = 0; placement != NULL && i < placement->count; i++) {
    int result = watch(&placement->seats[i], EPOLL_CTL_ADD, fd, heard);
    if (result < 0) return result;
  }
  return 0;
}

void uffd_placement_hear(struct uffd_handler_state *handler, int fd, bool heard) {
  struct uffd_placement *placement = handler->placement;
  for (uint32_t i = 0; placement != NULL && i < placement->count; i++) {
    watch(&placement->seats[i], EPOLL_CTL_MOD, fd, heard);
  }
}

/* A descriptor that is closed leaves the sets by itself, but not while a forked child has a copy. */
void uffd_placement_unwatch(struct uffd_handler_state *handler, int fd) {
  struct uffd_placement *placement = handler->placement;
  for (uint32_t i = 0; placement != NULL && i < placement->count; i++) {
    epoll_ctl(placement->seats[i].epoll_fd, EPOLL_CTL_DEL, fd, NULL);
  }
}

/* ---- making */

static int nth_cpu(const cpu_set_t *set, uint32_t n) {
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET((size_t)cpu, set) && n-- == 0) return cpu;
  }
  return -1;
}

static uint32_t count_seats(uint32_t kind, const cpu_set_t *home) {
  if (kind != UFFD_PLACEMENT_PERCPU) return 2;
  return (uint32_t)min_u64(max_u64((uint64_t)CPU_COUNT(home), 1), UFFD_HANDLERS_MAX);
}

static size_t size_of(uint32_t seats) {
  return sizeof(struct uffd_placement) + seats * sizeof(struct uffd_seat);
}

int uffd_placement_create(struct uffd_handler_state *handler, uint32_t asked) {
  uint32_t kind = asked == UFFD_PLACEMENT_AUTO ? UFFD_PLACEMENT_COMPANION : asked;
  cpu_set_t home;
  bool bounded = sched_getaffinity(0, sizeof(home), &home) == 0; /* not with more than 1024 processors */
  if (!bounded) CPU_ZERO(&home);
  uint32_t count = count_seats(kind, &home);
  struct uffd_placement *placement = uffd_alloc(size_of(count));
  if (placement == NULL) return fail(ENOMEM, "No memory for a handler's threads.");
  placement->handler = handler;
  placement->kind = kind;
  placement->measuring = asked == UFFD_PLACEMENT_AUTO;
  placement->bounded = bounded;
  placement->home = home;
  placement->count = count;
  placement->charge = placement->measuring ? UFFD_CHARGE_ORDINARY : UFFD_CHARGE_PLACED;
  placement->due_ns = UINT64_MAX;
  placement->period_ns = PERIOD_FIRST_NS;
  uffd_faulter_init(&placement->faulter);
  for (uint32_t i = 0; i < count; i++) {
    placement->seats[i] = (struct uffd_seat){
        .placement = placement,
        .index = i,
        .epoll_fd = epoll_create1(EPOLL_CLOEXEC),
        .cpu = -1,
        .seen_cpu = -1,
    };
  }
  handler->placement = placement;
  if (placement->seats[count - 1].epoll_fd >= 0 && uffd_placement_watch(handler, handler->wake_fd) == 0) return 0;
  return fail(errno, "Cannot make the descriptors of a handler's threads: %s.", strerror(errno));
}

void uffd_placement_destroy(struct uffd_placement *placement) {
  if (placement == NULL) return;
  for (uint32_t i = 0; i < placement->count; i++) {
    if (placement->seats[i].epoll_fd >= 0) close(placement->seats[i].epoll_fd);
  }
  uffd_faulter_close(&placement->faulter);
  uffd_release(placement, size_of(placement->count));
}

/* ---- running */

/* One of those that are pinned, one to each processor: whoever comes first has the faults. */
static void run_reader(struct uffd_seat *seat) {
  uffd_placement_pin(seat->placement, 0, nth_cpu(&seat->placement->home, seat->index));
  while (!uffd_placement_ends(seat->placement)) {
    unsigned answered;
    if (uffd_seat_turn(seat, UFFD_CHARGE_PLACED, &answered)) uffd_seat_give(seat);
  }
}

static void *run(void *argument) {
  struct uffd_seat *seat = argument;
  const struct uffd_placement *placement = seat->placement;
  atomic_store_explicit(&seat->tid, (int)syscall(SYS_gettid), memory_order_relaxed);
  if (placement->kind == UFFD_PLACEMENT_PERCPU) {
    run_reader(seat);
  } else if (seat->index == 0) {
    uffd_guard_run(seat);
  } else {
    uffd_companion_run(seat);
  }
  uint64_t one = 1;
  (void)!write(placement->handler->wake_fd, &one, sizeof(one)); /* for the others: one pass may have read it away */
  return NULL;
}

int uffd_placement_start(struct uffd_placement *placement, uint32_t *started) {
  for (*started = 0; *started < placement->count; ++*started) {
    struct uffd_seat *seat = &placement->seats[placement->count - 1 - *started]; /* the guard watches the others */
    char name[16];
    snprintf(name, sizeof(name), "uffd/%u.%u", placement->handler->index, seat->index);
    int result = uffd_thread_start(&seat->thread, run, seat, name);
    if (result < 0) return result;
    pthread_getcpuclockid(seat->thread, &seat->clock);
  }
  return 0;
}

/* What waits for a processor in SCHED_IDLE may wait long. */
void uffd_placement_join(struct uffd_placement *placement, uint32_t started) {
  uffd_placement_ring(placement);
  for (uint32_t i = placement->count; i-- > placement->count - started;) {
    struct uffd_seat *seat = &placement->seats[i];
    if (placement->kind != UFFD_PLACEMENT_PERCPU && i != 0) uffd_guard_relieve(seat);
    pthread_join(seat->thread, NULL);
  }
}

/* ---- telling */

static const char *tell_ordinary(const struct uffd_placement *placement) {
  switch (atomic_load_explicit(&placement->reason, memory_order_relaxed)) {
  case UFFD_REASON_BUSY:
    return "The processors are busy: faults would wait for a thread in SCHED_IDLE. It is asked now and then.";
  case UFFD_REASON_REFUSED:
    return "A thread may not enter SCHED_IDLE here.";
  case UFFD_REASON_MEASURED:
    return "Measured: no slower than a companion. It is measured again now and then.";
  default:
    return "Too few faults so far to measure whether a companion is faster.";
  }
}

int uffd_loop_placement(const uffd_loop *loop, const char **why) {
  const struct uffd_placement *placement = loop->handlers[0]->placement;
  const char *told;
  uint32_t kind = UFFD_PLACEMENT_NONE;
  if (loop->engine != UFFD_ENGINE_THREADS) {
    told = "Only the threads engine has threads to place.";
  } else if (placement == NULL) {
    told = "It was asked for.";
  } else if (atomic_load_explicit(&placement->charge, memory_order_acquire) == UFFD_CHARGE_ORDINARY) {
    told = tell_ordinary(placement);
  } else {
    kind = placement->kind;
    told = placement->measuring ? "Measured: faster than the scheduler's choice. It is measured again now and then."
                                : "It was asked for.";
  }
  if (why != NULL) *why = told;
  return (int)kind;
}
