/*
 * Beside UMap's way, with pages of its three usual sizes: in order, and random, where an answer is as large as its
 * page.
 */
#include "bench.h"
#include "umap.h"

#define LENGTH (64 * MIB)

static void beside(const char *name, enum order order, uint32_t kind, uint64_t page, const char *base_name,
                   double at_least) {
  const struct plan other = {.length = LENGTH,
                             .part = page == PAGE ? LENGTH / 4 : 0,
                             .order = order,
                             .contents = IMAGE,
                             .image = image_dense(),
                             .around = page};
  struct plan ours = other;
  ours.engine = UFFD_ENGINE_THREADS;
  ours.kind = kind;
  ours.around = order == RANDOM ? page : UFFD_AROUND_AUTO;
  struct contender list[] = {{.run = serve, .plan = &ours}, {.run = umap, .plan = &other}};
  struct row row = {.name = name, .unit = "ns/page touched", .engine = "threads"};
  row.runs = RUNS_WITHIN(list, BUDGET_NS / 3);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = base_name;
  row.at_least = at_least;
  explain_faults(&row, &list[0]);
  report(&row);
}

void case_umap_sequential(const char *name) {
  beside(name, FORWARD, UFFD_MEMORY_THP, PAGE, "UMap's way, 4 KiB", 1.2);
  beside(name, FORWARD, UFFD_MEMORY_THP, 64 * KIB, "UMap's way, 64 KiB", 1.2);
  beside(name, FORWARD, UFFD_MEMORY_THP, 2 * MIB, "UMap's way, 2 MiB", 1.2);
  beside("umap-sequential-base", FORWARD, UFFD_MEMORY_ANONYMOUS, 2 * MIB, "UMap's way, 2 MiB", 0);
}

void case_umap_random(const char *name) {
  beside(name, RANDOM, UFFD_MEMORY_ANONYMOUS, PAGE, "UMap's way, 4 KiB", 1);
  beside(name, RANDOM, UFFD_MEMORY_ANONYMOUS, 64 * KIB, "UMap's way, 64 KiB", 1);
  beside(name, RANDOM, UFFD_MEMORY_ANONYMOUS, 2 * MIB, "UMap's way, 2 MiB", 1);
}
