/*
 * The files that are served: unlinked, and in the page cache. Made when they are first asked for.
 */
#ifndef UFFD_BENCH_IMAGE_H
#define UFFD_BENCH_IMAGE_H

#include "plan.h"

#define IMAGE_BYTES   (256 * MIB)
#define SPARSE_BYTES  (64 * MIB)
#define TYPICAL_BYTES (64 * MIB)

const struct image *image_dense(void);   /* IMAGE_BYTES, no zero page */
const struct image *image_typical(void); /* TYPICAL_BYTES, which compress as a process's memory does */
const struct image *image_holes(void);   /* SPARSE_BYTES, half of them holes: runs of 1 to 31 pages */
const struct image *image_written(void); /* the same contents, but the zeros are written */

#endif
