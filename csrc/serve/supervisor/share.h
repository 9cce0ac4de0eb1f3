/*
 * Shares: what one process, or one user, has of the room for clients, and what it may have. One that comes with more
 * and more must not keep the others out.
 *
 * A process is who connected, whosever memory it hands over. A forked child counts as its parent's.
 */
#ifndef UFFD_SERVE_SHARE_H
#define UFFD_SERVE_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include "uffd_pager.h"

struct uffd_asker {
  int32_t pid; /* 0: not visible from here; only its user counts */
  uint32_t uid;
};

/*
 * Is there room in its share for a client more, with so many descriptors after its userfaultfd? forked: it is a child.
 * -EBUSY, -EMFILE with a sentence.
 */
int uffd_share_check(const uffd_pager *pager, const struct uffd_asker *asker, uint32_t fds, bool forked);
/* The same of the memory for bookkeeping, bytes. -ENOMEM. */
int uffd_share_check_book(const uffd_pager *pager, const struct uffd_asker *asker, uint64_t bytes);
/* The part of the whole that one process may have; 1 at least. */
uint64_t uffd_share_of_process(const uffd_pager *pager, uint64_t whole);

#endif
