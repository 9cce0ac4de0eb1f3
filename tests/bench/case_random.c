/*
 * Random pages, one at a time: what a single fault costs.
 */
#include "bench.h"

#define LENGTH (64 * MIB)

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
  random_inline(name, &plan, "SIGBUS + COPY", 6, 1.35);
}

/* All placements side by side: auto, the default, is the row, the others explain it. */
void case_random_file_threads(const char *name) {
  struct plan plans[UFFD_PLACEMENT_SPIN + 1];
  for (uint32_t placement = 0; placement <= UFFD_PLACEMENT_SPIN; placement++) {
    plans[placement] = (struct plan){
        .length = LENGTH,
        .order = RANDOM,
        .contents = IMAGE,
        .image = image_dense(),
        .engine = UFFD_ENGINE_THREADS,
        .placement = placement,
    };
  }
  struct contender list[] = {{.run = serve, .plan = &plans[UFFD_PLACEMENT_AUTO]},
                             {.run = textbook, .plan = &plans[0]},
                             {.run = textbook_pinned, .plan = &plans[0]},
                             {.run = serve, .plan = &plans[UFFD_PLACEMENT_NONE]},
                             {.run = serve, .plan = &plans[UFFD_PLACEMENT_COMPANION]},
                             {.run = serve, .plan = &plans[UFFD_PLACEMENT_PERCPU]},
                             {.run = serve, .plan = &plans[UFFD_PLACEMENT_SPIN]}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "threads"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = TEXTBOOK;
  row.at_least = 4;
  explain(&row, "auto ended on %s", placement_name((uint32_t)list[0].figures[SETTLED].median));
  for (size_t i = 3; i < sizeof(list) / sizeof(*list); i++) {
    explain(&row, "%s %.0f ns", placement_name(list[i].plan->placement), list[i].figures[MAIN].median);
  }
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
  row.limit_name = "SIGBUS + COPY, two threads";
  row.at_least = 1.7;
  explain(&row, "the bare operations gain %.2f", list[3].figures[MAIN].median / list[2].figures[MAIN].median);
  report(&row);
}
