/*
 * A set of page numbers: a bitmap whose parts are made as they are needed, so that a set of a large image costs what
 * was put into it, 4 KiB for each 32768 neighbouring pages at most.
 */
#ifndef UFFD_SERVE_PAGESET_H
#define UFFD_SERVE_PAGESET_H

#include <stdbool.h>
#include <stdint.h>

union uffd_pageset_block;

struct uffd_pageset {
  union uffd_pageset_block *root;
  unsigned height; /* of blocks of blocks above the bits */
  uint64_t limit;  /* pages are below it */
};

struct uffd_run {
  uint64_t first, count;
};

void uffd_pageset_init(struct uffd_pageset *set, uint64_t limit);
void uffd_pageset_free(struct uffd_pageset *set);
/* 1, or 0 when it was there already; -1: no memory. */
int uffd_pageset_add(struct uffd_pageset *set, uint64_t page);
/* The first run of neighbouring pages from `from` on. False: there are none. */
bool uffd_pageset_run(const struct uffd_pageset *set, uint64_t from, struct uffd_run *run);

#endif
