/*
 * Switching the trace: a lane finds the hook with one load. Whoever replaces it waits until all lanes have let go of
 * it.
 */
#include "loop/loop.h"

void uffd_hooks_drop(struct uffd_hook *hook) {
  while (hook != NULL) {
    struct uffd_hook *next = hook->next;
    uffd_pages_unmap(hook, sizeof(*hook));
    hook = next;
  }
}

static enum uffd_job_result do_nothing(struct uffd_lane *lane, struct uffd_job *job) {
  (void)lane, (void)job;
  return UFFD_JOB_DONE;
}

void uffd_loop_pass_lanes(uffd_loop *loop) {
  for (uint32_t i = 0; i < loop->engine.lanes_count; i++) {
    struct uffd_job job;
    uffd_job_init(&job, do_nothing);
    uffd_loop_run_job(loop, i, &job);
  }
}

static void keep_hook(uffd_loop *loop, struct uffd_hook *hook) {
  if (hook == NULL) return;
  hook->next = atomic_load(&loop->past_hooks);
  while (!atomic_compare_exchange_weak(&loop->past_hooks, &hook->next, hook)) {
  }
}

int uffd_hook_put(uffd_loop *loop, uint32_t place, uffd_trace_fn *fn, void *ctx) {
  struct uffd_hook *hook = NULL;
  if (fn != NULL) {
    hook = uffd_pages_map(sizeof(*hook));
    if (hook == NULL) return fail(ENOMEM, "No memory for a trace hook.");
    *hook = (struct uffd_hook){.fn = fn, .ctx = ctx};
  }
  keep_hook(loop, atomic_exchange(&loop->engine.trace[place], hook));
  return 0;
}

void uffd_hooks_settle(uffd_loop *loop) {
  struct uffd_hook *past = atomic_exchange(&loop->past_hooks, NULL);
  uffd_loop_pass_lanes(loop);
  uffd_hooks_drop(past);
}

int uffd_loop_trace(uffd_loop *loop, uffd_trace_fn *fn, void *ctx) {
  int result = uffd_loop_check_process(loop);
  if (result == 0) result = uffd_hook_put(loop, UFFD_HOOK_USER, fn, ctx);
  if (result < 0 || uffd_is_callback_of(loop)) return result; /* a callback cannot wait */
  result = uffd_loop_enter(loop);
  if (result < 0) return result;
  uffd_hooks_settle(loop);
  uffd_loop_leave(loop);
  return 0;
}

/* Names of what a record says */

static const char *name_of(const char *const *names, size_t count, uint32_t value) {
  return value < count ? names[value] : "unknown";
}

const char *uffd_answer_name(uint32_t answer) {
  static const char *const names[] = {"zero",  "bytes",    "continue",  "move", "poison",
                                      "later", "resolver", "unprotect", "file"};
  return name_of(names, sizeof(names) / sizeof(names[0]), answer);
}

const char *uffd_outcome_name(uint32_t outcome) {
  static const char *const names[] = {"installed", "present", "deferred", "gone", "failed"};
  return name_of(names, sizeof(names) / sizeof(names[0]), outcome);
}
