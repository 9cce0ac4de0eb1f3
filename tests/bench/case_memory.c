/*
 * What the library keeps for the pages that it serves.
 */
#include "bench.h"

#define LITTLE (64 * MIB)
#define MUCH   (1024 * MIB + LITTLE)

/* Bytes that serving takes from beginning to end. Zero pages, because they are no memory of their own. */
static double bookkeeping(const struct plan *plan) {
  double figures[FIGURES];
  uffd_resolver *resolver;
  uffd_memory *memory = serve_memory(plan);
  uint64_t before = usage_now().anonymous;
  must(uffd_resolver_zero(&resolver));
  uffd_loop *loop = serve_loop(plan);
  serve_region(loop, plan, memory, resolver);
  plan_touch(plan, uffd_memory_address(memory), figures);
  double taken = (double)usage_now().anonymous - (double)before;
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
  return taken;
}

static void grow(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  struct plan little = *plan;
  little.length = LITTLE;
  double fixed = bookkeeping(&little);
  figures[TAIL] = fixed / 1024;
  figures[MAIN] = (bookkeeping(plan) - fixed) / 1024;
}

void case_memory(const char *name) {
  const struct plan plan = {
      .length = MUCH,
      .order = FORWARD,
      .contents = ZEROS,
      .engine = UFFD_ENGINE_INLINE,
      .around = SERVE_AROUND,
  };
  struct contender list[] = {{.run = grow, .plan = &plan}};
  struct row row = {.name = name, .unit = "KiB/GiB", .engine = "inline", .most = 256};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  explain(&row, "beside %.0f KiB for the first 64 MiB and the loop", list[0].figures[TAIL].median);
  report(&row);
}
