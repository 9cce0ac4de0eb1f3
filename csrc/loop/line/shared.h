/*
 * Answers that are the same for all private mappings of one memfd.
 */
#ifndef UFFD_LOOP_LINE_SHARED_H
#define UFFD_LOOP_LINE_SHARED_H

#include "loop/line/install.h"

#define UFFD_SHARED_BYTES (UINT64_C(256) << 10) /* that are filled at once */

/*
 * Fills the pages of an answer of ZERO, BYTES or FILE in the page cache, once for all mappings, and maps them here: at
 * most UFFD_SHARED_BYTES, or one page. DEFERRED: another thread is filling the faulting page.
 */
struct uffd_filled uffd_shared_install(struct uffd_lane *lane, const struct uffd_install *install);

#endif
