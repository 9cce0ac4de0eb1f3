/*
 * The loop as a whole: options, making, ending, its first failure.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "loop/loop.h"

int uffd_loop_check(const uffd_loop *loop) {
  if (loop->process != uffd_process()) return fail(EOWNERDEAD, "This loop belongs to the parent process.");
  if (uffd_current_handler != NULL && uffd_current_handler->loop == loop) {
    return fail(EDEADLK, "A callback of this loop cannot wait for the loop: call from another thread.");
  }
  return 0;
}

/* ---- the first failure */

void uffd_loop_fail(uffd_loop *loop, int error) {
  int none = 0;
  if (!atomic_compare_exchange_strong(&loop->error_state, &none, 1)) return;
  loop->error = error;
  snprintf(loop->error_text, sizeof(loop->error_text), "%s", uffd_errmsg());
  atomic_store_explicit(&loop->error_state, 2, memory_order_release);
}

int uffd_loop_error(const uffd_loop *loop, char *text, size_t length) {
  bool failed = atomic_load_explicit(&loop->error_state, memory_order_acquire) == 2;
  if (text != NULL && length != 0) snprintf(text, length, "%s", failed ? loop->error_text : "");
  return failed ? loop->error : 0;
}

/* ---- making */

static int check_opts(const struct uffd_loop_opts *opts) {
  if (opts->engine > UFFD_ENGINE_PUMP) return fail(EINVAL, "Unknown engine %u.", opts->engine);
  if (opts->handlers > UFFD_HANDLERS_MAX) {
    return fail(EINVAL, "%u handlers: a loop has 1 to %u.", opts->handlers, UFFD_HANDLERS_MAX);
  }
  if (opts->engine == UFFD_ENGINE_PUMP && opts->handlers > 1) {
    return fail(EINVAL, "A pump has one handler, the caller; the threads engine has several.");
  }
  if (opts->on_error > UFFD_ON_ERROR_STOP) return fail(EINVAL, "Unknown on_error %u.", opts->on_error);
  if (opts->route > UFFD_ROUTE_DEVICE) return fail(EINVAL, "Unknown route %u.", opts->route);
  if ((opts->open_flags & ~(uint32_t)(UFFD_OPEN_USER_MODE_ONLY | UFFD_OPEN_NO_USER_MODE_ONLY)) != 0) {
    return fail(EINVAL, "open_flags 0x%x: a loop's objects take the user-mode-only flags.", opts->open_flags);
  }
  if ((opts->features & (UFFD_FEAT_SIGBUS | UFFD_FEAT_WP_ASYNC)) != 0) {
    return fail(EINVAL, "With the features sigbus and wp_async no faults come to a loop.");
  }
  if (opts->reserved != 0) return fail(EINVAL, "reserved is not 0.");
  return 0;
}

int uffd_check_poison(uint32_t on_error) {
  uint64_t features = uffd_kernel_features();
  if (on_error == UFFD_ON_ERROR_ZERO || features == 0 || (features & UFFD_FEAT_POISON) != 0) return 0;
  return fail(EOPNOTSUPP, "This kernel cannot poison pages (Linux 6.6 can), which is what becomes of a page whose "
                          "resolver failed; choose on_error zero knowingly.");
}

static void free_loop(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    if (loop->handlers[i] != NULL) uffd_handler_destroy(loop->handlers[i]);
  }
  uffd_release(loop->handlers, loop->handlers_count * sizeof(struct uffd_handler_state *));
  if (loop->epoll_fd >= 0) close(loop->epoll_fd);
  pthread_mutex_destroy(&loop->lock);
  DELETE(loop);
}

static int make_handlers(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    loop->handlers[i] = uffd_handler_create(loop, i);
    if (loop->handlers[i] == NULL) return -ENOMEM;
  }
  return loop->engine == UFFD_ENGINE_PUMP ? uffd_pump_start(loop) : uffd_threads_start(loop);
}

int uffd_loop_create(const struct uffd_loop_opts *user_opts, uffd_loop **made) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  *made = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_loop_opts");
  if (result == 0) result = check_opts(&opts);
  if (result < 0) return result;
  uint32_t on_error = opts.on_error != UFFD_ON_ERROR_DEFAULT ? opts.on_error : UFFD_ON_ERROR_POISON;
  result = uffd_check_poison(on_error);
  if (result < 0) return result;
  uffd_loop *loop = NEW(uffd_loop);
  if (loop == NULL) return fail(ENOMEM, "No memory for a loop.");
  loop->process = uffd_process();
  loop->engine = opts.engine == UFFD_ENGINE_AUTO ? UFFD_ENGINE_THREADS : opts.engine;
  loop->on_error = on_error;
  loop->open_flags = opts.open_flags;
  loop->route = opts.route;
  loop->features = opts.features;
  loop->epoll_fd = -1;
  pthread_mutex_init(&loop->lock, NULL);
  uint32_t count = opts.handlers != 0 ? opts.handlers : 1;
  loop->handlers = uffd_alloc(count * sizeof(struct uffd_handler_state *));
  if (loop->handlers != NULL) {
    loop->handlers_count = count;
    result = make_handlers(loop);
  } else {
    result = fail(ENOMEM, "No memory for a loop.");
  }
  if (result < 0) {
    free_loop(loop);
    return result;
  }
  *made = loop;
  return 0;
}

/* ---- ending */

/* The descriptors are the child's copies; threads, registrations and most memory are not. */
static void forget(uffd_loop *loop) {
  while (loop->regions != NULL) {
    uffd_region *region = loop->regions;
    loop->regions = region->next;
    uffd_region_destroy(region);
  }
  uffd_uses_end(loop);
  free_loop(loop);
}

int uffd_loop_close(uffd_loop *loop) {
  if (loop == NULL) return 0;
  if (loop->process == uffd_process()) {
    int result = uffd_loop_check(loop);
    if (result < 0) return result;
    if (loop->engine == UFFD_ENGINE_THREADS) {
      uffd_threads_stop(loop);
    } else {
      uffd_handler_finish(loop->handlers[0]);
    }
    for (uffd_region *region = loop->regions; region != NULL; region = region->next) {
      uffd_region_unregister(region);
    }
  }
  forget(loop);
  return 0;
}

int uffd_loop_user_mode_only(const uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    const uffd_object *object = loop->handlers[i]->object;
    if (object != NULL) return object->user_mode_only != 0;
  }
  return fail(ENOENT, "No region has needed an object of the loop's own yet.");
}

int uffd_loop_complete(uffd_loop *loop) {
  int result = uffd_loop_check(loop);
  if (result < 0) return result;
  int first = 0;
  pthread_mutex_lock(&loop->lock);
  for (uffd_region *region = loop->regions; region != NULL; region = region->next) {
    pthread_mutex_unlock(&loop->lock); /* regions are only ever put in front, and live as long as the loop */
    result = uffd_region_complete(region);
    if (result < 0 && result != -ENOENT && first == 0) first = result;
    pthread_mutex_lock(&loop->lock);
  }
  pthread_mutex_unlock(&loop->lock);
  return first;
}

/* ---- the trace */

struct trace_job {
  struct uffd_job job;
  uffd_trace_fn *trace;
  void *ctx;
};

static enum uffd_job_result set_trace(struct uffd_handler_state *handler, struct uffd_job *job) {
  const struct trace_job *wanted = (const struct trace_job *)job;
  handler->trace = wanted->trace;
  handler->trace_ctx = wanted->ctx;
  return UFFD_JOB_DONE;
}

int uffd_loop_trace(uffd_loop *loop, uffd_trace_fn *trace, void *ctx) {
  if (loop->process != uffd_process()) return fail(EOWNERDEAD, "This loop belongs to the parent process.");
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    struct trace_job job = {.trace = trace, .ctx = ctx};
    uffd_job_init(&job.job, set_trace);
    if (uffd_current_handler == loop->handlers[i]) { /* from the hook itself */
      set_trace(loop->handlers[i], &job.job);
    } else if (uffd_current_handler != NULL && uffd_current_handler->loop == loop) {
      return fail(EDEADLK, "A hook can only switch itself off where the loop has one handler.");
    } else {
      uffd_job_run(loop->handlers[i], &job.job);
    }
  }
  return 0;
}
