/*
 * Pages that the page cache has already: CONTINUE, no copy.
 */
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* The memory's own mapping forgets its pages; the memfd keeps them. */
static void serve_continue(const struct plan *plan, bool check, double figures[FIGURES]) {
  uffd_memory *memory = (uffd_memory *)(uintptr_t)plan->special;
  char *address = uffd_memory_address(memory);
  uffd_resolver *resolver;
  if (madvise(address, plan->length, MADV_DONTNEED) != 0) die("MADV_DONTNEED: %m");
  must(uffd_resolver_continue(NULL, &resolver));
  uffd_loop *loop = serve_loop(plan);
  serve_region(loop, plan, memory, resolver);
  plan_touch(plan, address, figures);
  struct uffd_stats stats = UFFD_STATS_INIT;
  must(uffd_loop_stats(loop, &stats));
  figures[FAULTS] = (double)stats.faults / (double)plan_pages(plan);
  if (check) plan_check(plan, address);
  must(uffd_loop_close(loop));
  uffd_resolver_close(resolver);
}

void case_continue_memfd(const char *name) {
  struct image cache = {.length = IMAGE_BYTES};
  struct plan plan = {
      .length = IMAGE_BYTES,
      .order = FORWARD,
      .contents = IMAGE,
      .image = &cache,
      .engine = UFFD_ENGINE_INLINE,
      .around = SERVE_AROUND,
      .kind = UFFD_MEMORY_MEMFD,
  };
  uffd_memory *memory = serve_memory(&plan);
  memcpy(uffd_memory_alias(memory), image_dense()->mapping, IMAGE_BYTES);
  cache.fd = uffd_memory_fd(memory);
  cache.mapping = uffd_memory_alias(memory);
  plan.special = memory;
  struct contender list[] = {
      {.run = serve_continue, .plan = &plan}, {.run = map_file, .plan = &plan}, {.run = limit_continue, .plan = &plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = "mmap of the memfd";
  row.limit = list[2].figures[MAIN];
  row.limit_name = "bulk CONTINUE, touched";
  row.at_least = 1 / 1.5;
  row.at_most = 1.25;
  explain_faults(&row, &list[0]);
  report(&row);
  uffd_memory_close(memory);
}
