/*
 * Which process is a forked child? The kernel tells its userfaultfd, not its number.
 */
#ifndef UFFD_SERVE_FAMILY_H
#define UFFD_SERVE_FAMILY_H

#include "serve/supervisor/pager.h"

/*
 * Looks for the process of a client that was forked from parent: the only child that is young enough, nobody's yet, and
 * has its memory. Its pid, and a pidfd of it; or 0 when that is not certain: who is taken for another may be killed for
 * it. The child can be seen only some time after its userfaultfd.
 */
int32_t uffd_family_child(const uffd_pager *pager, const struct uffd_served *parent, const struct uffd_served *child,
                          int *pidfd);
uint64_t uffd_family_clock(void); /* of process starts, in its ticks */

#endif
