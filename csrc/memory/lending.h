/*
 * Pages that private mappings in several processes have in common: a memfd of one process, filled by several of them,
 * and lent to others, which map it.
 */
#ifndef UFFD_MEMORY_LENDING_H
#define UFFD_MEMORY_LENDING_H

#include "base/base.h"
#include "uffd.h"

struct uffd_common;

/* A memfd: length bytes of pages, and behind them the states of the pages, all zeros. -errno with a sentence. */
UFFD_SHARED int uffd_common_create(uint64_t length, uint64_t page_size, int *fd);
/*
 * A new descriptor of it, O_CLOEXEC, for those who only map pages: nothing can be written through it. (The seal
 * F_SEAL_FUTURE_WRITE would keep workers that are started later from filling pages.) -errno with a sentence.
 */
UFFD_SHARED int uffd_common_lend(int fd);
/*
 * Maps it, in each process that fills pages; fd stays the caller's. Nobody claims a page there, because who has claimed
 * it may be killed: two processes may write one page at the same time, with the same bytes, and the page counts as
 * filled when one of them has written all of it. -EINVAL the length is another; -ENOMEM.
 */
UFFD_SHARED int uffd_common_open(int fd, uint64_t length, uint64_t page_size, struct uffd_common **common);
UFFD_SHARED void uffd_common_drop(struct uffd_common *common); /* NULL is allowed */

/* Memory of another process is a private mapping of it, from offset on. Before it is added to a loop. */
UFFD_SHARED void uffd_memory_share(uffd_memory *memory, struct uffd_common *common, uint64_t offset);

/*
 * map.c: a private mapping of length bytes of the memfd behind fd, which it owns from then on, also when it fails.
 * token: by which the lender knows it again, not 0.
 */
UFFD_SHARED int uffd_map_lent(int fd, uint64_t length, uint64_t page_size, uint64_t token, uint32_t flags,
                              uffd_memory **memory);
UFFD_SHARED uint64_t uffd_memory_token(const uffd_memory *memory); /* 0: it is not lent */

#endif
