/*
 * The threads engine with a busy loop on every processor: nobody may starve.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"

#define HOGS_MAX 256
#define LIMIT_NS UINT64_C(250000000)

static atomic_bool hogging;

static void *burn(void *argument) {
  pin((int)(intptr_t)argument);
  while (atomic_load_explicit(&hogging, memory_order_relaxed)) {
  }
  return NULL;
}

static void run_hogged(run_fn *run, const struct plan *plan, bool check, double figures[FIGURES]) {
  pthread_t threads[HOGS_MAX];
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  if (count > HOGS_MAX) count = HOGS_MAX;
  (void)check; /* the plan stops when its time is over */
  atomic_store(&hogging, true);
  for (long i = 0; i < count; i++) {
    if (pthread_create(&threads[i], NULL, burn, (void *)(intptr_t)i) != 0) die("no thread");
  }
  run(plan, false, figures);
  atomic_store(&hogging, false);
  for (long i = 0; i < count; i++) {
    pthread_join(threads[i], NULL);
  }
}

static void serve_hogged(const struct plan *plan, bool check, double figures[FIGURES]) {
  run_hogged(serve, plan, check, figures);
}

/* What the companion costs where a thread in SCHED_IDLE starves, beside one ordinary thread. */
void case_hog(const char *name) {
  const struct plan companion = {
      .length = 16 * MIB,
      .order = RANDOM,
      .contents = IMAGE,
      .image = image_dense(),
      .timed = true,
      .tail = 0.99,
      .limit_ns = LIMIT_NS,
      .engine = UFFD_ENGINE_THREADS,
  };
  struct plan none = companion;
  none.placement = UFFD_PLACEMENT_NONE;
  struct contender list[] = {{.run = serve_hogged, .plan = &companion}, {.run = serve_hogged, .plan = &none}};
  struct row row = {
      .name = name, .unit = "ns p99", .engine = "threads", .base_name = "placement none", .at_least = 0.5};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[TAIL];
  row.base = list[1].figures[TAIL];
  explain(&row, "ended with the %s", list[0].figures[PLACED].median > 0 ? "companion" : "guard");
  explain(&row, "median %.0f ns, longest %.1f ms; none: %.0f ns, %.1f ms", list[0].figures[MAIN].median,
          list[0].figures[LONGEST].high / 1e6, list[1].figures[MAIN].median, list[1].figures[LONGEST].high / 1e6);
  report(&row);
}
