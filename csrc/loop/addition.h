/*
 * Many regions of another process's memory at once: the pager adds all of a client's.
 */
#ifndef UFFD_LOOP_ADDITION_H
#define UFFD_LOOP_ADDITION_H

#include "base/base.h"
#include "uffd.h"

/* A region that is to be added. */
struct uffd_addition {
  uffd_memory *memory;
  uffd_resolver *resolver;
  struct uffd_region_opts opts; /* as uffd_loop_add() takes them; all of it, from UFFD_REGION_OPTS_INIT on */
  uffd_region *region;          /* in: NULL; out: the region */
};

/*
 * region.c: uffd_loop_add() of all of them, or of none. A reader is asked once for all, and a ledger written once: one
 * by one, each costs two switches of thread. The memories lie in another process, and opts.object is the same in all.
 * 0, or -errno with a sentence.
 */
UFFD_SHARED int uffd_loop_add_all(uffd_loop *loop, struct uffd_addition *additions, size_t count);

#endif
