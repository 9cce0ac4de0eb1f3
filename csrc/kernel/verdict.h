/*
 * What an errno of an ioctl on a page means for the page.
 */
#ifndef UFFD_KERNEL_VERDICT_H
#define UFFD_KERNEL_VERDICT_H

#include "kernel/object.h"

enum uffd_verdict {
  UFFD_VERDICT_NEVER = 0, /* trying again gives the same: on_error says what the page becomes */
  UFFD_VERDICT_HEALS,     /* it passes by itself: later */
  UFFD_VERDICT_PRESENT,   /* the page is there */
  UFFD_VERDICT_ABSENT,    /* CONTINUE: the page cache has no such page */
  UFFD_VERDICT_OWNERS,    /* the owner of the memory has taken the page away, and the kernel tells whoever touches it */
  UFFD_VERDICT_GONE,      /* the address space is no more */
  UFFD_VERDICT_COPY       /* MOVE: this page does not move, but can be copied */
};

#define UFFD_FILL_OPS (UFFD_FILL_MOVE + 1u)
#define UFFD_PROTECT  UFFD_FILL_OPS /* the operation after the five that fill: UFFDIO_WRITEPROTECT */

/* One row of the table. An errno that has none is UFFD_VERDICT_NEVER. */
struct uffd_ruling {
  int error;       /* positive */
  uint32_t ops;    /* one bit for each operation */
  bool base_page;  /* only where pages are not huge */
  bool readable;   /* COPY: only when the source can be read */
  uint8_t verdict; /* enum uffd_verdict */
  const char *why;
};

/* error: positive. op: enum uffd_fill_op, or UFFD_PROTECT. readable: what COPY reads from can be read. */
enum uffd_verdict uffd_verdict(uint32_t op, int error, uint64_t page_size, bool readable);
/* The table itself, for its test. */
const struct uffd_ruling *uffd_rulings(size_t *count);

#endif
