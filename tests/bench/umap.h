/*
 * A pager in the process as UMap 2.1 is described: one thread reads faults, two fill, in pages of a size of their own.
 */
#ifndef UFFD_BENCH_UMAP_H
#define UFFD_BENCH_UMAP_H

#include "measure.h"

/* plan->around is the size of its pages. */
run_fn umap;

#endif
