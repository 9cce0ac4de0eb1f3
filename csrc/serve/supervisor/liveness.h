/*
 * Do the workers still work? One that does not answer, or that leaves a client's faults unanswered because the client's
 * policy does not come back, is killed: its clients are safe, that is what the books are for.
 */
#ifndef UFFD_SERVE_LIVENESS_H
#define UFFD_SERVE_LIVENESS_H

#include <stdint.h>

#include "uffd_pager.h"

void uffd_liveness_check(uffd_pager *pager, uint64_t now); /* asks, and kills those that hang */
uint64_t uffd_liveness_due(const uffd_pager *pager);       /* when to check again; UINT64_MAX: never */

#endif
