/*
 * Cases and the rows that they report.
 */
#ifndef UFFD_BENCH_BENCH_H
#define UFFD_BENCH_BENCH_H

#include "baseline.h"
#include "image.h"
#include "limit.h"
#include "serve.h"

#define BUDGET_NS                          UINT64_C(3000000000) /* of a case, as far as its least number of runs allows */
#define RUNS_OF(contenders)                RUNS_WITHIN(contenders, BUDGET_NS)
#define RUNS_WITHIN(contenders, budget_ns) interleave(contenders, sizeof(contenders) / sizeof(*(contenders)), budget_ns)

struct row {
  const char *name, *unit, *engine;
  struct spread uffd, base, limit;
  const char *base_name, *limit_name; /* NULL: there is none */
  double at_least;                    /* target of base / uffd; 0: none */
  double at_most;                     /* target of uffd / limit; 0: none */
  double most;                        /* target of uffd itself; 0: none */
  unsigned runs;
  char note[320]; /* what explains the figure */
};

void report(const struct row *row);

#define COST_SIZES 4u

enum growth { GROWTH_FLAT, GROWTH_LINEAR, GROWTH_WORSE };

/* What something costs at several sizes. */
struct cost {
  const char *name, *unit, *engine, *size_unit;
  unsigned count;           /* of the sizes */
  double sizes[COST_SIZES]; /* growing */
  struct spread costs[COST_SIZES];
  enum growth promised; /* at most */
  const char *reason;   /* why it grows so, and no more */
};

void report_cost(const struct cost *cost);
/* Adds to the note. */
void explain(struct row *row, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What a page took of the processors, for the note. */
void explain_usage(struct row *row, const char *who, const struct contender *contender);

void explain_faults(struct row *row, const struct contender *contender);

typedef void case_fn(const char *name);
case_fn case_random_zero, case_random_file, case_random_file_threads, case_hog, case_two_threads, case_regions;
case_fn case_sequential_file, case_sequential_file_thp, case_reverse_file, case_stride_file, case_sparse_file,
    case_continue_memfd;
case_fn case_umap_sequential, case_umap_random, case_arrival, case_later;
case_fn case_serve_random, case_serve_replay, case_serve_full, case_serve_policy, case_serve_regions,
    case_serve_share; /* with the pager only */
case_fn case_cost_fork, case_cost_children, case_cost_adopt, case_cost_stats, case_cost_prefetch, case_cost_add;
case_fn case_callback, case_policy_constant, case_policy_fresh, case_wp_inline, case_memory;
case_fn case_image_zstd, case_image_fault, case_image_chain; /* with images only */
case_fn case_clones;
case_fn case_remote, case_remote_cached, case_remote_clones, case_remote_peers, case_remote_http;

#endif
