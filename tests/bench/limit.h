/*
 * The least that the kernel takes for the same work.
 */
#ifndef UFFD_BENCH_LIMIT_H
#define UFFD_BENCH_LIMIT_H

#include "plan.h"

run_fn limit_signal; /* an empty SIGBUS round trip, and one ioctl of one page in it */
/*
 * The ioctl 2 MiB a call, and then the touches: where a hypervisor keeps its own page tables, the first touch of a page
 * takes longer than the copy.
 */
run_fn limit_bulk;
run_fn limit_bulk_protected; /* the same, of pages that arrive write-protected under WP_ASYNC (6.7) */
run_fn limit_continue;       /* the same of CONTINUE, on the plan's image */
run_fn limit_unprotect;      /* SIGBUS of a first write, and one ioctl */

#endif
