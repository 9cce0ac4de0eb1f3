/*
 * The threads engine with placement: making and ending the seats of each reader, and what the loop says of them.
 */
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop/engine/handler.h"
#include "loop/engine/placed/placement.h"
#include "loop/engine/thread.h"

#define PERIOD_FIRST_NS UINT64_C(1000000) /* of the guard's looks */

/*
 * The companion is told of each arrival once, because it reads all there is. The guard is told as long as something is
 * there: so it sees what the companion leaves unread.
 */
static int watch(const struct uffd_seat *seat, int operation, int fd, bool heard) {
  bool once = seat->index == UFFD_SEAT_COMPANION;
  struct epoll_event event = {.events = (heard ? EPOLLIN : 0u) | (once ? (uint32_t)EPOLLET : 0u), .data.fd = fd};
  return epoll_ctl(seat->epoll_fd, operation, fd, &event) == 0 ? 0 : -errno;
}

static int watch_all(struct uffd_reader *reader, int fd) {
  bool heard = fd == reader->wake_fd || !atomic_load(&reader->engine->paused);
  for (uint32_t i = 0; i < UFFD_SEATS; i++) {
    int result = watch(&reader->placement->seats[i], EPOLL_CTL_ADD, fd, heard);
    if (result < 0) return result;
  }
  return 0;
}

/* A descriptor that is closed leaves the sets by itself, but not while a forked child has a copy. */
static int watch_descriptor(struct uffd_reader *reader, int fd, bool comes) {
  if (comes) return watch_all(reader, fd);
  for (uint32_t i = 0; i < UFFD_SEATS; i++) {
    epoll_ctl(reader->placement->seats[i].epoll_fd, EPOLL_CTL_DEL, fd, NULL);
  }
  return 0;
}

static void hear(struct uffd_reader *reader, int fd, bool heard) {
  for (uint32_t i = 0; i < UFFD_SEATS; i++) {
    watch(&reader->placement->seats[i], EPOLL_CTL_MOD, fd, heard);
  }
}

static int create(struct uffd_reader *reader) {
  struct uffd_placement *placement = NEW(struct uffd_placement);
  if (placement == NULL) return fail(ENOMEM, "No memory for a handler's threads.");
  placement->reader = reader;
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
  reader->placement = placement;
  if (placement->seats[UFFD_SEATS - 1].epoll_fd >= 0 && watch_all(reader, reader->wake_fd) == 0) return 0;
  return fail(errno, "Cannot make the descriptors of a handler's threads: %s.", strerror(errno));
}

static void destroy(struct uffd_placement *placement) {
  if (placement == NULL) return;
  for (uint32_t i = 0; i < UFFD_SEATS; i++) {
    if (placement->seats[i].epoll_fd >= 0) close(placement->seats[i].epoll_fd);
  }
  uffd_faulter_close(&placement->faulter);
  DELETE(placement);
}

static void *run(void *argument) {
  struct uffd_seat *seat = argument;
  const struct uffd_reader *reader = seat->placement->reader;
  atomic_store_explicit(&seat->tid, (int)syscall(SYS_gettid), memory_order_relaxed);
  if (seat->index == UFFD_SEAT_GUARD) {
    uffd_guard_run(seat);
  } else {
    uffd_companion_run(seat);
  }
  uint64_t one = 1;
  (void)!write(reader->wake_fd, &one, sizeof(one)); /* for the other seat: a pass may have read the stop away */
  return NULL;
}

/* The companion first, because the guard watches it. */
static int start_seats(struct uffd_placement *placement, uint32_t *started) {
  for (*started = 0; *started < UFFD_SEATS; ++*started) {
    struct uffd_seat *seat = &placement->seats[UFFD_SEATS - 1 - *started];
    char name[16];
    snprintf(name, sizeof(name), "uffd/%u.%u", placement->reader->lane.index, seat->index);
    int result = uffd_thread_start(&seat->thread, run, seat, name);
    if (result < 0) return result;
    pthread_getcpuclockid(seat->thread, &seat->clock);
  }
  return 0;
}

/* A companion that waits for a processor in SCHED_IDLE may wait for long: it is relieved first. */
static void join_seats(struct uffd_placement *placement, uint32_t started) {
  uffd_placement_call(placement);
  for (uint32_t i = UFFD_SEATS; i-- > UFFD_SEATS - started;) {
    struct uffd_seat *seat = &placement->seats[i];
    if (i == UFFD_SEAT_COMPANION) uffd_guard_relieve(seat);
    pthread_join(seat->thread, NULL);
  }
}

/* The first count readers; of the last of them, only so many seats. */
static void stop_first(struct uffd_engine *engine, uint32_t count, uint32_t seats_of_last) {
  for (uint32_t i = 0; i < count; i++) {
    uffd_reader_tell_to_stop(engine->readers[i]);
  }
  for (uint32_t i = 0; i < count; i++) {
    struct uffd_placement *placement = engine->readers[i]->placement;
    if (placement != NULL) join_seats(placement, i + 1 < count ? UFFD_SEATS : seats_of_last);
    BARRIER("stopping", engine->readers[i]);
    uffd_handler_finish(engine->readers[i]);
  }
}

static int start(struct uffd_engine *engine) {
  for (uint32_t i = 0; i < engine->readers_count; i++) {
    uint32_t seats = 0;
    int result = create(engine->readers[i]);
    if (result == 0) result = start_seats(engine->readers[i]->placement, &seats);
    if (result < 0) {
      stop_first(engine, i + 1, seats);
      return result;
    }
  }
  return 0;
}

static void stop(struct uffd_engine *engine) {
  stop_first(engine, engine->readers_count, UFFD_SEATS);
}

static void release(struct uffd_engine *engine) {
  for (uint32_t i = 0; i < engine->readers_count && engine->readers[i] != NULL; i++) {
    destroy(engine->readers[i]->placement);
    engine->readers[i]->placement = NULL;
  }
}

static uint32_t tell_placement(const struct uffd_engine *engine, const char **why) {
  const struct uffd_placement *placement = engine->readers[0]->placement;
  if (uffd_seat_has_charge(&placement->seats[UFFD_SEAT_COMPANION])) {
    *why = "A thread in SCHED_IDLE follows the thread that faults: it is the default.";
    return UFFD_PLACEMENT_COMPANION;
  }
  *why = atomic_load_explicit(&placement->refused, memory_order_relaxed) ? "A thread may not enter SCHED_IDLE here."
         : atomic_load_explicit(&placement->backlog, memory_order_relaxed)
             ? "Prefetch goes on beside the thread that faults."
             : "The processors are busy: faults would wait for a thread in SCHED_IDLE. It is asked now and then.";
  return UFFD_PLACEMENT_NONE;
}

const struct uffd_engine_class uffd_placed_engine = {
    .kind = UFFD_ENGINE_THREADS,
    .excluded = UFFD_FEAT_SIGBUS,
    .start = start,
    .stop = stop,
    .release = release,
    .watch = watch_descriptor,
    .hear = hear,
    .run_job = uffd_threads_run_job,
    .wait = uffd_threads_wait,
    .tell_placement = tell_placement,
};
