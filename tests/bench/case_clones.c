/*
 * Clones of one image: the second of those that share one memfd, beside one that is filled by copying; and how much of
 * the memory a clone has for itself.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "raw.h"
#include "smaps.h"

#define CLONES 4u

struct clone {
  uffd_memory *memory;
  uffd_loop *loop;
  uffd_region *region;
};

static uffd_resolver *image_file(const struct plan *plan) {
  uffd_resolver *resolver;
  must(uffd_resolver_file_fd(plan->image->fd, NULL, &resolver));
  return resolver;
}

static void add(struct clone *clone, const struct plan *plan, uffd_resolver *resolver) {
  clone->loop = serve_loop(plan);
  must(uffd_loop_add(clone->loop, clone->memory, resolver, NULL, &clone->region));
  uffd_resolver_close(resolver);
}

/* of: another clone, whose memfd it shares; NULL: it makes the memfd. */
static void open_clone(struct clone *clone, const struct clone *of, const struct plan *plan) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_resolver *below = image_file(plan), *shared;
  opts.kind = UFFD_MEMORY_MEMFD;
  opts.flags = of == NULL ? UFFD_MAP_PRIVATE : 0;
  opts.of = of == NULL ? NULL : of->memory;
  if (of != NULL) opts.kind = UFFD_MEMORY_THP; /* of says it */
  must(uffd_map(plan->length, &opts, &clone->memory));
  must(uffd_resolver_shared(clone->memory, below, &shared));
  uffd_resolver_close(below);
  add(clone, plan, shared);
}

static void close_clone(struct clone *clone) {
  must(uffd_loop_close(clone->loop));
  uffd_memory_close(clone->memory);
}

/* All of it, and then each page is touched. */
static void take_all(const struct clone *clone, const struct plan *plan, bool check, double figures[FIGURES]) {
  const volatile char *memory = uffd_memory_address(clone->memory);
  struct usage before = usage_now();
  uint64_t begin = now_ns();
  must(uffd_region_prefetch(clone->region, 0, plan->length));
  for (uint64_t at = 0; at < plan->length; at += PAGE) {
    (void)memory[at];
  }
  figures[MAIN] = (double)(now_ns() - begin) / (double)plan_pages(plan);
  figures[CPU] = (double)(usage_now().cpu_ns - before.cpu_ns) / (double)plan_pages(plan);
  if (check) plan_check(plan, uffd_memory_address(clone->memory));
}

static void by_sharing(const struct plan *plan, bool check, double figures[FIGURES]) {
  struct clone first, second;
  open_clone(&first, NULL, plan);
  take_all(&first, plan, false, figures);
  open_clone(&second, &first, plan);
  take_all(&second, plan, check, figures);
  close_clone(&second);
  close_clone(&first);
}

static void by_copying(const struct plan *plan, bool check, double figures[FIGURES]) {
  struct clone clone = {.memory = serve_memory(plan)};
  add(&clone, plan, image_file(plan));
  take_all(&clone, plan, check, figures);
  close_clone(&clone);
}

/* The kernel's part alone: CONTINUE of 2 MiB a call, in a private mapping of a memfd that has all pages. */
static void by_continue(const struct plan *plan, bool check, double figures[FIGURES]) {
  struct clone first;
  open_clone(&first, NULL, plan);
  take_all(&first, plan, false, figures);
  char *memory = mmap(NULL, plan->length, PROT_READ | PROT_WRITE, MAP_PRIVATE, uffd_memory_fd(first.memory), 0);
  if (memory == MAP_FAILED) die("cannot map the memfd: %m");
  int fd = raw_open(UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM);
  raw_register(fd, memory, plan->length, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
  uint64_t begin = now_ns();
  for (uint64_t offset = 0; offset < plan->length; offset += HUGE_PAGE) {
    int error = raw_continue(fd, (uintptr_t)memory + offset, HUGE_PAGE);
    if (error != 0) die("the bulk ioctl: errno %d", error);
  }
  for (uint64_t at = 0; at < plan->length; at += PAGE) {
    (void)((const volatile char *)memory)[at];
  }
  figures[MAIN] = (double)(now_ns() - begin) / (double)plan_pages(plan);
  if (check) plan_check(plan, memory);
  close(fd);
  munmap(memory, plan->length);
  close_clone(&first);
}

static void own_row(const char *name, const struct plan *plan) {
  struct row row = {.name = name, .unit = "PSS of a clone / RSS", .engine = "threads", .most = 1.05 / CLONES};
  struct clone clones[CLONES];
  double figures[CLONES], run[FIGURES];
  for (row.runs = 0; row.runs < CLONES; row.runs++) {
    open_clone(&clones[row.runs], row.runs == 0 ? NULL : &clones[0], plan);
    take_all(&clones[row.runs], plan, false, run);
  }
  for (unsigned i = 0; i < CLONES; i++) {
    const void *at = uffd_memory_address(clones[i].memory);
    figures[i] = (double)smaps_kib(at, "Pss:") / (double)smaps_kib(at, "Rss:");
  }
  row.uffd = spread_of(figures, CLONES);
  explain(&row, "%u clones, all of the image read by each", CLONES);
  report(&row);
  for (unsigned i = CLONES; i-- > 0;) {
    close_clone(&clones[i]);
  }
}

void case_clones(const char *name) {
  const struct plan plan = {
      .length = TYPICAL_BYTES, .contents = IMAGE, .image = image_typical(), .engine = UFFD_ENGINE_THREADS};
  struct contender list[] = {
      {.run = by_sharing, .plan = &plan}, {.run = by_copying, .plan = &plan}, {.run = by_continue, .plan = &plan}};
  struct row row = {
      .name = name, .unit = "ns/page", .engine = "threads", .base_name = "filled by copying", .at_least = 5};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.limit = list[2].figures[MAIN];
  row.limit_name = "bulk CONTINUE, touched";
  explain(&row, "the second clone of one memfd, all of it by prefetch, touched");
  report(&row);
  own_row(name, &plan);
}
