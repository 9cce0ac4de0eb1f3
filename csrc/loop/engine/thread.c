/*
 * The threads engine: each handler is a thread that reads its object, or two that do so by turns, see placement.h.
 */
#include <stdio.h>
#include <unistd.h>

#include "loop/engine/placed/placement.h"

static void *run(void *argument) {
  struct uffd_handler_state *handler = argument;
  while (!atomic_load_explicit(&handler->stop, memory_order_acquire)) {
    uffd_handler_pass(handler, UINT64_MAX);
  }
  return NULL;
}

/* *threads: how many were started, also on failure. */
static int start(struct uffd_handler_state *handler, uint32_t *threads) {
  *threads = 0;
  if (handler->loop->placement != UFFD_PLACEMENT_NONE) {
    int result = uffd_placement_create(handler);
    return result == 0 ? uffd_placement_start(handler->placement, threads) : result;
  }
  char name[16];
  snprintf(name, sizeof(name), "uffd/%u", handler->index);
  int result = uffd_thread_start(&handler->thread, run, handler, name);
  if (result == 0) *threads = 1;
  return result;
}

static void tell_to_stop(struct uffd_handler_state *handler) {
  uint64_t one = 1;
  atomic_store_explicit(&handler->stop, true, memory_order_release);
  (void)!write(handler->wake_fd, &one, sizeof(one));
}

static void join(struct uffd_handler_state *handler, uint32_t threads) {
  if (handler->placement != NULL) {
    uffd_placement_join(handler->placement, threads);
  } else if (threads != 0) {
    pthread_join(handler->thread, NULL);
  }
  BARRIER("stopping", handler);
  uffd_handler_finish(handler);
}

static uint32_t threads_of(const struct uffd_handler_state *handler) {
  return handler->placement != NULL ? UFFD_SEATS : 1;
}

int uffd_threads_start(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->shards; i++) {
    uint32_t threads;
    int result = start(loop->handlers[i], &threads);
    if (result == 0) continue;
    for (uint32_t j = 0; j <= i; j++) {
      tell_to_stop(loop->handlers[j]);
    }
    for (uint32_t j = 0; j <= i; j++) {
      join(loop->handlers[j], j < i ? threads_of(loop->handlers[j]) : threads);
    }
    return result;
  }
  return 0;
}

void uffd_threads_stop(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->shards; i++) {
    tell_to_stop(loop->handlers[i]);
  }
  for (uint32_t i = 0; i < loop->shards; i++) {
    join(loop->handlers[i], threads_of(loop->handlers[i]));
  }
}
