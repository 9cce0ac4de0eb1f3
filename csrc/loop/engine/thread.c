/*
 * One thread a reader, wherever the scheduler puts it.
 */
#include "loop/engine/thread.h"

#include <stdio.h>
#include <unistd.h>

#include "loop/engine/handler.h"

static void *run(void *argument) {
  struct uffd_reader *reader = argument;
  while (!atomic_load_explicit(&reader->stop, memory_order_acquire)) {
    uffd_handler_pass(reader, UINT64_MAX);
  }
  return NULL;
}

void uffd_reader_tell_to_stop(struct uffd_reader *reader) {
  uint64_t one = 1;
  atomic_store_explicit(&reader->stop, true, memory_order_release);
  (void)!write(reader->wake_fd, &one, sizeof(one));
}

static void stop_first(struct uffd_engine *engine, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    uffd_reader_tell_to_stop(engine->readers[i]);
  }
  for (uint32_t i = 0; i < count; i++) {
    pthread_join(engine->readers[i]->thread, NULL);
    BARRIER("stopping", engine->readers[i]);
    uffd_handler_finish(engine->readers[i]);
  }
}

int uffd_threads_start(struct uffd_engine *engine) {
  for (uint32_t i = 0; i < engine->readers_count; i++) {
    struct uffd_reader *reader = engine->readers[i];
    char name[16];
    snprintf(name, sizeof(name), "uffd/%u", i);
    int result = uffd_thread_start(&reader->thread, run, reader, name);
    if (result < 0) {
      stop_first(engine, i);
      return result;
    }
  }
  return 0;
}

void uffd_threads_stop(struct uffd_engine *engine) {
  stop_first(engine, engine->readers_count);
}

int uffd_threads_run_job(struct uffd_engine *engine, uint32_t lane, struct uffd_job *job) {
  uffd_job_post(engine->readers[lane], job);
  uffd_semaphore_wait(&job->done, UINT64_MAX);
  sem_destroy(&job->done);
  return job->result;
}

bool uffd_threads_wait(struct uffd_engine *engine, sem_t *semaphore, uint64_t until_ns) {
  (void)engine; /* may be gone: whoever waits needs the semaphore only */
  return uffd_semaphore_wait(semaphore, until_ns);
}

const struct uffd_engine_class uffd_threads_engine = {
    .kind = UFFD_ENGINE_THREADS,
    .excluded = UFFD_FEAT_SIGBUS,
    .start = uffd_threads_start,
    .stop = uffd_threads_stop,
    .run_job = uffd_threads_run_job,
    .wait = uffd_threads_wait,
};
