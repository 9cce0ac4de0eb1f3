/*
 * Huge pages: where they are filled before they are moved in.
 */
#ifndef UFFD_LOOP_LINE_HUGE_H
#define UFFD_LOOP_LINE_HUGE_H

#include "loop/line/install.h"

/* Whether whole huge pages can be moved into a memory that is registered with these modes. */
bool uffd_huge_serves(const uffd_memory *memory, uint64_t modes);
/* [at, at+HUGE_PAGE) is one huge page of the answer, all absent. */
bool uffd_huge_fits(const struct uffd_install *install, uint64_t at);
/* HUGE_PAGE bytes to fill one in, or NULL: no memory. They are a hole again when it has been moved. */
char *uffd_huge_staging(struct uffd_lane *lane);
void uffd_huge_unmap(struct uffd_lane *lane);

#endif
