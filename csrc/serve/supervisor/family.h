/*
 * Which process is a forked child? The kernel hands over the child's userfaultfd, not its pid.
 */
#ifndef UFFD_SERVE_FAMILY_H
#define UFFD_SERVE_FAMILY_H

#include "serve/supervisor/client.h"

/*
 * Looks for the process of a client that was forked from parent: the only child of parent that is young enough, is no
 * client's process yet, and has the client's memory mapped. Returns its pid and opens a pidfd; 0 when it is not
 * certain, because a wrong process might be killed later. The child becomes visible some time after its userfaultfd.
 */
int32_t uffd_family_child(const uffd_pager *pager, const struct uffd_supervised *parent,
                          const struct uffd_supervised *child, int *pidfd);
/*
 * Is the memory the process's own, and not one whose userfaultfd it hands over for another? It has a mapping that is
 * registered with a userfaultfd at the beginning of each region (up to 8 are looked at).
 */
bool uffd_family_owns(int32_t pid, const struct uffd_client_region *regions, uint32_t count);
/* Time since boot in the ticks of process start times. Not uffd_now(): the kernel gives start times in this clock. */
uint64_t uffd_family_clock(void);

#endif
