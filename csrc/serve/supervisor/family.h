/*
 * Which process is a forked child? The kernel hands over the child's userfaultfd, not its pid. These functions wait for
 * the lock of a client's memory: only the looker calls them.
 */
#ifndef UFFD_SERVE_FAMILY_H
#define UFFD_SERVE_FAMILY_H

#include <stdbool.h>
#include <stdint.h>

#include "uffd_pager.h"

/*
 * Children of the process parent that were forked at forked_ticks or later and have mapped this address: how many, up
 * to most, with their pids and pidfds. A child becomes visible some time after its userfaultfd.
 */
uint32_t uffd_family_children(int32_t parent, uint64_t forked_ticks, uint64_t address, uint32_t most, int32_t *pids,
                              int *pidfds);
/*
 * Is the memory the process's own, and not one whose userfaultfd it hands over for another? It has a mapping that is
 * registered with a userfaultfd at the beginning of each region (up to 8 are looked at).
 */
bool uffd_family_owns(int32_t pid, const struct uffd_client_region *regions, uint32_t count);
/* Time since boot in the ticks of process start times. Not uffd_now(): the kernel gives start times in this clock. */
uint64_t uffd_family_clock(void);

#endif
