/*
 * The library's side of a plan.
 */
#include "serve.h"

void must(int result) {
  if (result < 0) die("%s", uffd_errmsg());
}

const char *engine_name(uint32_t engine) {
  return engine == UFFD_ENGINE_INLINE ? "inline" : "threads";
}

uffd_loop *serve_loop(const struct plan *plan) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  opts.engine = plan->engine;
  opts.placement = plan->placement;
  must(uffd_loop_create(&opts, &loop));
  return loop;
}

void serve_region(uffd_loop *loop, const struct plan *plan, uffd_memory *memory, uffd_resolver *resolver) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = plan->around != 0 ? plan->around : UFFD_AROUND_PAGE;
  opts.length = plan_split(plan, uffd_memory_address(memory));
  for (; opts.offset < plan->length; opts.offset += opts.length) {
    opts.resolver_offset = opts.offset;
    must(uffd_loop_add(loop, memory, resolver, &opts, NULL));
  }
}

uffd_memory *serve_memory(const struct plan *plan) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *memory;
  opts.kind = plan->kind;
  must(uffd_map(plan->length, &opts, &memory));
  return memory;
}

static int answer_constant(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = constant_page();
  return 0;
}

uffd_resolver *serve_callback(void) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver;
  ops.resolve = answer_constant;
  must(uffd_resolver_callback(&ops, NULL, NULL, NULL, 0, &resolver));
  return resolver;
}

static uffd_resolver *make_resolver(const struct plan *plan) {
  uffd_resolver *resolver;
  switch (plan->contents) {
  case IMAGE:
    must(uffd_resolver_file_fd(plan->image->fd, NULL, &resolver));
    return resolver;
  case CONSTANT:
    return serve_callback();
  default:
    must(uffd_resolver_zero(&resolver));
    return resolver;
  }
}

void serve(const struct plan *plan, bool check, double figures[FIGURES]) {
  serve_from(plan, make_resolver(plan), check, figures);
}

void serve_from(const struct plan *plan, uffd_resolver *resolver, bool check, double figures[FIGURES]) {
  uffd_memory *memory = serve_memory(plan);
  uffd_loop *loop = serve_loop(plan);
  serve_region(loop, plan, memory, resolver);
  plan_touch(plan, uffd_memory_address(memory), figures);
  struct uffd_stats stats = UFFD_STATS_INIT;
  must(uffd_loop_stats(loop, &stats));
  figures[FAULTS] = (double)stats.faults / (double)plan_pages(plan);
  figures[PLACED] = uffd_loop_placement(loop, NULL) == UFFD_PLACEMENT_COMPANION;
  if (check) plan_check(plan, uffd_memory_address(memory));
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
}
