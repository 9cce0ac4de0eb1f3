/*
 * The pager's side of a plan: a supervisor and a worker, made for each run, and a client.
 */
#ifndef UFFD_BENCH_PAGER_H
#define UFFD_BENCH_PAGER_H

#include "plan.h"

/* The special field of a plan; all may be NULL. */
struct paging {
  const char *record, *replay; /* working-set files */
  const char *factory;         /* the policy that answers: source of a Lua expression */
};

run_fn serve_pager;

#endif
