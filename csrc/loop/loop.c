/*
 * The loop as a whole: options, making, ending, its first failure.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "loop/engine/inline/inline.h"
#include "loop/pages/ledger.h"

int uffd_loop_check_process(const uffd_loop *loop) {
  if (loop->process == uffd_process()) return 0;
  return fail(EOWNERDEAD, "This loop belongs to the parent process.");
}

bool uffd_is_callback_of(const uffd_loop *loop) {
  return (uffd_current_handler != NULL && uffd_current_handler->loop == loop) || uffd_setting_up == loop;
}

int uffd_loop_check(const uffd_loop *loop) {
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (uffd_is_callback_of(loop)) {
    return fail(EDEADLK, "A callback of this loop cannot wait for the loop: call from another thread.");
  }
  return 0;
}

/* ---- who is inside */

int uffd_loop_enter(uffd_loop *loop) {
  int result = uffd_loop_check(loop);
  if (result < 0) return result;
  pthread_mutex_lock(&loop->gate);
  if (loop->closing) {
    result = fail(ECANCELED, "The loop is being closed.");
  } else {
    loop->inside++;
  }
  pthread_mutex_unlock(&loop->gate);
  if (result == 0) uffd_drive(loop);
  return result;
}

void uffd_loop_leave(uffd_loop *loop) {
  pthread_mutex_lock(&loop->gate);
  if (--loop->inside == 0) pthread_cond_broadcast(&loop->left);
  pthread_mutex_unlock(&loop->gate);
}

static void close_gate(uffd_loop *loop) {
  pthread_mutex_lock(&loop->gate);
  loop->closing = true;
  pthread_mutex_unlock(&loop->gate);
}

static void wait_until_left(uffd_loop *loop) {
  pthread_mutex_lock(&loop->gate);
  while (loop->inside != 0) {
    pthread_cond_wait(&loop->left, &loop->gate);
  }
  pthread_mutex_unlock(&loop->gate);
}

/* ---- the first failure */

bool uffd_loop_fail(uffd_loop *loop, int error) {
  int none = 0;
  if (!atomic_compare_exchange_strong(&loop->error_state, &none, 1)) return false;
  loop->error = error;
  snprintf(loop->error_text, sizeof(loop->error_text), "%s", uffd_errmsg());
  atomic_store_explicit(&loop->error_state, 2, memory_order_release);
  return true;
}

int uffd_loop_error(const uffd_loop *loop, char *text, size_t length) {
  bool failed = atomic_load_explicit(&loop->error_state, memory_order_acquire) == 2;
  if (text != NULL && length != 0) snprintf(text, length, "%s", failed ? loop->error_text : "");
  return failed ? loop->error : 0;
}

int uffd_loop_check_stopped(const uffd_loop *loop) {
  if (!atomic_load(&loop->stopped)) return 0;
  char why[sizeof(loop->error_text)];
  uffd_loop_error(loop, why, sizeof(why));
  return fail(ECANCELED, "The loop has stopped: %s", why);
}

/* ---- making */

static int check_opts(const struct uffd_loop_opts *opts) {
  if (opts->engine > UFFD_ENGINE_INLINE) return fail(EINVAL, "Unknown engine %u.", opts->engine);
  if (opts->engine == UFFD_ENGINE_INLINE && opts->handlers >= UFFD_HANDLERS_MAX) {
    return fail(EINVAL, "%u handlers: inline, at most %u threads resolve faults at the same time.", opts->handlers,
                UFFD_HANDLERS_MAX - 1);
  }
  if (opts->handlers > UFFD_HANDLERS_MAX) {
    return fail(EINVAL, "%u handlers: a loop has 1 to %u.", opts->handlers, UFFD_HANDLERS_MAX);
  }
  if (opts->engine == UFFD_ENGINE_PUMP && opts->handlers > 1) {
    return fail(EINVAL, "A pump has one handler, the caller; the threads engine has several.");
  }
  if (opts->on_error > UFFD_ON_ERROR_RETRY) return fail(EINVAL, "Unknown on_error %u.", opts->on_error);
  if (opts->on_error == UFFD_ON_ERROR_RETRY && opts->engine == UFFD_ENGINE_INLINE) return uffd_refuse_retry();
  if (opts->route > UFFD_ROUTE_DEVICE) return fail(EINVAL, "Unknown route %u.", opts->route);
  const uint32_t user_mode = UFFD_OPEN_USER_MODE_ONLY | UFFD_OPEN_NO_USER_MODE_ONLY;
  if ((opts->open_flags & ~user_mode) != 0) {
    return fail(EINVAL, "open_flags 0x%x: a loop's objects take the user-mode-only flags.", opts->open_flags);
  }
  if (opts->open_flags == user_mode) {
    return fail(EINVAL, "UFFD_OPEN_USER_MODE_ONLY and UFFD_OPEN_NO_USER_MODE_ONLY exclude each other: choose one.");
  }
  if ((opts->features & (UFFD_FEAT_SIGBUS | UFFD_FEAT_WP_ASYNC)) != 0) {
    return fail(EINVAL, "With the features sigbus and wp_async no faults come to a loop.");
  }
  if (opts->engine == UFFD_ENGINE_INLINE && uffd_check_inline(opts->features) < 0) return -EINVAL;
  if ((opts->flags & ~(uint64_t)UFFD_LOOP_PAUSED) != 0) {
    return fail(EINVAL, "Unknown flag of uffd_loop_create 0x%" PRIx64 ".", opts->flags);
  }
  if ((opts->flags & UFFD_LOOP_PAUSED) != 0 && opts->engine == UFFD_ENGINE_INLINE) {
    return fail(EINVAL, "Inline, threads answer their own faults: there is nothing to pause.");
  }
  if (opts->ledger != NULL && (opts->engine == UFFD_ENGINE_INLINE || opts->handlers > 1)) {
    return fail(EINVAL, "A loop with a ledger has one handler, and the engine threads or pump.");
  }
  if (opts->placement > UFFD_PLACEMENT_NONE) return fail(EINVAL, "Unknown placement %u.", opts->placement);
  return 0;
}

int uffd_check_poison(uint32_t on_error) {
  uint64_t features = uffd_kernel_features();
  if (on_error == UFFD_ON_ERROR_ZERO || on_error == UFFD_ON_ERROR_RETRY) return 0;
  if (features == 0 || (features & UFFD_FEAT_POISON) != 0) return 0;
  return fail(EOPNOTSUPP, "This kernel cannot poison pages (Linux 6.6 can), which is what becomes of a page whose "
                          "resolver failed; choose on_error retry, or zero knowingly.");
}

int uffd_refuse_retry(void) {
  return fail(EINVAL,
              "Inline, a thread would ask a resolver that fails without a pause: choose another on_error, or the "
              "engine threads.");
}

int uffd_check_inline(uint64_t features) {
  if ((features & UFFD_FEAT_EVENT_FORK) != 0) {
    return fail(EINVAL, "Inline, nobody can answer the faults of a forked child, which would die of SIGBUS: event_fork "
                        "is for the engines threads and pump.");
  }
  if ((features & UFFD_FEAT_EVENT_REMAP) != 0) {
    return fail(EINVAL, "Inline, a mapping that moves is not followed, and whoever touches it would die of SIGBUS: "
                        "event_remap is for the engines threads and pump.");
  }
  return 0;
}

static void free_loop(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    if (loop->handlers[i] != NULL) uffd_handler_destroy(loop->handlers[i]);
  }
  uffd_release(loop->handlers, loop->handlers_count * sizeof(struct uffd_handler_state *));
  if (loop->signalled && loop->process == uffd_process()) uffd_sigbus_release();
  uffd_hooks_drop(atomic_load(&loop->trace));
  uffd_hooks_drop(atomic_load(&loop->past_hooks));
  DELETE(loop->ledger);
  if (loop->epoll_fd >= 0) close(loop->epoll_fd);
  pthread_mutex_destroy(&loop->lock);
  pthread_mutex_destroy(&loop->gate);
  pthread_cond_destroy(&loop->left);
  DELETE(loop);
}

static int open_ledger(uffd_loop *loop, const struct uffd_loop_opts *opts) {
  if (opts->ledger == NULL) return 0;
  int result = uffd_ledger_open(opts->ledger, opts->ledger_size, &loop->ledger);
  if (result < 0 || !loop->ledger->resumed || atomic_load(&loop->paused)) return result;
  return fail(EINVAL, "This ledger is not new: take over with UFFD_LOOP_PAUSED, add its regions, and start the loop.");
}

static int make_handlers(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    int result = uffd_handler_create(loop, i, &loop->handlers[i]);
    if (result < 0) return result;
  }
  if (loop->engine == UFFD_ENGINE_INLINE) {
    int result = uffd_sigbus_acquire();
    if (result < 0) return result;
    loop->signalled = true;
  }
  return loop->engine == UFFD_ENGINE_PUMP ? uffd_pump_start(loop) : uffd_threads_start(loop);
}

/*
 * Inline is the fastest, but a system call that meets a missing page then gets EFAULT. Where the loop's objects can
 * only be USER_MODE_ONLY it gets that anyway, and inline costs nothing more.
 */
static void choose_engine(uffd_loop *loop, const struct uffd_loop_opts *opts) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  loop->engine = opts->engine;
  loop->why = "It was asked for.";
  if (opts->engine != UFFD_ENGINE_AUTO) return;
  bool limited = (opts->open_flags & UFFD_OPEN_USER_MODE_ONLY) != 0;
  if (!limited && uffd_probe(&probe) == 0) limited = probe.user_mode_only != 0;
  bool possible = (uffd_kernel_features() & UFFD_FEAT_SIGBUS) != 0 && opts->handlers <= 1 && opts->flags == 0 &&
                  opts->ledger == NULL && opts->on_error != UFFD_ON_ERROR_RETRY &&
                  (opts->features & UFFD_NOT_INLINE) == 0;
  loop->engine = limited && possible ? UFFD_ENGINE_INLINE : UFFD_ENGINE_THREADS;
  loop->why = !limited ? "System calls that meet missing pages are served too; inline they would get EFAULT."
              : possible
                  ? "The object is user-mode-only, so that system calls that meet missing pages get EFAULT "
                    "anyway, and inline is the fastest."
                  : "Inline takes one object, no pause, ledger, retries, event_fork or event_remap, and a kernel with "
                    "the feature sigbus (4.14).";
}

/* Inline: one that reads events and does jobs, and some for faulting threads to take, two for each processor. */
static uint32_t count_handlers(uffd_loop *loop, uint32_t wanted) {
  loop->shards = 1;
  if (loop->engine == UFFD_ENGINE_INLINE) {
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t slots = wanted != 0 ? wanted : (uint32_t)min_u64(processors > 0 ? 2 * (uint64_t)processors : 2, 32);
    return 1 + slots;
  }
  if (wanted > 1) loop->shards = wanted;
  return loop->shards;
}

int uffd_loop_engine(const uffd_loop *loop, const char **why) {
  if (why != NULL) *why = loop->why;
  return (int)loop->engine;
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
  choose_engine(loop, &opts);
  loop->on_error = on_error;
  loop->open_flags = opts.open_flags;
  loop->route = opts.route;
  loop->placement = opts.placement;
  loop->features = opts.features;
  atomic_init(&loop->paused, (opts.flags & UFFD_LOOP_PAUSED) != 0);
  loop->epoll_fd = -1;
  pthread_mutex_init(&loop->lock, NULL);
  pthread_mutex_init(&loop->gate, NULL);
  pthread_cond_init(&loop->left, NULL);
  uffd_drive(loop);
  uint32_t count = count_handlers(loop, opts.handlers);
  loop->handlers = uffd_alloc(count * sizeof(struct uffd_handler_state *));
  if (loop->handlers != NULL) {
    loop->handlers_count = count;
    loop->on_fork = opts.forked;
    loop->on_fork_ctx = opts.forked_ctx;
    result = open_ledger(loop, &opts);
    if (result == 0) result = make_handlers(loop);
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

static enum uffd_job_result start_reading(struct uffd_handler_state *handler, struct uffd_job *job) {
  if (handler->loop->ledger != NULL && handler->loop->ledger->resumed) job->result = uffd_handler_take_over(handler);
  if (job->result < 0) return UFFD_JOB_DONE;
  atomic_store(&handler->loop->paused, false); /* who sleeps has not looked at the objects, and does so next */
  for (const struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    uffd_placement_hear(handler, source->fd, true);
  }
  return UFFD_JOB_DONE;
}

int uffd_loop_check_started(const uffd_loop *loop) {
  if (loop->ledger == NULL || !atomic_load(&loop->paused)) return 0;
  return fail(EINVAL, "The ledger may hold events that are not applied yet: uffd_loop_start() first.");
}

static int check_all_added(uffd_loop *loop) {
  pthread_mutex_lock(&loop->lock);
  bool lacking = loop->ledger != NULL && loop->ledger->added < loop->ledger->old;
  pthread_mutex_unlock(&loop->lock);
  return lacking ? fail(EINVAL, "The ledger has regions that are not added: their pages would read as zeros.") : 0;
}

int uffd_loop_start(uffd_loop *loop) {
  int result = uffd_loop_enter(loop);
  if (result < 0) return result;
  if (atomic_load(&loop->paused)) result = check_all_added(loop);
  pthread_mutex_lock(&loop->lock); /* the regions are those that were looked at */
  for (uint32_t i = 0; i < loop->shards && result == 0; i++) {
    struct uffd_job job;
    uffd_job_init(&job, start_reading);
    result = uffd_job_run(loop->handlers[i], &job);
    if (result < 0 && result != -ECANCELED)
      fail(-result, "The ledger cannot be taken over: it is damaged, or no memory is left.");
  }
  pthread_mutex_unlock(&loop->lock);
  uffd_loop_leave(loop);
  return result == -ECANCELED ? fail(ECANCELED, "The loop was closed meanwhile.") : result;
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

/* Handlers first: they cancel what others wait for. Then nobody is inside, and nothing answers or changes any more. */
static void end(uffd_loop *loop) {
  close_gate(loop);
  if (loop->engine == UFFD_ENGINE_PUMP) {
    uffd_handler_finish(loop->handlers[0]);
  } else {
    uffd_threads_stop(loop);
  }
  wait_until_left(loop);
  for (uffd_region *region = loop->regions; region != NULL; region = region->next) {
    uffd_region_unregister(region);
  }
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    uffd_handler_let_go(loop->handlers[i]);
  }
}

int uffd_loop_close(uffd_loop *loop) {
  if (loop == NULL) return 0;
  if (loop->process == uffd_process()) {
    int result = uffd_loop_check(loop);
    if (result < 0) return result;
    end(loop);
  }
  forget(loop);
  return 0;
}

int uffd_loop_user_mode_only(const uffd_loop *loop) {
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    const uffd_object *object = loop->handlers[i]->object;
    if (object != NULL) return object->user_mode_only != 0;
  }
  return fail(ENOENT, "No region has needed an object of the loop's own yet.");
}

int uffd_loop_complete(uffd_loop *loop) {
  int first = 0, result = uffd_loop_enter(loop);
  if (result < 0) return result;
  pthread_mutex_lock(&loop->lock);
  for (uffd_region *region = loop->regions; region != NULL; region = region->next) {
    pthread_mutex_unlock(&loop->lock); /* regions are only ever put in front, and live as long as the loop */
    result = uffd_region_complete(region);
    if (result < 0 && result != -ENOENT && first == 0) first = result;
    pthread_mutex_lock(&loop->lock);
  }
  pthread_mutex_unlock(&loop->lock);
  uffd_loop_leave(loop);
  return first;
}
