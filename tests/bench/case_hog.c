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

/* The row compares placements of uffd: what auto costs where a companion would starve. */
void case_hog(const char *name) {
  struct plan plans[UFFD_PLACEMENT_SPIN + 1];
  for (uint32_t placement = 0; placement <= UFFD_PLACEMENT_SPIN; placement++) {
    plans[placement] = (struct plan){
        .length = 16 * MIB,
        .order = RANDOM,
        .contents = IMAGE,
        .image = image_dense(),
        .timed = true,
        .tail = 0.99,
        .limit_ns = LIMIT_NS,
        .engine = UFFD_ENGINE_THREADS,
        .placement = placement,
    };
  }
  struct contender list[] = {{.run = serve_hogged, .plan = &plans[UFFD_PLACEMENT_AUTO]},
                             {.run = serve_hogged, .plan = &plans[UFFD_PLACEMENT_NONE]},
                             {.run = serve_hogged, .plan = &plans[UFFD_PLACEMENT_COMPANION]}};
  struct row row = {
      .name = name, .unit = "ns p99", .engine = "threads", .base_name = "placement none", .at_least = 0.5};
  row.runs = RUNS_OF(list);
  for (size_t i = 0; i < 3; i += 2) {
    row.uffd = list[i].figures[TAIL];
    row.base = list[1].figures[TAIL];
    row.note[0] = '\0';
    explain(&row, "placement %s, ended on %s", placement_name(list[i].plan->placement),
            placement_name((uint32_t)list[i].figures[SETTLED].median));
    explain(&row, "median %.0f ns, longest %.1f ms; none: %.0f ns, %.1f ms", list[i].figures[MAIN].median,
            list[i].figures[LONGEST].high / 1e6, list[1].figures[MAIN].median, list[1].figures[LONGEST].high / 1e6);
    report(&row);
  }
}
