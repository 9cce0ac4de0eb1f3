/*
 * Passes in the caller's thread, and an epoll descriptor that is readable when one has work.
 */
#include "loop/engine/pump.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop/engine/handler.h"

static _Thread_local char self; /* its address tells threads apart */

void uffd_pump_drive(struct uffd_engine *engine) {
  atomic_store_explicit(&engine->driver, &self, memory_order_relaxed);
  if (engine->class == &uffd_pump_engine) uffd_thread_answers = true;
}

static bool is_driver(const struct uffd_engine *engine) {
  return atomic_load_explicit(&engine->driver, memory_order_relaxed) == &self;
}

/* A descriptor that is closed leaves the set by itself, but not while a forked child has a copy. */
static int watch(struct uffd_reader *reader, int fd, bool comes) {
  bool heard = fd == reader->wake_fd || !atomic_load(&reader->engine->paused);
  struct epoll_event event = {.events = heard ? EPOLLIN : 0, .data.fd = fd};
  int result = epoll_ctl(reader->engine->epoll_fd, comes ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, comes ? &event : NULL);
  return result == 0 || !comes ? 0 : -errno;
}

/* An object that is not read now would make the pump's descriptor readable for nothing. */
static void hear(struct uffd_reader *reader, int fd, bool heard) {
  struct epoll_event event = {.events = heard ? EPOLLIN : 0, .data.fd = fd};
  epoll_ctl(reader->engine->epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

static int start(struct uffd_engine *engine) {
  engine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  int result = engine->epoll_fd < 0 ? -errno : watch(engine->readers[0], engine->readers[0]->wake_fd, true);
  return result < 0 ? fail(-result, "Cannot make the pump's descriptor: %s.", strerror(-result)) : 0;
}

static void stop(struct uffd_engine *engine) {
  uffd_handler_finish(engine->readers[0]);
}

static void release(struct uffd_engine *engine) {
  if (engine->epoll_fd >= 0) close(engine->epoll_fd);
}

/* Calls on a pump belong to one thread: whoever waits drives it. */
static bool wait(struct uffd_engine *engine, sem_t *semaphore, uint64_t until_ns) {
  uffd_pump_drive(engine);
  while (sem_trywait(semaphore) != 0) {
    uint64_t now = uffd_now();
    if (now >= until_ns) return false;
    uffd_handler_pass(engine->readers[0], until_ns == UINT64_MAX ? UINT64_MAX : until_ns - now);
  }
  return true;
}

/* A thread that touches memory while another one drives waits for the driver. */
static int run_job(struct uffd_engine *engine, uint32_t lane, struct uffd_job *job) {
  uffd_job_post(engine->readers[lane], job);
  if (is_driver(engine)) {
    wait(engine, &job->done, UINT64_MAX);
  } else {
    uffd_semaphore_wait(&job->done, UINT64_MAX);
  }
  sem_destroy(&job->done);
  return job->result;
}

const struct uffd_engine_class uffd_pump_engine = {
    .kind = UFFD_ENGINE_PUMP,
    .excluded = UFFD_FEAT_SIGBUS,
    .start = start,
    .stop = stop,
    .release = release,
    .watch = watch,
    .hear = hear,
    .run_job = run_job,
    .wait = wait,
    .is_driver = is_driver,
};
