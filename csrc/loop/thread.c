/*
 * The threads engine: each handler is a thread that reads its object.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "loop/loop.h"

static void *run(void *argument) {
  struct uffd_handler_state *handler = argument;
  while (!atomic_load_explicit(&handler->stop, memory_order_acquire)) {
    uffd_handler_pass(handler, UINT64_MAX);
  }
  BARRIER("stopping", handler);
  uffd_handler_finish(handler);
  return NULL;
}

/* The program's signal handlers must not run here: they may touch memory that only this thread can fill. */
static int start(struct uffd_handler_state *handler) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&handler->thread, NULL, run, handler);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error != 0) return fail(error, "Cannot start a handler thread: %s.", strerror(error));
  char name[16];
  snprintf(name, sizeof(name), "uffd/%u", handler->index);
  pthread_setname_np(handler->thread, name);
  return 0;
}

static void stop(uffd_loop *loop, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    uint64_t one = 1;
    atomic_store_explicit(&loop->handlers[i]->stop, true, memory_order_release);
    (void)!write(loop->handlers[i]->wake_fd, &one, sizeof(one));
  }
  for (uint32_t i = 0; i < count; i++) {
    pthread_join(loop->handlers[i]->thread, NULL);
  }
}

int uffd_threads_start(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->shards; i++) {
    int result = start(loop->handlers[i]);
    if (result < 0) {
      stop(loop, i);
      return result;
    }
  }
  return 0;
}

void uffd_threads_stop(uffd_loop *loop) {
  stop(loop, loop->shards);
}
