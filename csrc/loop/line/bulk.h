/*
 * Large answers of bytes: what need not be copied is not. Zero pages go in as such; whole huge pages are filled aside
 * and moved in. The bytes may belong to a file that shrinks meanwhile, so they are only read by the kernel.
 */
#ifndef UFFD_LOOP_LINE_BULK_H
#define UFFD_LOOP_LINE_BULK_H

#include "loop/line/install.h"

#define UFFD_BULK_BYTES (UINT64_C(64) << 10) /* below, a look costs more than it saves */

/* Any answer, taken apart where that pays, else as uffd_install(). */
struct uffd_filled uffd_bulk_install(struct uffd_lane *lane, const struct uffd_install *install);

#endif
