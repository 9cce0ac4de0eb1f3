/*
 * The loop as a whole: making, starting, ending; what it tells of itself.
 */
#include "loop/loop.h"

#include <string.h>

#include "loop/engine/handler.h"
#include "loop/engine/pump.h"

int uffd_loop_error(const uffd_loop *loop, char *text, size_t length) {
  return uffd_failure_tell(&loop->engine.failure, text, length);
}

int uffd_loop_engine(const uffd_loop *loop, const char **why) {
  if (why != NULL) *why = loop->why;
  return (int)loop->engine.class->kind;
}

int uffd_loop_placement(const uffd_loop *loop, const char **why) {
  const struct uffd_engine_class *class = loop->engine.class;
  const char *told =
      class->kind == UFFD_ENGINE_THREADS ? "It was asked for." : "Only the threads engine has threads to place.";
  uint32_t kind = UFFD_PLACEMENT_NONE;
  if (class->tell_placement != NULL) kind = class->tell_placement(&loop->engine, &told);
  if (why != NULL) *why = told;
  return (int)kind;
}

int uffd_loop_user_mode_only(const uffd_loop *loop) {
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  for (uint32_t i = 0; i < loop->engine.readers_count; i++) {
    const uffd_object *object = loop->engine.readers[i]->object;
    if (object != NULL) return object->user_mode_only != 0;
  }
  return fail(ENOENT, "No region has needed an object of the loop's own yet.");
}

int uffd_loop_oldest(const uffd_loop *loop, struct uffd_waiting *waiting) {
  struct uffd_waiting all = UFFD_WAITING_INIT, one;
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (waiting == NULL || waiting->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_waiting: set size, UFFD_WAITING_INIT does.");
  }
  uint64_t now = uffd_now();
  for (uint32_t i = 0; i < loop->engine.readers_count; i++) {
    if (!uffd_oldest_read(&loop->engine.readers[i]->oldest, now, &one)) continue;
    one.handler = i;
    if (result == 0 || one.age_ns > all.age_ns) all = one;
    result = 1;
  }
  all.size = waiting->size;
  memcpy(waiting, &all, min_u64(waiting->size, sizeof(all)));
  return result;
}

static void free_loop(uffd_loop *loop) {
  uffd_engine_close(&loop->engine);
  for (uint32_t i = 0; i < UFFD_HOOKS; i++) {
    uffd_hooks_drop(atomic_load(&loop->engine.trace[i]));
  }
  uffd_hooks_drop(atomic_load(&loop->past_hooks));
  pthread_mutex_destroy(&loop->lock);
  uffd_gate_destroy(&loop->gate);
  DELETE(loop);
}

static int open_ledger(struct uffd_engine *engine, const struct uffd_loop_opts *opts) {
  if (opts->ledger == NULL) return 0;
  int result = uffd_ledger_open(opts->ledger, opts->ledger_size, &engine->ledger);
  if (result < 0 || !engine->ledger->resumed || atomic_load(&engine->paused)) return result;
  return fail(EINVAL, "This ledger is not new: take over with UFFD_LOOP_PAUSED, add its regions, and start the loop.");
}

static uffd_loop *new_loop(const struct uffd_loop_opts *opts) {
  uffd_loop *loop = NEW(uffd_loop);
  if (loop == NULL) return NULL;
  struct uffd_engine *engine = &loop->engine;
  loop->process = engine->process = uffd_process();
  loop->on_error = opts->on_error;
  loop->retry_ms = opts->retry_ms;
  loop->retry_then = opts->retry_then;
  loop->open_flags = opts->open_flags;
  loop->route = opts->route;
  uffd_choose_engine(loop, opts);
  engine->features = opts->features;
  engine->forked = opts->forked;
  engine->forking = opts->forking;
  engine->forked_ctx = opts->forked_ctx;
  engine->failure.log = opts->failed;
  engine->failure.log_ctx = opts->failed_ctx;
  engine->epoll_fd = -1;
  atomic_init(&engine->paused, (opts->flags & UFFD_LOOP_PAUSED) != 0);
  pthread_mutex_init(&loop->lock, NULL);
  uffd_gate_open(&loop->gate);
  uffd_pump_drive(engine);
  return loop;
}

int uffd_loop_create(const struct uffd_loop_opts *user_opts, uffd_loop **made) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  *made = NULL;
  int result = uffd_loop_take_opts(&opts, user_opts);
  if (result < 0) return result;
  uffd_loop *loop = new_loop(&opts);
  if (loop == NULL) return fail(ENOMEM, "No memory for a loop.");
  uffd_hold_cancel();
  result = open_ledger(&loop->engine, &opts);
  if (result == 0) result = uffd_engine_open(&loop->engine);
  uffd_let_cancel();
  if (result < 0) {
    const struct uffd_sentence why = uffd_keep_sentence();
    free_loop(loop);
    uffd_restore_sentence(&why);
    return result;
  }
  *made = loop;
  return 0;
}

static enum uffd_job_result start_reading(struct uffd_lane *lane, struct uffd_job *job) {
  struct uffd_reader *reader = uffd_reader_of(lane);
  struct uffd_engine *engine = reader->engine;
  if (engine->ledger != NULL && engine->ledger->resumed) job->result = uffd_handler_take_over(reader);
  if (job->result < 0) return UFFD_JOB_DONE;
  atomic_store(&engine->paused, false); /* who sleeps has not looked at the objects, and does so next */
  for (const struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (engine->class->hear != NULL) engine->class->hear(reader, source->fd, true);
  }
  return UFFD_JOB_DONE;
}

static int check_all_added(uffd_loop *loop) {
  pthread_mutex_lock(&loop->lock);
  const struct uffd_ledger *ledger = loop->engine.ledger;
  bool lacking = ledger != NULL && ledger->added < ledger->old;
  pthread_mutex_unlock(&loop->lock);
  return lacking ? fail(EINVAL, "The ledger has regions that are not added: their pages would read as zeros.") : 0;
}

int uffd_loop_start(uffd_loop *loop) {
  int result = uffd_loop_enter(loop);
  if (result < 0) return result;
  if (atomic_load(&loop->engine.paused)) result = check_all_added(loop);
  pthread_mutex_lock(&loop->lock); /* the regions are those that were looked at */
  for (uint32_t i = 0; i < loop->engine.readers_count && result == 0; i++) {
    struct uffd_job job;
    uffd_job_init(&job, start_reading);
    result = uffd_loop_run_job(loop, i, &job);
    if (result < 0 && result != -ECANCELED)
      fail(-result, "The ledger cannot be taken over: it is damaged, or no memory is left.");
  }
  pthread_mutex_unlock(&loop->lock);
  uffd_loop_leave(loop);
  return result == -ECANCELED ? fail(ECANCELED, "The loop was closed meanwhile.") : result;
}

/* The descriptors are the child's copies; threads, registrations and most memory are not. */
static void forget(uffd_loop *loop) {
  while (loop->regions != NULL) {
    uffd_region *region = loop->regions;
    loop->regions = region->next;
    uffd_region_destroy(region);
  }
  uffd_uses_end(loop);
  if (loop->process == uffd_process()) {
    uffd_trace_file_end(loop->trace_file); /* inline, threads may have been in its hook until their region went */
  } else {
    uffd_trace_file_forget(loop->trace_file);
  }
  free_loop(loop);
}

/* Readers first: they cancel what others wait for. Then nobody is inside, and nothing answers or changes any more. */
static void end(uffd_loop *loop) {
  uffd_gate_close(&loop->gate);
  loop->engine.class->stop(&loop->engine);
  uffd_gate_wait(&loop->gate);
  for (uffd_region *region = loop->regions; region != NULL; region = region->next) {
    uffd_region_unregister(region);
  }
  for (uint32_t i = 0; i < loop->engine.readers_count; i++) {
    uffd_handler_let_go(loop->engine.readers[i]);
  }
}

int uffd_loop_close(uffd_loop *loop) {
  if (loop == NULL) return 0;
  if (loop->process == uffd_process()) {
    int result = uffd_loop_check(loop);
    if (result < 0) return result;
    uffd_hold_cancel();
    end(loop);
    forget(loop);
    uffd_let_cancel();
  } else {
    forget(loop);
  }
  return 0;
}

int uffd_loop_complete(uffd_loop *loop) {
  int first = 0, result = uffd_loop_enter(loop);
  if (result < 0) return result;
  pthread_mutex_lock(&loop->lock);
  for (uffd_region *region = loop->regions; region != NULL; region = region->next) {
    pthread_mutex_unlock(&loop->lock); /* regions are only ever put in front, and live as long as the loop */
    result = uffd_region_complete(region);
    if (result < 0 && !atomic_load(&region->removed) && first == 0) first = result;
    pthread_mutex_lock(&loop->lock);
  }
  pthread_mutex_unlock(&loop->lock);
  uffd_loop_leave(loop);
  return first;
}

/* A pump's calls, beside those of every loop. */

static int check_pump(const uffd_loop *loop) {
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (loop->engine.class != &uffd_pump_engine) {
    return fail(EINVAL, "Not a pump: its own threads answer this loop's faults.");
  }
  return 0;
}

#define NS_PER_MS UINT64_C(1000000)

int uffd_loop_step(uffd_loop *loop, int timeout_ms) {
  int result = check_pump(loop);
  if (result == 0) result = uffd_loop_check(loop);
  if (result < 0) return result;
  uffd_pump_drive(&loop->engine);
  uint64_t end = timeout_ms < 0 ? UINT64_MAX : uffd_now() + (uint64_t)timeout_ms * NS_PER_MS;
  for (;;) {
    uint64_t now = uffd_now();
    unsigned answered = uffd_handler_pass(loop->engine.readers[0], end == UINT64_MAX ? end : end > now ? end - now : 0);
    /* a stopped loop still answers, with poison: nobody may sleep for ever */
    result = uffd_loop_check_stopped(loop);
    if (result < 0) return result;
    if (answered != 0 || uffd_now() >= end) return (int)answered;
  }
}

int uffd_loop_fd(const uffd_loop *loop) {
  int result = check_pump(loop);
  return result < 0 ? result : loop->engine.epoll_fd;
}

int uffd_loop_timeout(const uffd_loop *loop) {
  int result = check_pump(loop);
  if (result < 0) return result;
  uint64_t due = uffd_handler_due(loop->engine.readers[0]);
  return due == UINT64_MAX ? -1 : (int)((due + NS_PER_MS - 1) / NS_PER_MS);
}
