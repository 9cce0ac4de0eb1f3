/*
 * Random pages, one at a time: what a single fault costs.
 */
#include "bench.h"

#define LENGTH  (64 * MIB)
#define REGIONS 1024u

static void random_inline(const char *name, const struct plan *plan, const char *limit_name, double over_textbook,
                          double over_pinned) {
  struct contender list[] = {{.run = serve, .plan = plan},
                             {.run = textbook, .plan = plan},
                             {.run = textbook_pinned, .plan = plan},
                             {.run = limit_signal, .plan = plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline", .limit_name = limit_name};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.limit = list[3].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = TEXTBOOK;
  row.at_least = over_textbook;
  row.at_most = 1.15;
  report(&row);
  row.base = list[2].figures[MAIN];
  row.base_name = TEXTBOOK_PINNED;
  row.at_least = over_pinned;
  row.at_most = 0;
  report(&row);
}

void case_random_zero(const char *name) {
  const struct plan plan = {.length = LENGTH, .order = RANDOM, .contents = ZEROS, .engine = UFFD_ENGINE_INLINE};
  random_inline(name, &plan, "SIGBUS + ZEROPAGE", 8, 1.6);
}

void case_random_file(const char *name) {
  const struct plan plan = {
      .length = LENGTH,
      .order = RANDOM,
      .contents = IMAGE,
      .image = image_dense(),
      .engine = UFFD_ENGINE_INLINE,
  };
  random_inline(name, &plan, "SIGBUS + pread + COPY", 6, 1.35);
}

/* With the companion, and beside it with one thread where the scheduler puts it. */
void case_random_file_threads(const char *name) {
  const struct plan companion = {
      .length = LENGTH,
      .order = RANDOM,
      .contents = IMAGE,
      .image = image_dense(),
      .engine = UFFD_ENGINE_THREADS,
  };
  struct plan none = companion;
  none.placement = UFFD_PLACEMENT_NONE;
  struct contender list[] = {{.run = serve, .plan = &companion},
                             {.run = textbook, .plan = &companion},
                             {.run = textbook_pinned, .plan = &companion},
                             {.run = serve, .plan = &none}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "threads"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = TEXTBOOK;
  row.at_least = 4;
  explain_usage(&row, "uffd", &list[0]);
  report(&row);
  row.note[0] = '\0';
  row.base = list[2].figures[MAIN];
  row.base_name = TEXTBOOK_PINNED;
  row.at_least = 1 / 1.4;
  explain(&row, "the best case itself is %.2f times the textbook loop",
          list[1].figures[MAIN].median / list[2].figures[MAIN].median);
  explain_usage(&row, "base", &list[2]);
  report(&row);
  row.note[0] = '\0';
  row.base = list[3].figures[MAIN];
  row.base_name = "placement none";
  row.at_least = 1;
  explain(&row, "ended with the %s", list[0].figures[PLACED].median > 0 ? "companion" : "guard");
  explain_usage(&row, "base", &list[3]);
  report(&row);
}

void case_two_threads(const char *name) {
  const struct plan two = {
      .length = LENGTH,
      .order = RANDOM,
      .contents = IMAGE,
      .image = image_dense(),
      .engine = UFFD_ENGINE_INLINE,
      .threads = 2,
  };
  struct plan one = two;
  one.threads = 1;
  struct contender list[] = {{.run = serve, .plan = &two},
                             {.run = serve, .plan = &one},
                             {.run = limit_signal, .plan = &two},
                             {.run = limit_signal, .plan = &one}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline", .base_name = "one thread"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.limit = list[2].figures[MAIN];
  row.limit_name = "SIGBUS + pread + COPY, two threads";
  row.at_least = 1.7;
  explain(&row, "the bare operations gain %.2f", list[3].figures[MAIN].median / list[2].figures[MAIN].median);
  report(&row);
}

/* A fault looks its region up among so many, each of which is a mapping for the kernel, too. */
void case_regions(const char *name) {
  struct plan one = {
      .length = LENGTH, .order = RANDOM, .contents = IMAGE, .image = image_dense(), .engine = UFFD_ENGINE_INLINE};
  struct plan many = one;
  many.regions = REGIONS;
  struct contender list[] = {{.run = serve, .plan = &many},
                             {.run = serve, .plan = &one},
                             {.run = limit_signal, .plan = &many},
                             {.run = limit_signal, .plan = &one}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline", .base_name = "one region"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.limit = list[2].figures[MAIN];
  row.limit_name = "SIGBUS + pread + COPY, as many mappings";
  row.at_least = 1 / 1.15;
  explain(&row, "the bare operations take %.2f times as long with so many mappings",
          list[2].figures[MAIN].median / list[3].figures[MAIN].median);
  report(&row);
}
