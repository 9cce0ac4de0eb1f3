/*
 * A set of page numbers: a bitmap whose parts are allocated when a page is put into them. Its memory depends on its
 * pages, not on the size of the image: at most 4 KiB for each 32768 neighbouring pages.
 */
#ifndef UFFD_SERVE_PAGESET_H
#define UFFD_SERVE_PAGESET_H

#include <stdbool.h>
#include <stdint.h>

union uffd_pageset_block;

struct uffd_pageset {
  union uffd_pageset_block *root;
  unsigned height; /* levels of pointer blocks above the bits */
  uint64_t limit;  /* every page is smaller */
};

struct uffd_run {
  uint64_t first, count;
};

void uffd_pageset_init(struct uffd_pageset *set, uint64_t limit);
void uffd_pageset_free(struct uffd_pageset *set);
/* 1; 0 when it is in the set already; -1: no memory. */
int uffd_pageset_add(struct uffd_pageset *set, uint64_t page);
/* The first run of neighbouring pages at `from` or after it. False: there is none. */
bool uffd_pageset_run(const struct uffd_pageset *set, uint64_t from, struct uffd_run *run);

#endif
