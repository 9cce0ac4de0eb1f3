/*
 * Should pages arrive write-protected under WP_ASYNC, which lifts the protection by itself at the first write? Bare
 * operations, because uffd does not do so: what each costs with the touches that follow.
 */
#include "bench.h"

static void beside(const char *name, const char *unit, enum order order, bool write) {
  const struct plan plan = {
      .length = 64 * MIB, .order = order, .share = 1, .contents = IMAGE, .image = image_dense(), .write = write};
  struct contender list[] = {{.run = limit_bulk, .plan = &plan}, {.run = limit_bulk_protected, .plan = &plan}};
  struct row row = {.name = name, .unit = unit, .engine = "none"};
  row.runs = RUNS_WITHIN(list, BUDGET_NS / 6);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = "arriving write-protected";
  report(&row);
}

void case_arrival(const char *name) {
  beside(name, "ns/page, read in order", FORWARD, false);
  beside(name, "ns/page, written in order", FORWARD, true);
  beside(name, "ns/page, read at random", RANDOM, false);
  beside(name, "ns/page, written at random", RANDOM, true);
}
