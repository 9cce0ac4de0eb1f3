/*
 * First writes to protected pages.
 */
#include "bench.h"

#define MANY (640 * MIB) /* every 4th page of it is more pages than mprotect can guard by default */

/* Pages arrive write-protected, before the clock runs. */
static void serve_protected(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  uffd_resolver *resolver;
  uffd_region *region;
  uffd_memory *memory = serve_memory(plan);
  uffd_loop *loop = serve_loop(plan);
  struct uffd_stats stats = UFFD_STATS_INIT;
  opts.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
  must(uffd_resolver_zero(&resolver));
  must(uffd_loop_add(loop, memory, resolver, &opts, &region));
  must(uffd_region_prefetch(region, 0, 0));
  plan_touch(plan, uffd_memory_address(memory), figures);
  must(uffd_loop_stats(loop, &stats));
  if (stats.wp != plan_pages(plan)) die("%llu writes were seen", (unsigned long long)stats.wp);
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
}

void case_wp_inline(const char *name) {
  const struct plan plan = {.length = 64 * MIB, .order = RANDOM, .write = true, .engine = UFFD_ENGINE_INLINE};
  const struct plan many = {.length = MANY, .order = EVERY_4TH, .write = true, .engine = UFFD_ENGINE_INLINE};
  struct contender list[] = {{.run = serve_protected, .plan = &plan},
                             {.run = protect, .plan = &plan},
                             {.run = limit_unprotect, .plan = &plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline"};
  double figures[FIGURES];
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = "mprotect + SIGSEGV";
  row.limit = list[2].figures[MAIN];
  row.limit_name = "SIGBUS + WRITEPROTECT";
  row.at_least = 1.5;
  serve_protected(&many, false, figures);
  explain(&row, "%zu single pages done; mprotect is refused after %llu", plan_pages(&many),
          (unsigned long long)protect_until_refused(MANY));
  report(&row);
}
