/*
 * The library's side of a plan: fresh memory, served, touched, closed. All options that the rows are measured with are
 * set here.
 */
#ifndef UFFD_BENCH_SERVE_H
#define UFFD_BENCH_SERVE_H

#include <uffd.h>

#include "plan.h"

/* What "sequential" rows are served with. */
#define SERVE_AROUND UFFD_AROUND_AUTO

run_fn serve;
/* The same from this resolver, which is closed then. */
void serve_from(const struct plan *plan, uffd_resolver *resolver, bool check, double figures[FIGURES]);

/* The parts of serve(), for cases with contents of their own. */
void must(int result); /* ends the program with uffd_errmsg() */
uffd_loop *serve_loop(const struct plan *plan);
void serve_region(uffd_loop *loop, const struct plan *plan, uffd_memory *memory, uffd_resolver *resolver);
uffd_memory *serve_memory(const struct plan *plan);
uffd_resolver *serve_callback(void); /* in C: one constant page */

const char *engine_name(uint32_t engine);

#endif
